"""The sparse methods side by side: the paper's MLP on Fashion-MNIST, three seeds each. Run by ``short_runs.py``."""

import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from plots import beside, key, points, save

from zoo.extras import headless_pyplot
from zoo.training import loop
from zoo.training.recipe import Recipe
from zoo.training.sparsity.reallocate import Reallocation

EPOCHS, HELD_OUT, SEEDS, SPARSITIES = 4, 10_000, (0, 1, 2), (0.98, 0.95)
METHODS = ("dense", "static", "static-erk", "deepr", "set", "dynamic", "rigl")
ORDER = {"dataset": "fashion-mnist", "epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "weight_decay": 1e-4}
ORDER |= {"decay_all": True, "held_out": HELD_OUT}

SETTING = f"""`sparse_mlp_300_100` on Fashion-MNIST: 50,000 training images, {EPOCHS} epochs, {HELD_OUT:,} held-out
training images to compare on (the test set is not read), batch 128, SGD with Nesterov momentum, rate 0.1 falling along
a cosine, weight decay 0.0001 on everything; the seed decides initial weights, masks, order and the split. Dynamic aims
to move 11 % of the weights that are on every 50 steps, SET moves 11 %, RigL 30 % falling to 0 at three quarters of the
steps; DeepR has the paper's temperatures in shorter steps, its L1 penalty and no weight decay. `static-erk` is static
with the same number of weights spread over the layers by the Erdos-Renyi rule: it tells what comes from where the
weights are rather than from moving them. One-epoch runs measured the time before; nothing was tuned. The spread is the
largest less the smallest of the seeds."""

PAPER = """- The paper, with WRN-28-2 on CIFAR-10 at 0.9 and long trainings, has DeepR below static below SET below
  dynamic; RigL and the Erdos-Renyi densities are later work."""

WEIGHTS = 784 * 300 + 300 * 100 + 100 * 10


def pieces() -> list[str]:
    """Names of all runs."""
    sparse = [f"order {p} {method} {seed}" for p in SPARSITIES for method in METHODS[1:] for seed in SEEDS]
    return [f"order 0 dense {seed}" for seed in SEEDS] + sparse


def section(found: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Markdown on the runs there are; the plot goes into the folder."""
    groups: dict[tuple[float, str], list[float]] = {}
    for name in pieces():
        if name in found:
            row = found[name]
            groups.setdefault((row["sparsity"], row["method"]), []).append(row["held_out_top1"][-1])
    if not groups:
        return []
    if any(p in SPARSITIES for p, _ in groups):
        plot(groups, folder / "short_runs.png")
    lines = ["## Sparse methods side by side", "", SETTING, "", "![accuracy by method](short_runs.png)", ""]
    lines += ["| nominal sparsity | method | weights not 0 | held-out top-1 %, by seed | mean | spread |"]
    lines += ["|---:|---|---:|---|---:|---:|"]
    for (p, method), values in groups.items():
        on = sum(found[f"order {p:g} {method} {SEEDS[0]}"]["active"].values())
        shown = ", ".join(f"{value:.2f}" for value in values)
        spread = max(values) - min(values)
        lines.append(f"| {p} | {method} | {on:,} | {shown} | {statistics.mean(values):.2f} | {spread:.2f} |")
    return [*lines, "", *ordering(groups, found), *conservation(found)]


def ordering(groups: dict[tuple[float, str], list[float]], found: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown on who is above whom."""
    lines = []
    for p in SPARSITIES:
        here = {method: groups[p, method] for method in METHODS[1:] if len(groups.get((p, method), [])) == len(SEEDS)}
        if not {"static", "dynamic"} <= here.keys():
            continue
        ranked = sorted(here, key=lambda method: statistics.mean(here[method]))
        for fixed in ("static", "static-erk"):
            if fixed not in here:
                continue
            gains = [b - a for a, b in zip(here[fixed], here["dynamic"], strict=True)]
            lines.append(
                f"- At {p}: dynamic is above {fixed} for {sum(gain > 0 for gain in gains)} of {len(gains)} seeds, by "
                f"{statistics.mean(gains):+.2f} points in the mean ({', '.join(f'{gain:+.2f}' for gain in gains)})."
            )
        lines.append(f"- At {p}, from the lowest mean to the highest: {', '.join(ranked)}.")
        layers = []
        for method in ("static", "static-erk", "dynamic"):
            counts = found.get(f"order {p:g} {method} {SEEDS[0]}", {}).get("active", {}).values()
            layers += [f"{method} {', '.join(f'{count:,}' for count in counts)}"] if counts else []
        lines.append(f"- At {p}, weights not 0 in the three layers, seed {SEEDS[0]}: {'; '.join(layers)}.")
    return [*lines, PAPER, ""] if lines else []


def conservation(found: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown on what the reallocations kept."""
    lines = ["### What reallocations keep", ""]
    lines += [
        "Weights that are on, counted in the masks immediately before and after every reallocation of every run.",
        "",
    ]
    lines += ["| nominal sparsity | method | reallocations | with other counts before and after | shortfall | moved |"]
    lines += ["|---:|---|---:|---:|---:|---|"]
    for p in SPARSITIES:
        for method in ("set", "dynamic", "rigl"):
            runs = [found[name] for seed in SEEDS if (name := f"order {p:g} {method} {seed}") in found]
            moves = [run["moves"] for run in runs]
            if not moves:
                continue
            pairs = [pair for move in moves for pair in zip(move["before"], move["after"], strict=True)]
            moved = [count for move in moves for count in move["moved"]]
            other, lost = sum(a != b for a, b in pairs), sum(sum(move["shortfall"]) for move in moves)
            lines.append(f"| {p} | {method} | {len(pairs)} | {other} | {lost} | {min(moved)} to {max(moved)} each |")
    lines.append("")
    for p in SPARSITIES:
        if run := found.get(f"order {p:g} dynamic 0"):
            moves, target = run["moves"], run["options"]["target"]
            steps = list(zip(moves["threshold"], moves["moved"], strict=True))
            text = ", ".join(f"{moved} ({threshold:g})" for threshold, moved in steps)
            lines += [f"Dynamic at {p}, seed 0, target {target}; moved (threshold) at each reallocation: {text}.", ""]
    return lines


def plot(groups: dict[tuple[float, str], list[float]], target: Path) -> None:
    """Held-out accuracy by method, a circle for each seed with its interval, and the mean."""
    shown = {p: [m for m in METHODS if groups.get((0.0 if m == "dense" else p, m))] for p in SPARSITIES}
    shown = {p: methods for p, methods in shown.items() if methods[1:]}
    ratio = {"width_ratios": [len(methods) + 1 for methods in shown.values()]}
    size, pyplot = (3 + 0.9 * sum(map(len, shown.values())), 4), headless_pyplot()
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False, gridspec_kw=ratio)
    for axis, (p, methods) in zip(axes[0], shown.items(), strict=True):
        for place, method in enumerate(methods):
            values = groups[0.0 if method == "dense" else p, method]
            correct = [round(value * HELD_OUT / 100) for value in values]
            points(axis, beside(place, len(values), 0.2), correct, HELD_OUT, fillstyle="none", color="C0")
            axis.plot(place, statistics.mean(values), "_", color="black", markersize=30)
        axis.set(title=f"nominal sparsity {p}", xlim=(-0.6, len(methods) - 0.4))
        axis.set_xticks(range(len(methods)), methods, rotation=40, ha="right")
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("held-out top-1 %")
    handles = [key(color="C0", fillstyle="none"), key(color="C0", marker="|", ms=14), key(marker="_", ms=14)]
    figure.legend(
        handles, ["a seed", "its 95 % interval", "mean of the seeds"], loc="lower center", ncols=3, fontsize=8
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    save(figure, target)


def order(piece: str, data: str, work: Path) -> dict[str, Any]:
    """One run of the MLP; at every reallocation the weights that are on are counted before and after."""
    _, p, method, number = piece.split()
    sparsity, seed = float(p), int(number)
    active, shared = round(WEIGHTS * (1 - sparsity)), {"period": 50, "stop_epoch": EPOCHS - 1}
    options: dict[str, Any] = {
        "dynamic": {**shared, "target": round(0.11 * active)},
        "set": {**shared, "fraction": 0.11},
        "rigl": {"period": 50, "end_iteration": EPOCHS * 391 * 3 // 4},
        "deepr": {"temperature": {0: 1e-5, 1: 1e-8, 2: 1e-12, 3: 1e-15}, "l1": 1e-5, "stop_epoch": EPOCHS - 1},
    }.get(method, {})
    arguments = {"sparsity": sparsity} | ({"density": "erk"} if "erk" in method else {})
    settings = {**ORDER, "weight_decay": 0 if method == "deepr" else ORDER["weight_decay"], "seed": seed}
    recipe = Recipe(
        "sparse_mlp_300_100.short_fmnist",
        model_args=arguments,
        method=method.removesuffix("-erk"),
        method_options=options,
        **settings,
    )
    moves: list[dict[str, Any]] = []
    real = Reallocation.after_step

    def watched(self: Reallocation, epoch: int, iteration: int) -> dict[str, Any] | None:
        before = sum(self.active().values()) if self.due(epoch, iteration) else 0
        record = real(self, epoch, iteration)
        if record:
            moves.append({**record, "before": before, "after": sum(self.active().values())})
        return record

    run = Path(tempfile.mkdtemp(dir=work))
    try:
        Reallocation.after_step = watched
        model = loop.train(recipe, data, run, device="cpu")
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    finally:
        Reallocation.after_step = real
        shutil.rmtree(run)
    row = {
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "held_out_top1": [line["held_out_top1"] for line in log],
        "loss": [line["loss"] for line in log],
        "options": options,
        "active": {name: int(torch.count_nonzero(layer.weight)) for name, layer in model.sparse_layers().items()},
        "seconds": log[-1]["seconds"],
    }
    if moves:
        row["moves"] = {key: [m[key] for m in moves] for key in ("moved", "shortfall", "before", "after")}
        if method == "dynamic":
            row["moves"]["threshold"] = [m["threshold"] for m in moves]
    return row
