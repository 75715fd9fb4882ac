"""The packed form as a source: downloaded, staged, bundled or named, it becomes the plain file, verified twice."""

import hashlib
import json
import shutil
import zipfile

import pytest
import timm
import torch
from safetensors.torch import load_file

import zoo
from conftest import ROOT
from loopback import COMMIT, Hub, running
from zoo.cli import main
from zoo.publishing.bundle import install_bundle, write_bundle
from zoo.publishing.repository import repository
from zoo.weights import fetch as fetching
from zoo.weights.card import model_card
from zoo.weights.fetch import cached_file, fetch, fetch_from_repository
from zoo.weights.packed import PACKED, pack

NAME = "sparse_wrn_16_1.zoo_dsr_s90_c10"
FOLDER = ROOT / "hub" / NAME
PLAIN = (FOLDER / "model.safetensors").read_bytes()
SMALL = (FOLDER / PACKED).read_bytes()


@pytest.fixture
def entry(entries, own_cache, monkeypatch, tmp_path):
    """The weight, on the Hub only: nothing is staged, nothing cached."""
    monkeypatch.setattr("zoo.weights.download._pause", lambda seconds: None)
    monkeypatch.setattr("zoo.weights.fetch.shipped_hub", lambda: tmp_path / "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "staged"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    source = {"kind": "hub", "repo": "org/weight", "revision": COMMIT, "file": "model.safetensors"}
    entries[NAME]["sources"] = [source]
    return entries[NAME]


@pytest.fixture
def hub(entry, monkeypatch):
    with running(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files["org/weight/model.safetensors"] = PLAIN
        server.files[f"org/weight/{PACKED}"] = SMALL
        yield server


def gets(server: Hub) -> list[str]:
    return [request.rsplit("/", 1)[1] for request in server.requests]


def lying(content: bytes) -> dict:
    """The manifest's facts of a packed file that is another."""
    return {"path": PACKED, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def leftovers(cache) -> list[str]:
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != ".lock" and p.parent.name != "hashes")


# ---- from the Hub ----


def test_the_smaller_file_is_downloaded_and_the_plain_one_kept(hub, entry, own_cache):
    model = timm.create_model(NAME, pretrained=True)
    assert gets(hub) == [PACKED]
    assert hub.sent == len(SMALL) < len(PLAIN) / 10
    assert cached_file(NAME, entry).read_bytes() == PLAIN
    assert leftovers(own_cache) == [f"{entry['sha256']}.safetensors"]
    staged = load_file(FOLDER / "model.safetensors")
    assert all(torch.equal(tensor, staged[key]) for key, tensor in model.state_dict().items() if key in staged)
    timm.create_model(NAME, pretrained=True)
    assert len(hub.requests) == 1


def test_a_plain_file_that_is_smaller_is_preferred(hub, entry):
    entry["packed"]["size"] = entry["size"]
    fetch(NAME)
    assert gets(hub) == ["model.safetensors"]


def test_a_repository_the_user_names(hub, entry):
    entry["sources"] = []
    assert fetch_from_repository(NAME, "org/weight", COMMIT).path.read_bytes() == PLAIN
    assert gets(hub) == [PACKED]


@pytest.mark.parametrize("trouble", ["absent", "flipped", "cut short", "another weight's", "a bomb"])
def test_where_the_packed_file_is_none_the_plain_one_comes(hub, entry, own_cache, trouble):
    """Also one that the manifest itself describes: what it unpacks to is compared, and it cannot bloat."""
    path = f"org/weight/{PACKED}"
    if trouble == "absent":
        del hub.files[path]
    elif trouble == "flipped":
        hub.files[path] = SMALL[:-9] + bytes([SMALL[-9] ^ 1]) + SMALL[-8:]
    elif trouble == "cut short":
        hub.files[path] = SMALL[:-1]
    elif trouble == "another weight's":
        hub.files[path] = (ROOT / "hub" / "sparse_wrn_16_1.zoo_static_s90_c10" / PACKED).read_bytes()
        entry["packed"] = lying(hub.files[path])
    else:
        hub.files[path] = b"nonsense" * 100
        entry["packed"] = lying(hub.files[path])
    assert fetch(NAME).path.read_bytes() == PLAIN
    assert gets(hub)[-1] == "model.safetensors"
    assert leftovers(own_cache) == [f"{entry['sha256']}.safetensors"]


def test_both_forms_failing_is_one_line(hub, entry, own_cache):
    hub.fault = "flip"
    with pytest.raises(zoo.WeightError, match=rf"{PACKED}: Hub org/weight: sha256 mismatch.*sha256 mismatch") as caught:
        fetch(NAME)
    assert "\n" not in str(caught.value)
    assert leftovers(own_cache) == []


def test_nothing_is_decoded_before_its_sha256_was_compared(hub, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "unpack", lambda *_: pytest.fail("decoded"))
    hub.files[f"org/weight/{PACKED}"] = SMALL[:-1] + b"\0"
    assert fetch(NAME).path.read_bytes() == PLAIN
    staged = tmp_path / "staged" / NAME
    staged.mkdir(parents=True)
    (staged / PACKED).write_bytes(SMALL + b"\0")
    with pytest.raises(zoo.HashMismatchError, match=r"packed.*sha256 mismatch"):
        fetching.read_packed(staged / PACKED, entry)


def test_in_the_hubs_own_cache(hub, entry, tmp_path):
    folder = tmp_path / "hf" / "hub" / "models--org--weight" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / PACKED).write_bytes(SMALL)
    assert fetch(NAME).path.read_bytes() == PLAIN
    assert hub.requests == []
    assert (folder / PACKED).read_bytes() == SMALL


# ---- staged, and folders of one's own ----


@pytest.fixture
def staged(entry, tmp_path):
    """A staged folder without the plain file."""
    folder = tmp_path / "staged" / NAME
    folder.mkdir(parents=True)
    for file in (PACKED, "config.json"):
        shutil.copy(FOLDER / file, folder / file)
    return folder


def test_a_staged_folder_with_only_the_packed_file_loads(staged, entry):
    found = fetch(NAME)
    assert (found.kind, found.path.read_bytes()) == ("staged", PLAIN)
    timm.create_model(NAME, pretrained=True)
    assert [p.name for p in staged.iterdir() if "safetensors" in p.name] == [PACKED]


def test_without_a_cache_it_loads_all_the_same(staged, entry, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for cache in (str(tmp_path / "file" / "below"), "~nosuchuser/x"):
        monkeypatch.setenv("ZOO_CACHE", cache)
        assert fetch(NAME).path.read_bytes() == PLAIN
        timm.create_model(NAME, pretrained=True)


def test_a_wrong_staged_one_ends_the_load_and_stays(staged, hub, entry):
    (staged / PACKED).write_bytes(SMALL[:-1])
    with pytest.raises(zoo.HashMismatchError, match=str(staged / PACKED)):
        timm.create_model(NAME, pretrained=True)
    assert (staged / PACKED).read_bytes() == SMALL[:-1]
    assert hub.requests == []


def test_a_staged_one_that_unpacks_to_another_weight_is_refused(staged, entry, own_cache):
    """Also if the manifest itself describes it: what it unpacks to decides, and nothing of it is kept."""
    other = (ROOT / "hub" / "sparse_wrn_16_1.zoo_static_s90_c10" / PACKED).read_bytes()
    (staged / PACKED).write_bytes(other)
    entry["packed"] = lying(other)
    with pytest.raises(zoo.HashMismatchError, match="unpacked: sha256 mismatch"):
        fetch(NAME)
    assert leftovers(own_cache) == []


def test_a_local_folder_with_only_the_packed_file_loads(staged):
    model = timm.create_model(f"local-dir:{staged}", pretrained=True)
    expected = load_file(FOLDER / "model.safetensors")
    assert torch.equal(model.state_dict()["head.fc.weight"], expected["head.fc.weight"].float())


def test_a_packed_network_of_ones_own_loads(staged, tmp_path):
    """From a folder whose name is no weight's: the user's network, packed with zoo pack."""
    own = zoo.create_model("sparse_wrn_16_1", num_classes=10)
    (tmp_path / "own").mkdir()
    timm.models.save_for_hf(own, tmp_path / "own", safe_serialization=True)
    plain = tmp_path / "own" / "model.safetensors"
    (tmp_path / "own" / PACKED).write_bytes(pack(plain.read_bytes()))
    plain.unlink()
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config["pretrained_cfg"]["tag"] = "mine"
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    again = timm.create_model(f"local-dir:{tmp_path / 'own'}", pretrained=True)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in own.state_dict().items())


# ---- passed on ----


def test_a_bundle_carries_the_packed_file_and_installs_the_plain_one(entries, own_cache, tmp_path, monkeypatch):
    write_bundle([NAME], tmp_path / "w.zoo")
    with zipfile.ZipFile(tmp_path / "w.zoo") as archive:
        names = archive.namelist()
    assert f"{NAME}/{PACKED}" in names
    assert f"{NAME}/model.safetensors" not in names
    (installed,) = install_bundle(tmp_path / "w.zoo", tmp_path / "to")
    assert installed.path.read_bytes() == PLAIN
    (installed,) = install_bundle(tmp_path / "w.zoo")
    assert installed.path == cached_file(NAME, entries[NAME])
    assert installed.path.read_bytes() == PLAIN
    monkeypatch.setattr("zoo.weights.fetch.shipped_hub", lambda: tmp_path / "none")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "none"))
    assert fetch(NAME).kind == "cache"
    write_bundle([NAME], tmp_path / "again.zoo")
    with zipfile.ZipFile(tmp_path / "again.zoo") as archive:
        assert archive.read(f"{NAME}/{PACKED}") == SMALL, "packed anew, from the cache"


@pytest.mark.parametrize("lie", ["manifest", "bundle"])
def test_a_bundle_whose_packed_file_is_another_installs_nothing(entries, own_cache, tmp_path, monkeypatch, lie):
    """Its list may be right in itself: this copy's manifest decides, or what it unpacks to."""
    write_bundle([NAME], tmp_path / "w.zoo")
    with zipfile.ZipFile(tmp_path / "w.zoo") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    index = json.loads(members["bundle.json"])
    other = (ROOT / "hub" / "sparse_wrn_16_1.zoo_static_s90_c10" / PACKED).read_bytes()
    members[f"{NAME}/{PACKED}"] = other
    index["files"][f"{NAME}/{PACKED}"] = {"size": len(other), "sha256": hashlib.sha256(other).hexdigest()}
    members["bundle.json"] = json.dumps(index).encode()
    with zipfile.ZipFile(tmp_path / "bad.zoo", "w") as archive:
        for member, content in members.items():
            info = zipfile.ZipInfo(member)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, content)
    if lie == "bundle":
        del entries[NAME]["packed"]
    else:
        monkeypatch.setattr("zoo.publishing.bundle.unpack", lambda *_: pytest.fail("decoded before it was compared"))
    with pytest.raises(zoo.HashMismatchError, match="sha256 mismatch"):
        install_bundle(tmp_path / "bad.zoo", tmp_path / "to")
    assert list((tmp_path / "to").rglob("*.safetensors")) == []


def test_a_repository_holds_both_forms(entries, own_cache):
    files = repository(NAME)
    assert files[PACKED].read_bytes() == SMALL
    assert files["model.safetensors"].read_bytes() == PLAIN
    card = files["README.md"].decode()
    assert f"{len(SMALL):,} bytes, sha256 `{hashlib.sha256(SMALL).hexdigest()}`" in card
    assert card == model_card(NAME, entries[NAME], files=files)


# ---- zoo verify ----


def test_verify_checks_packed_files(staged, entry, capsys):
    assert main(["verify", NAME]) == 0
    printed = capsys.readouterr().out
    assert "staged, packed" in printed
    assert "1 files of 1 weights, 0 wrong; 0 of 1 weights have no file here" in printed
    good = (staged / PACKED).read_bytes()
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), pack(PLAIN) + b"\0", PLAIN):
        (staged / PACKED).write_bytes(bad)
        assert main(["verify", NAME]) == 1
        assert f"{staged / PACKED}" in capsys.readouterr().err
    (staged / PACKED).write_bytes(good)
    (staged / "model.safetensors").write_bytes(good)  # in the plain file's place it is wrong
    assert main(["verify", NAME]) == 1
    assert "2 files of 1 weights, 1 wrong" in capsys.readouterr().out
