"""A headless Chromium that visits a built site, and notes every request and every complaint."""

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def chromium() -> str:
    """The program; a test without one is skipped."""
    found = os.environ.get("ZOO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium: install one (Debian: apt install chromium), or set ZOO_CHROMIUM to a Chrome")
    return found


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A running browser of playwright's."""
    sync = pytest.importorskip("playwright.sync_api", reason="pip install 'repara-zoo[test]' brings playwright")
    program = chromium()
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET.split())
        yield browser
        browser.close()


@contextlib.contextmanager
def served(folder: Path, above: str) -> Iterator[str]:
    """The address of a folder below the path ``above`` of a server on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return super().translate_path(path.removeprefix(above)) if path.startswith(above) else "/nowhere"

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{above}/"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Visit:
    """A visitor with a profile of their own.

    Attributes:
        context: playwright's, with its page.
        start: Address of the site's folder.
        complaints: What the console, the page's scripts and its requests had to complain about.
    """

    context: Any
    start: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(15_000)
        self.context.route("**/*", self._request)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self._note(m.type in ("error", "warning"), f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"script: {error}"))
        self.page.on("requestfailed", lambda r: self._note(True, f"failed: {r.url}"))

    def open(self, path: str) -> Any:
        """Open a page of the site, once its scripts have run."""
        self.page.goto(self.start + path)
        return self.page

    def _request(self, route: Any) -> None:
        url = route.request.url
        if url.startswith((self.start, "blob:", "data:")):
            route.continue_()
        else:
            self.complaints.append(f"asked for {url}")
            route.abort()

    def _note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.complaints.append(text)
