"""A hostile world: every fault gives one clear error, leaves the cache clean, and a later good fetch succeeds.

What each test measured is a row of docs/faults.md, and the test fails if the page says something else. The page is
written anew, from the outcomes, by ``ZOO_WRITE_FAULTS=1 python -m pytest tests/test_faults.py -m "slow or not slow"``.
"""

import copy
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from timm.models import generate_default_cfgs

import zoo
from children import after_import, in_child, start_child
from conftest import ROOT
from loopback import COMMIT, Hub, Server, running
from zoo.weights import download as downloading
from zoo.weights import google_drive, hash_cache, trusted
from zoo.weights import manifest as manifests
from zoo.weights.convert import safetensors_bytes
from zoo.weights.fetch import cached_file, fetch, fetch_address
from zoo.weights.load import load_state_dict, map_verified, read_verified
from zoo.weights.manifest import base_cfg, manifest, source, timm_cfgs
from zoo.weights.manifest_check import check_manifest
from zoo.weights.verify import sha256_of

SMALL = "lrunet1_100.okankop_fmnist"
BASE = base_cfg("cifar10", first_conv=None, classifier="fc", pool_size=None)
ORIGINAL = copy.deepcopy(manifest())
PAGE = ROOT / "docs" / "faults.md"
WRITE = bool(os.environ.get("ZOO_WRITE_FAULTS"))
ROWS: dict[tuple[str, str], str] = {}


# ---- what a test has seen goes into the table ----


@pytest.fixture
def outcome(tmp_path):
    """``outcome(group, fault, where, result, after, then)``: compare a row with the page, or note it to be written."""

    def note(group: str, fault: str, where: str, result: object, after: str, then: str) -> None:
        text = re.sub(r"https?://[\w.@:]+(/[^\s;,)]*[^\s;,):])?", "URL", str(result)).replace(str(tmp_path), "...")
        text = re.sub(r"/?\.\.\./[^\s;,)]*[^\s;,):]", "FILE", text)
        text = re.sub(r"[0-9a-f]{64}", "SHA256", re.sub(r"127\.0\.0\.1\S*|localhost:\d+", "HOST", text))
        text = re.sub(r"\d+(?= bytes)", "N", text).replace("|", "/")
        row = f"| {fault} | {where} | {text} | {after} | {then} |"
        if WRITE:
            ROWS[(group, row)] = row
        else:
            assert row in PAGE.read_text(), "docs/faults.md says something else; see the top of this file"

    return note


@pytest.fixture(scope="module", autouse=True)
def page():
    """Write the page after all tests, if that was asked for."""
    yield
    if WRITE:
        start = PAGE.read_text().split("<!-- rows -->")[0] + "<!-- rows -->\n"
        groups: dict[str, list[str]] = {}
        for (group, _), row in ROWS.items():
            groups.setdefault(group, []).append(row)
        lines = []
        for group, rows in groups.items():
            lines += [f"\n## {group}\n", "| fault | where | outcome | in the cache afterwards | then |"]
            lines += ["|---|---|---|---|---|", *rows]
        PAGE.write_text(start + "\n".join(lines) + "\n")


# ---- a weight, and two servers that have it ----


class World:
    """One weight, with one source on a loopback server."""

    def __init__(self, kind: str, server: Server, entry: dict, path: str, content: bytes):
        self.kind, self.server, self.entry, self.path, self.content = kind, server, entry, path, content

    @property
    def target(self) -> Path:
        return cached_file(SMALL, self.entry)

    def leftovers(self) -> list[str]:
        """What lies in the weight's cache folder, but for the file itself and the lock."""
        known = (self.target.name, ".lock")
        return sorted(p.name for p in self.target.parent.glob("*") if p.name not in known)

    def after(self) -> str:
        """The cache in words."""
        parts = [name for name in self.leftovers() if name.endswith(".part")]
        assert {name.removesuffix(".json") for name in self.leftovers()} == set(parts)
        if self.target.exists():
            assert sha256_of(self.target) == self.entry["sha256"], "a wrong file was given its name"
        whole = ["the verified file"] if self.target.exists() else []
        return " and ".join(whole + ["a part, to be continued"] * len(parts)) or "nothing"

    def good(self) -> str:
        """A later fetch from a healthy server."""
        self.server.fault, self.server.script = "", []
        start = len(self.server.requests)
        found = fetch(SMALL)
        assert sha256_of(found.path) == self.entry["sha256"]
        assert self.leftovers() == []
        ranged = any("range" in headers for headers in self.server.headers[start:])
        return "good" if not ranged else "good, by the missing range only"


@pytest.fixture
def entries(monkeypatch, tmp_path):
    """The manifest's weights, a copy that a test may change; nothing staged, nothing cached, no waiting."""
    changed = copy.deepcopy(manifest())
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)
    monkeypatch.setattr("zoo.weights.fetch.shipped_hub", lambda: tmp_path / "none")
    monkeypatch.setattr(downloading, "_pause", lambda seconds: None)
    monkeypatch.setattr(hash_cache, "_GRAIN_NS", 0)
    monkeypatch.setattr(hash_cache, "_SMALL", 0)
    (tmp_path / "none").mkdir()
    for name, folder in {"ZOO_HUB": "none", "ZOO_CACHE": "cache", "HF_HOME": "hf"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return changed["weights"]


def make_world(kind: str, entries: dict, monkeypatch, tmp_path) -> World:
    state = {"a": torch.randn(150, 200, generator=torch.Generator().manual_seed(0)), "b": torch.arange(9)}
    entry = entries[SMALL]
    if kind == "hub":
        content = save(state)
        entry.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        entry["sources"] = [{"kind": "hub", "repo": "org/weight", "revision": COMMIT, "file": "model.safetensors"}]
        server, path = Hub(), "org/weight/model.safetensors"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
    else:
        torch.save({"net": state, "acc": 1.0}, tmp_path / "x.t7", _use_new_zipfile_serialization=False)
        content = (tmp_path / "x.t7").read_bytes()
        server, path = Server(), "/pretrained/x.t7"
        release = next(s for s in entry["sources"] if s["kind"] == "release")
        release.update(url=server.url + path, sha256=hashlib.sha256(content).hexdigest())
        converted = safetensors_bytes(state, release["metadata"])
        entry.update(sha256=hashlib.sha256(converted).hexdigest(), size=len(converted))
    server.files[path] = content
    return World(kind, server, entry, path, content)


@pytest.fixture(params=["hub", "release"])
def world(request, entries, monkeypatch, tmp_path):
    world = make_world(request.param, entries, monkeypatch, tmp_path)
    with running(world.server):
        yield world


@pytest.fixture
def release(entries, monkeypatch, tmp_path):
    world = make_world("release", entries, monkeypatch, tmp_path)
    with running(world.server):
        yield world


# ---- the network ----

FAULTS = {  # name: (fault of every request, or list of faults of the first ones; what is expected)
    "404 not found": ("status:404", "answered 404"),
    "401 unauthorized": ("status:401", "answered 401"),
    "403 forbidden": ("status:403", "answered 403"),
    "429 too many requests, always": ("busy:0", r"answered 429.*5 attempts"),
    "429 once, Retry-After 0": (["busy:0"], "ok"),
    "429, Retry-After an hour": ("busy:3600", "come back in 3600 seconds"),
    "500 always": ("status:500", r"answered 500.*5 attempts"),
    "503 once": (["status:503"], "ok"),
    "connection cut once": (["cut"], "ok"),
    "connection cut always": ("cut", r"broke off.*bytes are kept"),
    "cut, then the server ignores ranges": (["cut", "whole"], "ok"),
    "cut, then another range than asked for": (["cut", "wrong-range"], "another range"),
    "hangs up without an answer": ("hang-up", "broke off"),
    "never answers": ("hang", "no answer in time"),
    "slow drip": ("drip", "fewer than"),
    "a bit flipped once": (["flip"], "ok"),
    "a bit flipped always": ("flip", "sha256 mismatch"),
    "a byte missing, and the headers agree": ("short", "sha256 mismatch"),
    "other content of the right size and name": ("other", "sha256 mismatch"),
    "a web page instead of the file": ("html", "web page"),
    "no Content-Length, no ETag, no ranges": ("bare", "ok"),
    "no headers, and cut once": (["bare-cut"], "ok"),
    "no headers, and cut always": ("bare-cut", "sha256 mismatch"),
    "endless": ("endless", "cannot be the original"),
    "sent compressed": ("gzip", "encoded as gzip"),
    "redirects to itself": ("loop", "redirects without end"),
    "redirects to a local file": ("goto:file:///etc/passwd", "No connection adapters"),
    "redirects to nobody": ("goto:http://127.0.0.1:9/x", "no connection"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_network(world, fault, outcome, monkeypatch):
    faults, expected = FAULTS[fault]
    monkeypatch.setattr(downloading, "_TIMEOUT", (2, 0.3))
    if fault == "slow drip":
        monkeypatch.setattr(downloading, "_PATIENCE", 0.1)
    if isinstance(faults, str):
        world.server.fault = faults
    else:
        world.server.script = list(faults)
    if expected == "ok":
        assert fetch(SMALL).kind == world.kind
        result = "fetched"
        assert world.after() == "the verified file"
    else:
        with pytest.raises(zoo.WeightError, match=expected) as caught:
            fetch(SMALL)
        assert "\n" not in str(caught.value)
        assert not world.target.exists()
        result = str(caught.value).removeprefix(f"{SMALL} could not be had: ").split(". Put its file")[0]
    outcome("Network", fault, world.kind, result, world.after(), world.good())


def test_a_cut_download_goes_on_in_the_next_run(world, outcome):
    """No byte is asked for twice: what both runs received together is the file, once."""
    world.server.fault = "cut"
    with pytest.raises(zoo.WeightError, match="bytes are kept"):
        fetch(SMALL)
    result = world.good()
    assert world.server.sent == len(world.content)
    assert "missing range" in result
    outcome("Network", "cut always, then another run", world.kind, result, world.after(), "each byte was sent once")


def test_a_file_that_changes_between_two_runs_starts_again(world, outcome):
    world.server.fault = "cut"
    good = world.server.files[world.path]
    world.server.files[world.path] = bytes(len(good))
    with pytest.raises(zoo.WeightError, match="bytes are kept"):
        fetch(SMALL)
    world.server.files[world.path], world.server.fault = good, ""
    assert sha256_of(fetch(SMALL).path) == world.entry["sha256"]
    assert world.server.requests[-1].startswith("GET")
    assert "if-range" in world.server.headers[-1]
    outcome("Network", "file replaced between two runs", world.kind, "fetched", world.after(), "started again")


def test_a_damaged_part_is_found_out(world, outcome):
    world.server.fault = "cut"
    with pytest.raises(zoo.WeightError):
        fetch(SMALL)
    part = next(world.target.parent.glob("*.part"))
    part.write_bytes(bytes(part.stat().st_size))
    world.server.fault = ""
    assert sha256_of(fetch(SMALL).path) == world.entry["sha256"]
    outcome("Network", "the kept part was damaged", world.kind, "fetched", world.after(), "started again")


def test_credentials_stay_with_their_host(world, outcome, monkeypatch):
    """A token (Hub), or user and password (release), is sent to the first host and not to the one it redirects to."""
    if world.kind == "hub":
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    else:
        address = source(world.entry, "release")
        address["url"] = address["url"].replace("http://", "http://user:hf_secret@")
    with running(Server()) as other:
        other.files["/elsewhere"] = world.content
        world.server.script = [f"goto:{other.url.replace('127.0.0.1', 'localhost')}/elsewhere"]
        assert fetch(SMALL).kind == world.kind
        assert "authorization" in world.server.headers[0]
        assert len(other.headers) == 1
        assert "authorization" not in other.headers[0]
    world.target.unlink()
    world.server.fault = "status:404"
    with pytest.raises(zoo.WeightError) as caught:
        fetch(SMALL)
    assert "secret" not in str(caught.value)
    fault = "redirects to another host" if world.kind == "hub" else "redirects to another host, password in the address"
    outcome("Network", fault, world.kind, "fetched, without the credentials there", "the verified file", world.good())


def test_https_does_not_become_http(world, monkeypatch):
    """A redirect from https to http is refused before anything is asked there."""
    import requests

    answer = requests.Response()
    answer.url, answer.status_code, answer.raw = "https://host/x", 302, type("Raw", (), {"close": lambda s: None})()
    answer.headers["Location"] = "http://elsewhere/x"
    monkeypatch.setattr(requests.Session, "get", lambda self, url, **options: answer)
    address = downloading.Address("https://host/x", "release URL", {})
    with pytest.raises(zoo.WeightError, match="from https to http"):
        downloading.download(address, world.target.parent / "x", 10)


def test_offline_and_no_network(world, outcome, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(zoo.WeightError, match="HF_HUB_OFFLINE") as caught:
        fetch(SMALL)
    assert world.server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    text = str(caught.value).split(": ", 1)[1].split(". Put")[0]
    outcome("Network", "HF_HUB_OFFLINE=1", world.kind, text, world.after(), world.good())


def test_sources_are_tried_in_order_and_each_failure_is_named(entries, monkeypatch, tmp_path, outcome):
    world = make_world("release", entries, monkeypatch, tmp_path)
    hub = Hub()
    world.entry["sources"].insert(
        0, {"kind": "hub", "repo": "org/weight", "revision": COMMIT, "file": "model.safetensors"}
    )
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with running(world.server), running(hub):
        hub.fault, world.server.fault = "flip", "status:404"
        hub.files["org/weight/model.safetensors"] = bytes(world.entry["size"])
        with pytest.raises(zoo.WeightError, match=r"Hub org/weight: sha256 mismatch.*; release http.*answered 404"):
            fetch(SMALL)
        world.server.fault = ""
        assert fetch(SMALL).kind == "release"
        assert world.after() == "the verified file"
    outcome("Network", "Hub wrong, release good", "both", "fetched from the release", "the verified file", "good")


def test_warm_loads_make_no_request_and_hash_once(world, monkeypatch):
    """Counted: requests, and calls that read the whole file to hash it."""
    hashed = []
    whole = hash_cache.sha256_of
    monkeypatch.setattr(hash_cache, "sha256_of", lambda file: hashed.append(Path(file.name)) or whole(file))
    fetch(SMALL)
    assert len(world.server.requests) == 1
    assert fetch(SMALL).kind == "cache"
    found = [fetch(SMALL).path for _ in range(3)]
    map_verified(found[0], world.entry["sha256"])
    assert len(world.server.requests) == 1
    assert hashed == [world.target]


def test_a_repository_the_user_names_must_hold_the_weight(entries, monkeypatch, tmp_path, outcome):
    """A repository with the name of a weight, whosever: other bytes are refused, and nothing of them stays."""
    world = make_world("hub", entries, monkeypatch, tmp_path)
    world.entry["sources"] = []
    world.server.files[f"org/{SMALL}/model.safetensors"] = world.content
    cfg = dict(zip(("architecture", "tag"), SMALL.split("."), strict=True))
    cfg |= {"source": "hf-hub", "hf_hub_id": f"org/{SMALL}@{COMMIT}"}
    with running(world.server):
        world.server.fault = "flip"
        with pytest.raises(zoo.HashMismatchError, match=f"Hub org/{SMALL}: sha256 mismatch") as caught:
            load_state_dict(cfg)
        after = world.after()
        assert [p for p in (tmp_path / "hf").rglob("*") if p.is_file()] == []
        world.server.fault = ""
        assert set(load_state_dict(cfg)) == {"a", "b"}
        count = len(world.server.requests)
        assert set(load_state_dict(cfg)) == {"a", "b"}
        assert len(world.server.requests) == count
    outcome("Files", "a bit flipped in a repository the user names", "hf-hub:", caught.value, after, "good")


def test_the_hubs_own_cache_is_used_and_never_deleted(entries, monkeypatch, tmp_path, outcome):
    world = make_world("hub", entries, monkeypatch, tmp_path)
    folder = tmp_path / "hf" / "hub" / "models--org--weight" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(world.content)
    with running(world.server):
        assert fetch(SMALL).path == folder / "model.safetensors"
        assert world.server.requests == []
        (folder / "model.safetensors").write_bytes(bytes(len(world.content)))
        assert fetch(SMALL).path == world.target
        assert (folder / "model.safetensors").read_bytes() == bytes(len(world.content))
        world.target.unlink()
        world.server.fault = "status:404"
        with pytest.raises(zoo.WeightError, match=r"snapshots.*sha256 mismatch.*answered 404"):
            fetch(SMALL)
        then = world.good()
    where = "the Hub's cache"
    outcome("Files", "wrong file of another program", where, "left alone, fetched anew", "the verified file", then)


NOISE = ["", "cut", "flip", "short", "other", "bare", "bare-cut", "whole", "wrong-range", "hang-up", "html", "gzip"]
NOISE += ["busy:0", "busy:900", "status:404", "status:503", "loop"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.sampled_from(NOISE), max_size=12))
def test_any_sequence_of_faults(world, script):
    """Each run ends with the verified file or an error of one line; a part may stay, a wrong file never."""
    world.target.unlink(missing_ok=True)
    world.server.script = list(script)
    while world.server.script:
        before = len(world.server.script)
        try:
            assert sha256_of(fetch(SMALL).path) == world.entry["sha256"]
            break
        except zoo.WeightError as error:
            assert "\n" not in str(error)
            assert not world.target.exists()
        world.after()
        assert len(world.server.script) < before
    world.server.script = []
    assert sha256_of(fetch(SMALL).path) == world.entry["sha256"]
    assert world.after() == "the verified file"
    for part in world.target.parent.glob("*.part*"):
        raise AssertionError(part)


# ---- Google Drive, and addresses that the manifest does not have ----


@pytest.fixture
def drive(entries, monkeypatch):
    """A server that asks for confirmation as Google Drive does."""
    monkeypatch.setattr(google_drive, "HOSTS", ("127.0.0.1",))
    monkeypatch.setattr("zoo.weights.cached._WAIT", 5)
    with running(Server()) as server:
        server.files["/uc?export=download&id=abc"] = (
            b'<!DOCTYPE html><html><body><form id="search"></form><form id="download-form" action="/download"'
            b' method="get"><input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t">'
            b'<input type="hidden" name="uuid" value="1-2"><input type="submit" value="Download anyway"></form></html>'
        )
        server.files["/download?id=abc&confirm=t&uuid=1-2"] = save({"a": torch.arange(5.0)})
        headers = server.headers_for
        server.headers_for = lambda path, content: (
            headers(path, content) | ({"Content-Type": "text/html"} if path.startswith("/uc") else {})
        )
        yield server


def test_google_drive_asks_for_confirmation(drive, outcome):
    url = drive.url + "/uc?export=download&id=abc"
    found = fetch_address(url, trust_first_use=True)
    assert torch.equal(load_file(found.path)["a"], torch.arange(5.0))
    assert drive.requests == ["GET /uc?export=download&id=abc", "GET /download?id=abc&confirm=t&uuid=1-2"]
    outcome("Addresses", "page that asks for confirmation", "Google Drive", "fetched", "the verified file", "good")


@pytest.mark.parametrize(
    ("fault", "page", "hint"),
    [
        ("page without a button (over quota)", b"<!doctype html><html>Quota exceeded</html>", "download button"),
        ("button leads elsewhere", b'<html><form action="https://evil.example/download"></form></html>', "evil.exam"),
    ],
)
def test_google_drive_refuses(drive, outcome, fault, page, hint):
    url = drive.url + "/uc?export=download&id=abc"
    good = drive.files[url.removeprefix(drive.url)]
    drive.files[url.removeprefix(drive.url)] = page
    with pytest.raises(zoo.WeightError, match=hint) as caught:
        fetch_address(url, trust_first_use=True)
    assert trusted.trusted_sha256(url) is None
    drive.files[url.removeprefix(drive.url)] = good
    assert fetch_address(url, trust_first_use=True).kind == "address"
    outcome("Addresses", fault, "Google Drive", caught.value, "nothing", "good")


@pytest.fixture
def address(entries):
    with running(Server()) as server:
        server.files["/w.safetensors"] = save({"a": torch.arange(50_000.0)})
        yield server, server.url + "/w.safetensors"


def test_an_unknown_sha256_needs_a_decision(address, outcome):
    server, url = address
    with pytest.raises(zoo.WeightError, match=r"--sha256 HEX.*--trust-first-use") as caught:
        fetch_address(url)
    assert server.requests == []
    then = fetch_address(url, trust_first_use=True).kind
    outcome("Addresses", "sha256 not in the manifest, none given", "address", caught.value, "nothing", f"good ({then})")


@pytest.mark.parametrize("how", ["--trust-first-use", "--sha256"])
def test_what_was_accepted_once_decides_for_ever(address, outcome, how, monkeypatch):
    server, url = address
    good = hashlib.sha256(server.files["/w.safetensors"]).hexdigest()
    first = fetch_address(url, **({"sha256": good} if how == "--sha256" else {"trust_first_use": True}))
    assert first.sha256 == good
    assert fetch_address(url) == fetch_address(url, trust_first_use=True)
    assert len(server.requests) == 1, "a warm one asks nobody"
    content = server.files["/w.safetensors"]
    server.files["/w.safetensors"] = save({"a": torch.zeros(50_000)})
    assert fetch_address(url).sha256 == good
    first.path.unlink()
    for again in ({}, {"trust_first_use": True}):
        with pytest.raises(zoo.HashMismatchError, match="sha256 mismatch") as caught:
            fetch_address(url, **again)
    with pytest.raises(zoo.HashMismatchError, match="first accepted earlier"):
        fetch_address(url, sha256="0" * 64)
    assert not first.path.exists()
    server.files["/w.safetensors"] = content
    assert fetch_address(url).sha256 == good
    outcome("Addresses", f"other bytes than {how} accepted earlier", "address", caught.value, "nothing", "good")


def test_wrong_sha256_given(address, outcome):
    server, url = address
    with pytest.raises(zoo.HashMismatchError, match="sha256 mismatch") as caught:
        fetch_address(url, sha256="0" * 64)
    assert trusted.trusted_sha256(url) is None
    fetch_address(url, sha256=hashlib.sha256(server.files["/w.safetensors"]).hexdigest())
    outcome("Addresses", "wrong --sha256", "address", caught.value, "nothing", "good")
    with pytest.raises(zoo.WeightError, match="64 hexadecimal"):
        fetch_address(url, sha256="abc")
    for other in ("ftp://host/x", "file:///etc/passwd", "/etc/passwd", "http://"):
        with pytest.raises(zoo.WeightError, match="not an http"):
            fetch_address(other, trust_first_use=True)


def test_first_use_of_an_answer_without_length(address, outcome):
    server, url = address
    server.fault = "bare"
    with pytest.raises(zoo.WeightError, match="how long") as caught:
        fetch_address(url, trust_first_use=True)
    assert trusted.trusted_sha256(url) is None
    server.fault = ""
    fetch_address(url, trust_first_use=True)
    outcome("Addresses", "first use of a file without Content-Length", "address", caught.value, "nothing", "good")


def test_a_download_that_is_cut_is_not_what_is_accepted(address, tmp_path):
    """No sha256 is known that would tell: the length does."""
    server, url = address
    server.fault = "cut"
    with pytest.raises(zoo.WeightError, match="broke off"):
        fetch_address(url, trust_first_use=True)
    assert trusted.trusted_sha256(url) is None
    server.fault = ""
    assert fetch_address(url, trust_first_use=True).path.read_bytes() == server.files["/w.safetensors"]


def test_a_damaged_record_of_trust_is_not_first_use(address, outcome):
    _, url = address
    fetch_address(url, trust_first_use=True)
    trusted._record(url, None).write_text("{")
    with pytest.raises(zoo.WeightError, match="damaged") as caught:
        fetch_address(url, trust_first_use=True)
    trusted._record(url, None).unlink()
    fetch_address(url, trust_first_use=True)
    outcome("Addresses", "damaged record of trust", "address", caught.value, "the verified file", "good")


def test_names_in_addresses_stay_in_the_cache(entries, tmp_path):
    with running(Server()) as server:
        for path in ("/..%2f..%2fevil", "/a/../../evil", "/%00", "/.hidden", "/" + "x" * 300, "/"):
            server.find = lambda _: b"content"
            found = fetch_address(server.url + path, trust_first_use=True)
            assert found.path.is_relative_to(tmp_path / "cache" / "addresses")
            assert found.path.parent.parent == tmp_path / "cache" / "addresses"


def test_a_model_from_an_address_needs_the_same_decision(entries):
    """timm's ``url`` under a name that is none of our weights: what the user accepted, or nothing."""
    model = timm.create_model("lrunet2_100", num_classes=3)
    with running(Server()) as server:
        server.files["/own.safetensors"] = save(model.state_dict())
        url = f"{server.url}/own.safetensors"
        overlay = {"url": url, "tag": "mine", "num_classes": 3}
        with pytest.raises(zoo.WeightError, match="--trust-first-use"):
            timm.create_model("lrunet2_100", pretrained=True, pretrained_cfg_overlay=overlay)
        fetch_address(url, trust_first_use=True)
        loaded = timm.create_model("lrunet2_100", pretrained=True, pretrained_cfg_overlay=overlay)
        assert torch.equal(loaded.head.fc.weight, model.head.fc.weight)
        assert len(server.requests) == 1


# ---- files ----


def flip(path: Path, keep_times: bool = False) -> None:
    """Flip one bit in place; on request set back the modification time, as nothing can the change time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    with open(path, "r+b") as file:
        file.write(content)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("keep_times", [False, True], ids=["", "modification time set back"])
def test_a_flipped_bit_in_the_cache(world, outcome, keep_times):
    fetch(SMALL)
    fetch(SMALL)
    flip(world.target, keep_times)
    with pytest.raises(zoo.HashMismatchError):
        map_verified(world.target, world.entry["sha256"])
    fault = "a bit flipped" + (", modification time set back" if keep_times else "")
    result = "fetched anew" if fetch(SMALL).kind == world.kind else "accepted"
    assert len(world.server.requests) == 2
    outcome("Files", fault, f"cache ({world.kind})", result, world.after(), world.good())


@pytest.mark.parametrize("damage", ["bit", "bit, modification time set back", "short", "empty"])
def test_a_staged_file_ends_the_load_and_stays(release, tmp_path, monkeypatch, outcome, damage):
    path = tmp_path / "none" / SMALL / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(fetch(SMALL).path.read_bytes())
    assert fetch(SMALL).kind == "staged"
    if damage.startswith("bit"):
        flip(path, "time" in damage)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "short" else 0])
    bad = path.read_bytes()
    with pytest.raises(zoo.HashMismatchError) as caught:
        timm.create_model(SMALL, pretrained=True)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == bad
    path.unlink()
    outcome("Files", f"damaged: {damage}", "staged", caught.value, "the verified file, not used", release.good())


def test_a_damaged_memory_counts_as_none(release, tmp_path):
    fetch(SMALL)
    fetch(SMALL)
    records = list((tmp_path / "cache" / "hashes").glob("*.json"))
    assert len(records) == 1
    good = json.loads(records[0].read_text())
    for content in ("", "[]", "{}", "nonsense", json.dumps(good | {"sha256": "0" * 63}), "[" * 100_000):
        records[0].write_text(content)
        assert fetch(SMALL).kind == "cache"
        assert json.loads(records[0].read_text()) == good


def test_a_young_file_is_hashed_each_time(release, monkeypatch, tmp_path):
    """A file system's clock may stand still between two changes; until it has moved on nothing is remembered."""
    monkeypatch.setattr(hash_cache, "_GRAIN_NS", 3600 * 10**9)
    fetch(SMALL)
    fetch(SMALL)
    assert not (tmp_path / "cache" / "hashes").exists()


def test_training_a_loaded_network_leaves_the_file_alone(release):
    found = fetch(SMALL)
    tensors = map_verified(found.path, found.sha256)
    tensors["a"].add_(1)
    assert sha256_of(found.path) == found.sha256


def test_read_only_cache(release, outcome, monkeypatch, tmp_path):
    """Everything present: it works. Something missing: one error that says what to set."""
    fetch(SMALL)
    (tmp_path / "cache" / "hashes").mkdir(exist_ok=True)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    assert fetch(SMALL).kind == "cache"
    release.target.unlink()
    with pytest.raises(zoo.WeightError, match=r"read-only.*ZOO_CACHE") as caught:
        fetch(SMALL)
    monkeypatch.setattr(os, "access", real)
    text = str(caught.value).split(": ", 1)[1].split(". Put")[0]
    outcome("Files", "read-only folder", "cache", text, release.after(), release.good())


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system with 64 KiB, where this process may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(world, tiny_disk, monkeypatch, tmp_path, outcome):
    monkeypatch.setenv("ZOO_CACHE", str(tiny_disk))
    with pytest.raises(zoo.WeightError, match="No space left on device") as caught:
        fetch(SMALL)
    after = world.after()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    text = str(caught.value).split(": ", 1)[1].split(". Put")[0]
    outcome("Files", "full disk", f"cache ({world.kind})", text, after, world.good())


def test_file_size_limit(world, tmp_path):
    """The same where nothing can be mounted: the kernel refuses to let a file grow."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        fetch(SMALL)

    error, status = in_child(limited)
    assert status == 0
    assert "File too large" in error
    assert world.after() == "nothing"
    world.good()


# ---- processes ----


def test_several_processes_download_once(world, outcome):
    world.server.fault = "slow"
    children = [start_child(lambda: fetch(SMALL).path) for _ in range(4)]
    paths = {queue.get() for _, queue in children}
    for process, _ in children:
        process.join(60)
    assert paths == {str(world.target)}
    assert len(world.server.requests) == 1
    outcome("Processes", "4 ask at once", world.kind, "1 download, all have the file", world.after(), world.good())


def kill_at_random(world: World, runs: int) -> dict[str, int]:
    """Kill fetching processes; nothing but the verified file may ever have its name, and the next run succeeds."""
    seen = {"killed before the end": 0, "complete": 0}
    rng = random.Random(0)
    for _ in range(runs):
        world.server.fault = "slow"
        world.target.unlink(missing_ok=True)
        process, _ = start_child(lambda: fetch(SMALL).path)
        time.sleep(rng.uniform(0, 0.08))
        process.kill()
        process.join(60)
        seen["complete" if world.target.exists() else "killed before the end"] += 1
        if world.target.exists():
            assert world.after() == "the verified file"
        if rng.random() < 0.3:
            world.good()
            assert world.after() == "the verified file"
    world.good()
    return seen


def test_killed_right_after_the_file_got_its_name(world, outcome):
    """The name comes last: nothing is left to be cleaned up by a run that finds the file and looks no further."""
    replace = Path.replace

    def and_die(self, target):
        replace(self, target)
        if Path(target) == world.target:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        Path.replace = and_die
        fetch(SMALL)

    process, _ = start_child(work)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    after = world.after()
    assert after == "the verified file"
    outcome("Processes", "killed right after the rename", world.kind, "the verified file", after, world.good())


def test_killed_at_random_moments(world):
    seen = kill_at_random(world, 12)
    assert seen["killed before the end"] > 0


@pytest.mark.slow
def test_killed_at_random_moments_often(world, outcome):
    seen = kill_at_random(world, 200)
    assert min(seen.values()) > 0, "kills must come both before and after the end"
    fault = "killed at 200 random moments"
    outcome("Processes", fault, world.kind, "never a half or wrong file", world.after(), world.good())


# ---- content: whoever controls the bytes, and their sha256 ----


def lying(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": b"",
    "header longer than the file": lying({"a": TENSOR}, bytes(8), 1 << 40),
    "header of 2^63 bytes": lying({"a": TENSOR}, bytes(8), 1 << 63),
    "header is no JSON": lying(b"{nonsense", bytes(8)),
    "header nested 100,000 deep": lying(b'{"a":' * 100_000, bytes(8)),
    "shape of 2^62 elements": lying({"a": {**TENSOR, "shape": [1 << 62]}}, bytes(8)),
    "shape whose product overflows": lying({"a": {**TENSOR, "shape": [1 << 33, 1 << 33]}}, bytes(8)),
    "negative shape": lying({"a": {**TENSOR, "shape": [-2]}}, bytes(8)),
    "data beyond the file": lying({"a": {**TENSOR, "shape": [200], "data_offsets": [0, 800]}}, bytes(8)),
    "overlapping tensors": lying({"a": TENSOR, "b": TENSOR}, bytes(8)),
    "shape and data differ": lying({"a": {**TENSOR, "shape": [1]}}, bytes(8)),
    "unknown data type": lying({"a": {**TENSOR, "dtype": "PICKLE"}}, bytes(8)),
    "data without a tensor": lying({"a": TENSOR}, bytes(16)),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_safetensors(entries, tmp_path, outcome, fault):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[fault])
    for read in (map_verified, read_verified):
        with pytest.raises(zoo.WeightError, match="not a safetensors file") as caught:
            read(path, hashlib.sha256(HOSTILE[fault]).hexdigest())
        assert "\n" not in str(caught.value)
    path.write_bytes(save({"a": torch.ones(2)}))
    assert torch.equal(read_verified(path, sha256_of(path))["a"], torch.ones(2))
    text = str(caught.value).split(" (")[0]
    outcome("Content, with the sha256 that was expected", fault, "safetensors", text, "-", "good")


def test_names_of_tensors_are_only_names(entries, tmp_path, outcome):
    """A tensor named as a path is not this network's, and nothing else."""
    own = {"../../../etc/passwd": torch.zeros(2), "/absolute": torch.zeros(1), "": torch.zeros(1)}
    save_file(own, tmp_path / "x.safetensors")
    overlay = {"file": str(tmp_path / "x.safetensors"), "tag": "mine"}
    with pytest.raises(zoo.WeightError, match="not this network's") as caught:
        timm.create_model("lrunet2_100", pretrained=True, pretrained_cfg_overlay=overlay)
    assert "\n" not in str(caught.value)
    text = str(caught.value).split(":", 2)[1].strip()
    outcome("Content, with the sha256 that was expected", "tensors named as paths", "safetensors", text, "-", "good")
    with pytest.raises(zoo.UnknownNameError):
        fetch("../../etc/passwd")


class Bomb:
    """Pickled, it would run a command when it is read."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return (os.system, (self.command,))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_runs_code_under_the_right_sha256(release, tmp_path, outcome, zipped):
    good, address = release.content, source(release.entry, "release")
    torch.save({"net": Bomb(f"touch {tmp_path / 'executed'}")}, tmp_path / "b", _use_new_zipfile_serialization=zipped)
    bad = (tmp_path / "b").read_bytes()
    release.server.files[release.path] = bad
    sha256, address["sha256"] = address["sha256"], hashlib.sha256(bad).hexdigest()
    with pytest.raises(zoo.WeightError, match="refused, "):
        fetch(SMALL)
    assert not (tmp_path / "executed").exists()
    after = release.after()
    release.server.files[release.path], address["sha256"] = good, sha256
    fault = f"pickle that runs code ({'zip' if zipped else 'legacy'})"
    result = "refused; nothing is run"
    outcome("Content, with the sha256 that was expected", fault, "release", result, after, release.good())


# ---- the manifest ----


def _broken(change) -> dict:
    content = copy.deepcopy(manifest())
    change(content, next(iter(content["weights"].values())))
    return content


MANIFESTS = {
    "unknown field at the top": lambda m, e: m.update(extra=1),
    "unknown field of a weight": lambda m, e: e.update(top1=99.0),
    "unknown field of a source": lambda m, e: e["sources"][0].update(trust_me=True),
    "unknown kind of source": lambda m, e: e["sources"][0].update(kind="torrent"),
    "another version": lambda m, e: m.update(version=2),
    "no weights": lambda m, e: m.pop("weights"),
    "sha256 missing": lambda m, e: e.pop("sha256"),
    "sha256 too short": lambda m, e: e.update(sha256="abc"),
    "sha256 with a path": lambda m, e: e.update(sha256="../" * 20 + "abcd"),
    "size negative": lambda m, e: e.update(size=-1),
    "size a text": lambda m, e: e.update(size="12"),
    "name with a path": lambda m, e: m["weights"].update({"../../x.zoo_c10": e}),
    "staged path outside its folder": lambda m, e: e.update(
        sources=[{"kind": "staged", "path": "../../x", "embedded": False}]
    ),
    "Hub file outside its repository": lambda m, e: e.update(
        sources=[{"kind": "hub", "repo": "a/b", "revision": COMMIT, "file": "../../x"}]
    ),
    "Hub revision a branch": lambda m, e: e.update(
        sources=[{"kind": "hub", "repo": "a/b", "revision": "main", "file": "x"}]
    ),
    "kind of source a list": lambda m, e: e["sources"][0].update(kind=[]),
    "collapsed a list": lambda m, e: e.update(collapsed=[1]),
    "collapsed without sha256": lambda m, e: e.update(collapsed={"path": "x", "size": 1, "dtype": "float32"}),
    "packed outside its folder": lambda m, e: e.update(packed={"path": "../x", "sha256": "0" * 64, "size": 1}),
    "weights a list": lambda m, e: m.update(weights=[]),
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_no_such_manifest_is_written(outcome, fault, tmp_path):
    with pytest.raises(zoo.WeightError) as caught:
        check_manifest(_broken(MANIFESTS[fault]), tmp_path / "weights_manifest.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    result = str(caught.value).split(": ")[1]
    result = "refused before it is written: " + re.sub(r"weights\['[^']*'\]", "weights[NAME]", result)
    outcome("Manifest, written", fault, "manifest", result, "the one before", "good")
    check_manifest(_broken(lambda m, e: None), "x")


def read_anew(content: object, tmp_path: Path, monkeypatch) -> None:
    """Let this process read another manifest from the disk."""
    path = tmp_path / "weights_manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setattr(manifests, "manifest_file", lambda: path)
    manifests._read.cache_clear()


@pytest.fixture(autouse=True)
def own_manifest_again():
    yield
    manifests._read.cache_clear()


NEEDED = {fault for fault in MANIFESTS if not fault.startswith(("unknown field", "another version"))}


@pytest.mark.parametrize("fault", sorted(NEEDED - {"no weights", "weights a list", "name with a path"}))
def test_a_damaged_entry_hurts_only_itself(outcome, fault, tmp_path, monkeypatch):
    """The entry of an architecture's first weight: named, it is one clear line; no other takes its place."""
    name, other = "lrunet1_100.zoo_fmnist", "lrunet10_100.zoo_fmnist"
    content = copy.deepcopy(manifest())
    content["weights"][name]["sources"].append({"kind": "staged", "path": "x", "embedded": False})
    content["weights"][name]["sources"].reverse()
    MANIFESTS[fault](content, content["weights"][name])
    read_anew(content, tmp_path, monkeypatch)
    if fault == "size negative":  # harmless to read; a file of that size cannot come
        assert list(manifests.damaged()) == []
        return
    assert list(manifests.damaged()) == [name]
    assert other in manifests.weights()
    timm.create_model(other, pretrained=True)
    default = generate_default_cfgs(timm_cfgs(["lrunet1_100"], BASE))
    assert next(iter(default["lrunet1_100"].tags)) == "zoo_fmnist", "the authors' weight must not come unasked"
    for use in (
        lambda: fetch(name),
        lambda: fetch("lrunet1_100"),
        lambda: timm.create_model(name, pretrained=True),
        lambda: zoo.create_model(name, pretrained=True),
        lambda: zoo.load_collapsed(name),
    ):
        with pytest.raises(zoo.WeightError, match=f"the entry of {name} is damaged") as caught:
            use()
        assert "\n" not in str(caught.value)
    result = str(caught.value).split("json: ")[1]
    outcome("Manifest, read", fault, "manifest", result, "-", "every other weight is good")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"weights": {}}', '{"weights": []}'])
def test_a_manifest_that_is_none(content, tmp_path, monkeypatch):
    """Networks can be had; whoever asks for a weight reads why there is none."""
    read_anew(content, tmp_path, monkeypatch)
    for use in (lambda: fetch(SMALL), lambda: timm.create_model(SMALL, pretrained=True)):
        with pytest.raises(zoo.WeightError, match=r"cannot be read.*Install the package again") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert timm_cfgs(["lrunet1_100"], BASE)["lrunet1_100"]["num_classes"]


def test_the_package_can_be_imported_with_any_manifest(tmp_path):
    """In processes of their own: import zoo, make networks, load another weight, list them all."""
    codes = []
    for content in ("{", {"sha256": 5, "results": [{}]}):
        changed, file = copy.deepcopy(manifest()), tmp_path / f"{len(codes)}.json"
        if isinstance(content, dict):
            changed["weights"]["lrunet1_100.zoo_fmnist"].update(content)
        file.write_text(json.dumps(changed) if isinstance(content, dict) else content)
        load = "timm.create_model('lrunet10_100.zoo_fmnist', pretrained=True)" if isinstance(content, dict) else "None"
        codes.append(
            f"from pathlib import Path; {PATHS_FIRST}; p.manifest_file = lambda: Path({str(file)!r});"
            f"import timm, zoo; from zoo.cli import main; timm.create_model('lrunet1_100'); {load};"
            "print('names:', len(zoo.list_models())); print(main(['list', '--pretrained']))"
        )
    for said, code in after_import("import timm", codes, cwd=ROOT):
        assert code == 0, said
        assert "Traceback" not in said
        assert int(re.search(r"names: (\d+)", said)[1]) > 30


# the module of paths alone, before the package is imported
PATHS_FIRST = (
    "import sys, types, importlib; zoo_ = types.ModuleType('zoo'); zoo_.__path__ = ['zoo']; sys.modules['zoo'] = zoo_;"
    "import zoo.errors, zoo.weights.paths as p; del sys.modules['zoo']"
)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_manifest_hurts_at_most_its_entry(data, tmp_path, monkeypatch):
    """One value anywhere in one entry, or in its paper's, replaced by any JSON: the others stay, and only a WeightError
    comes."""
    name, other = "symm_wrn_16_1.zoo_c10", "lrunet1_100.zoo_fmnist"
    content = copy.deepcopy({**ORIGINAL, "weights": {n: ORIGINAL["weights"][n] for n in (name, other)}})
    place, keys = data.draw(st.sampled_from([(content["weights"], [name]), (content["papers"], ["symmetry"])]))
    while keys:
        chosen = data.draw(st.sampled_from(keys))
        inner = place[chosen]
        if not (isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 4))):
            break
        place, keys = inner, list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    place[chosen] = data.draw(json_values)
    read_anew(content, tmp_path, monkeypatch)
    assert other in manifests.weights()
    timm_cfgs([name.split(".")[0]], BASE)
    try:
        assert manifests.facts(name)["sha256"]
    except zoo.WeightError as error:
        assert "\n" not in str(error)
