"""Signatures of repositories: made by whoever passes weights on, checked by ``zoo verify``, whole or file by file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from loopback import running as running_hub
from loopback_hub import WritableHub
from zoo.cli import main
from zoo.publishing.bundle import install_bundle, write_bundle
from zoo.publishing.mirror import read_index, write_mirror
from zoo.publishing.publish import connect, prepare, publish
from zoo.publishing.repository import repository
from zoo.publishing.signature import check_folder, sign, signed_files
from zoo.weights.manifest import manifest, weights

pytest.importorskip("model_signing")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

NAME = "lrunet1_100.zoo_fmnist"
SPARSE = "sparse_wrn_16_1.zoo_dsr_s90_c10"


def write_keys(folder, name, key=None, password=None):
    """A private key and its public half as PEM files."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, hidden))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"), "mine")


@pytest.fixture(scope="module")
def signed(keys, tmp_path_factory):
    """The folder of a signed mirror's repository."""
    folder, cache = tmp_path_factory.mktemp("signed"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(cache))
        write_mirror([NAME], folder, key=keys[0])
        before = read_index(folder)
        write_mirror([NAME], folder, key=keys[0])
        assert read_index(folder) == before, "the same files are signed once, so their commit stays"
    return folder / "mirror" / NAME / "resolve" / before[f"mirror/{NAME}"]["main"]


@pytest.fixture
def folder(signed, tmp_path):
    shutil.copytree(signed, tmp_path / "there")
    return tmp_path / "there"


def verify(*words):
    return main(["verify", "--public-key", *map(str, words)])


def test_a_signed_folder(folder, keys, capsys):
    assert verify(keys[1], folder) == 0
    assert f"{len([*folder.iterdir()]) - 1} files signed, 0 are wrong" in capsys.readouterr().out


def test_the_tool_of_model_signing_agrees(folder, keys):
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder, "--public_key", keys[1]]
    run = subprocess.run([*command, "--signature", folder / "model.sig"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_what_the_tool_of_model_signing_signs_is_verified(tmp_path, keys):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"x" * 10)
    command = [sys.executable, "-m", "model_signing", "sign", "key", folder, "--private_key", keys[0]]
    run = subprocess.run([*command, "--signature", folder / "model.sig"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert check_folder(folder, keys[1]) == (1, [])


def other_key(folder, keys):
    return write_keys(folder.parent, "other")[1]


def cut(folder, keys):
    content = (folder / "model.sig").read_bytes()
    (folder / "model.sig").write_bytes(content[: len(content) // 2])


def rewrite(folder, keys):
    """Another list of files under the old signature."""
    import base64

    bundle = json.loads((folder / "model.sig").read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "0" * 64
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))


SPOILED = {
    "a changed file": (lambda f, k: (f / "config.json").write_text("{}"), "config.json: not the file that was signed"),
    "an added file": (lambda f, k: (f / "extra.bin").write_bytes(b""), "extra.bin: was not signed"),
    "an added folder": (lambda f, k: [(f / "a").mkdir(), (f / "a/b").write_text("")], "b: was not signed"),
    "a lost file": (lambda f, k: (f / "LICENSE").unlink(), "LICENSE: was signed and is missing"),
    "a pipe": (lambda f, k: [(f / "LICENSE").unlink(), os.mkfifo(f / "LICENSE")], "LICENSE: cannot be read"),
    "no signature": (lambda f, k: (f / "model.sig").unlink(), "not signed, there is no model.sig"),
    "another key": (other_key, "model.sig: not made with the private key of"),
    "half a signature": (cut, "model.sig: not a signature"),
    "an empty signature": (lambda f, k: (f / "model.sig").write_text("{}"), "model.sig: not a signature"),
    "a deep signature": (lambda f, k: (f / "model.sig").write_text("[" * 100_000), "model.sig: not a signature"),
    "a huge signature": (lambda f, k: (f / "model.sig").write_bytes(b" " * (2 << 20)), "model.sig: cannot be read"),
    "another list": (rewrite, "model.sig: not made with the private key of"),
    "a private key": (lambda f, k: k[0], "mine.pem: not a public key"),
    "no key": (lambda f, k: f.parent / "none.pub", "none.pub: cannot be read"),
    "an RSA key": (
        lambda f, k: write_keys(f.parent, "rsa", rsa.generate_private_key(65537, 2048))[1],
        "rsa.pub: not an EC key",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_each_fault_is_one_line(folder, keys, capsys, kind):
    spoil, expected = SPOILED[kind]
    key = spoil(folder, keys)
    assert verify(key if isinstance(key, Path) else keys[1], folder) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert expected in errors[0]
    assert errors[0].startswith("zoo: ")


def test_a_signature_does_not_replace_the_manifest(folder, keys, tmp_path, capsys, monkeypatch):
    """Whoever has the key signs another file under a weight's name."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    named = folder.rename(folder.with_name(NAME))
    (named / "model.safetensors").write_bytes(b"other")
    (named / "model.sig").write_bytes(sign(NAME, {path.name: path for path in named.iterdir()}, keys[0]))
    (named / "model.sig").write_bytes(
        sign(NAME, {p.name: p for p in named.iterdir() if p.name != "model.sig"}, keys[0])
    )
    assert verify(keys[1], named) == 1
    assert f"signed, but not {NAME}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--public-key", "KEY"], "name the weights, or the folders"),
        (["{folder}"], "add --public-key KEY"),
        (["--public-key", "{public}", NAME], f"{NAME} is not signed here"),
        (["--public-key", "{public}", "./none"], "No such folder"),
    ],
)
def test_words_that_cannot_be(folder, keys, own_cache, capsys, words, expected):
    assert main(["verify", *(word.format(folder=folder, public=keys[1]) for word in words)]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda f: write_keys(f, "rsa", rsa.generate_private_key(65537, 2048))[0], "not an EC key"),
        (lambda f: write_keys(f, "curve", ec.generate_private_key(ec.SECP256K1()))[0], "not an EC key"),
        (lambda f: write_keys(f, "public")[1], "not a private key"),
        (lambda f: f / "none", "cannot be read"),
        (lambda f: write_keys(f, "hidden", password=b"word")[0], "set ZOO_KEY_PASSWORD"),
    ],
)
def test_keys_that_cannot_sign(tmp_path, own_cache, make, expected):
    with pytest.raises(zoo.ZooError, match=expected) as caught:
        write_mirror([NAME], tmp_path / "m", key=make(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m" / "mirror.json").exists()


def test_an_encrypted_key(tmp_path, own_cache, monkeypatch):
    private, public = write_keys(tmp_path, "hidden", ec.generate_private_key(ec.SECP521R1()), b"word")
    monkeypatch.setenv("ZOO_KEY_PASSWORD", "word")
    (tmp_path / "model.sig").write_bytes(sign("x", {"a": b"1"}, private))
    assert list(signed_files(tmp_path / "model.sig", public)) == ["a"]
    monkeypatch.setenv("ZOO_KEY_PASSWORD", "other")
    with pytest.raises(zoo.ZooError, match="another password than ZOO_KEY_PASSWORD"):
        sign("x", {"a": b"2"}, private)


def test_a_bundle_carries_it(tmp_path, keys, own_cache, capsys):
    for path in (tmp_path / "one.zoo", tmp_path / "two.zoo"):
        write_bundle([NAME], path, key=keys[0])
    assert (tmp_path / "one.zoo").read_bytes() == (tmp_path / "two.zoo").read_bytes()
    assert verify(keys[1], NAME) == 1, "nothing is in the cache yet"
    install_bundle(tmp_path / "one.zoo")
    assert verify(keys[1], NAME) == 0
    assert f"{NAME}: signed with" in capsys.readouterr().out
    assert verify(write_keys(tmp_path, "other")[1], NAME) == 1


def test_a_weight_that_travels_packed_is_signed_as_it_is_unpacked(tmp_path, keys, own_cache):
    write_bundle([SPARSE], tmp_path / "one.zoo", key=keys[0])
    install_bundle(tmp_path / "one.zoo", tmp_path / "to")
    folder = tmp_path / "to" / SPARSE
    assert {"model.safetensors", "model.packed.safetensors"} < {path.name for path in folder.iterdir()}
    assert check_folder(folder, keys[1])[1] == []


def test_published_mirrored_and_fetched_file_by_file(tmp_path, keys, own_cache, monkeypatch, capsys, caplog):
    """A signature goes to the Hub once, and comes back with single files, packed ones too, from a mirror as well."""
    import copy

    changed = tmp_path / "manifest.json"
    changed.write_text(json.dumps(manifest()))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # that store has no double here
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with running_hub(WritableHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)  # old clients take addresses apart by it
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in ("constants", "file_download"):  # where new clients have it, and old ones
            place = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
            monkeypatch.setattr(place, template, raising=False)
        for again in (False, True):
            (done,) = publish(prepare([SPARSE], "org", key=keys[0]), connect(hub.url), changed)
            assert done.changed is not again
        there = hub.repositories[f"org/{SPARSE}"]
        unsigned = prepare([SPARSE], "org")
        assert not publish(unsigned, connect(hub.url), changed)[0].changed and "renew" not in caplog.text
        there.commit({**there.commits[there.main], "README.md": b"an older one"})
        publish(unsigned, connect(hub.url), changed)
        assert "Publish with --sign KEY to renew it" in caplog.text
        content = copy.deepcopy(manifest()) | {"weights": json.loads(changed.read_text())["weights"]}
        monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: content)
        monkeypatch.setenv("ZOO_HUB", str(tmp_path))  # nothing is staged here
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "lab"))
        assert verify(keys[1], SPARSE) == 1
        assert main(["fetch", SPARSE, "--public-key", str(keys[1])]) == 0
        assert "  hub  " in capsys.readouterr().out
        asked = len(hub.requests)
        assert main(["fetch", SPARSE, "--public-key", str(keys[1])]) == verify(keys[1], SPARSE) == 0
        assert len(hub.requests) == asked, "what is here is not asked for again"
        assert main(["fetch", SPARSE, "--public-key", str(write_keys(tmp_path, "other")[1])]) == 1
        assert "not made with the private key" in capsys.readouterr().err
        write_mirror([SPARSE], tmp_path / "m")
    (commit,) = read_index(tmp_path / "m")[f"org/{SPARSE}"]["commits"].values()
    assert "model.sig" in commit
    assert check_folder(tmp_path / "m" / "org" / SPARSE / "resolve" / "main", keys[1])[1] == []


def test_what_cannot_be_signed_for(own_cache, keys, capsys):
    assert main(["fetch", NAME, "--public-key", str(keys[1])]) == 1
    assert f"hf-hub:OWNER/{NAME}" in capsys.readouterr().err
    assert main(["bundle", "--install", "x.zoo", "--sign", str(keys[0])]) == 1
    assert main(["mirror", "m", "--serve", "--sign", str(keys[0])]) == 1


def test_nothing_of_a_weight_is_left_unsigned(own_cache, keys, tmp_path):
    files = repository(NAME)
    (tmp_path / "model.sig").write_bytes(sign(NAME, files, keys[0]))
    assert signed_files(tmp_path / "model.sig", keys[1]).keys() == files.keys()
    assert signed_files(tmp_path / "model.sig", keys[1])["model.safetensors"] == weights()[NAME]["sha256"]
