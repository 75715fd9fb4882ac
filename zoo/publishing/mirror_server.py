"""A small server that makes a mirror's folder a Hub endpoint: for one machine, a lab or a classroom."""

import contextlib
import json
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import HashMismatchError, ZooError
from .mirror import read_index
from .repository import size_and_sha256

_LARGEST_QUESTION = 1 << 20  # bytes of a posted body


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

    def __init__(self, folder: str | Path, host: str = "127.0.0.1", port: int = 8000):
        self.folder = Path(folder)
        self.repositories = read_index(self.folder)
        for repo, found in self.repositories.items():
            for commit, files in found["commits"].items():
                for file, expected in files.items():
                    path = self.path_of(repo, commit, file)
                    if not path.is_file() or size_and_sha256(path) != expected:
                        raise HashMismatchError(f"{path} is damaged or missing: run zoo mirror {folder} NAME ...")
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ZooError(f"Cannot listen on {host}:{port} ({error}). Choose another --host or --port.") from None

    @property
    def url(self) -> str:
        """What clients on this machine set ``HF_ENDPOINT`` to."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def path_of(self, repo: str, commit: str, file: str) -> Path:
        """Where a file of the list lies."""
        return self.folder / repo / "resolve" / commit / file

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "zoo-mirror"
    server: MirrorServer

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
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
        if not length.isdecimal() or int(length) > _LARGEST_QUESTION:
            self.close_connection = True
            self._head(413, 0, {})
            return
        content = self.rfile.read(int(length)).decode("utf-8", "replace")
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
        path = self.server.folder / "api" / "models" / repo / kind / commit
        if kind not in ("revision", "tree") or not path.is_file():
            self._missing("EntryNotFound", {})
            return
        content = path.read_bytes()
        if wanted is not None:
            content = json.dumps([file for file in json.loads(content) if file["path"] in wanted]).encode()
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
        size = expected["size"]
        headers |= {"ETag": f'"{expected["sha256"]}"', "Accept-Ranges": "bytes"}
        headers |= {"Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]), size - 1) if wanted and wanted[2] else size - 1
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(open(self.server.path_of(repo, commit, file), "rb"))
            except OSError:
                self._head(500, 0, {})
                return
            if os.fstat(opened.fileno()).st_size != size:
                self._head(500, 0, {})
                return
            if wanted and first > last:
                self._head(416, 0, headers | {"Content-Range": f"bytes */{size}"})
                return
            if wanted:
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._head(206 if wanted else 200, last + 1 - first, headers)
            if self.command == "GET":
                opened.seek(first)
                left = last + 1 - first
                while left and (block := opened.read(min(left, 1 << 20))):
                    self.wfile.write(block)
                    left -= len(block)

    def _missing(self, code: str, headers: dict[str, str]) -> None:
        self._head(404, 0, headers | {"X-Error-Code": code, "X-Error-Message": "not in this mirror"})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
