"""Every goal of speed beside what this machine measures, in one run.

    python benchmarks/goals.py [start load forms data deploy] [--cifar10 DIR] [--rounds 5] [--output docs/goals.json]

Each part calls the benchmark of its kind (starting, loading, forms, evaluation, and what ``zoo deploy`` measures with);
named parts replace their rows in the file, the rest stays. Forms are processor times of one thread, the rest is time
that passes. All are ratios, measured in turn: median, lowest and highest. ``limit`` is what as much arithmetic takes at
the speed of a matrix product, over what is divided by.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import evaluation
import loading
import numpy as np
import starting
import timm
import torch
from forms import step
from measure import machine, ratios, write

import zoo
from zoo.deploy import onnxruntime_engine, openvino_engine, torch_engine
from zoo.deploy.speed import speeds
from zoo.reparam.counts import count_macs

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("start", "load", "forms", "data", "deploy")
FIFTEEN_MB = "swrn_40_4_3"
BARE = f"`{FIFTEEN_MB}`, its modules alone, without values, over timm's way"

FORMS = {
    ("pd_a_resnet18", "resnet18"): {1: {"collapsed": 1.03, "folded": 0.98}, 16: {"collapsed": 1.03, "folded": 0.98}},
    ("pd_b_resnet18", "resnet18"): {1: {"collapsed": 1.35}, 16: {"collapsed": 1.8}},
    ("swrn_28_10_2", "wrn_28_10"): {1: {"as trained": 1.15, "collapsed": 1.0}},
    ("symm_wrn_28_10", "wrn_28_10"): {1: {"as trained": 1.2, "collapsed": 1.0}},
    ("sparse_wrn_28_2", "wrn_28_2"): {1: {"as trained": 1.1}},
}
DEPLOY = {
    ("resnet18", 1): {"torch fp32": 0.8, "torch bf16": 0.21, "ONNX Runtime": 0.53, "OpenVINO bf16": 0.13},
    ("resnet18", 32): {"torch fp32": 0.65, "torch bf16": 0.12, "ONNX Runtime": 0.505, "OpenVINO bf16": 0.082},
    ("resnet50", 1): {"torch fp32": 0.87, "torch bf16": 0.22, "ONNX Runtime": 0.54, "OpenVINO bf16": 0.14},
}
ENGINES = {
    "torch fp32": (torch_engine, "fp32"),
    "torch bf16": (torch_engine, "bf16"),
    "ONNX Runtime": (onnxruntime_engine, "fp32"),
    "OpenVINO": (openvino_engine, "fp32"),
    "OpenVINO bf16": (openvino_engine, "bf16"),
}


def row(part: str, what: str, goal: float | None, found: Iterable[float], **more: Any) -> dict[str, Any]:
    """A line of the result: median, lowest, highest."""
    values = [round(value, 3) for value in found]
    return {"part": part, "what": what, "goal": goal, "ratio": values, **more}


def spread(found: list[float]) -> tuple[float, float, float]:
    """Median, lowest, highest."""
    return statistics.median(found), min(found), max(found)


def start(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Commands over importing torch, and importing over timm."""
    for words in ("list", "--help", "info lrunet10_100"):
        found = starting.ratios(starting.command(words), "import torch", options.rounds)
        yield row("start", f"`zoo {words}` over `import torch`", 0.33, spread(found))
    found = starting.ratios("import zoo", "import timm", options.rounds)
    yield row("start", "`import zoo` over `import timm`", 1.02, spread(found))


def load(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """A pretrained network over timm's own way, without and with hashing its file."""
    size, cold, warm, *_ = loading.compare(FIFTEEN_MB, 3 * options.rounds)
    for title, goal, found in (("hash remembered", 0.1, warm), ("hashed", 0.6, cold)):
        yield row("load", f"`{FIFTEEN_MB}`, {size:.1f} MB, {title}, over timm's way", goal, spread(found))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, {"ZOO_CACHE": f"{folder}/cache"}))
        file = stack.enter_context(loading.weight(FIFTEEN_MB, Path(folder)))
        found = []
        for _ in range(3 * options.rounds):
            bare = loading.seconds(lambda: timm.create_model(FIFTEEN_MB, device="meta"))
            found.append(bare / loading.seconds(lambda: loading.timms(FIFTEEN_MB, file)))
    yield row("load", BARE, None, spread(found))


def forms(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Networks as trained, collapsed and folded over plain ones, batch 1 and 16."""
    torch.empty(8_000_000).fill_(0)
    for (ours, plain), batches in FORMS.items():
        models = {"plain": timm.create_model(plain).eval(), "as trained": timm.create_model(ours).eval()}
        models["collapsed"] = zoo.reparameterize(models["as trained"])
        models["folded"] = zoo.reparameterize(models["as trained"], batch_norm="fold")
        for batch, goals in batches.items():
            images = torch.randn(batch, *models["plain"].pretrained_cfg["input_size"])
            work = {form: step(model, images, False) for form, model in models.items() if form in ("plain", *goals)}
            seconds, found = ratios(work, options.rounds)
            work_of = count_macs(models["plain"], images[:1])
            limit = round(batch * work_of / options.peak / 1e9 / seconds, 3)
            for form, goal in goals.items():
                what = f"{ours} {form} over {plain}, batch {batch}"
                yield row("forms", what, goal, found[form], limit=limit)


def data(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """CIFAR-10's images ready for a network."""
    if options.cifar10:
        found = evaluation.small(options.cifar10, options.rounds)
        yield row("data", "CIFAR-10 evaluation, data side, over a loader by image", 0.03, spread(found))


def deploy(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Files of engines over timm's eager mode in float32."""
    square = torch.randn(1024, 1024)
    half = square.bfloat16()
    _, products = ratios({"fp32": lambda: square @ square, "bf16": lambda: half @ half}, options.rounds)
    yield row("deploy", "a bf16 matrix product over an fp32 one", None, products["bf16"])
    for name in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        runs = {"eager": functools.partial(_scores, model)}
        with tempfile.TemporaryDirectory() as folder:
            for title, (engine, precision) in ENGINES.items():
                path = (
                    Path(folder) / title.replace(" ", "_") / ("model.pt2" if engine is torch_engine else "model.onnx")
                )
                path.parent.mkdir()
                engine.write(model, path, precision, batch_norm="fold")
                runs[title] = engine.load(path, torch.get_num_threads(), precision)
            batches = tuple(batch for other, batch in DEPLOY if other == name)
            macs = count_macs(model, torch.randn(1, 3, 224, 224))
            for found in speeds(runs, (3, 224, 224), macs, batches, options.rounds):
                for title in ENGINES:
                    goal = DEPLOY[name, found["batch"]].get(title)
                    values = [found["ratios"][title][key] for key in ("median", "low", "high")]
                    what = f"{name} in {title} over eager fp32, batch {found['batch']}"
                    yield row("deploy", what, goal, values, limit=found["limit"])


@torch.inference_mode()
def _scores(model: torch.nn.Module, images: np.ndarray) -> object:
    return model(torch.from_numpy(images))


def main() -> None:
    """Measure the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--cifar10", metavar="DIR", help="CIFAR-10, for data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default=ROOT / "docs" / "goals.json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    about = machine(1)
    options.peak = about["peak"]
    for part in options.part:
        known = json.loads(options.output.read_text())["goals"] if options.output.is_file() else []
        rows = [other for other in known if other["part"] != part]
        for found in globals()[part](options):
            print(found, flush=True)
            rows.append(found | {"load": machine_load()})
            rows.sort(key=lambda found: PARTS.index(found["part"]))
            write(options.output, {"machine": about, "goals": rows})


def machine_load() -> float:
    """How many processes wanted to run in the last minute."""
    return round(float(Path("/proc/loadavg").read_text().split()[0]), 1)


if __name__ == "__main__":
    main()
