"""Bundles: the same bytes every time, all or nothing on installation, and nothing hostile gets in."""

import copy
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.publishing.bundle import INDEX, install_bundle, write_bundle
from zoo.publishing.repository import licence_text, size_and_sha256
from zoo.weights.fetch import cached_file, fetch
from zoo.weights.manifest import manifest, weights

NAME, OTHER = "lrunet1_100.zoo_fmnist", "lrunet10_100.zoo_fmnist"
SPARSE = "sparse_wrn_16_1.zoo_dsr_s90_c10"
THEIRS = "lrunet1_100.okankop_fmnist"
MODEL = f"{NAME}/model.safetensors"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "one.zoo"
    write_bundle([NAME], path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewritten(bundle, path, change=lambda files, index: None, write=lambda archive: None):
    """A bundle with other content; the index follows the content unless ``change`` spoils it."""
    files = members(bundle)
    index = json.loads(files.pop(INDEX))
    change(files, index)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {INDEX: index, **files}.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, json.dumps(content) if name == INDEX and isinstance(content, dict) else content)
        write(archive)
    return path


def assert_nothing_installed(folder):
    assert [path for path in folder.rglob("*") if path.name != ".lock"] == []


# ---- writing ----


def test_the_same_weights_give_the_same_bytes(tmp_path):
    """In another folder, under another umask, with the names in another order and given twice."""
    before = os.umask(0o077)
    try:
        write_bundle([NAME, OTHER], tmp_path / "a" / "first.zoo")
        os.umask(0o002)
        shutil.copytree(ROOT / "hub", tmp_path / "hub")
        for path in (tmp_path / "hub").rglob("*"):
            os.utime(path, (1, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ZOO_HUB", str(tmp_path / "hub"))
            write_bundle([OTHER, NAME, OTHER], tmp_path / "b.zoo")
    finally:
        os.umask(before)
    first, second = (tmp_path / "a" / "first.zoo").read_bytes(), (tmp_path / "b.zoo").read_bytes()
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


def test_what_is_in_it(bundle):
    found = members(bundle)
    assert next(iter(found)) == INDEX
    assert {f"{NAME}/{file}" for file in ("LICENSE", "README.md", "config.json", "model.safetensors")} <= found.keys()
    index = json.loads(found[INDEX])
    assert index["weights"] == {NAME: weights()[NAME]}
    assert index["papers"] == {"lrunet": manifest()["papers"]["lrunet"]}
    for name, content in found.items():
        if name != INDEX:
            assert index["files"][name] == size_and_sha256(content)
    assert found[f"{NAME}/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_only_weights_that_may_be_passed_on(tmp_path, monkeypatch, capsys):
    changed = copy.deepcopy(manifest())
    changed["weights"][NAME]["licence"] = None
    changed["weights"][THEIRS]["licence_source"] = "said so"
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)
    for name, expected in ((NAME, "it has no licence"), (THEIRS, "copyright notice its licence asks for")):
        with pytest.raises(zoo.WeightError, match=expected):
            write_bundle([OTHER, name], tmp_path / "x.zoo")
    monkeypatch.undo()
    for words, expected in (
        (["pd_a_resnet18"], "its authors' release has no licence, so nobody but they may pass it on"),
        (["nothing*"], "No weight matches 'nothing*'"),
        (["lrunet1_100.zoo_fmnst"], "Did you mean"),
    ):
        assert main(["bundle", *words, "-o", str(tmp_path / "x.zoo")]) == 1
        assert expected in capsys.readouterr().err
    assert_nothing_installed(tmp_path)


def test_the_authors_notice_goes_with_their_weights():
    text = licence_text(THEIRS, weights()[THEIRS])
    assert "Copyright (c) 2017 Okan Kopuklu" in text
    assert "The above copyright notice and this permission notice shall be included" in text
    apache = ROOT / "zoo" / "publishing" / "licences" / "Apache-2.0.txt"
    assert apache.read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_wrong_bytes_are_not_bundled(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "hub" / NAME, tmp_path / "hub" / NAME)
    with open(tmp_path / "hub" / MODEL, "r+b") as file:
        file.seek(-5, 2)
        file.write(b"\x01")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    with pytest.raises(zoo.HashMismatchError):
        write_bundle([NAME], tmp_path / "x.zoo")
    assert not (tmp_path / "x.zoo").exists()


# ---- installing ----


def test_installed_weights_load_offline_in_a_fresh_process(bundle, tmp_path):
    """The other machine: the package without staged weights, no network, nothing set but where its cache is."""
    cache, site = tmp_path / "cache", tmp_path / "site"
    shutil.copytree(ROOT / "zoo", site / "zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "weights_manifest.json", site)
    code = (
        "import json, socket, sys; socket.socket.connect = None\n"
        "import timm, torch, zoo, zoo.cli\n"
        f"code = zoo.cli.main(['bundle', '--install', {str(bundle)!r}])\n"
        f"model = timm.create_model({NAME!r}, pretrained=True).eval()\n"
        "print(json.dumps([code, zoo.__file__, model(torch.zeros(1, 1, 28, 28)).tolist()]))\n"
    )
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_"))}
    env = known | {"ZOO_CACHE": str(cache), "PYTHONPATH": str(site)}
    run = subprocess.run([sys.executable, "-c", code], cwd=site, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    installed, scores = run.stdout.splitlines()[:-1], json.loads(run.stdout.splitlines()[-1])
    assert scores[0] == 0
    assert str(site) in scores[1]
    assert installed[0].startswith(f"{NAME}  {cache}")
    expected = zoo.create_model(NAME, pretrained=True).eval()(torch.zeros(1, 1, 28, 28))
    torch.testing.assert_close(torch.tensor(scores[2]), expected)


def test_installed_where_fetch_finds_it(bundle, tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr("zoo.weights.fetch.shipped_hub", lambda: tmp_path / "none")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "none"))
    with pytest.raises(zoo.WeightError):
        fetch(NAME)
    found = install_bundle(bundle)
    assert [(f.name, f.known) for f in found] == [(NAME, True)]
    assert found[0].path == cached_file(NAME, weights()[NAME])
    located = fetch(NAME)
    assert (located.kind, located.path) == ("cache", found[0].path)
    assert (found[0].path.parent / "LICENSE").is_file()
    times = {path: path.stat().st_mtime_ns for path in own_cache.rglob("*") if path.is_file()}
    install_bundle(bundle)
    for path, before in times.items():
        assert path.stat().st_mtime_ns == before or path.name == ".lock", "what is right is left as it is"


def test_a_damaged_cached_file_is_replaced(bundle, own_cache):
    path = cached_file(NAME, weights()[NAME])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    install_bundle(bundle)
    assert size_and_sha256(path)["sha256"] == weights()[NAME]["sha256"]


def test_into_a_folder_for_local_dir(bundle, tmp_path, capsys):
    assert main(["bundle", "--install", str(bundle), "--to", str(tmp_path / "to")]) == 0
    assert f'timm.create_model("local-dir:{tmp_path / "to" / NAME}", pretrained=True)' in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'to' / NAME}", pretrained=True)
    expected = zoo.create_model(NAME, pretrained=True).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert main(["bundle", "--install", str(bundle), "--to", str(tmp_path / "to")]) == 0
    (tmp_path / "to" / NAME / "README.md").write_text("my notes")
    (tmp_path / "to" / MODEL).unlink()
    assert main(["bundle", "--install", str(bundle), "--to", str(tmp_path / "to")]) == 1
    assert "README.md is not the bundle's file: move it away" in capsys.readouterr().err
    assert (tmp_path / "to" / NAME / "README.md").read_text() == "my notes"
    assert not (tmp_path / "to" / MODEL).exists()


def test_an_authors_weight_by_name_and_from_its_folder(released, tmp_path, own_cache, monkeypatch):
    """It has no staged folder: its configuration is made, and its tensors keep the authors' names."""
    found = next(
        p for p in released.glob("*.safetensors") if size_and_sha256(p)["sha256"] == weights()[THEIRS]["sha256"]
    )
    cached_file(THEIRS, weights()[THEIRS]).parent.mkdir(parents=True)
    shutil.copy(found, cached_file(THEIRS, weights()[THEIRS]))
    write_bundle([THEIRS], tmp_path / "theirs.zoo")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "other"))
    install_bundle(tmp_path / "theirs.zoo")
    named = zoo.create_model(THEIRS, pretrained=True).state_dict()
    install_bundle(tmp_path / "theirs.zoo", tmp_path / "to")
    local = timm.create_model(f"local-dir:{tmp_path / 'to' / THEIRS}", pretrained=True).state_dict()
    assert all(torch.equal(tensor, local[key]) for key, tensor in named.items())


# ---- all or nothing ----


@pytest.mark.parametrize("failing", range(1, 7))
def test_a_failing_move_is_taken_back(bundle, own_cache, monkeypatch, failing):
    target, calls, replace = cached_file(NAME, weights()[NAME]), [], Path.replace
    target.parent.mkdir(parents=True)
    (target.parent / "README.md").write_text("an older card")

    def broken(self, to):
        calls.append(to)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(zoo.WeightError, match=r"Input/output error. Nothing of one.zoo was installed"):
        install_bundle(bundle)
    assert [p.name for p in target.parent.iterdir()] == ["README.md"]
    assert (target.parent / "README.md").read_text() == "an older card"
    assert list(own_cache.glob(".install-*")) == []


def test_a_full_disk_leaves_nothing(bundle, own_cache):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(zoo.WeightError, match=r"Nothing of one.zoo was installed"):
            install_bundle(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_nothing_installed(own_cache)


def test_what_a_killed_installation_left_is_removed(bundle, own_cache):
    (own_cache / ".install-old").mkdir(parents=True)
    (own_cache / ".install-old" / "0").write_bytes(b"half")
    install_bundle(bundle)
    assert list(own_cache.glob(".install-*")) == []


@pytest.mark.slow
def test_killed_at_random_moments_a_hundred_times(tmp_path):
    """No file is ever half there, and the next installation completes what is missing and tidies up."""
    write_bundle([NAME, OTHER], tmp_path / "two.zoo")
    cache, names, draw = tmp_path / "cache", (NAME, OTHER), random.Random(0)
    started = time.monotonic()
    install_bundle(tmp_path / "two.zoo", cache_dir=cache)
    whole = time.monotonic() - started
    tqdm.set_lock(threading.RLock())  # its own would be shared with the children, and die locked with one
    partly = 0
    for _ in range(100):
        shutil.rmtree(cache)
        child = os.fork()
        if child == 0:
            try:
                install_bundle(tmp_path / "two.zoo", cache_dir=cache)
            finally:
                os._exit(0)
        time.sleep(draw.random() * 1.3 * whole)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files = [path for path in cache.rglob("weights/*/*") if path.is_file()]
        partly += cache.exists()
        for path in files:
            if path.suffix == ".safetensors":
                assert size_and_sha256(path)["sha256"] == path.stem
        install_bundle(tmp_path / "two.zoo", cache_dir=cache)
        assert all(cached_file(name, weights()[name], cache).is_file() for name in names)
        assert list(cache.glob(".install-*")) == []
    assert partly > 10


# ---- hostile bundles ----


def _extra(name):
    def change(files, index):
        files[name] = b"evil"
        index["files"][name] = size_and_sha256(b"evil")

    return change


def _replace_weight(files, index):
    """Consistent in itself: the bundle's own manifest has the hash of the bundle's own, other weight."""
    files[MODEL] = files[MODEL][:-1] + bytes([files[MODEL][-1] ^ 1])
    index["files"][MODEL] = size_and_sha256(files[MODEL])
    index["weights"][NAME]["sha256"] = index["files"][MODEL]["sha256"]


def _flip(files, index):
    files[MODEL] = files[MODEL][:-1] + bytes([files[MODEL][-1] ^ 1])


def _spoil_index(text):
    def change(files, index):
        files[INDEX] = text

    return change


def _set(*path, value):
    def change(files, index):
        for key in path[:-1]:
            index = index[key]
        index[path[-1]] = value

    return change


HOSTILE = {
    "path upwards": (_extra("../evil"), "not a file of a bundle"),
    "absolute path": (_extra("/tmp/evil"), "not a file of a bundle"),
    "path upwards below a name": (_extra(f"{NAME}/../../evil"), "not a file of a bundle"),
    "backslashes": (_extra(f"{NAME}\\..\\evil"), "not a file of a bundle"),
    "extra member": (_extra(f"{NAME}/evil.py"), "not a file of a bundle"),
    "extra member not listed": (lambda files, index: files.update({f"{NAME}/curve2.png": b"x"}), "not those listed"),
    "missing member": (lambda files, index: files.pop(MODEL), "not those listed"),
    "missing licence": (
        lambda files, index: (files.pop(f"{NAME}/LICENSE"), index["files"].pop(f"{NAME}/LICENSE")),
        "LICENSE' is missing",
    ),
    "one bit": (_flip, "sha256 mismatch"),
    "another weight under a known name": (_replace_weight, "sha256 mismatch"),
    "index says another size": (_set("files", MODEL, "size", value=5), "not those listed"),
    "index without hashes": (_set("files", MODEL, "sha256", value="abc"), "a sha256 that is none"),
    "index with a number for a hash": (_set("files", MODEL, "sha256", value=5), "a sha256 that is none"),
    "weight with no hash": (_set("weights", NAME, "sha256", value="a\nb"), "a sha256 that is none"),
    "weight with another hash than its file": (_set("weights", NAME, "sha256", value="0" * 64), "sha256 mismatch"),
    "another format": (_set("format", value="repara-zoo bundle 9"), "install a newer repara-zoo"),
    "no weights": (_set("weights", value={}), "lists no weight"),
    "weights are a list": (_set("weights", value=[1]), "cannot be read"),
    "impossible name": (_set("weights", value={"../a.b": {"sha256": "0" * 64}}), "impossible name"),
    "index is not JSON": (_spoil_index(b"{"), "cannot be read"),
    "index is nested deeply": (_spoil_index(b"[" * 200_000), "cannot be read"),
    "index has a huge number": (_spoil_index(b'{"files": ' + b"9" * 100_000 + b"}"), "cannot be read"),
    "index is empty": (_spoil_index(b""), "an impossible size"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("folder", [False, True], ids=["cache", "folder"])
def test_hostile_content_is_refused_before_anything_is_written(bundle, tmp_path, own_cache, case, folder):
    change, expected = HOSTILE[case]
    path = rewritten(bundle, tmp_path / "evil.zoo", change)
    with pytest.raises(zoo.WeightError, match=expected) as caught:
        install_bundle(path, tmp_path / "to" if folder else None)
    assert "\n" not in str(caught.value)
    assert not own_cache.exists()
    assert not (tmp_path / "to").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zoo"]


@pytest.mark.parametrize("file", ["model.collapsed.safetensors", "config.json", "README.md", "LICENSE"])
@pytest.mark.parametrize("folder", [False, True], ids=["cache", "folder"])
def test_other_companions_of_the_right_weight_are_refused(bundle, tmp_path, own_cache, file, folder):
    """Consistent in itself, and not what the manifest makes them."""

    def change(files, index):
        files[f"{NAME}/{file}"] += b" "
        index["files"][f"{NAME}/{file}"] = size_and_sha256(files[f"{NAME}/{file}"])

    path = rewritten(bundle, tmp_path / "evil.zoo", change)
    with pytest.raises(zoo.HashMismatchError, match=f"{NAME}/{file}: sha256 mismatch"):
        install_bundle(path, tmp_path / "to" if folder else None)
    assert not own_cache.exists()
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("file", ["curve.png", "recipe.json", "model.packed.safetensors"])
def test_what_the_manifest_does_not_know_does_not_come_along(bundle, tmp_path, own_cache, file):
    def change(files, index):
        files[f"{NAME}/{file}"] = b"unknown"
        index["files"][f"{NAME}/{file}"] = size_and_sha256(b"unknown")

    assert f"{NAME}/{file}" not in members(bundle)
    with pytest.raises(zoo.WeightError, match=f"{NAME}/{file}: sha256 mismatch: expected none"):
        install_bundle(rewritten(bundle, tmp_path / "evil.zoo", change))
    assert not own_cache.exists()


def test_a_bundle_of_a_cached_weight_is_that_of_the_staged_one(tmp_path, own_cache, monkeypatch):
    """The same bytes whoever makes it; the collapsed form and the packed one come along."""
    write_bundle([NAME, SPARSE], tmp_path / "staged.zoo")
    install_bundle(tmp_path / "staged.zoo")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "none"))
    (tmp_path / "none").mkdir()
    for module in ("zoo.weights.fetch", "zoo.publishing.repository"):
        monkeypatch.setattr(f"{module}.shipped_hub", lambda: tmp_path / "none", raising=False)
    assert fetch(NAME).kind == fetch(SPARSE).kind == "cache"
    assert zoo.load_collapsed(NAME)
    write_bundle([NAME, SPARSE], tmp_path / "cached.zoo")
    assert (tmp_path / "staged.zoo").read_bytes() == (tmp_path / "cached.zoo").read_bytes()


def _info(name=f"{NAME}/config.json", mode=0o100644, **attributes):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (_info(), "is in it twice"),
        (_info(f"{NAME}/link", 0o120777), "is a link"),
        (_info(f"{NAME}/folder", 0o040755), "is a link"),
        (_info(f"{NAME}/setuid", 0o104755), "is a link"),
        (_info(f"{NAME}/bomb", compress_type=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_hostile_members(bundle, tmp_path, own_cache, member, expected):
    path = rewritten(bundle, tmp_path / "evil.zoo", write=lambda archive: archive.writestr(member, b"0" * 100_000))
    with pytest.raises(zoo.WeightError, match=expected):
        install_bundle(path)
    assert not own_cache.exists()


def test_sizes_that_lie(bundle, tmp_path, own_cache):
    """The directory at the end claims a member of four gigabytes."""
    content = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as archive:
        entry = content.index(b"PK\x01\x02", archive.start_dir)
    for claimed, at in ((0xFFFFFFF0, (20, 24)), (0xFFFFFFF0, (24,))):
        changed = content[:]
        for offset in at:
            changed[entry + offset : entry + offset + 4] = claimed.to_bytes(4, "little")
        (tmp_path / "evil.zoo").write_bytes(changed)
        with pytest.raises(zoo.WeightError, match=r"larger than the archive|no plain file"):
            install_bundle(tmp_path / "evil.zoo")
    assert not own_cache.exists()


def test_a_weight_this_copy_does_not_know(bundle, tmp_path, own_cache):
    def rename(files, index):
        for name in [n for n in files if n.startswith(NAME)]:
            files[name.replace(NAME, "lrunet1_100.new_fmnist")] = files.pop(name)
        index["files"] = {n.replace(NAME, "lrunet1_100.new_fmnist"): f for n, f in index["files"].items()}
        index["weights"] = {"lrunet1_100.new_fmnist": index["weights"][NAME]}

    path = rewritten(bundle, tmp_path / "new.zoo", rename)
    with pytest.raises(zoo.WeightError, match=r"does not know lrunet1_100.new_fmnist.*with --to DIR"):
        install_bundle(path)
    assert not own_cache.exists()
    found = install_bundle(path, tmp_path / "to")
    assert [(f.name, f.known) for f in found] == [("lrunet1_100.new_fmnist", False)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_refused_or_harmless(bundle, tmp_path, data):
    """Bytes cut off, changed or put in: an error and nothing written, or exactly the right files."""
    content = bundle.read_bytes()
    spots = st.one_of(
        st.integers(0, len(content)), st.integers(len(content) - 1500, len(content)), st.integers(0, 6000)
    )
    start, length = data.draw(spots), data.draw(st.integers(0, 300))
    content = content[:start] + data.draw(st.binary(max_size=300)) + content[start + length :]
    (tmp_path / "damaged.zoo").write_bytes(content)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    try:
        found = install_bundle(tmp_path / "damaged.zoo", cache_dir=tmp_path / "cache")
    except zoo.WeightError as error:
        assert "\n" not in str(error)
        assert not (tmp_path / "cache").exists()
    else:
        assert size_and_sha256(found[0].path)["sha256"] == weights()[NAME]["sha256"]


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"<html>" * 1000])
def test_what_is_no_bundle(tmp_path, own_cache, content, capsys):
    (tmp_path / "x.zoo").write_bytes(content)
    assert main(["bundle", "--install", str(tmp_path / "x.zoo")]) == 1
    printed = capsys.readouterr().err
    assert "not a bundle of this zoo" in printed
    assert printed.count("\n") == 1
    assert main(["bundle", "--install", str(tmp_path / "missing.zoo")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert not own_cache.exists()


def test_wrong_command_lines(capsys):
    for words in (["bundle"], ["bundle", NAME], ["bundle", NAME, "--install", "x"], ["bundle", "--to", "x"]):
        assert main(words) == 1
        assert "zoo bundle" in capsys.readouterr().err
