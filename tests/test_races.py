"""Files that change while they are loaded: what is loaded is what was hashed, or an error."""

import contextlib
import hashlib
import json
import mmap
import multiprocessing
import os
import time

import pytest
import torch
from safetensors.torch import load_file, save

import zoo
from zoo.publishing.bundle import install_bundle
from zoo.weights import hash_cache
from zoo.weights.hash_cache import known_sha256
from zoo.weights.importers import read_checkpoint
from zoo.weights.load import map_verified, read_verified
from zoo.weights.pickles import read_pickle

GOOD, BAD = (save({"a": torch.full((30_000,), value)}) for value in (1.0, 2.0))
SHA256 = hashlib.sha256(GOOD).hexdigest()


def flip_a_link(folder, path):
    for name in ("good", "bad"):
        (folder / f"{name}.link").symlink_to(folder / name)
    for name in ("bad", "good"):
        (folder / "new").symlink_to(folder / name)
        (folder / "new").replace(path)


def rename(folder, path):
    for content in (BAD, GOOD):
        (folder / "new").write_bytes(content)
        (folder / "new").replace(path)


def write_in_place(folder, path):
    for content in (BAD, GOOD):
        with open(path, "r+b") as file:
            file.write(content)


def write_through_a_map(folder, path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for _ in range(50):
            for content in (BAD, GOOD):
                mapped[:] = content


ATTACKS = (flip_a_link, rename, write_in_place, write_through_a_map)


@contextlib.contextmanager
def attacked(attack, folder, path):
    """Let another process change the file over and over."""

    def work():
        while True:
            with contextlib.suppress(FileExistsError):
                attack(folder, path)
            for name in folder.glob("*.link"):
                name.unlink()

    for name, content in (("good", GOOD), ("bad", BAD), ("file", GOOD)):
        (folder / name).write_bytes(content)
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def count(attack, load, tmp_path, loads):
    """How many of so many loads were right, refused and wrong."""
    path, seen = tmp_path / "file", {"right": 0, "refused": 0, "wrong": 0}
    with attacked(attack, tmp_path, path):
        for _ in range(loads):
            try:
                tensors = load(path, SHA256, tmp_path / "cache")
            except zoo.WeightError:
                seen["refused"] += 1
            else:
                seen["right" if bool((tensors["a"] == 1).all()) else "wrong"] += 1
    return seen


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("load", [read_verified, map_verified])
@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
def test_nothing_wrong_is_loaded(attack, load, small, tmp_path, monkeypatch):
    monkeypatch.setattr(hash_cache, "_SMALL", hash_cache._SMALL if small else 0)
    seen = count(attack, load, tmp_path, 150)
    assert seen["wrong"] == 0
    assert seen["right"] + seen["refused"] == 150


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_wrong_is_loaded_in_a_hundred_thousand(attack, tmp_path):
    seen = count(attack, map_verified, tmp_path, 25_000)
    print(attack.__name__, seen)
    assert seen["wrong"] == 0
    assert min(seen["right"], seen["refused"]) > 100, "the race must go both ways"


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """A file whose sha256 is remembered, as that of a large and old one is."""
    monkeypatch.setattr(hash_cache, "_GRAIN_NS", 0)
    monkeypatch.setattr(hash_cache, "_SMALL", 0)
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    return path, tmp_path / "cache"


def test_what_is_mapped_is_what_was_opened(remembered, tmp_path, monkeypatch):
    """The name leads elsewhere between the look at the file and the map."""
    (good, cache), path = remembered, tmp_path / "link"
    path.symlink_to(good)
    assert known_sha256(path, cache) == SHA256
    (tmp_path / "bad").write_bytes(BAD)
    names = []

    def swapped(name):
        path.unlink()
        path.symlink_to(tmp_path / "bad")
        names.append(name)
        return load_file(name)

    monkeypatch.setattr("zoo.weights.load.load_file", swapped)
    assert bool((map_verified(path, SHA256, cache)["a"] == 1).all())
    assert len(names) == 1


def keeps_times_for_maps(path):
    """Whether this file system moves a file's change time when it is written through a memory map after a flush."""
    path.write_bytes(GOOD)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1
        os.fsync(file.fileno())
        before = path.stat().st_ctime_ns
        time.sleep(0.05)
        mapped[0] = 2
        return path.stat().st_ctime_ns != before


def test_a_map_that_was_dirty_before_is_seen_after(remembered, tmp_path):
    """Without the flush before hashing the page stays writable, and no time moves when it is written again."""
    path, cache = remembered
    if not keeps_times_for_maps(tmp_path / "probe"):
        pytest.skip("this file system keeps no times for memory maps (docs/hub.md says so)")
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = GOOD
        assert known_sha256(path, cache) == SHA256
        time.sleep(0.05)
        mapped[:] = BAD
        for load in (read_verified, map_verified):
            with pytest.raises(zoo.HashMismatchError):
                load(path, SHA256, cache)


def test_always_means_always(remembered, monkeypatch):
    path, cache = remembered
    assert known_sha256(path, cache) == SHA256
    records = list((cache / "hashes").iterdir())
    assert len(records) == 1
    path.write_bytes(BAD)
    stamp = hash_cache.file_stamp
    with open(path, "rb") as file:
        text = records[0].read_text()
        now = stamp(file)
    records[0].write_text(json.dumps(json.loads(text) | {"stamp": now}))  # as if no time had moved
    assert float(map_verified(path, SHA256, cache)["a"][0]) == 2.0, "this is what a memory can get wrong"
    monkeypatch.setenv("ZOO_VERIFY", "always")
    for load in (read_verified, map_verified):
        with pytest.raises(zoo.HashMismatchError):
            load(path, SHA256, cache)
    monkeypatch.setenv("ZOO_VERIFY", "alwys")
    with pytest.raises(zoo.WeightError, match="Set it to 'always'"):
        map_verified(path, SHA256, cache)


def test_the_age_is_that_before_hashing(remembered, monkeypatch):
    """A hash that takes longer than the clock stands still proves nothing about a file that was young before."""
    path, cache = remembered
    monkeypatch.setattr(hash_cache, "_GRAIN_NS", 10**9)
    whole = hash_cache.sha256_of
    monkeypatch.setattr(hash_cache, "sha256_of", lambda file: (time.sleep(1.1), whole(file))[1])
    assert known_sha256(path, cache) == SHA256
    assert not (cache / "hashes").exists()
    monkeypatch.setattr(hash_cache, "sha256_of", whole)
    assert known_sha256(path, cache) == SHA256
    assert (cache / "hashes").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "x"
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    loads = (read_verified, map_verified, lambda p, _: known_sha256(p), lambda p, _: read_checkpoint(p))
    for load in (*loads, lambda p, _: read_pickle(p), lambda p, _: install_bundle(p)):
        with pytest.raises(zoo.WeightError, match=r"cannot be read|regular file|[Ii]s a dir"):
            load(path, SHA256)


def test_a_sparse_giant_is_not_read(tmp_path, monkeypatch):
    """A terabyte of nothing under the name of a staged weight: its size alone says that it is another."""
    name = "lrunet1_100.zoo_fmnist"
    path = tmp_path / "hub" / name / "model.safetensors"
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    started = time.monotonic()
    with pytest.raises(zoo.HashMismatchError, match="a file of 1099511627776 bytes instead of"):
        zoo.create_model(name, pretrained=True)
    assert time.monotonic() - started < 5
