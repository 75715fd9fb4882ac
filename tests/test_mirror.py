"""Mirrors: a folder and a server that the real clients take for the Hub."""

import contextlib
import copy
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import zoo
from conftest import ROOT
from loopback import running as running_hub
from loopback_hub import Repository, WritableHub
from zoo.cli import main
from zoo.publishing import mirror_server
from zoo.publishing.mirror import nginx_conf, read_index, write_mirror
from zoo.publishing.mirror_api import folder_of
from zoo.publishing.mirror_server import MirrorServer
from zoo.publishing.repository import size_and_sha256
from zoo.weights.card import model_card
from zoo.weights.manifest import manifest, weights

NAME = "lrunet1_100.zoo_fmnist"
REPO = f"mirror/{NAME}"


class Watched(MirrorServer):
    """Keeps a log of requests instead of printing it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.requests, log = [], self.RequestHandlerClass

        class Quiet(log):
            def log_message(handler, *args):
                self.requests.append(f"{handler.command} {handler.path}")

        self.RequestHandlerClass = Quiet


class serving:
    """Run an HTTP server in a thread."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self.server

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def listening(port):
    """Wait until another process listens."""
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), 0.1).close()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    assert write_mirror([NAME], folder) == {NAME: REPO}
    return folder


@pytest.fixture
def server(folder):
    with serving(Watched(folder, "127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def commit(folder):
    return read_index(folder)[REPO]["main"]


# ---- real clients ----


def test_the_client_downloads_pins_and_warms_its_cache(server, commit, tmp_path):
    get = functools.partial(hf_hub_download, REPO, "model.safetensors", endpoint=server.url, cache_dir=tmp_path)
    path = Path(get())
    assert size_and_sha256(path)["sha256"] == weights()[NAME]["sha256"] == path.resolve().name
    assert path.parent.name == commit
    assert [line.split()[0] for line in server.requests] == ["HEAD", "GET"]
    get()
    assert len(server.requests) == 3, "one HEAD to ask whether main has moved"
    get(revision=commit)
    assert len(server.requests) == 3, "a pinned commit in the cache needs no request"


def test_a_whole_repository_and_what_is_known_of_it(server, commit, tmp_path, folder):
    found = Path(snapshot_download(REPO, endpoint=server.url, cache_dir=tmp_path))
    listed = read_index(folder)[REPO]["commits"][commit]
    assert {p.name: size_and_sha256(p) for p in found.iterdir()} == listed
    api = HfApi(endpoint=server.url, token=False)
    assert api.model_info(REPO).sha == api.model_info(REPO, revision=commit).sha == commit
    paths = {file.path: file for file in api.get_paths_info(REPO, ["model.safetensors", "none"])}
    assert list(paths) == ["model.safetensors"]
    assert paths["model.safetensors"].lfs.sha256 == weights()[NAME]["sha256"]


def test_what_is_not_there_is_told_as_the_hub_tells_it(server, tmp_path):
    get = functools.partial(hf_hub_download, endpoint=server.url, cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError) as caught:
        get(REPO, "pytorch_model.bin")
    assert not isinstance(caught.value, LocalEntryNotFoundError)
    with pytest.raises(RevisionNotFoundError):
        get(REPO, "config.json", revision="v1")
    with pytest.raises(RepositoryNotFoundError):
        get("mirror/other", "config.json")


def test_a_static_server_alone_is_not_enough(folder, tmp_path):
    """Without X-Repo-Commit no client believes it is the Hub; this is why there is --serve and nginx.conf."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    static = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    with serving(static):
        url = f"http://127.0.0.1:{static.server_address[1]}"
        content = requests.get(f"{url}/{REPO}/resolve/main/model.safetensors", timeout=10).content
        assert size_and_sha256(content)["sha256"] == weights()[NAME]["sha256"]
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download(REPO, "model.safetensors", endpoint=url, cache_dir=tmp_path)


def test_fresh_process_with_timm_huggingface_hub_and_the_zoo(folder, server, commit, tmp_path):
    """A student's machine: HF_ENDPOINT is set; the manifest has a published weight whose commit the mirror holds."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "zoo", site / "zoo", ignore=shutil.ignore_patterns("__pycache__"))
    changed = copy.deepcopy(manifest())
    hub = {"kind": "hub", "repo": REPO, "revision": commit, "file": "model.safetensors"}
    changed["weights"][NAME]["sources"] = [hub]
    (site / "weights_manifest.json").write_text(json.dumps(changed))
    code = (
        "import json, timm, torch, zoo\n"
        "from huggingface_hub import hf_hub_download\n"
        "from zoo.weights.fetch import fetch\n"
        f"repo, name = {REPO!r}, {NAME!r}\n"
        "x = torch.zeros(1, 1, 28, 28)\n"
        "ids = ['hf-hub:' + repo, 'hf-hub:' + repo + '@' + " + repr(commit) + "]\n"
        "scores = [timm.create_model(i, pretrained=True).eval()(x) for i in ids]\n"
        "assert torch.equal(*scores)\n"
        "config = json.load(open(hf_hub_download(repo, 'config.json')))\n"
        "found = fetch(name)\n"
        "own = zoo.create_model(name, pretrained=True).eval()(x)\n"
        "assert torch.equal(own, scores[0])\n"
        "print(json.dumps([config['architecture'], found.kind, str(found.path), own.tolist()]))\n"
    )
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_"))}
    env = known | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "ZOO_CACHE": str(tmp_path / "cache")}
    env |= {"PYTHONPATH": str(site), "no_proxy": "127.0.0.1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=site, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    architecture, kind, path, scores = json.loads(run.stdout.splitlines()[-1])
    assert architecture == "lrunet1_100"
    assert kind in ("hub", "cache")
    assert Path(path).is_relative_to(tmp_path)
    expected = zoo.create_model(NAME, pretrained=True).eval()(torch.zeros(1, 1, 28, 28))
    torch.testing.assert_close(torch.tensor(scores), expected)


# ---- what the API knows ----


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A mirror of three weights and somebody's own network with a card that is up to no good."""
    folder, own = tmp_path_factory.mktemp("several"), tmp_path_factory.mktemp("own") / "wild"
    shutil.copytree(ROOT / "hub" / NAME, own)
    (own / "README.md").write_text(EVIL)
    write_mirror(["sparse_wrn_16_1.zoo_dense_c10", "wrn_16_1.zoo_c10"], folder, "lab")
    write_mirror([NAME, str(own)], folder)
    return folder


EVIL = """---
tags: [fine, 5, {a: b}, "x\r\nSet-Cookie: a"]
pipeline_tag: [1]
library_name: {}
datasets: 2026-11-28
model-index: 7
---
<script>alert(1)</script>
"""
LAB = ["lab/sparse_wrn_16_1.zoo_dense_c10", "lab/wrn_16_1.zoo_c10"]
OTHERS = ["mirror/lrunet1_100.wild", REPO]


@pytest.fixture(scope="module")
def api(several, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text("<h1>front</h1>")
    (site / "weights").mkdir()
    (site / "weights" / f"{NAME}.html").write_text("figures")
    (site / "data.bin").write_bytes(bytes(3))
    (site / "link.txt").symlink_to(several / "mirror.json")
    with serving(Watched(several, "127.0.0.1", 0, lambda: [site])) as server:
        yield HfApi(endpoint=server.url, token=False)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, LAB + OTHERS),
        ({"search": "WRN"}, LAB),
        ({"search": "lab/wrn"}, LAB[1:]),
        ({"search": "no such"}, []),
        ({"author": "mirror"}, OTHERS),
        ({"author": "mir"}, []),
        ({"filter": "dataset:cifar10"}, LAB),
        ({"filter": ["timm", "license:apache-2.0", "dataset:fashion-mnist"]}, [REPO]),
        ({"filter": "fine"}, OTHERS[:1]),
        ({"trained_dataset": "cifar10"}, LAB),
        ({"pipeline_tag": "image-classification", "author": "mirror"}, [REPO]),
        ({"pipeline_tag": "text-generation"}, []),
        ({"gated": True}, []),
        ({"limit": 3}, [*LAB, OTHERS[0]]),
        ({"sort": "downloads", "limit": 1}, LAB[:1]),
        ({"full": True, "search": "lrunet"}, OTHERS),
    ],
    ids=str,
)
def test_models_are_listed_and_found(api, asked, expected):
    assert [model.id for model in api.list_models(**asked)] == expected


def test_pages_of_a_list_follow_each_other(api):
    url, found = f"{api.endpoint}/api/models?limit=1&filter=safetensors", []
    while url:
        answer = requests.get(url, timeout=10)
        found += [model["id"] for model in answer.json()]
        url = answer.links.get("next", {}).get("url")
    assert found == LAB + OTHERS


def test_the_newest_first(api, several):
    for age, repo in enumerate([*OTHERS, *LAB]):
        commit = several / repo / "resolve" / read_index(several)[repo]["main"]
        os.utime(commit, (1_700_000_000 - age, 1_700_000_000 - age))
    found = list(api.list_models(sort="last_modified"))
    assert [model.id for model in found] == [*OTHERS, *LAB]
    assert found[0].last_modified.timestamp() == 1_700_000_000


def test_what_a_list_says_of_a_model(api, several):
    found = next(iter(api.list_models(search=NAME)))
    assert found.sha == read_index(several)[REPO]["main"]
    assert found.siblings is None
    assert (found.library_name, found.author, found.private) == ("repara-zoo", "mirror", False)
    more = next(iter(api.list_models(search=NAME, full=True, cardData=True)))
    assert "model.safetensors" in {file.rfilename for file in more.siblings}
    assert more.card_data.license == "apache-2.0"
    assert next(iter(api.list_models(search=NAME, expand=["siblings"]))).siblings


def test_one_model_its_files_and_branches(api, several):
    index = read_index(several)[REPO]
    info = api.model_info(REPO, files_metadata=True)
    assert {file.rfilename: (file.size, file.lfs.sha256) for file in info.siblings} == {
        name: (file["size"], file["sha256"]) for name, file in index["commits"][index["main"]].items()
    }
    assert sorted(api.list_repo_files(REPO)) == sorted(index["commits"][index["main"]])
    assert [file.path for file in api.list_repo_tree(REPO)] == [*index["commits"][index["main"]]]
    (branch,) = api.list_repo_refs(REPO).branches
    assert (branch.name, branch.target_commit) == ("main", index["main"])
    assert api.repo_exists(REPO)
    assert api.file_exists(REPO, "config.json")
    assert api.revision_exists(REPO, index["main"])
    assert not api.file_exists(REPO, "none")
    assert not api.revision_exists(REPO, "refs/pr/1")
    for repo, kind in ((f"{REPO}x", "model"), ("gpt2", "model"), (REPO, "dataset"), (REPO, "space")):
        assert not api.repo_exists(repo, repo_type=kind)
    assert not api.file_exists("gpt2", "config.json")
    assert list(api.list_datasets()) == []
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "none"))


def test_folders_in_a_repository():
    files = [{"path": path, "oid": "0"} for path in ("a/b/c", "a/d", "ab", "e")]
    assert [file["path"] for file in folder_of(files, "", False)] == ["a", "ab", "e"]
    assert [file["path"] for file in folder_of(files, "a", False)] == ["a/b", "a/d"]
    assert [file["path"] for file in folder_of(files, "a", True)] == ["a/b/c", "a/d"]
    assert folder_of(files, "b", True) == []


@pytest.mark.parametrize(
    "question",
    ["limit=0", "limit=-1", "limit=x", "cursor=x", "sort=size", "apps=x", "a%0d%0aX=1", "&".join(["a=1"] * 200)],
)
def test_what_cannot_be_answered_is_said(api, question):
    answer = requests.get(f"{api.endpoint}/api/models?{question}", timeout=10)
    assert answer.status_code == 400
    assert "X" not in answer.headers
    assert answer.headers["X-Error-Message"]


# ---- pages ----


def test_the_front_page_and_what_belongs_to_it(api):
    get = functools.partial(requests.get, timeout=10)
    front = get(f"{api.endpoint}/")
    assert (front.status_code, front.text) == (200, "<h1>front</h1>")
    assert front.headers["Content-Type"] == "text/html; charset=utf-8"
    assert front.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in front.headers["Content-Security-Policy"]
    assert get(f"{api.endpoint}/data.bin").headers["Content-Type"] == "application/octet-stream"
    assert get(f"{api.endpoint}/index.html").text == front.text
    head = requests.head(f"{api.endpoint}/", timeout=10)
    assert (head.headers["Content-Length"], head.content) == (str(len(front.content)), b"")
    for path in ("link.txt", "weights", "../mirror.json", "%2e%2e/mirror.json", "lab"):
        assert get(f"{api.endpoint}/{path}").status_code == 404, path


def test_a_repositorys_page(api, several):
    index = read_index(several)[REPO]
    page = requests.get(f"{api.endpoint}/{REPO}", timeout=10)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for file, found in index["commits"][index["main"]].items():
        assert f'href="/{REPO}/resolve/{index["main"]}/{file}"' in page.text
        assert found["sha256"] in page.text
    assert "Fashion-MNIST" in page.text or "fashion-mnist" in page.text
    assert f'href="/weights/{NAME}.html"' in page.text
    other = requests.get(f"{api.endpoint}/{LAB[0]}", timeout=10).text
    assert 'href="/weights/' not in other


def test_a_card_is_shown_as_text(api):
    page = requests.get(f"{api.endpoint}/{OTHERS[0]}", timeout=10)
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script" not in page.text
    info = api.model_info(OTHERS[0])
    assert info.tags == ["fine", "x Set-Cookie: a", "safetensors"]
    assert info.pipeline_tag is info.library_name is None


def test_served_with_the_gallery_of_what_is_mirrored(tmp_path, monkeypatch):
    """The command's own way, its pages asked for while it serves; the files need not wait for them."""
    pytest.importorskip("jinja2")
    name, found = "wrn_16_1.zoo_c10", {}
    write_mirror([name], tmp_path)

    def look(server):
        with serving(server):
            assert HfApi(endpoint=server.url, token=False).file_exists(f"mirror/{name}", "config.json")
            for path in ("/", f"/weights/{name}.html", "/weights/wrn_28_1.zoo_c10.html", "/weights.cdx.json"):
                found[path] = requests.get(f"{server.url}{path}", timeout=60)
        raise KeyboardInterrupt

    serve = MirrorServer.serve_forever
    monkeypatch.setattr(MirrorServer, "serve_forever", lambda self, *args: serve(self, *args) if args else look(self))
    assert main(["mirror", str(tmp_path), "--serve", "--port", "0"]) == 130
    assert [answer.status_code for answer in found.values()] == [200, 200, 404, 200]
    assert name in found[f"/weights/{name}.html"].text
    assert f"weights/{name}.html" in found["/"].text
    components = found["/weights.cdx.json"].json()["components"]
    assert [c["name"] for c in components if c["type"] == "machine-learning-model"] == [name]


def test_without_the_extra_a_plain_list_says_what_to_install(several, monkeypatch, capsys):
    import zoo.gallery
    from zoo.cli.hub import _write_pages

    def without(*args, **options):
        raise zoo.ZooError("This needs the package jinja2. Install it with: pip install 'repara-zoo[gallery]'")

    monkeypatch.setattr(zoo.gallery, "build", without)
    (site,) = _write_pages(several.parent / "pages", read_index(several))
    page = (site / "index.html").read_text()
    assert all(f'href="/{repo}"' in page for repo in LAB + OTHERS)
    assert "repara-zoo[gallery]" in page
    assert "repara-zoo[gallery]" in capsys.readouterr().err


def test_who_waits_for_the_pages_is_not_hung_up_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_server, "_PATIENCE", 0.2)
    (tmp_path / "index.html").write_text("late")

    def slowly():
        time.sleep(0.8)
        yield tmp_path

    with serving(Watched(folder, "127.0.0.1", 0, slowly)) as server:
        assert requests.get(f"{server.url}/{REPO}/resolve/main/config.json", timeout=0.7).ok
        assert requests.get(f"{server.url}/", timeout=10).text == "late"


# ---- the server ----


def test_ranges_and_heads(server):
    url = f"{server.url}/{REPO}/resolve/main/model.safetensors"
    whole, size = requests.get(url, timeout=10), weights()[NAME]["size"]
    assert len(whole.content) == size == int(requests.head(url, timeout=10).headers["Content-Length"])
    for asked, first, last in (
        ("bytes=100-199", 100, 199),
        ("bytes=500000-", 500000, size - 1),
        (f"bytes=0-{size}", 0, size - 1),
    ):
        part = requests.get(url, headers={"Range": asked}, timeout=10)
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole.content[first : last + 1]
    assert requests.get(url, headers={"Range": f"bytes={size}-"}, timeout=10).status_code == 416
    assert requests.get(url, headers={"Range": "lines=1-2"}, timeout=10).status_code == 200


def test_only_what_is_listed_is_served(server, folder):
    (folder / "secret").write_text("not in the list")
    base = f"/{REPO}/resolve/main"
    paths = ["/secret", "/mirror.json", "/nginx.conf", "/", f"{base}/../../../../secret", f"{base}/%2e%2e/secret"]
    paths += [
        f"/{REPO}/resolve/../../../secret",
        "//etc/passwd/resolve/main/x",
        f"/api/models/{REPO}/tree/../../../../secret",
    ]
    for path in paths:
        with socket.create_connection(server.server_address) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 404"), path
        assert b"not in the list" not in answer
    (folder / "secret").unlink()


def test_nothing_can_be_written_and_odd_questions_end(server):
    url = f"{server.url}/{REPO}/resolve/main/config.json"
    assert requests.put(url, data=b"x", timeout=10).status_code == 501
    assert requests.delete(url, timeout=10).status_code == 501
    assert requests.post(url, data=b"x", timeout=10).status_code == 404
    question = f"{server.url}/api/models/{REPO}/paths-info/main"
    assert requests.post(question, json={"paths": ["config.json"]}, timeout=10).json()[0]["path"] == "config.json"
    for body in (b"{", b'{"paths": [[]]}', b"nothing", b'{"a": 1}', b"{" * 10_000):
        assert requests.post(question, data=body, timeout=10).status_code == 400
    assert requests.post(question, data=b"x" * (2 << 20), timeout=10).status_code == 413


def test_a_file_that_changes_while_it_is_served(tmp_path):
    write_mirror([NAME], tmp_path)
    with serving(Watched(tmp_path, "127.0.0.1", 0)) as server:
        next(tmp_path.glob("mirror/*/resolve/*/config.json")).write_text("{}")
        assert requests.get(f"{server.url}/{REPO}/resolve/main/config.json", timeout=10).status_code == 500


def test_a_part_of_something_else_is_not_continued(server):
    """If-Range with another validator: the whole file, as a client needs that has the part of another one."""
    url = f"{server.url}/{REPO}/resolve/main/config.json"
    whole = requests.get(url, timeout=10)
    for validator, status in ((whole.headers["ETag"], 206), ('"other"', 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)):
        part = requests.get(url, headers={"Range": "bytes=5-", "If-Range": validator}, timeout=10)
        assert part.status_code == status
        assert part.content == whole.content[5 if status == 206 else 0 :]
    for odd in ("bytes=" + "9" * 5000 + "-", "bytes=5-" + "9" * 5000):
        assert requests.get(url, headers={"Range": odd}, timeout=10).content == whole.content


@pytest.mark.parametrize("kind", ["other bytes, as many", "link to a file outside", "link to a folder outside", "pipe"])
def test_nothing_is_sent_under_the_old_validator(tmp_path, kind):
    write_mirror([NAME], tmp_path / "m")
    with serving(Watched(tmp_path / "m", "127.0.0.1", 0)) as server:
        url = f"{server.url}/{REPO}/resolve/main/training_log.jsonl"
        assert requests.get(url, timeout=10).status_code == 200
        path = next((tmp_path / "m").glob("mirror/*/resolve/[0-9a-f]*/training_log.jsonl"))
        content = path.read_bytes()
        if kind == "other bytes, as many":
            path.write_bytes(bytes(len(content)))
        elif kind == "link to a folder outside":
            path.parent.rename(tmp_path / "moved")
            path.parent.symlink_to(tmp_path / "moved")
        else:
            path.rename(tmp_path / "secret")
            path.symlink_to(tmp_path / "secret") if "link" in kind else os.mkfifo(path)
        assert requests.get(url, timeout=10).status_code == 500
    with pytest.raises(zoo.HashMismatchError):
        MirrorServer(tmp_path / "m", "127.0.0.1", 0)


def test_links_in_the_api_lead_nowhere(tmp_path):
    write_mirror([NAME], tmp_path / "m")
    (tmp_path / "secret").write_text("secret")
    for path in [p for p in (tmp_path / "m" / "api").rglob("*") if p.is_file()]:
        path.unlink()
        path.symlink_to(tmp_path / "secret")
    with serving(Watched(tmp_path / "m", "127.0.0.1", 0)) as server:
        for kind in ("revision", "tree"):
            answer = requests.get(f"{server.url}/api/models/{REPO}/{kind}/main", timeout=10)
            assert answer.status_code == 200
            assert "secret" not in answer.text
        assert HfApi(endpoint=server.url, token=False).model_info(REPO).siblings


def test_half_sent_requests_keep_nobody_out(folder, monkeypatch):
    """Twice as many as there are places, each with half a request; then a real client."""
    monkeypatch.setattr(mirror_server, "_descriptors", lambda: 96)
    monkeypatch.setattr(mirror_server, "_SPARED", 0.2)
    monkeypatch.setattr(mirror_server, "_PATIENCE", 1.0)
    with serving(Watched(folder, "127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        for _ in range(2 * server.most):
            connection = stack.enter_context(socket.create_connection(server.server_address))
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        started = time.monotonic()
        url = f"{server.url}/{REPO}/resolve/main/config.json"
        assert requests.get(url, timeout=10).status_code == 200
        assert time.monotonic() - started < 5
        assert len(server.connections) <= server.most
        late = time.monotonic() + 10
        while len(server.connections) > 1 and time.monotonic() < late:
            time.sleep(0.05)
        assert len(server.connections) <= 1, "and they are hung up on"


def test_a_client_that_takes_nothing_is_hung_up_on(folder, monkeypatch):
    monkeypatch.setattr(mirror_server, "_PATIENCE", 0.5)
    with serving(Watched(folder, "127.0.0.1", 0)) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.server_address)
        for _ in range(40):
            connection.sendall(f"GET /{REPO}/resolve/main/model.safetensors HTTP/1.1\r\n\r\n".encode())
        late = time.monotonic() + 10
        while server.connections and time.monotonic() < late:
            time.sleep(0.05)
        assert not server.connections


def test_a_hundred_clients_at_one_instant(server):
    """All connect before anyone is accepted."""
    with contextlib.ExitStack() as stack:
        request = f"GET /{REPO}/resolve/main/config.json HTTP/1.0\r\n\r\n".encode()
        connections = []
        for _ in range(100):
            connections.append(stack.enter_context(socket.create_connection(server.server_address, 5)))
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            connection.settimeout(20)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # noqa: B023
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"}\n")


def test_an_address_in_use(server, folder):
    with pytest.raises(zoo.ZooError, match="Choose another --host or --port"):
        MirrorServer(folder, "127.0.0.1", server.server_address[1])
    with pytest.raises(zoo.ZooError, match="Choose another --host or --port"):
        MirrorServer(folder, "127.0.0.1", 99999)


# ---- the folder ----


def test_laid_out_twice_nothing_changes(tmp_path, commit):
    write_mirror([NAME], tmp_path)
    assert read_index(tmp_path)[REPO]["main"] == commit, "the same files have the same commit everywhere"
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    write_mirror([NAME], tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == before
    assert list(tmp_path.glob(".mirror-*")) == []


def test_new_files_are_a_new_commit_and_the_old_one_stays(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "hub" / NAME, tmp_path / "hub" / NAME)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    write_mirror([NAME], tmp_path / "m")
    old = read_index(tmp_path / "m")[REPO]["main"]
    (tmp_path / "hub" / NAME / "training_log.jsonl").write_text("{}\n")
    write_mirror([NAME], tmp_path / "m")
    found = read_index(tmp_path / "m")[REPO]
    assert list(found["commits"]) == [old, found["main"]]
    with serving(Watched(tmp_path / "m", "127.0.0.1", 0)) as server:
        log = f"{server.url}/{REPO}/resolve/%s/training_log.jsonl"
        assert requests.get(log % "main", timeout=10).text == "{}\n"
        assert requests.get(log % old, timeout=10).text != "{}\n"


def test_a_damaged_mirror_is_not_served_and_can_be_repaired(tmp_path, capsys):
    write_mirror([NAME], tmp_path)
    model = next(tmp_path.glob("mirror/*/resolve/*/model.safetensors"))
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"\x01")
    assert main(["mirror", str(tmp_path), "--serve", "--port", "0"]) == 1
    assert "is damaged or missing: run zoo mirror" in capsys.readouterr().err
    write_mirror([NAME], tmp_path)
    assert next(tmp_path.glob("mirror/*/resolve/*/model.safetensors")).read_bytes() == content
    MirrorServer(tmp_path, "127.0.0.1", 0).server_close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: index.update({"../../etc/x": index[REPO]}),
        lambda index: index.update({"a/../x": index[REPO]}),
        lambda index: index[REPO].update(main="0" * 40),
        lambda index: index[REPO]["commits"].update({"..": {}}),
        lambda index: index[REPO]["commits"][index[REPO]["main"]].update({"../x": {"size": 1, "sha256": "0" * 64}}),
        lambda index: index[REPO]["commits"][index[REPO]["main"]].update({"x": {"size": "1", "sha256": "0" * 64}}),
        lambda index: index[REPO].clear(),
    ],
)
def test_a_spoiled_list_is_refused(folder, tmp_path, spoil):
    index = json.loads((folder / "mirror.json").read_text())
    spoil(index["repositories"])
    (tmp_path / "mirror.json").write_text(json.dumps(index))
    with pytest.raises(zoo.WeightError, match="is damaged"):
        MirrorServer(tmp_path, "127.0.0.1", 0)


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(MirrorServer, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["mirror", str(tmp_path), NAME, "--namespace", "lab", "--serve", "--port", "0"]) == 130
    printed = capsys.readouterr().out
    assert f'timm.create_model("hf-hub:lab/{NAME}", pretrained=True)' in printed
    assert "HF_ENDPOINT=http://127.0.0.1:" in printed
    for words, expected in (
        ([str(tmp_path)], "Name the weights to mirror"),
        ([str(tmp_path / "none"), "--serve"], "is not a mirror: lay it out first"),
        ([str(tmp_path), NAME, "--namespace", "../x"], "cannot be a namespace"),
        ([str(tmp_path), "pd_a_resnet18"], "its authors' release has no licence"),
    ):
        assert main(["mirror", *words]) == 1
        assert expected in capsys.readouterr().err


def test_nginx_is_told_both_headers_for_every_file(folder, commit):
    text = (folder / "nginx.conf").read_text()
    for file, listed in read_index(folder)[REPO]["commits"][commit].items():
        for revision in (commit, "main"):
            line = next(x for x in text.splitlines() if f'location = "/{REPO}/resolve/{revision}/{file}"' in x)
            assert f'add_header X-Repo-Commit "{commit}" always;' in line
            assert f"""add_header ETag '"{listed["sha256"]}"';""" in line


@pytest.mark.slow
def test_nginx_is_a_hub_endpoint_with_the_written_configuration(folder, tmp_path):
    command = os.environ.get("ZOO_NGINX") or shutil.which("nginx")
    if not command:
        pytest.skip("install nginx, or set ZOO_NGINX to it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = "".join(
        f"{kind}_temp_path {tmp_path}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; events {{}}\n"
        f"pid {tmp_path}/pid; error_log {tmp_path}/log;\n"
        f"http {{ access_log off; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; include {folder}/nginx.conf; }} }}\n"
    )
    run = subprocess.Popen([command, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "log")])
    try:
        listening(port)
        get = functools.partial(hf_hub_download, REPO, endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "hub")
        assert size_and_sha256(Path(get("model.safetensors")))["sha256"] == weights()[NAME]["sha256"]
        with pytest.raises(EntryNotFoundError) as caught:
            get("pytorch_model.bin")
        assert not isinstance(caught.value, LocalEntryNotFoundError)
        found = snapshot_download(REPO, endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "all")
        assert len(list(Path(found).iterdir())) >= 6
    finally:
        run.terminate()
        run.wait(30)


# ---- what is published keeps its repository and commit ----


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A Hub that has the weight, and a manifest that says so."""
    files = {path.name: path.read_bytes() for path in (ROOT / "hub" / NAME).iterdir()}
    with running_hub(WritableHub()) as hub:
        hub.repositories[f"org/{NAME}"] = Repository()
        revision = hub.repositories[f"org/{NAME}"].commit(files | {".gitattributes": b"x"})
        changed = copy.deepcopy(manifest())
        source = {"kind": "hub", "repo": f"org/{NAME}", "revision": revision, "file": "model.safetensors"}
        changed["weights"][NAME]["sources"].append(source)
        monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub, revision, files


def test_a_published_weight_is_mirrored_as_it_was_published(published, tmp_path):
    _, revision, files = published
    chosen = write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
    assert chosen == {NAME: f"org/{NAME}"}
    found = read_index(tmp_path / "m")[f"org/{NAME}"]
    assert found["main"] == revision
    files["README.md"] = model_card(NAME, weights()[NAME], f"org/{NAME}", files).encode()
    assert found["commits"][revision] == {name: size_and_sha256(content) for name, content in files.items()}


NAMES = ["mit blank und ümläut ß.txt", "日本/語.txt", "a{b};c'd$e#f?g%2e.txt", "-rf", "x" * 200]


def test_odd_names_are_quoted_and_come_back(published, tmp_path):
    """Into the list and out of it, for nginx in quotes, and over the server."""
    hub, revision, _ = published
    held = hub.repositories[f"org/{NAME}"].commits[revision]
    held.update({name: name.encode() for name in NAMES})
    write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
    index = read_index(tmp_path / "m")
    assert set(NAMES) <= index[f"org/{NAME}"]["commits"][revision].keys()
    lines = nginx_conf(index).splitlines()
    assert lines == (tmp_path / "m" / "nginx.conf").read_text().splitlines()
    for name in NAMES:
        assert (
            sum(line.startswith(f'location = "/org/{NAME}/resolve/main/{name}" {{ add_header') for line in lines) == 1
        )
    with serving(Watched(tmp_path / "m", "127.0.0.1", 0)) as server:
        for name in NAMES:
            url = f"{server.url}/org/{NAME}/resolve/main/{quote(name)}"
            assert requests.get(url, timeout=10).content == name.encode()


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nlocation / { root /; }", "\x1b[2J", "\u202egpj.exe", "a\u2028b"])
def test_names_that_cannot_be_served_are_refused(published, tmp_path, name):
    hub, revision, _ = published
    hub.repositories[f"org/{NAME}"].commits[revision][name] = b"x"
    with pytest.raises(zoo.WeightError, match="cannot be served") as caught:
        write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "m" / "mirror.json").exists()


@pytest.mark.parametrize("file", ["config.json", "README.md", "LICENSE", "model.collapsed.safetensors"])
def test_what_the_manifest_determines_is_the_manifests(published, tmp_path, file):
    """Another collapsed form is refused; other texts are replaced by this copy's own."""
    hub, revision, _ = published
    hub.repositories[f"org/{NAME}"].commits[revision][file] = b'{"architecture": "evil"}'
    if file.endswith(".safetensors"):
        with pytest.raises(zoo.HashMismatchError, match="was not mirrored"):
            write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
        return
    write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
    assert b"evil" not in next((tmp_path / "m").glob(f"org/*/resolve/[0-9a-f]*/{file}")).read_bytes()


def test_a_hub_with_other_bytes_is_not_mirrored(published, tmp_path):
    hub, revision, files = published
    held = hub.repositories[f"org/{NAME}"].commits[revision]
    held["model.safetensors"] = files["model.safetensors"][:-1] + b"\x01"
    with pytest.raises(zoo.HashMismatchError, match="was not mirrored"):
        write_mirror([NAME], tmp_path / "m", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "m" / "mirror.json").exists()
    hub.repositories.clear()
    with pytest.raises(zoo.WeightError, match=f"Hub org/{NAME}: answered 404"):
        write_mirror([NAME], tmp_path / "n", cache_dir=tmp_path / "cache2")


# ---- a caching mirror of others in front ----


@pytest.mark.slow
def test_olah_in_front_and_then_without_us(folder, commit, tmp_path):
    """client -> olah -> our mirror; then the mirror is gone, and olah alone has what it has seen."""
    command = os.environ.get("ZOO_OLAH") or shutil.which("olah-cli")
    if not command:
        pytest.skip("install olah (best in an environment of its own) and set ZOO_OLAH to its olah-cli")

    def olah(upstream, port, offline):
        config = tmp_path / "olah.toml"
        net, mine = f'"{upstream}"', f'"127.0.0.1:{port}"'
        config.write_text(
            f'[basic]\nhost = "127.0.0.1"\nport = {port}\n'
            f'repos-path = "{tmp_path}/repos"\nlog-path = "{tmp_path}/log"\n'
            f'hf-scheme = "http"\nhf-netloc = {net}\nhf-lfs-netloc = {net}\n'
            f'mirror-scheme = "http"\nmirror-netloc = {mine}\nmirror-lfs-netloc = {mine}\n'
            f"[accessibility]\noffline = {str(offline).lower()}\n"
        )
        with open(tmp_path / "olah.out", "ab") as output:
            run = subprocess.Popen([command, "-c", str(config)], cwd=tmp_path, stdout=output, stderr=output)
        listening(port)
        return run

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with serving(Watched(folder, "127.0.0.1", 0)) as server:
        upstream = server.url.removeprefix("http://")
        run = olah(upstream, port, offline=False)
        try:
            path = hf_hub_download(REPO, "model.safetensors", endpoint=address, cache_dir=tmp_path / "first")
            assert size_and_sha256(Path(path))["sha256"] == weights()[NAME]["sha256"]
            assert len(list(Path(snapshot_download(REPO, endpoint=address, cache_dir=tmp_path / "all")).iterdir())) >= 6
        finally:
            run.terminate()
            run.wait(30)
    run = olah(upstream, port, offline=True)
    try:
        again = hf_hub_download(
            REPO, "model.safetensors", endpoint=address, cache_dir=tmp_path / "second", revision=commit
        )
        assert size_and_sha256(Path(again))["sha256"] == weights()[NAME]["sha256"]
    finally:
        run.terminate()
        run.wait(30)
