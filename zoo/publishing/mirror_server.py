"""A small server that makes a mirror's folder a Hub endpoint: for one machine, a lab or a classroom."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import HashMismatchError, ZooError
from ..files import open_file
from ..weights.hash_cache import file_stamp, hash_and_remember, recall
from ..weights.verify import other_size
from .mirror import description, read_index

_LARGEST_QUESTION = 1 << 20  # bytes of a posted body
_MOST = 128  # connections at a time, fewer where a process may open fewer files
_PATIENCE = 20.0  # seconds that a connection may stay without a whole request, or without taking the next block
_SPARED = 0.25  # seconds before a connection may be closed to make place for another
_BLOCK = 1 << 16


class MirrorServer(ThreadingHTTPServer):
    """Serves a mirror: exactly the files of its list, and the API's answers on them; nothing else, and to read only.

    Args:
        folder: The mirror.
        host: Address to listen on; ``0.0.0.0`` for everyone in the network.
        port: 0 for any free one.

    Raises:
        HashMismatchError: If a file of the mirror is not what its list says.
        WeightError: If the folder is not a mirror.
        ZooError: If the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: str | Path, host: str = "127.0.0.1", port: int = 8000):
        self.folder = Path(folder)
        self.repositories = read_index(self.folder)
        for repo, found in self.repositories.items():
            for commit, files in found["commits"].items():
                for file in files:
                    self.opened(repo, commit, file).close()
        self.most = min(_MOST, _descriptors() // 3)
        self.connections: dict[socket.socket, float] = {}  # when each last got ahead
        self.changed = threading.Condition()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ZooError(f"Cannot listen on {host}:{port} ({error}). Choose another --host or --port.") from None

    @property
    def url(self) -> str:
        """What clients on this machine set ``HF_ENDPOINT`` to."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def opened(self, repo: str, commit: str, file: str) -> BinaryIO:
        """A file of the list, open, once its bytes were found to be those that the list has.

        Raises:
            HashMismatchError: If they are not, or the file is missing or lies outside the mirror.
        """
        path = self.folder / repo / "resolve" / commit / file
        expected = self.repositories[repo]["commits"][commit][file]
        with contextlib.ExitStack() as stack:
            try:
                if path.resolve() != self.folder.resolve() / repo / "resolve" / commit / file:
                    raise OSError("a link")
                opened = stack.enter_context(open_file(path))
                sound = not other_size(opened, expected["size"])
                found = sound and (recall(path, file_stamp(opened)) or hash_and_remember(path, opened))
            except OSError:
                found = None
            if found != expected["sha256"]:
                raise HashMismatchError(f"{path} is damaged or missing: run zoo mirror {self.folder} NAME ...")
            stack.pop_all()
        return opened

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Answer in a thread, as soon as there is a place; who has waited longest without getting ahead must go."""
        with self.changed:
            while len(self.connections) >= self.most:
                slowest = min(self.connections, key=self.connections.__getitem__)
                if self.connections[slowest] < time.monotonic() - _SPARED:
                    self._hang_up(slowest)
                self.changed.wait(0.05)
            self.connections[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        """End a connection; its place is free."""
        with self.changed:
            self.connections.pop(request, None)
            self.changed.notify()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who does not get ahead."""
        with self.changed:
            for connection, since in self.connections.items():
                if since < time.monotonic() - _PATIENCE:
                    self._hang_up(connection)

    def got_ahead(self, connection: socket.socket) -> None:
        """Take note that a whole request has come, or that the client has taken a block of the answer."""
        with self.changed:
            if connection in self.connections:
                self.connections[connection] = time.monotonic()

    @staticmethod
    def _hang_up(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone by itself
            connection.shutdown(socket.SHUT_RDWR)  # its thread wakes and ends

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to report."""


def _descriptors() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if limit == resource.RLIM_INFINITY else max(24, limit)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "zoo-mirror"
    server: MirrorServer

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        self.server.got_ahead(self.connection)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            kind, revision = (parts[4], parts[5]) if len(parts) == 6 else ("revision", "main")
            self._about("/".join(parts[2:4]), kind, revision)
        else:
            self._missing("EntryNotFound", {})

    def do_POST(self) -> None:
        """The one question that is posted: what is known of some paths (a caching mirror such as olah asks it)."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        length = self.headers.get("Content-Length", "")
        if len(parts) != 6 or parts[:2] != ["api", "models"] or parts[4] != "paths-info":
            self.close_connection = True  # its body is not read
            self._missing("EntryNotFound", {})
            return
        if not re.fullmatch("[0-9]{1,7}", length) or int(length) > _LARGEST_QUESTION:
            self.close_connection = True
            self._head(413, 0, {})
            return
        content = self.rfile.read(int(length)).decode("utf-8", "replace")
        self.server.got_ahead(self.connection)
        try:
            paths = json.loads(content)["paths"] if content.startswith("{") else parse_qs(content)["paths"]
            wanted = set(paths if isinstance(paths, list) else [paths])
        except (ValueError, KeyError, TypeError, RecursionError):
            self._head(400, 0, {})
            return
        self._about("/".join(parts[2:4]), "tree", parts[5], wanted)

    def _commit(self, repo: str, revision: str) -> str | None:
        """The commit a revision stands for; None, and the error is sent, if there is none."""
        found = self.server.repositories.get(repo)
        if found is None:
            self._missing("RepoNotFound", {})
            return None
        commit = found["main"] if revision == "main" else revision
        if commit not in found["commits"]:
            self._missing("RevisionNotFound", {})
            return None
        return commit

    def _about(self, repo: str, kind: str, revision: str, wanted: set[str] | None = None) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        answer = description(repo, commit, self.server.repositories[repo]["commits"][commit]).get(kind)
        if answer is None:
            self._missing("EntryNotFound", {})
            return
        if wanted is not None:
            answer = [file for file in answer if file["path"] in wanted]
        content = json.dumps(answer).encode()
        self._head(200, len(content), {"Content-Type": "application/json"})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _file(self, repo: str, revision: str, file: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        headers = {"X-Repo-Commit": commit}
        expected = self.server.repositories[repo]["commits"][commit].get(file)
        if expected is None:
            self._missing("EntryNotFound", headers)
            return
        size, validator = expected["size"], f'"{expected["sha256"]}"'
        headers |= {"ETag": validator, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", self.headers.get("Range", ""))
        if self.headers.get("If-Range", validator) != validator:
            wanted = None  # a part of something else is there already
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]), size - 1) if wanted and wanted[2] else size - 1
        try:
            opened = self.server.opened(repo, commit, file)
        except HashMismatchError:
            self._head(500, 0, {})
            return
        with opened:
            if wanted and first > last:
                self._head(416, 0, headers | {"Content-Range": f"bytes */{size}"})
                return
            if wanted:
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            blocks = self._blocks(opened, first, last + 1 - first) if self.command == "GET" else iter(())
            self._head(206 if wanted else 200, last + 1 - first, headers)
            for block in blocks:
                self.wfile.write(block)
                self.server.got_ahead(self.connection)

    def _blocks(self, opened: BinaryIO, first: int, left: int) -> Iterator[bytes]:
        """The wanted part; a file that changes meanwhile ends the connection before the last block."""
        stamp = file_stamp(opened)
        opened.seek(first)
        while left:
            block = opened.read(min(left, _BLOCK))
            left -= len(block)
            if not block or (not left and file_stamp(opened) != stamp):
                self.close_connection = True
                return
            yield block

    def _missing(self, code: str, headers: dict[str, str]) -> None:
        self._head(404, 0, headers | {"X-Error-Code": code, "X-Error-Message": "not in this mirror"})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
