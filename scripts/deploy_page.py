"""docs/deploy.md: int8 and the speed of deployed files, from docs/deploy.json."""

import json
from pathlib import Path
from typing import Any

from results_page import table

ROOT = Path(__file__).resolve().parent.parent
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
GOALS = {
    ("resnet18", 1): (0.80, 0.21),
    ("resnet18", 32): (0.65, 0.12),
    ("resnet50", 1): (0.87, 0.22),
}
"""Of PyTorch's file in float32 and bfloat16, over timm's eager mode."""

INTRO = """# Deployed files, measured

Made by `python scripts/update_docs.py` from `docs/deploy.json`, which `python scripts/measure_deployed.py` writes. What
`zoo deploy` does is in the [README](../README.md#command-line); each card has its own figures.

## int8

`zoo deploy NAME --engine onnxruntime|openvino|auto --precision int8 --data DIR` quantizes after the collapse, batch
norms folded where they can be: kernels by channel to int8, what runs between the layers to uint8 or int8, by the
engine's own tool (`onnxruntime.quantization.quantize_static`, `nncf.quantize`). It is calibrated on 256 images of the
training split, spread evenly over it, and each setting is tried on 512 others; test images are not used. The first
setting is kept unless a later one has at most 0.8 of its divergence (mean Kullback-Leibler, in nats).

The whole test set, image by image, against the network's own predictions (`predictions.npz`). The goal is at most 0.3
points lost."""

WHY = """### Why a library's own setting loses more

**nncf** estimates what a layer's values range over by the mean of each image's extremes, which cuts off what lies
beyond, and then corrects biases on the calibration images. On these small networks both do harm. On 512 training images
its default (`preset=PERFORMANCE`) diverged by 0.0076 nats from `lrunet1_100.zoo_fmnist` and by 0.0054 from
`symm_wrn_16_1.zoo_c10`; with the ranges of all values 0.0016 and 0.0033, and without the corrected biases too (and zero
points for activations) 0.0006 and 0.0009. So `zoo deploy` asks for that. Its way around overflow, seven bits for
the first layer, is switched off, since CPUs whose integer sums overflow are refused. **ONNX Runtime's** own setting
(`MinMax`) holds: 0.0010 and 0.0013; cutting off a hundred-thousandth of the values, or leaving the first and last layer
in float32, changes little. ReLU before LruNet's pooling and its depthwise layers, which are quantized by channel too,
are no exception. SmoothQuant, which is for transformers, is not used."""

SPEED = """## Speed

Over timm's eager mode in float32 (median, and lowest to highest, of rounds in which all take turns), random weights,
224 x 224. The limit is the time of as much arithmetic as a float32 matrix product of the run at its fastest. PyTorch's
file needs no compiler: convolutions are joined with the sum and ReLU that follow as PyTorch's own oneDNN operators, and
their kernels are put in the order in memory that the CPU reads when the file is loaded."""


def deploy_page() -> str:
    """The page."""
    facts = json.loads((ROOT / "docs" / "deploy.json").read_text())
    parts = [INTRO, int8_table(facts["int8"]), WHY]
    if facts["equalized"]:
        parts.append(equalized(facts["equalized"]))
    if not facts["speed"]:
        parts.append(
            "## Speed\n\nNot measured yet: `python scripts/measure_deployed.py speed`. Each card has its own times."
        )
    else:
        parts += [SPEED, *(speed(name, rows) for name, rows in facts["speed"].items())]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def int8_table(found: dict[str, Any]) -> str:
    """What each weight loses, by engine, and in words which lose more than the goal."""
    rows, over, count = [], [], 0
    for name in sorted(found):
        for engine, row in found[name].items():
            count += 1
            low, high = row["interval"]
            if row["difference"] < -0.3:
                over.append(f"`{name}` in {TITLES[engine]} ({row['difference']:+.2f})")
            rows.append(
                [
                    f"`{name}`",
                    TITLES[engine],
                    f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})",
                    f"{row['same_guess']:,} of {row['n']:,}",
                    f"{row['bytes'] / 1e6:.2f} of {row['bytes_fp32'] / 1e6:.2f}",
                    row["quantized"]["setting"],
                ]
            )
    header = ["weight", "engine", "points (paired 95 %)", "same guess", "MB, of float32", "setting"]
    waiting = [folder.name for folder in sorted((ROOT / "hub").iterdir()) if len(found.get(folder.name, ())) < 2]
    text = f"More than 0.3 points lose: {', '.join(over) or 'none'}, of {count} files."
    text += f" Not measured yet with both engines: {', '.join(f'`{n}`' for n in waiting)}." if waiting else ""
    return text + "\n\n" + table(header, "llrrrl", rows)


def equalized(found: dict[str, Any]) -> str:
    """Whether equal ranges on both sides of a ReLU help."""
    rows = []
    for name, row in found.items():
        for engine, title in TITLES.items():
            for setting, plain in row[engine]["plain"].items():
                cells = [f"{plain:.2g}", f"{row[engine]['equalized'][setting]:.2g}"]
                rows.append([f"`{name}`", title, setting, *cells, str(row["pairs"]), f"{row['gap']:.0e}"])
    header = ["weight", "engine", "setting", "as it is", "equalized", "pairs", "gap in float64"]
    words = """### Equalized kernels

Cross-layer equalization makes the ranges of two kernels on both sides of a ReLU equal, channel by channel, exactly:
relu(s x) = s relu(x). It is for kernels quantized as a whole. By channel, as here, it can only move the ranges of what
runs in between, and `zoo deploy` does not do it. Divergence on 512 training images:"""
    return words + "\n\n" + table(header, "lllrrrr", rows)


def speed(name: str, rows: list[dict[str, Any]]) -> str:
    """One network: every engine, and in words beside the goals."""
    lines = [f"### {name}, {rows[0]['threads']} thread{'s' * (rows[0]['threads'] > 1)}", ""]
    cells = []
    for title in rows[0]["ratios"]:
        parts = (row["ratios"][title] for row in rows)
        cells.append([title, *(f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in parts)])
    cells.append(["limit", *(f"{row['limit']:.2f}" for row in rows)])
    lines.append(
        table(["", *(f"{row['batch']} image{'s' * (row['batch'] > 1)}" for row in rows)], "lrr"[: 1 + len(rows)], cells)
    )
    for row in rows:
        if goals := GOALS.get((name, row["batch"])):
            said = []
            for precision, goal in zip(("fp32", "bf16"), goals, strict=True):
                value = row["ratios"][f"PyTorch {precision}"]["median"]
                reached = "reached" if value <= goal else f"missed by {value - goal:.2f}"
                said.append(f"{precision} {value:.2f}, goal {goal:.2f}: {reached}")
            lines.append(f"PyTorch's file, {row['batch']} image(s): {'; '.join(said)}.")
    return "\n".join(lines)
