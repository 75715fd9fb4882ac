"""How long a pretrained network takes to be created over timm's own path, for the same network and file.

    python benchmarks/loading.py [NAME ...] [--repeat 5]

timm's path constructs the network with random weights, reads the file (safetensors' load_file) and copies the weights
over them (load_state_dict); ours draws no random weights, verifies the file and takes its tensors as they are. Both are
measured in turn, and what is printed are ratios, since times belong to a machine: ours divided by timm's, below 1 where
ours is faster, the median of the repetitions with the smallest and the largest. "cold" hashes the whole file, "warm"
remembers its sha256; both are also measured with every value used once.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from zoo.tables import table
from zoo.weights import hash_cache
from zoo.weights.fetch import cached_file
from zoo.weights.manifest import weights

NAMES = (
    *("lrunet10_100", "resnet18_half_cifar", "swrn_40_4_3", "swrn_28_10_1", "wrn_28_10"),
    *("swrn_50_2", "symm_resnet50", "sparse_resnet50", "ac_resnet50"),
)
TAG = "benchmark_in1k"


@contextlib.contextmanager
def weight(arch: str, folder: Path) -> Iterator[Path]:
    """A weight of this architecture in an empty cache, known to the manifest while this lasts; yields another copy."""
    state = {key: tensor.contiguous() for key, tensor in timm.create_model(arch).state_dict().items()}
    file = folder / f"{arch}.safetensors"
    save_file(state, file)
    template = next(iter(weights().values()))
    entry = {**template, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
    entry["sources"] = []
    name = f"{arch}.{TAG}"
    with mock.patch.dict(weights(), {name: entry}), mock.patch.object(hash_cache, "_GRAIN_NS", 0):
        target = cached_file(name, entry)
        target.parent.mkdir(parents=True)
        shutil.copyfile(file, target)
        yield file


@functools.cache
def configuration(arch: str) -> dict[str, Any]:
    """The architecture's own, under the tag of the weight."""
    return timm.create_model(arch, device="meta").pretrained_cfg | {"tag": TAG}


def ours(arch: str) -> nn.Module:
    """The zoo's path: fetched from the cache, verified, mapped."""
    return timm.create_model(arch, pretrained=True, pretrained_cfg=configuration(arch))


def timms(arch: str, file: Path) -> nn.Module:
    """timm's own way for the same network and file: random values, then those of the file copied over them."""
    model = timm.create_model(arch)
    model.load_state_dict(load_file(file))
    return model


def seconds(create: Callable[[], nn.Module]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    create()
    return time.perf_counter() - start


def used(model: nn.Module) -> nn.Module:
    """Read every value of a network once."""
    for tensor in model.state_dict().values():
        tensor.sum()
    return model


def compare(arch: str, repeat: int) -> tuple[float, list[float], list[float], list[float], list[float]]:
    """Size of the file in MB, and our time divided by timm's: cold, warm, and both with every value used."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, {"ZOO_CACHE": f"{folder}/cache"}))
        file = stack.enter_context(weight(arch, Path(folder)))
        same = zip(ours(arch).state_dict().values(), timms(arch, file).state_dict().values(), strict=True)
        if not all(torch.equal(a, b) for a, b in same):
            raise zoo.ZooError(f"{arch}: the two paths give different networks")
        ratios = []
        for use in (lambda model: model, used):
            for forget in (True, False):
                ours(arch)
                found = []
                for _ in range(repeat):
                    if forget:
                        shutil.rmtree(f"{folder}/cache/hashes", ignore_errors=True)
                    mine = seconds(lambda use=use: use(ours(arch)))
                    found.append(mine / seconds(lambda use=use: use(timms(arch, file))))
                ratios.append(found)
        return file.stat().st_size / 1e6, *ratios


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", default=NAMES, help="architectures")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for arch in options.name:
        size, *found = compare(zoo.registry.check_name(arch), options.repeat)
        cells = [f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in found]
        rows.append([arch, f"{size:.1f}", *cells])
    print(f"our time divided by timm's, {torch.get_num_threads()} threads of torch: median (smallest-largest)")
    print(table(rows, ["network", "file, MB", "cold", "warm", "cold, used", "warm, used"]))


if __name__ == "__main__":
    main()
