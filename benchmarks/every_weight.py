"""Every staged image weight as stored and collapsed, beside its plain twin: time, memory, bytes, work, accuracy.

    python benchmarks/every_weight.py [PATTERN ...] [--threads 1] [--rounds 7] [--again] [--output docs/benchmarks.json]
    python benchmarks/every_weight.py --device cuda --output docs/benchmarks_cuda.json

The twin is the network of plain layers that the weight collapses into, with batch norms; where that has no name of its
own, the network beside which the weight was trained; of a LruNet the same with its repeated blocks one after the
other. Times of one image and of 32 are processor times (on CUDA, those between two events) in turn in each round, over
the twin's and over those of timm's resnet18 for images of that size, both in eager mode; with each stands the limit:
the twin's multiply-adds at the speed of a float32 matrix product. Engines run the files of the twin and of the
collapsed network; one of the weight as stored would hold the same kernels.

"memory" is by how many bytes a fresh process with the libraries loaded grows at its peak (VmHWM) when it reads the
network and scores 32 images; it begins where a tiny network has scored one. Accuracy is the manifest's. Weights that
are in the file already are left out; what was measured stays if the script is stopped.

With CUDA the same times are measured in eager mode; that was not run yet, for want of such a machine.
"""

import argparse
import functools
import json
import multiprocessing
import re
import statistics
import tempfile
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from measure import in_turn, machine, over, write
from torch import Tensor, nn

import zoo
from zoo.deploy import onnxruntime_engine, openvino_engine
from zoo.deploy.engines import ENGINES, missing
from zoo.reparam.counts import count_macs
from zoo.weights.manifest import weights

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "resnet18"
BATCHES = (1, 32)
ENGINE = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
AT_HAND = [engine for engine in ENGINE if not missing(ENGINES[engine])]
SIDE = 1024


def staged() -> list[str]:
    """Weights that lie in this repository."""
    found = [name for name, entry in weights().items() if any(s["kind"] == "staged" for s in entry["sources"])]
    return sorted(name for name in found if (ROOT / "hub" / name).is_dir())


def twin_of(name: str, model: nn.Module) -> tuple[str, nn.Module]:
    """Name and network of the plain twin."""
    plain, own = zoo.reparameterize(model, reuse="unroll"), name.split(".")[0]
    arch = plain.pretrained_cfg["architecture"]
    if arch == own and weights()[name].get("twins"):
        arch = weights()[name]["twins"][0].split(".")[0]
    if arch == own:
        return own, plain
    size = {"in_chans": model.pretrained_cfg["input_size"][0], "num_classes": model.num_classes}
    return arch, timm.create_model(arch, **size).eval()


def forms_of(name: str) -> tuple[str, dict[str, nn.Module]]:
    """Name of the twin, and the twin, the weight as stored, and collapsed."""
    stored = timm.create_model(name, pretrained=True).eval()
    arch, twin = twin_of(name, stored)
    return arch, {"twin": twin, "stored": stored, "collapsed": zoo.load_collapsed(name)}


def eager(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """What runs a network."""
    return torch.inference_mode()(lambda: model(images))


def cuda_seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Time of one call between two events of the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def speeds(
    networks: dict[str, nn.Module], files: dict[str, Path], batch: int, macs: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Times of all forms, the first of which is the twin, at one batch."""
    twin, device = networks["twin"], options.device
    size = twin.pretrained_cfg["input_size"]
    images = torch.randn(batch, *size, device=device)
    reference = timm.create_model(REFERENCE, in_chans=size[0]).eval()
    networks = {**networks, REFERENCE: reference}
    work = {form: eager(network.to(device), images) for form, network in networks.items()}
    for form, path in files.items():
        for engine in AT_HAND:
            run = ENGINE[engine].load(path, options.threads, "fp32")
            work[f"{form}, {engine}"] = functools.partial(run, images.numpy())
    square = torch.randn(SIDE, SIDE, device=device)
    work["matmul"] = lambda: square @ square
    times = in_turn(work, options.rounds, **({"clock": cuda_seconds} if device == "cuda" else {}))
    peak = min(times.pop("matmul")) / SIDE**3
    limit = batch * macs * peak / statistics.median(times["twin"])
    found = {f"over {base}": over(times, base) for base in ("twin", REFERENCE)}
    return {"batch": batch, "limit": round(limit, 3), **found}


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One weight; the folder keeps the files of twins."""
    arch, networks = forms_of(name)
    entry, size = weights()[name], networks["twin"].pretrained_cfg["input_size"]
    row: dict[str, Any] = {"name": name, "twin": arch, "dataset": entry["dataset"], "accuracy": None}
    if entry["results"]:
        row["accuracy"] = {key: entry["results"][0][key] for key in ("top1", "correct", "n")}
    row["macs"] = {form: count_macs(network, torch.randn(1, *size)) for form, network in networks.items()}
    tensors = sum(t.nbytes for t in networks["twin"].state_dict().values())
    row["bytes"] = {"stored": entry["size"], "twin": tensors}
    row["bytes"] |= {kind: entry[kind]["size"] for kind in ("collapsed", "packed") if entry.get(kind)}
    files = {}
    if options.device == "cpu" and AT_HAND:
        files = {"twin": folder / f"{arch}_{size[0]}.onnx", "collapsed": folder / "collapsed.onnx"}
        for form, path in files.items():
            if form == "collapsed" or not path.exists():
                onnxruntime_engine.write(networks[form], path, "fp32", batch_norm="fold", reuse="unroll")
        row["bytes"]["onnx"] = files["collapsed"].stat().st_size
    row["times"] = [speeds(networks, files, batch, row["macs"]["twin"], options) for batch in BATCHES]
    if options.device == "cpu":
        apart = {"stored": "stored", "collapsed": "collapsed"} | ({"twin": arch} if arch != name.split(".")[0] else {})
        row["memory"] = {form: grown(name, what) for form, what in apart.items()}
        row["memory"] |= {f"collapsed, {engine}": grown(name, engine, files["collapsed"]) for engine in AT_HAND}
    return row


def status(key: str) -> int:
    """A figure of this process, in bytes."""
    return 1024 * int(re.search(rf"^{key}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def growth(name: str, form: str, file: Path | None) -> int:
    """By how many bytes this process grows at its peak."""
    torch.set_num_threads(1)
    size = weights()[name]["preprocessing"]["input_size"]
    tiny = nn.Sequential(nn.Conv2d(size[0], 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    eager(tiny, torch.randn(1, *size))()
    start = status("VmRSS")
    images = torch.randn(BATCHES[-1], *size)
    if file:
        ENGINE[form].load(file, 1, "fp32")(images.numpy())
    elif form == "stored":
        eager(timm.create_model(name, pretrained=True).eval(), images)()
    elif form == "collapsed":
        eager(zoo.load_collapsed(name), images)()
    else:
        eager(timm.create_model(form, in_chans=size[0]).eval(), images)()
    return status("VmHWM") - start


def grown(name: str, form: str, file: Path | None = None) -> int:
    """As :func:`growth`, in a process that has loaded the libraries and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["every_weight", *AT_HAND])
    with context.Pool(1) as pool:
        return pool.apply(growth, (name, form, file))


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="*", default=["*"], help="names of weights, as a shell would match them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--output", default=ROOT / "docs" / "benchmarks.json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    found = json.loads(options.output.read_text()) if options.output.is_file() else {"weights": []}
    rows = {row["name"]: row for row in found["weights"]}
    chosen = [name for name in staged() if any(fnmatch(name, pattern) for pattern in options.pattern)]
    about = machine(options.threads) | {"left out": [engine for engine in ENGINE if engine not in AT_HAND]}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            if options.again or name not in rows:
                rows[name] = measure(name, Path(folder), options)
                print(name, rows[name]["times"][0]["over twin"], flush=True)
                write(options.output, {"machine": about, "weights": [rows[key] for key in sorted(rows)]})


if __name__ == "__main__":
    main()
