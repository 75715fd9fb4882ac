"""Servers that never end, drip, lie about sizes or send what a terminal obeys: one line, soon, in little memory."""

import gzip
import hashlib
import os
import re
import stat
import time
import tracemalloc

import pytest
import torch
from safetensors.torch import save

import zoo
from loopback import Raw, Server, running
from test_faults import SMALL, entries, outcome, page  # noqa: F401 (fixtures)
from zoo.cli import main
from zoo.weights import download as downloading
from zoo.weights import trusted
from zoo.weights.fetch import cached_file, fetch, fetch_address

CONTENT = save({"a": torch.arange(30_000.0)})
OK = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def good():
    yield OK + CONTENT


def endless(start: bytes, again: bytes):
    yield start
    block = again * (1 + (1 << 16) // len(again))
    while True:
        yield block


def drip(start: bytes, again: bytes):
    yield start
    while True:
        time.sleep(0.02)
        yield again


def first(start: bytes):
    """Something before the file."""
    yield start + OK + CONTENT


def redirect(body):
    """To the file, with a body that nobody asked for."""
    return lambda path: good() if path == "/good" else body


def answer(text: str):
    return lambda path: iter([text.encode("latin-1") + b"Connection: close\r\n\r\n"])


TO_GOOD = b"HTTP/1.1 302 Found\r\nLocation: /good\r\n"
BOMB = gzip.compress(bytes(32 << 20))
ANSWERS = {  # what is sent; what is expected
    "early hints (103) before the file": (lambda p: first(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), "ok"),
    "102 three times before the file": (lambda p: first(b"HTTP/1.1 102 Processing\r\n\r\n" * 3), "ok"),
    "redirect with an endless body": (redirect(endless(TO_GOOD + b"\r\n", bytes(1 << 10))), "ok"),
    "redirect with 32 MiB in gzip": (
        redirect([TO_GOOD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB]),
        "ok",
    ),
    "redirect to a bad IPv6 address": (answer("HTTP/1.1 302 Found\r\nLocation: http://[::1/x\r\n"), "IPv6"),
    "100 Continue without end": (lambda p: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "without end"),
    "103 without end": (
        lambda p: endless(b"", b"HTTP/1.1 103 Early\r\nLink: %s\r\n\r\n" % (b"x" * 9000)),
        "without end",
    ),
    "headers without end": (lambda p: endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "broke off"),
    "one header without end": (lambda p: endless(b"HTTP/1.1 200 OK\r\nX: ", b"y"), "broke off"),
    "headers, byte by byte": (lambda p: drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"), "fewer than"),
    "100 Continue, one at a time": (lambda p: drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "no answer in time"),
    "length of a chunk without end": (lambda p: endless(CHUNKED, b"0"), "broke off|without end"),
    "length of a chunk, byte by byte": (lambda p: drip(CHUNKED, b"0"), "fewer than"),
    "trailers without end": (lambda p: endless(CHUNKED + b"0\r\n", b"X: y\r\n"), "without end|mismatch|broke off"),
    "chunks of one byte with long extensions": (
        lambda p: endless(CHUNKED, b"1;" + b"x" * 1000 + b"\r\ny\r\n"),
        "without end",
    ),
    "Content-Length of 5,000 digits": (answer(f"HTTP/1.1 200 OK\r\nContent-Length: {'9' * 5000}\r\n"), "sent more|how"),
    "Retry-After of 5,000 digits": (answer(f"HTTP/1.1 503 Busy\r\nRetry-After: {'9' * 5000}\r\n"), "come back"),
    "Retry-After: a digit that is none": (answer("HTTP/1.1 503 Busy\r\nRetry-After: \xb2\r\n"), "answered 503"),
    "Retry-After: the year 99999": (
        answer("HTTP/1.1 503 Busy\r\nRetry-After: Fri, 31 Dec 99999 23:59:59 GMT\r\n"),
        "answered 503",
    ),
    "Retry-After: Sat, 0 Jan 0000": (
        answer("HTTP/1.1 429 Slow\r\nRetry-After: Sat, 0 Jan 0000 00:00:00 -9999\r\n"),
        "answered 429",
    ),
    "416 that nobody asked for": (answer("HTTP/1.1 416 Range\r\nContent-Range: bytes */0\r\n"), "answered 416"),
    "escape sequences in reason and message": (
        answer("HTTP/1.1 403 \x1b]0;owned\x07\x1b[2J\r\nX-Error-Message: \x1b[31mhf_abcdefgh12345\x9b2J\r\n"),
        r"answered 403 \\x1b",
    ),
    "not HTTP": (lambda p: iter([b"\x00\x01\x02" * 1000]), "broke off"),
}


@pytest.fixture
def quick(entries, monkeypatch):  # noqa: F811
    monkeypatch.setattr(downloading, "_TIMEOUT", (2, 0.5))
    monkeypatch.setattr(downloading, "_DEADLINE", 0.5)
    monkeypatch.setattr(downloading, "_PATIENCE", 0.3)
    monkeypatch.setattr(downloading, "ATTEMPTS", 2)
    return entries


@pytest.mark.parametrize("fault", ANSWERS)
def test_answers(quick, fault, outcome, tmp_path):  # noqa: F811
    make, expected = ANSWERS[fault]
    with running(Raw(make)) as server:
        hub = {"kind": "hub", "repo": "org/weight", "revision": "0" * 40, "file": "model.safetensors"}
        quick[SMALL].update(sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT), sources=[hub])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", server.url)
            tracemalloc.start()
            started = time.monotonic()
            try:
                result = f"fetched from {fetch(SMALL).kind}".replace(" from hub", "")
            except zoo.WeightError as error:
                result = str(error).removeprefix(f"{SMALL} could not be had: ").split(". Put its file")[0]
            seconds, memory = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert seconds < 10
    assert memory < 16 << 20
    assert server.sent < 64 << 20
    assert result.isprintable()
    assert (result == "fetched") == (expected == "ok")
    if expected != "ok":
        assert re.search(expected, result), result
        assert "hf_abc" not in result
    target = cached_file(SMALL, quick[SMALL])
    left = sorted(p.name for p in target.parent.glob("*") if p.name not in (target.name, ".lock"))
    assert all(name.endswith((".part", ".part.json")) for name in left)
    after = "the verified file" if target.exists() else "a part, to be continued" if left else "nothing"
    outcome("Hostile answers", fault, "hub", result, after, "under 10 s, under 16 MiB")


# ---- words ----


ODD_ADDRESSES = [
    "http://[::1",
    "http://[::1]:99999999/x",
    "http://user:secret@[::1/x",
    "http://user:secret@127.0.0.1:9/x",
    "http://user:sec/ret#x@127.0.0.1:9/x",
    "http://user:se@cret@127.0.0.1:9/\x1b[2J",
    "http://user:secret@127.0.0.1:port/x",
    "http://user:secret@/x",
    "http://user:s\u20accret@127.0.0.1:9/x",
    "\x1b]0;owned\x07",
    "http://127.0.0.1:9/\udcff",
]


@pytest.mark.parametrize("url", ODD_ADDRESSES)
def test_odd_addresses(entries, capsys, url):  # noqa: F811
    """One printable line, and nothing of a password in it."""
    assert main(["fetch", url, "--trust-first-use"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.rstrip("\n").isprintable()
    assert not any(part in printed.err for part in ("secret", "sec/ret", "cret@"))


@pytest.mark.parametrize("token", ["my secret token", "secret\nline", "s\u00e9cret", "secret\x1b[2J", "secret;'\"x"])
def test_tokens_that_are_none(quick, monkeypatch, capsys, tmp_path, token):
    monkeypatch.setenv("HF_TOKEN", token)
    hub = {"kind": "hub", "repo": "org/weight", "revision": "0" * 40, "file": "model.safetensors"}
    quick[SMALL]["sources"] = [hub]
    with running(Server()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for words in (["fetch", SMALL], ["mirror", str(tmp_path / "m"), SMALL])[: 2 if " " in token else 1]:
            assert main(words) == 1
            printed = capsys.readouterr().err
            assert printed.count("\n") == 1
            assert not any(part in printed for part in ("secret", "cret", "line", token))


def test_what_is_stored_of_an_address_with_a_password(entries, tmp_path):  # noqa: F811
    with running(Server()) as server:
        server.files["/w"] = CONTENT
        server.fault = "cut"
        url = server.url.replace("://", "://user:s3cret@") + "/w"
        with pytest.raises(zoo.WeightError):
            fetch_address(url, trust_first_use=True)
        notes = list(tmp_path.rglob("*.part.json"))
        assert len(notes) == 1
        server.fault = ""
        assert fetch_address(url, trust_first_use=True).kind == "address"
        assert server.headers[-1]["authorization"].startswith("Basic ")
    records = list((tmp_path / "cache" / "trusted").glob("*.json"))
    for path in [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "w"]:
        assert b"s3cret" not in path.read_bytes(), path
    assert [stat.S_IMODE(path.stat().st_mode) for path in records] == [0o600]


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "folder", "link to itself", "folder of records gone"])
def test_a_record_that_is_no_file_is_not_first_use(entries, kind, tmp_path):  # noqa: F811
    with running(Server()) as server:
        server.files["/w"] = CONTENT
        fetch_address(f"{server.url}/w", trust_first_use=True)
        record = trusted._record(f"{server.url}/w", None)
        record.unlink()
        if kind == "pipe":
            os.mkfifo(record)
        elif kind == "folder":
            record.mkdir()
        elif kind == "folder of records gone":
            record.parent.rmdir()
            record.parent.symlink_to(tmp_path / "unmounted")
        else:
            record.symlink_to(record if "itself" in kind else tmp_path / "none")
        for again in (False, True):
            with pytest.raises(zoo.WeightError, match=r"damaged|leads nowhere|cannot be read") as caught:
                fetch_address(f"{server.url}/w", trust_first_use=again)
            assert str(caught.value).isprintable()
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_a_link_empties_nothing(quick, kind, tmp_path):
    precious, folder = tmp_path / "precious", cached_file(SMALL, quick[SMALL]).parent
    precious.write_text("content")
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(precious) if kind == "link" else os.mkfifo(folder / ".lock")
    with running(Server()) as server, pytest.raises(zoo.WeightError, match="not used as a lock"):
        quick[SMALL]["sources"] = [
            {**source, "url": f"{server.url}/x"} for source in quick[SMALL]["sources"] if source["kind"] == "release"
        ]
        fetch(SMALL)
    assert precious.read_text() == "content"
