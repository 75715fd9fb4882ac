"""Shared fixtures: golden files, released weights and full data sets where they are at hand, and a closed network."""

import copy
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(TESTS / "golden")]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
# threads that wait for a core they share with another test process are slower than none
torch.set_num_threads(max(1, min(2, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every test runs with the network closed but for this machine's own address."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache for downloads."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture
def entries(monkeypatch):
    """The manifest's weights, a copy that a test may change."""
    from zoo.weights.manifest import manifest

    changed = copy.deepcopy(manifest())
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)
    return changed["weights"]


def data_folder() -> Path | None:
    """The folder of released weights and sample photographs (environment variable ZOO_TEST_DATA)."""
    folder = os.environ.get("ZOO_TEST_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


@pytest.fixture
def released():
    """Folder of the LruNet authors' converted weights."""
    folder = data_folder()
    if folder is None or not (folder / "checkpoints" / "lrunet").is_dir():
        pytest.skip("set ZOO_TEST_DATA to the folder that holds checkpoints/lrunet")
    return folder / "checkpoints" / "lrunet"


@pytest.fixture
def fashion_mnist():
    """Folder of the full Fashion-MNIST set: ZOO_FASHION_MNIST, or where Debian's dataset-fashion-mnist puts it."""
    folder = Path(os.environ.get("ZOO_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not any(folder.glob("**/t10k-images-idx3-ubyte*")):
        pytest.skip("set ZOO_FASHION_MNIST to a folder with Fashion-MNIST (or install Debian's dataset-fashion-mnist)")
    return folder


@pytest.fixture
def cifar10():
    """Folder of the full CIFAR-10 set (environment variable ZOO_CIFAR10)."""
    folder = os.environ.get("ZOO_CIFAR10")
    if not folder or not any(Path(folder).glob("**/test_batch*")):
        pytest.skip("set ZOO_CIFAR10 to a folder with CIFAR-10")
    return Path(folder)
