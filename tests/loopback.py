"""Real HTTP servers on this machine's own address, with faults: an authors' release server and a Hub endpoint."""

import contextlib
import hashlib
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """Serves ``files`` (path to bytes) with ranges, and keeps a log of requests; a fault changes how it answers.

    ``fault`` applies to every request, ``script`` has one fault for each request to come and goes first.

    Faults: ``status:NNN``, ``busy:SECONDS`` (429 with Retry-After), ``cut`` (the connection ends half-way through what
    was asked for), ``flip`` (one bit differs), ``short`` (a byte is missing, and the headers agree), ``other`` (zeros,
    as many), ``html`` (a page), ``bare`` (no Content-Length, no ETag, no ranges), ``bare-cut`` (so, and it ends half-
    way), ``whole`` (ignores ranges), ``wrong-range``, ``endless``, ``gzip``, ``slow``, ``drip`` (byte by byte),
    ``hang`` (nothing), ``hang-up`` (closes without an answer), ``loop`` (redirects to itself), ``goto:URL``.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fault = ""
        self.script: list[str] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                outer.answer(self, body=False)

            def do_GET(self):
                outer.answer(self, body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a client that hangs up is part of some tests
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def headers_for(self, path: str, content: bytes) -> dict[str, str]:
        """Headers beside Content-Length."""
        return {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}

    def find(self, path: str) -> bytes | None:
        """The file at a path."""
        return self.files.get(path)

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """Answer one request."""
        self.requests.append(f"{request.command} {request.path}")
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        fault, content = (self.script.pop(0) if self.script else self.fault), self.find(request.path)
        kind, _, argument = fault.partition(":")
        request.close_connection = kind in ("cut", "bare", "bare-cut", "endless", "hang", "hang-up")
        if kind == "status":
            return self._short(request, int(argument))
        if kind == "busy":
            return self._short(request, 429, {"Retry-After": argument})
        if kind in ("loop", "goto"):
            return self._short(request, 302, {"Location": argument or request.path})
        if kind == "hang":
            self.stop.wait(30)
        if kind in ("hang", "hang-up"):
            return None
        if content is None:
            return self._short(request, 404, {"X-Error-Code": "EntryNotFound"})
        headers = self.headers_for(request.path, content)
        if kind == "html":
            content, headers["Content-Type"] = b"<!DOCTYPE html><html>sign in first</html>", "text/html"
        elif kind == "flip":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        elif kind == "short":
            content = content[:-1]
        elif kind == "other":
            content = bytes(len(content))
        elif kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        if kind.startswith("bare"):
            headers = {}
        return self._send(request, kind, content, headers, body)

    def _send(self, request, kind: str, content: bytes, headers: dict[str, str], body: bool) -> None:
        first, total = 0, len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        same = request.headers.get("If-Range", headers.get("ETag")) == headers.get("ETag")
        if wanted and same and kind not in ("whole", "bare", "bare-cut"):
            first = int(wanted[1]) + (1 if kind == "wrong-range" else 0)
            if first >= total:
                return self._short(request, 416, {"Content-Range": f"bytes */{total}"})
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        rest = content[first:]
        request.send_response(206 if "Content-Range" in headers else 200)
        if kind not in ("bare", "bare-cut", "endless"):
            request.send_header("Content-Length", str(len(rest)))
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        if not body:
            return None
        step, pause = {"slow": (1 << 14, 0.002), "drip": (1, 0.02)}.get(kind, (1 << 16, 0))
        if kind in ("cut", "bare-cut"):
            rest = rest[: max(1, len(rest) // 2)]
        while kind == "endless" and not self.stop.is_set():
            request.wfile.write(bytes(1 << 20))
        for start in range(0, len(rest), step):
            if self.stop.is_set():
                break
            request.wfile.write(rest[start : start + step])
            self.sent += len(rest[start : start + step])
            time.sleep(pause) if pause else None
        return None

    @staticmethod
    def _short(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.end_headers()


class Hub(Server):
    """The routes ``hf_hub_download`` uses: HEAD and GET ``/org/repo/resolve/revision/file``."""

    def find(self, path: str) -> bytes | None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        return self.files.get(f"{found[1]}/{found[3]}") if found else None

    def headers_for(self, path: str, content: bytes) -> dict[str, str]:
        return {"X-Repo-Commit": COMMIT, **super().headers_for(path, content)}


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server in a thread."""
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


class Raw:
    """Answers every connection with what a generator yields, bytes as they are, until the client has gone.

    ``answer(path)`` is called with the path of each request; what it yields is sent at once.
    """

    def __init__(self, answer):
        self.requests: list[str] = []
        self.sent = 0
        self.stop = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                lines = iter(self.rfile.readline, b"\r\n")
                path = next(lines, b" / ").split()[1].decode()
                outer.requests.append(path)
                list(zip(range(100), lines, strict=False))
                with contextlib.suppress(OSError):
                    for block in answer(path):
                        self.wfile.write(block)
                        outer.sent += len(block)
                        if outer.stop.is_set():
                            return

        self.http = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
