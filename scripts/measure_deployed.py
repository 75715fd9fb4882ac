"""Measure what `zoo deploy` makes, into docs/deploy.json: staged weights in int8, and the speed of the engines.

    python scripts/measure_deployed.py int8 --data cifar10=DIR --data fashion-mnist=DIR [PATTERN ...]
    python scripts/measure_deployed.py equalized --data cifar10=DIR [NAME ...]
    python scripts/measure_deployed.py speed [--threads 1] [ARCHITECTURE ...]

What is in the file already is not measured again; `python scripts/update_docs.py` makes the tables of it.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.fx
from timm.data import resolve_data_config
from torch import nn

import zoo
from zoo.deploy import onnxruntime_engine, openvino_engine, torch_engine
from zoo.deploy.calibration import training_images
from zoo.deploy.deploy import Running
from zoo.deploy.engines import ENGINES, usable_engines
from zoo.deploy.quantized import APART, CALIBRATION, quantize
from zoo.deploy.speed import speeds
from zoo.evaluation.compare import compare
from zoo.evaluation.predictions import Predictions, read_predictions
from zoo.evaluation.validate import validate
from zoo.files import write_atomically
from zoo.named import Named, load_named

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "docs" / "deploy.json"
MODULES = {"torch": torch_engine, "onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
INT8 = [name for name, engine in ENGINES.items() if "int8" in engine.precisions]
SPREAD = ("pd_a_resnet18_half_cifar.zoo_e6_c10", "resnet18_half_cifar.zoo_c10", "wrn_16_1.zoo_c10")


def facts() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else {"int8": {}, "equalized": {}, "speed": {}}


def note(kind: str, name: str, value: Any) -> None:
    """Add a figure to the file."""
    known = facts()
    known[kind][name] = value
    write_atomically((json.dumps(known, indent=1) + "\n").encode(), FACTS)
    print(kind, name, json.dumps(value), flush=True)


def staged() -> list[str]:
    """Staged image weights."""
    return sorted(folder.name for folder in (ROOT / "hub").iterdir() if (folder / "predictions.npz").is_file())


def measure_int8(names: list[str], data: dict[str, str]) -> None:
    """Quantize for each engine and compare with the network's recorded predictions, image by image."""
    for name in names:
        missing = [engine for engine in INT8 if engine not in facts()["int8"].get(name, {})]
        if not missing:
            continue
        found = load_named(name)
        images = calibration(found, data)
        known = facts()["int8"].get(name, {})
        for engine in missing:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                MODULES[engine].write(found.model, path, "int8", batch_norm="fold", reuse="unroll")
                before = path.stat().st_size
                run, made = quantize(MODULES[engine], path, images, torch.get_num_threads())
                options = {"name": name, "sha256": found.sha256, "device": "cpu"}
                result = validate(Running(run, found.model), found.dataset, data[found.dataset], **options)
                sizes = {"bytes": path.stat().st_size, "bytes_fp32": before}
            own = read_predictions(ROOT / "hub" / name / "predictions.npz")
            after = Predictions.of_result(result)
            same = int((own.prediction == after.prediction).sum())
            known[engine] = {**sizes, **made, "same_guess": same, **compare(own, after).to_dict()}
            note("int8", name, known)


def calibration(found: Named, data: dict[str, str]) -> np.ndarray:
    """Training images, as zoo deploy takes them."""
    config = resolve_data_config(model=found.model)
    return training_images(found, found.dataset, data[found.dataset], config, CALIBRATION + APART)


def equalize(model: nn.Module) -> int:
    """Make the ranges of kernels on both sides of a ReLU equal, channel by channel, in place; how many pairs.

    relu(s x) is s relu(x) for s > 0: the rows of the first kernel and its bias are divided by s, the columns of the
    second multiplied; s is the square root of the rows' largest weight over the columns'.
    """
    graph, count = torch.fx.symbolic_trace(model).graph, 0
    layers = dict(model.named_modules())
    for node in graph.nodes:
        chain, end = [layers.get(node.target)], node
        while len(end.users) == 1 and len(chain) < 5 and not (len(chain) > 1 and isinstance(chain[-1], nn.Conv2d)):
            end = next(iter(end.users))
            layer = layers.get(end.target) if end.op == "call_module" else None
            if not isinstance(layer, nn.ReLU | nn.Conv2d | nn.Identity):
                break
            chain += [layer] * (not isinstance(layer, nn.Identity))
        plain = len(chain) == 3 and isinstance(chain[1], nn.ReLU)
        if not plain or not all(isinstance(chain[i], nn.Conv2d) and chain[i].groups == 1 for i in (0, 2)):
            continue
        first, second = chain[0], chain[2]
        rows, columns = first.weight.abs().amax((1, 2, 3)), second.weight.abs().amax((0, 2, 3))
        scale = (rows / columns).sqrt()
        scale = torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
        with torch.no_grad():
            first.weight /= scale[:, None, None, None]
            if first.bias is not None:
                first.bias /= scale
            second.weight *= scale[None, :, None, None]
        count += 1
    return count


def measure_equalized(names: list[str], data: dict[str, str]) -> None:
    """The divergence on training images apart, with kernels as they are and equalized."""
    for name in names:
        if name in facts()["equalized"]:
            continue
        found = load_named(name)
        plain = zoo.reparameterize(found.model, batch_norm="fold").double()
        equal = copy.deepcopy(plain)
        pairs, images = equalize(equal), calibration(found, data)
        with torch.no_grad():
            expected, scores = (m(torch.from_numpy(images[:16]).double()) for m in (plain, equal))
        known: dict[str, Any] = {"pairs": pairs, "gap": float(f"{(expected - scores).abs().max():.2g}")}
        for engine in INT8:
            for form, model in (("plain", plain), ("equalized", equal)):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.onnx"
                    size = tuple(images.shape[1:])
                    MODULES[engine].write(copy.deepcopy(model).float(), path, "int8", input_size=size)
                    _, made = quantize(MODULES[engine], path, images, torch.get_num_threads())
                tried = {setting: row["divergence"] for setting, row in made["quantized"]["tried"].items()}
                known.setdefault(engine, {})[form] = tried
        note("equalized", name, known)


def measure_speed(names: list[str]) -> None:
    """Every engine and precision at hand over timm's eager mode, random weights, 224 x 224."""
    for name in names:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        size = (3, 224, 224)
        with torch.inference_mode():
            model(torch.randn(1, *size))
        images = np.random.default_rng(0).standard_normal((48, *size), dtype=np.float32)
        threads, runs, macs = torch.get_num_threads(), {}, 0
        eager = {"eager": model if not name.startswith(("pd_", "ac_")) else zoo.reparameterize(model)}
        with tempfile.TemporaryDirectory() as folder:
            for engine, module in MODULES.items():
                for precision in ENGINES[engine].precisions:
                    usable_engines(engine, precision)
                    path = Path(folder) / engine / precision / ENGINES[engine].file
                    path.parent.mkdir(parents=True)
                    record = module.write(model, path, precision, batch_norm="fold")
                    macs = record.after.macs
                    if precision == "int8":
                        run = quantize(module, path, images, threads)[0]
                    else:
                        run = module.load(path, threads, precision)
                    runs[f"{ENGINES[engine].title} {precision}"] = run
            runs |= by_hand(model, Path(folder) / "hand.onnx", threads) if name in STOCK else {}
            eager = {title: torch_run(network) for title, network in eager.items()}
            large = name.endswith("50") or name not in STOCK
            rows = speeds(eager | runs, size, macs, batches=(1,) if large else (1, 32), rounds=9)
        note("speed", name, rows)


STOCK = ("resnet18", "resnet50")


def torch_run(network: nn.Module) -> Callable[[np.ndarray], object]:
    """What runs a network in eager mode."""

    @torch.inference_mode()
    def run(images: np.ndarray) -> object:
        return network(torch.from_numpy(images))

    return run


def by_hand(model: nn.Module, path: Path, threads: int) -> dict[str, Callable[[np.ndarray], object]]:
    """ONNX Runtime and OpenVINO as their own documentation says: torch.onnx.export and one call."""
    import onnxruntime
    import openvino

    batch = ({0: torch.export.Dim("batch", min=1)},)
    example = (torch.randn(2, 3, 224, 224),)
    torch.onnx.export(model, example, path, dynamo=True, input_names=["images"], dynamic_shapes=batch, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    network = openvino.Core().compile_model(path, "CPU", hints)
    return {
        "ONNX Runtime by hand": lambda images: session.run(None, {"images": images})[0],
        "OpenVINO by hand": lambda images: network(images)[0],
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["int8", "equalized", "speed"])
    parser.add_argument("name", nargs="*")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    data = dict(word.split("=", 1) for word in options.data)
    if options.what == "speed":
        measure_speed(options.name or [*STOCK, "pd_a_resnet18"])
    elif options.what == "equalized":
        measure_equalized(options.name or list(SPREAD), data)
    else:
        chosen = [name for name in staged() if any(fnmatch(name, word) for word in options.name or ["*"])]
        measure_int8([name for name in chosen if zoo.weights.manifest.facts(name)["dataset"] in data], data)


if __name__ == "__main__":
    main()
