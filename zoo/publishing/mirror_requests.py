"""What a mirror's server answers: files of repositories, the Hub's API on them, and pages. It is only read from."""

import json
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from ..errors import HashMismatchError
from ..files import open_file
from ..weights.hash_cache import file_stamp
from .mirror_api import BadQuestion, description, folder_of, models, refs
from .mirror_pages import repository_page

if TYPE_CHECKING:
    from .mirror_server import MirrorServer

_LARGEST_QUESTION = 1 << 20  # bytes of a posted body
_BLOCK = 1 << 16
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_POLICY = (  # the gallery's pages have narrower ones of their own; the one that runs networks makes workers of blobs
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "zoo-mirror"
    server: "MirrorServer"

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        self.server.got_ahead(self.connection)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        repo = "/".join(parts[:2])
        if len(parts) >= 5 and parts[2] == "resolve":
            self._file(repo, parts[3], "/".join(parts[4:]))
        elif parts[0] == "api":
            self._api(parts[1:])
        elif repo in self.server.repositories and len(parts) == 2:
            self._page(repo)
        elif path := self.server.pages(self.connection).get("/".join(parts) or "index.html"):
            self._site_file(path)
        else:
            self._missing("RepoNotFound" if parts[1:2] == ["resolve"] else "EntryNotFound", {})

    def _api(self, parts: list[str]) -> None:
        """Answer a question to the API; there are models only, and none whose name has no owner."""
        kind, *rest = parts or [""]
        if kind == "models" and not rest:
            self._models()
        elif kind == "models" and len(rest) == 3 and rest[2] == "refs":
            self._refs("/".join(rest[:2]))
        elif kind == "models" and (len(rest) == 2 or len(rest) > 3):
            about, *where = rest[2:] or ["revision", "main"]
            inside = where[1:] if about == "tree" else []
            self._about("/".join(rest[:2]), about, "/".join(where[: len(where) - len(inside)]), inside="/".join(inside))
        elif kind in ("datasets", "spaces") and not rest:
            self._json([])
        else:
            self._missing("RepoNotFound" if rest and len(rest) < 3 else "EntryNotFound", {})

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

    def _asked(self) -> dict[str, list[str]]:
        """The parameters of the question."""
        try:
            return parse_qs(urlsplit(self.path).query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise BadQuestion("too many parameters") from None

    def _models(self) -> None:
        try:
            asked = self._asked()
            page, following = models(map(self.server.info, self.server.repositories), asked)
        except BadQuestion as error:
            self._head(400, 0, {"X-Error-Message": str(error)})
            return
        headers = {}
        if following is not None:
            host = self.headers.get("Host", "")  # the address that the client knows this server by
            address = f"http://{host}" if re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,255}", host) else self.server.url
            query = urlencode({**asked, "cursor": following}, doseq=True)
            headers["Link"] = f'<{address}/api/models?{query}>; rel="next"'
        self._json(page, headers)

    def _refs(self, repo: str) -> None:
        if self._commit(repo, "main"):
            self._json(refs(self.server.repositories[repo]["main"]))

    def _json(self, answer: Any, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self._head(200, len(content), headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _page(self, repo: str) -> None:
        """The page of a repository."""
        main, name = self.server.repositories[repo]["main"], repo.split("/")[1]
        figures = f"weights/{name}.html"
        figures = f"/{figures}" if figures in self.server.pages(self.connection) else ""
        listed = self.server.repositories[repo]["commits"][main]
        text = repository_page(repo, main, listed, self.server.cards[repo], figures)
        self._send(text.encode(), {"Content-Type": _TYPES[".html"], "Content-Security-Policy": _POLICY})

    def _site_file(self, path: Path) -> None:
        """A file of the site."""
        try:
            opened = open_file(path)
        except OSError:  # it has gone since the server began
            self._missing("EntryNotFound", {})
            return
        with opened:
            size = os.fstat(opened.fileno()).st_size
            headers = {"Content-Type": _TYPES.get(path.suffix, "application/octet-stream")}
            headers |= {"Content-Security-Policy": _POLICY} if path.suffix in (".html", ".svg") else {}
            blocks = self._blocks(opened, 0, size) if self.command == "GET" else iter(())
            self._head(200, size, headers)
            for block in blocks:
                self.wfile.write(block)
                self.server.got_ahead(self.connection)

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

    def _about(self, repo: str, kind: str, revision: str, wanted: set[str] | None = None, inside: str = "") -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        asked = parse_qs(urlsplit(self.path).query)
        blobs = asked.get("blobs", [""])[0].lower() in ("true", "1")
        listed = self.server.repositories[repo]["commits"][commit]
        answer = description(repo, commit, listed, self.server.cards[repo], blobs).get(kind)
        if answer is not None and kind == "tree":
            recursive = wanted is not None or asked.get("recursive", ["false"])[0].lower() in ("true", "1")
            answer = folder_of(answer, inside, recursive) or ([] if not inside else None)
        if answer is None:
            self._missing("EntryNotFound", {})
            return
        if wanted is not None:
            answer = [file for file in answer if file["path"] in wanted]
        self._json(answer)

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
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(length))
        self.end_headers()
