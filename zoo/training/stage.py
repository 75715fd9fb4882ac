"""From a finished run to a staged weight: what an upload to the Hub would contain, and the manifest's entry."""

import datetime
import json
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..data import DATASETS, get_dataset, load_arrays
from ..errors import ZooError
from ..evaluation.validate import Result, validate
from ..extras import require
from ..files import write_atomically
from ..makers.masked import MaskedWeight
from ..publishing.repository import CONFIG, config_json
from ..registry import family_of
from ..reparam import count_parameters
from ..weights.card import model_card
from ..weights.convert import safetensors_bytes
from ..weights.manifest import manifest, paper_of, paper_url
from ..weights.manifest_check import check_manifest
from ..weights.verify import sha256_of
from . import checkpoint
from .comparison import comparison
from .curve import plot_loss
from .recipe import Recipe, load_recipe
from .sparsity.base import layers_with
from .sparsity.entries import clear_inactive
from .staged_files import LIMIT, store, write_collapsed, write_packed

FREE = (*checkpoint.FREE, "start")
"""Keys in which a run may differ from its recipe: they do not change the result, or name a folder of somebody's."""


def stage(
    run: str | Path,
    data: str | Path,
    hub: Path,
    manifest_file: Path,
    recipe_name: str,
    embedded: bool = False,
    seeds: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Stage the last epoch of a finished run; the test set is read here.

    The file is in half precision if exactly as many test images are right as in float32. Beside it lie the collapsed
    form with its equivalence record, the packed form of a sparse network, the recipe as it was resolved, logs, curve
    and card.

    Args:
        run: Folder of the run; it must have been made by the recipe as it is, seed included, so that it cannot be
            chosen among several by its accuracy.
        data: Folder of the data set.
        hub: Folder of staged weights; ``<arch.tag>/`` in it is replaced, as a whole and at the end.
        manifest_file: Gets the weight's entry.
        recipe_name: Recipe the run was made with.
        embedded: The file also travels in the wheel.
        seeds: Folders of finished runs of the same recipe with other seeds; their accuracies, mean and spread are
            recorded.

    Returns:
        The manifest entry.

    Raises:
        ZooError: If a run is not finished or not of this recipe, or the file is too large.
    """
    require("jsonschema", "train")  # what is staged here is checked against the manifest's schema before it is written
    wanted = load_recipe(recipe_name)
    recipe, state = read_run(run, wanted)
    name, suffix = recipe.weight, get_dataset(recipe.dataset).suffix
    if not name.endswith(f"_{suffix}"):
        raise ZooError(f"{name} was trained on {recipe.dataset}: name it {name.split('.')[0]}.TAG_{suffix}.")

    def measure(model: nn.Module) -> Result:
        return validate(model, recipe.dataset, data, name=name, device="cpu")

    content = _read(manifest_file)
    runs = _runs(recipe, wanted, seeds, content["weights"].get(name, {}).get("seeds"))
    model = network_of(recipe, state)
    stored = store(model, measure)
    spread = _measure_spread(runs, stored.result, measure) if seeds else {}

    folder, part = hub / name, hub / f".{name}.{os.getpid()}.part"
    try:
        model._model_args |= recipe.model_args
        write_atomically(config_json(model), part / CONFIG)
        file = part / "model.safetensors"
        plain = safetensors_bytes(stored.tensors, {"format": "pt"})
        write_atomically(plain, file)
        if file.stat().st_size > LIMIT:
            raise ZooError(f"{name}: {file.stat().st_size:,} bytes, and a staged file has at most {LIMIT:,}.")
        packed = write_packed(plain, part)
        collapsed = write_collapsed(model, measure, stored.result, part, _some_images(recipe, data))
        _copy_logs(run, {seed: other for (seed, _), other in zip(runs[1:], seeds, strict=True)}, part)
        text = json.dumps({**recipe.to_dict(), "start": _name_of_start(recipe)}, indent=2)
        write_atomically(text.encode() + b"\n", part / "recipe.json")
        plot_loss(state["position"]["log"], part / "curve.png", name, stored.result.top1)
        entry = {
            **_facts(recipe, model, recipe_name, content),
            "sha256": sha256_of(file),
            "size": file.stat().st_size,
            "sources": [{"kind": "staged", "path": f"{name}/model.safetensors", "embedded": embedded}],
            "results": [_plain_result(stored.result)],
            "storage": {"dtype": stored.dtype, "correct": stored.correct},
        }
        entry |= {"model_args": recipe.model_args} if recipe.model_args else {}
        entry |= {"packed": packed} if packed else {}
        entry |= {"collapsed": collapsed} if collapsed else {}
        entry |= {"seeds": spread} if spread else {}
        _with_entry(manifest_file, name, entry)
        card = model_card(name, entry, files=[path.name for path in part.iterdir()])
        write_atomically(card.encode(), part / "README.md")
        _replace(folder, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    write_atomically((json.dumps(_with_entry(manifest_file, name, entry), indent=2) + "\n").encode(), manifest_file)
    return entry


def _with_entry(manifest_file: Path, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The manifest, read anew since others may have written to it, with one more entry; it follows its schema."""
    content = _read(manifest_file)
    content = {**content, "weights": _in_order({**content["weights"], name: entry})}
    check_manifest(content, manifest_file)
    return content


def _read(manifest_file: Path) -> dict[str, Any]:
    return json.loads(manifest_file.read_text()) if manifest_file.is_file() else manifest()


def read_run(run: str | Path, wanted: Recipe, free: Sequence[str] = ()) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and last checkpoint of a finished run.

    Args:
        run: Its folder.
        wanted: The recipe it must have been made with.
        free: Keys in which it may differ beside :data:`FREE`.

    Raises:
        ZooError: If it is no finished run of this recipe.
    """
    run = Path(run)
    try:
        recipe = Recipe(**json.loads((run / "recipe.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ZooError(f"{run}: not a run of zoo train ({error}).") from None
    ours, theirs = wanted.to_dict(), recipe.to_dict()
    different = [key for key in ours if ours[key] != theirs[key] and key not in {*FREE, *free}]
    if different:
        listed = ", ".join(f"{key} {theirs[key]!r}, there {ours[key]!r}" for key in different[:6])
        raise ZooError(f"{run}: not a run of this recipe ({listed}); name the recipe it was made with.")
    state = checkpoint.load(run / "checkpoint.pt")
    if state["epoch"] != recipe.epochs:
        raise ZooError(f"{run}: epoch {state['epoch']} of {recipe.epochs}; finish it first with zoo train --resume.")
    if recipe.held_out:
        raise ZooError(f"{run}: {recipe.held_out} training images were held out; the final run uses all of them.")
    return recipe, state


def network_of(recipe: Recipe, state: dict[str, Any]) -> nn.Module:
    """The trained network of a run, in eval mode, with the configuration it gets on the Hub.

    Weights that are off are zero in it: what the run left there is no part of the function, and a file is to have as
    many values as it claims.
    """
    info, (mean, std) = get_dataset(recipe.dataset), recipe.normalisation()
    arch, _, tag = recipe.weight.partition(".")
    family = {"family": family_of(arch)}
    cfg = {
        "num_classes": info.num_classes,
        "input_size": recipe.input_size(),
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": info.crop_pct,
        "tag": tag,
        "label_names": list(info.classes) or None,
        "license": "apache-2.0",
        "description": _description(recipe),
        "origin_url": None,
        "paper_name": paper_of(family)["title"],
        "paper_ids": paper_url(family),
    }
    overlay = {"num_classes": info.num_classes, "in_chans": info.input_size[0], **recipe.model_args}
    model = timm.create_model(arch, pretrained_cfg_overlay=cfg, **overlay).eval()
    own = model.state_dict()  # runs from before symmetric kernels were stored as matrices have them as vectors
    same_size = {name: name in own and own[name].numel() == t.numel() for name, t in state["model"].items()}
    model.load_state_dict({n: t.view_as(own[n]) if same_size[n] else t for n, t in state["model"].items()})
    for layer in layers_with(model, MaskedWeight).values():
        clear_inactive(layer)
    return model


def _description(recipe: Recipe) -> str:
    arch, data = recipe.weight.split(".", 1)[0], get_dataset(recipe.dataset).name
    return f"{arch} trained on {data} by this project; last epoch, nothing chosen on test images"


def _facts(recipe: Recipe, model: nn.Module, recipe_name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest entry that the recipe decides."""
    name, info, (mean, std) = recipe.weight, get_dataset(recipe.dataset), recipe.normalisation()
    return {
        "family": family_of(name.split(".", 1)[0]),
        "description": _description(recipe),
        "dataset": info.name,
        "num_classes": info.num_classes,
        "preprocessing": {
            "input_size": list(recipe.input_size()),
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bilinear",
            "crop_pct": info.crop_pct,
        },
        "sha256": "",
        "size": 0,
        "keys": "zoo",
        "sources": [],
        "licence": "Apache-2.0",
        "licence_source": "trained by this project",
        "origin": "zoo",
        "origin_url": None,
        "recipe": Path(recipe_name).stem,
        "training_log": f"hub/{name}/training_log.jsonl",
        "results": [],
        **comparison(recipe, recipe_name, content["weights"]),
        "params": count_parameters(model),
    }


def _plain_result(result: Result) -> dict[str, Any]:
    return {
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


def _runs(
    recipe: Recipe, wanted: Recipe, folders: Sequence[str | Path], before: dict[str, Any] | None
) -> list[tuple[int, nn.Module | None]]:
    """Seed and network of each run, the staged one's, which is at hand, first."""
    runs: list[tuple[int, nn.Module | None]] = [(recipe.seed, None)]
    for folder in folders:
        other, state = read_run(folder, wanted, ("seed",))
        runs.append((other.seed, network_of(other, state)))
    seeds = [seed for seed, _ in runs]
    if len(set(seeds)) < len(seeds):
        raise ZooError(f"The runs have the seeds {', '.join(map(str, seeds))}: each may appear once.")
    lost = sorted({run["seed"] for run in before["runs"]} - set(seeds)) if before else []
    if lost:
        raise ZooError(f"{recipe.weight} is staged with the seeds {', '.join(map(str, lost))} too: name their runs.")
    return runs


def _measure_spread(runs: list[tuple[int, nn.Module | None]], first: Result, measure: Any) -> dict[str, Any]:
    results = [(seed, measure(model) if model else first) for seed, model in runs]
    values = [result.top1 for _, result in results]
    return {
        "runs": [{"seed": seed, "top1": result.top1, "correct": result.correct} for seed, result in results],
        "mean": round(statistics.mean(values), 4),
        "std": round(statistics.stdev(values), 4),
    }


def _copy_logs(run: str | Path, others: dict[int, str | Path], folder: Path) -> None:
    """The log of a run, and those of the runs with other seeds in one file."""
    shutil.copyfile(Path(run) / "log.jsonl", folder / "training_log.jsonl")
    logs = {seed: (Path(other) / "log.jsonl").read_text().splitlines() for seed, other in others.items()}
    lines = [json.dumps({"seed": seed, **json.loads(line)}) for seed, log in logs.items() for line in log]
    if lines:
        write_atomically("\n".join([*lines, ""]).encode(), folder / "seeds_log.jsonl")


def _some_images(recipe: Recipe, data: str | Path, count: int = 64) -> Tensor | None:
    """The first test images, prepared, for the equivalence record; None for folders of photographs."""
    if recipe.is_folder():
        return None
    images = torch.from_numpy(load_arrays(recipe.dataset, data, "test")[0][:count].copy())
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in recipe.normalisation())
    return ((images.float() / 255 - mean) / std).double()


def _name_of_start(recipe: Recipe) -> str:
    """The weight of the run that this one began with, which means more elsewhere than a folder."""
    file = Path(recipe.start) / "recipe.json"
    return json.loads(file.read_text())["weight"] if recipe.start and file.is_file() else Path(recipe.start).name


def _replace(folder: Path, part: Path) -> None:
    """Put a complete folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _in_order(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights in the manifest's order; the first one of an architecture is its default.

    Ours come first; and of ours, what others are compared with comes after them: the default of a sparse network is
    not its dense twin.
    """
    order = [*("c10", "c100", "fmnist"), *(d.suffix for d in DATASETS.values())]
    twins = Counter(twin for entry in weights.values() for twin in entry.get("twins", []))

    def rank(name: str) -> tuple:
        suffix = name.rsplit("_", 1)[-1]
        position = order.index(suffix) if suffix in order else len(order)
        return name.split(".", 1)[0], weights[name]["origin"] != "zoo", position, twins[name], name

    return {name: weights[name] for name in sorted(weights, key=rank)}
