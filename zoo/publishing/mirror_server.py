"""A small server that makes a mirror's folder a Hub endpoint: for one machine, a lab or a classroom."""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import HashMismatchError, ZooError
from ..files import open_file
from ..weights.hash_cache import file_stamp, hash_and_remember, recall
from ..weights.verify import other_size
from .mirror import read_index
from .mirror_api import CARD, description, hub_time
from .mirror_requests import Handler

_MOST = 128  # connections at a time, fewer where a process may open fewer files
_PATIENCE = 20.0  # seconds that a connection may stay without a whole request, or without taking the next block
_SPARED = 0.25  # seconds before a connection may be closed to make place for another
_LARGEST_CARD = 1 << 20  # bytes of a README.md that is looked into


class MirrorServer(ThreadingHTTPServer):
    """Serves a mirror: exactly the files of its list, and the API's answers on them; nothing else, and to read only.

    Args:
        folder: The mirror.
        host: Address to listen on; ``0.0.0.0`` for everyone in the network.
        port: 0 for any free one.
        pages: Makes the folder whose ``index.html`` is shown at ``/``, when serving begins; whoever asks for a page
            meanwhile waits. If it makes several, each takes the place of the one before. Without it there is nothing.

    Raises:
        HashMismatchError: If a file of the mirror is not what its list says.
        WeightError: If the folder is not a mirror.
        ZooError: If the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        folder: str | Path,
        host: str = "127.0.0.1",
        port: int = 8000,
        pages: Callable[[], Iterable[Path]] | None = None,
    ):
        self.folder = Path(folder)
        self.repositories = read_index(self.folder)
        for repo, found in self.repositories.items():
            for commit, files in found["commits"].items():
                for file in files:
                    self.opened(repo, commit, file).close()
        self.cards = {repo: self._card(repo, found["main"]) for repo, found in self.repositories.items()}
        self._folders: Callable[[], Iterable[Path]] = pages or tuple
        self._pages: dict[str, Path] = {}
        self._pages_made = threading.Event()
        self.most = min(_MOST, _descriptors() // 3)
        self.connections: dict[socket.socket, float] = {}  # when each last got ahead
        self.changed = threading.Condition()
        try:
            super().__init__((host, port), Handler)
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

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until :meth:`shutdown`; the pages are made meanwhile."""
        threading.Thread(target=self._make_pages, daemon=True).start()
        super().serve_forever(poll_interval)

    def _make_pages(self) -> None:
        try:
            for folder in self._folders():
                files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
                self._pages = {path.relative_to(folder).as_posix(): path for path in files}
                self._pages_made.set()
        finally:  # whatever happens, nobody waits for ever
            self._pages_made.set()

    def pages(self, connection: socket.socket) -> dict[str, Path]:
        """The pages and what belongs to them by address, once they are made.

        Args:
            connection: Of who waits for them, who is not hung up on.
        """
        with self.changed:
            if connection in self.connections:
                self.connections[connection] = math.inf
        self._pages_made.wait()
        self.got_ahead(connection)
        return self._pages

    def _card(self, repo: str, commit: str) -> bytes:
        """The beginning of a repository's ``README.md``; empty if it has none."""
        if CARD not in self.repositories[repo]["commits"][commit]:
            return b""
        with self.opened(repo, commit, CARD) as card:
            card.seek(0)
            return card.read(_LARGEST_CARD)

    def info(self, repo: str) -> dict[str, Any]:
        """What the API says of a repository in a list."""
        main, commits = self.repositories[repo]["main"], self.repositories[repo]["commits"]
        times = [(self.folder / repo / "resolve" / commit).stat().st_mtime for commit in (next(iter(commits)), main)]
        dates = {"createdAt": hub_time(times[0]), "lastModified": hub_time(times[1])}
        return description(repo, main, commits[main], self.cards[repo])["revision"] | dates

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
