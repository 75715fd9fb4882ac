"""Real HTTP servers on this machine's own address, with faults: an authors' release server and a Hub endpoint."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """Serves ``files`` (path to bytes) and keeps a log of requests; ``fault`` changes how it answers.

    Faults: ``status:NNN``, ``cut`` (the connection ends half-way), ``cut-once``, ``flip`` (one bit differs), ``html``
    (a page instead of the file), ``slow``, ``loop`` (redirects to itself).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fault = ""
        self.requests: list[str] = []
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
        return {}

    def find(self, path: str) -> bytes | None:
        """The file at a path."""
        return self.files.get(path)

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """Answer one request."""
        self.requests.append(f"{request.command} {request.path}")
        fault, content = self.fault, self.find(request.path)
        if fault.startswith("status:"):
            return self._short(request, int(fault[7:]))
        if content is None:
            return self._short(request, 404)
        if fault == "loop":
            request.send_response(302)
            request.send_header("Location", request.path)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if fault == "html":
            content = b"<html>sign in first</html>"
        if fault == "flip" and body:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        for key, value in self.headers_for(request.path, self.find(request.path)).items():
            request.send_header(key, value)
        request.end_headers()
        if not body:
            return None
        if fault in ("cut", "cut-once"):
            if fault == "cut-once":
                self.fault = ""
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            request.close_connection = True
            return None
        if fault == "slow":
            for start in range(0, len(content), 1 << 14):
                request.wfile.write(content[start : start + (1 << 14)])
                time.sleep(0.002)
            return None
        return request.wfile.write(content)

    @staticmethod
    def _short(request: BaseHTTPRequestHandler, status: int) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        if status == 404:
            request.send_header("X-Error-Code", "EntryNotFound")
        request.end_headers()


class Hub(Server):
    """The routes ``hf_hub_download`` uses: HEAD and GET ``/org/repo/resolve/revision/file``."""

    def find(self, path: str) -> bytes | None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        return self.files.get(f"{found[1]}/{found[3]}") if found else None

    def headers_for(self, path: str, content: bytes) -> dict[str, str]:
        return {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server in a thread."""
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
