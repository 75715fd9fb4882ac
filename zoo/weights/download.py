"""One file over HTTP(S): resumed after a break and in later runs, never more than it may be, with a progress bar.

Used for the Hub as well: huggingface_hub (2.4) keeps nothing of a broken download and takes any bytes of the right
number, so it gives address, token and cache here, and the bytes come this way. Nothing is believed about them: the
caller compares the sha256 of the whole file. Every byte that a server sends is counted as it leaves the socket, status
lines, headers and lengths of chunks included: :class:`_Meter` has what one attempt may take.
"""

import contextlib
import functools
import http.client
import io
import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransportError

from ..errors import WeightError, printable
from ..files import read_file, write_atomically
from . import google_drive
from .network_settings import certificate_problem, proxy_problem
from .trusted import key

ATTEMPTS = 5
_TIMEOUT = (10, 30)  # seconds to connect, and between two packets
_SLOWEST, _PATIENCE = 1024, 60.0  # bytes per second, as the mean of so many seconds
_HEADERS, _DEADLINE = 256 << 10, 60.0  # bytes and seconds for all that comes before the file, redirects included
_REDIRECTS = 10
_LONGEST_WAIT = 60.0  # seconds that a server may ask us to wait
_BUSY = (408, 429, 500, 502, 503, 504)
_pause = time.sleep
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE)


class _Broken(Exception):
    """This attempt failed, another may not."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class _Meter:
    """What one attempt may take: bytes, seconds, and how slow it may be."""

    def __init__(self) -> None:
        self.problem = ""  # why reading was stopped
        self.allow(_HEADERS, _DEADLINE)

    def allow(self, size: int, seconds: float) -> None:
        """From now on so many bytes within so many seconds."""
        self.left, self.end = size, time.monotonic() + seconds
        self.window, self.mark = 0, time.monotonic()

    def patience(self) -> float:
        """Seconds to wait for the next bytes."""
        left = self.end - time.monotonic()
        if left <= 0:
            self._stop("no answer in time")
        return min(_TIMEOUT[1], left)

    def count(self, size: int) -> None:
        """Take note of bytes that came."""
        self.left, self.window = self.left - size, self.window + size
        if self.left < 0:
            self._stop("sends headers, or lengths of chunks, without end")
        passed = time.monotonic() - self.mark
        if passed > _PATIENCE:
            if self.window < _SLOWEST * passed:
                self._stop(f"sends fewer than {_SLOWEST} bytes a second")
            self.window, self.mark = 0, time.monotonic()

    def _stop(self, problem: str) -> None:
        self.problem = problem
        raise TimeoutError(problem)


class _Metered(io.RawIOBase):
    """What a socket gives, counted."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, meter: _Meter):
        self.raw, self.connection, self.meter = raw, connection, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(self.meter.patience())
        size = self.raw.readinto(buffer)
        self.meter.count(size or 0)
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose every byte is counted; 102 and 103 announce it, as 100 does."""

    def __init__(self, meter: _Meter, connection: socket.socket, *args: Any, **options: Any):
        super().__init__(connection, *args, **options)
        self.fp = io.BufferedReader(_Metered(self.fp.detach(), connection, meter))

    def begin(self) -> None:
        super().begin()
        while self.status in (102, 103):
            self.headers = self.msg = None
            super().begin()


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, meter: _Meter):
        super().__init__()
        self.answer = staticmethod(functools.partial(_Answer, meter))

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = type("Counted", (pool.ConnectionCls,), {"response_class": self.answer})
        return pool


class _Session(requests.Session):
    """Follows no redirect: requests would read, and decode, what comes with it."""

    def __init__(self, meter: _Meter):
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(meter))

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


@dataclass(frozen=True)
class Address:
    """Where a file is.

    Attributes:
        url: Its address.
        label: What error messages call it.
        headers: Sent to this host only; a redirect to another does not get the Authorization among them.
    """

    url: str
    label: str
    headers: Mapping[str, str]


def download(address: Address, part: Path, limit: int, need_length: bool = False) -> None:
    """Bring a file, or the rest of one, into ``part``.

    What is in ``part`` already is continued if the server still has the same file (``If-Range``), else thrown away.
    When the connection breaks ``part`` stays for the next attempt or run; on any other error it is removed.

    Args:
        address: Where from.
        part: The partial file; a note beside it, ``.json``, says which version of which address it is a part of.
        limit: No more than so many bytes are accepted.
        need_length: Refuse an answer without a length: a cut could not be noticed.

    Raises:
        WeightError: If it cannot be had, in one line that names ``address.label``.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(address, part, limit, need_length)
        except _Broken as error:
            if attempt == ATTEMPTS - 1:
                kept = part.stat().st_size if part.exists() else 0
                rest = f"; {kept} bytes are kept, and the next try goes on from there" if kept else ""
                if not kept:
                    discard(part)
                raise WeightError(f"{address.label}: {error} ({ATTEMPTS} attempts{rest})") from None
            _pause(min(0.5 * 2**attempt, 8.0) if error.wait is None else error.wait)
        except WeightError:
            discard(part)
            raise
        except OSError as error:
            discard(part)
            raise WeightError(f"{part.parent}: cannot be written ({error.strerror or error})") from None
    return None


def discard(part: Path) -> None:
    """Remove a partial file and its note."""
    part.unlink(missing_ok=True)
    forget(part)


def forget(part: Path) -> None:
    """Remove the note of a partial file, which is then not continued any more."""
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _attempt(address: Address, part: Path, limit: int, need_length: bool) -> None:
    note = _read_note(part, address.url)
    if note and need_length and not note["validator"]:
        note = None  # no sha256 is known that would tell two versions in one file apart
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(part.lstat().st_mode):  # a link or a pipe is not what was left here
            discard(part)
    start = part.stat().st_size if note and part.exists() else 0
    headers = {"Accept-Encoding": "identity", **address.headers}
    if start:
        headers["Range"] = f"bytes={start}-"
        if note["validator"]:
            headers["If-Range"] = note["validator"]
    meter = _Meter()
    with _Session(meter) as session, _open(session, address, headers, meter) as answer:
        if answer.status_code == 416 and start:
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return  # it was whole already
            discard(part)
            raise _Broken("does not know the range that is missing", 0.0)
        start = _check_answer(answer, address, start)
        length = _length(answer)
        if length is None and need_length:
            raise WeightError(f"{address.label}: does not say how long the file is; give its sha256 with --sha256")
        if start + (length or 0) > limit:
            raise _too_long(address, limit)
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        validator = "" if validator.startswith("W/") else validator
        if not start:
            part.unlink(missing_ok=True)
            content = json.dumps({"address": key(address.url), "validator": validator})
            write_atomically(content.encode(), _note(part), private=True)
        most = 2 * (limit - start) + _HEADERS  # chunks have lengths
        meter.allow(most, _PATIENCE + most / _SLOWEST)
        with open(part, "ab") as file:
            _receive(answer, file, start, length, limit, address, meter)
            os.fsync(file.fileno())


def _open(session: _Session, address: Address, headers: Mapping[str, str], meter: _Meter) -> requests.Response:
    """The answer to a request, past redirects and Google Drive's page of confirmation; their bodies are not read."""
    url = address.url
    for _ in range(_REDIRECTS + 1):
        try:
            if url.startswith("https:") and (problem := certificate_problem("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
                raise WeightError(problem)
            answer = session.get(url, stream=True, timeout=_TIMEOUT, headers=headers)
            target = requests.Session.get_redirect_target(session, answer)
            is_page = answer.headers.get("Content-Type", "").startswith("text/html")
            if not target and google_drive.is_drive(url) and is_page:
                target = google_drive.confirmed_url(answer.raw.read(_HEADERS // 2).decode("utf-8", "replace"), url)
            if not target:
                return answer
            answer.close()
            following = urljoin(url, target)
            if session.should_strip_auth(url, following):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        except WeightError as error:
            raise WeightError(f"{address.label}: {error}") from None
        except requests.Timeout:
            raise _Broken(meter.problem or "no answer in time") from None
        except requests.exceptions.SSLError as error:
            raise WeightError(f"{address.label}: its certificate is not accepted ({_reason(error)})") from None
        except (requests.exceptions.ProxyError, ValueError) as error:  # a wrong address, of a proxy or the file's
            raise WeightError(f"{address.label}: {proxy_problem(url, error) or _reason(error)}") from None
        except requests.ConnectionError as error:
            reason = error.args[0] if error.args else None
            if isinstance(reason, TransportError) and "Max retries" in str(error) and not meter.problem:
                besides = certificate_problem("SSL_CERT_FILE") if url.startswith("https:") else ""
                raise WeightError(f"{address.label}: no connection{besides and f'. {besides}'}") from None
            raise _Broken(meter.problem or "the connection broke off") from None
        except TransportError:
            raise _Broken(meter.problem or "the connection broke off") from None
        except requests.RequestException as error:
            raise WeightError(f"{address.label}: {_reason(error)}") from None
        if url.startswith("https:") and not following.startswith("https:"):
            raise WeightError(f"{address.label}: redirects from https to http, which is refused")
        url = following
    raise WeightError(f"{address.label}: redirects without end")


def _check_answer(answer: requests.Response, address: Address, start: int) -> int:
    """Refuse what is no file; return how many bytes already here the answer continues."""
    status = answer.status_code
    said = f"{status} {(answer.reason or '')[:80]}".strip()
    if status in _BUSY:
        wait = _retry_after(answer.headers.get("Retry-After"))
        if wait is not None and wait > _LONGEST_WAIT:
            raise WeightError(f"{address.label}: answered {status} and asks to come back in {wait:.0f} seconds")
        raise _Broken(f"answered {said}", wait)
    if status == 407:
        raise WeightError(f"{address.label}: {proxy_problem(answer.url, f'answered {said}') or f'answered {said}'}")
    if status not in (200, 206):
        more = answer.headers.get("X-Error-Message", "").strip()[:200]
        hint = "; set HF_TOKEN to a token that may read it" if "X-Error-Code" in answer.headers and status < 404 else ""
        raise WeightError(f"{address.label}: answered {said}{f' ({more})' if more else ''}{hint}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightError(f"{address.label}: sends the file encoded as {answer.headers['Content-Encoding'][:80]}")
    if status == 200:
        return 0  # it ignores ranges, or the file has changed
    if not re.match(rf"bytes {start}-\d+/", answer.headers.get("Content-Range", "")):
        raise WeightError(f"{address.label}: sent another range than it was asked for")
    return start


def _receive(
    answer: requests.Response,
    file: BinaryIO,
    start: int,
    length: int | None,
    limit: int,
    address: Address,
    meter: _Meter,
) -> None:
    received = 0
    with _bar(address, start, length) as bar:
        while length is None or received < length:
            try:
                block = answer.raw.read1(1 << 16)
            except (TransportError, OSError):
                raise _Broken(meter.problem or "the connection broke off") from None
            if not block:
                break
            if not start + received and _PAGE.match(block):
                raise WeightError(f"{address.label}: answered with a web page instead of the file")
            received += len(block)
            if start + received > limit:
                raise _too_long(address, limit)
            file.write(block)
            bar.update(len(block))
    file.flush()
    if length is not None and received < length:
        raise _Broken("the connection broke off")


@contextlib.contextmanager
def _bar(address: Address, start: int, length: int | None) -> Iterator[Any]:
    name = printable(urlsplit(address.url).path.rsplit("/", 1)[-1])
    total = None if length is None else start + length
    options = {"unit": "B", "unit_scale": True, "disable": None, "file": sys.stderr, "delay": 2}
    with tqdm(total=total, initial=start, desc=name, **options) as bar:
        yield bar


def _read_note(part: Path, url: str) -> dict[str, str] | None:
    try:
        note = json.loads(read_file(_note(part), 1 << 16))
        return note if note["address"] == key(url) and isinstance(note["validator"], str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _length(answer: requests.Response) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text.lstrip("0")[:30] or 0) if text.isascii() and text.isdigit() else None


def _retry_after(text: str | None) -> float | None:
    if not text:
        return None
    if text.isascii() and text.strip().isdigit():
        return min(float(text), 1e9)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):  # of odd dates
        return None


def _too_long(address: Address, limit: int) -> WeightError:
    return WeightError(f"{address.label}: sent more than {limit} bytes, which cannot be the original")


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
