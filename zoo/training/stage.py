"""From a finished run to a staged weight: what an upload to the Hub would contain, and the manifest's entry."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from ..data import get_dataset
from ..errors import ZooError
from ..evaluation.validate import validate
from ..extras import require
from ..files import write_atomically
from ..registry import family_of
from ..reparam import count_parameters
from ..weights.card import model_card
from ..weights.manifest import manifest
from ..weights.verify import sha256_of
from .recipe import Recipe


def stage(
    run: str | Path, data: str | Path, hub: Path, manifest_file: Path, recipe_name: str, embedded: bool = False
) -> dict[str, Any]:
    """Stage the last epoch of a finished run; the test set is read here, once.

    Args:
        run: Folder of the run.
        data: Folder of the data set.
        hub: Folder of staged weights; ``<arch.tag>/`` in it is replaced.
        manifest_file: Gets the weight's entry.
        recipe_name: Recipe the run was made with.
        embedded: The file also travels in the wheel.

    Returns:
        The manifest entry.

    Raises:
        ZooError: If the run is not finished.
    """
    run = Path(run)
    recipe = Recipe(**json.loads((run / "recipe.json").read_text()))
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    if state["epoch"] != recipe.epochs:
        raise ZooError(f"{run}: epoch {state['epoch']} of {recipe.epochs}; finish it first with zoo train --resume.")
    if recipe.held_out:
        raise ZooError(f"{run}: {recipe.held_out} training images were held out; the final run uses all of them.")
    name, info = recipe.weight, get_dataset(recipe.dataset)
    mean, std = recipe.normalisation()
    arch, _, tag = name.partition(".")
    cfg = {
        "num_classes": info.num_classes,
        "input_size": info.input_size,
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": info.crop_pct,
        "tag": tag,
        "license": "apache-2.0",
        "description": f"{arch} trained on {info.name} by this project; last epoch, nothing chosen on test images",
        "origin_url": None,
    }
    overlay = {"num_classes": info.num_classes, "in_chans": info.input_size[0], **recipe.model_args}
    model = timm.create_model(arch, pretrained_cfg_overlay=cfg, **overlay).eval()
    model.load_state_dict(state["model"])

    folder = hub / name
    folder.mkdir(parents=True, exist_ok=True)
    save_for_hf(model, str(folder), safe_serialization=True)
    shutil.copyfile(run / "log.jsonl", folder / "training_log.jsonl")
    shutil.copyfile(run / "recipe.json", folder / "recipe.json")
    plot_curve(folder / "training_log.jsonl", folder / "curve.png", name)
    file = folder / "model.safetensors"
    file.chmod(0o644)
    result = validate(model, recipe.dataset, data, name=name, device="cpu")
    content = manifest()
    published = [
        e["paper_result"]
        for n, e in content["weights"].items()
        if n.split(".", 1)[0] == arch and e["dataset"] == info.name and e["paper_result"]
    ]
    entry = {
        "family": family_of(arch),
        "description": cfg["description"],
        "dataset": info.name,
        "num_classes": info.num_classes,
        "preprocessing": {
            "input_size": list(info.input_size),
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bilinear",
            "crop_pct": info.crop_pct,
        },
        "sha256": sha256_of(file),
        "size": file.stat().st_size,
        "keys": "zoo",
        "sources": [{"kind": "staged", "path": f"{name}/model.safetensors", "embedded": embedded}],
        "licence": "Apache-2.0",
        "licence_source": "trained by this project",
        "origin": "zoo",
        "origin_url": None,
        "recipe": recipe_name,
        "training_log": f"hub/{name}/training_log.jsonl",
        "results": [
            {
                "dataset": result.dataset,
                "split": "test",
                "top1": result.top1,
                "top5": result.top5,
                "n": result.n,
                "correct": result.correct,
                "interval95": list(result.interval),
                "date": str(datetime.date.today()),
                "versions": result.versions,
            }
        ],
        "paper_result": published[0] if published else None,
        "params": count_parameters(model),
    }
    # ours come first within an architecture, so that they are its default
    weights = {name: entry, **{n: e for n, e in content["weights"].items() if n != name}}
    content = {**content, "weights": dict(sorted(weights.items(), key=lambda item: _rank(*item)))}
    write_atomically((json.dumps(content, indent=2) + "\n").encode(), manifest_file)
    write_atomically(model_card(name, entry).encode(), folder / "README.md")
    return entry


def _rank(name: str, entry: dict[str, Any]) -> tuple:
    order = ["c10", "c100", "fmnist", "in1k"]
    return name.split(".", 1)[0], entry["origin"] != "zoo", order.index(name.rsplit("_", 1)[-1]), name


def plot_curve(log: Path, target: Path, title: str) -> None:
    """Draw loss and learning rate (and held-out accuracy, if any) over the epochs of a log."""
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("Agg")
    pyplot = require("matplotlib.pyplot", "plot")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    epochs = [line["epoch"] for line in lines]
    figure, left = pyplot.subplots(figsize=(6, 3.5))
    left.plot(epochs, [line["loss"] for line in lines], marker=".", label="training loss")
    left.set(xlabel="epoch", ylabel="training loss", title=title)
    right = left.twinx()
    right.plot(epochs, [line["lr"] for line in lines], color="tab:gray", linestyle=":", label="learning rate")
    right.set_ylabel("learning rate")
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.87))
    figure.tight_layout()
    write_atomically(lambda file: figure.savefig(file, format="png", dpi=80, metadata={"Software": None}), target)
    pyplot.close(figure)
