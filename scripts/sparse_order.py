"""The sparse methods side by side: the paper's MLP on Fashion-MNIST, three seeds each. Run by ``short_runs.py``."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from zoo.training import loop
from zoo.training.recipe import Recipe
from zoo.training.sparsity.reallocate import Reallocation

EPOCHS, HELD_OUT, SEEDS, SPARSITIES = 4, 10_000, (0, 1, 2), (0.98, 0.95)
METHODS = ("dense", "static", "static-erk", "deepr", "set", "dynamic", "rigl")
ORDER = {"dataset": "fashion-mnist", "epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "weight_decay": 1e-4}
ORDER |= {"decay_all": True, "held_out": HELD_OUT}

WEIGHTS = 784 * 300 + 300 * 100 + 100 * 10


def pieces() -> list[str]:
    """Names of all runs."""
    sparse = [f"order {p} {method} {seed}" for p in SPARSITIES for method in METHODS[1:] for seed in SEEDS]
    return [f"order 0 dense {seed}" for seed in SEEDS] + sparse


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
