"""What is checked before a run is staged, in about a second, and the manifest entry that it is going to have."""

import contextlib
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..checkpoints import as_stored_now
from ..data import DATASETS, get_dataset, load_arrays
from ..data.images import ImageFolder
from ..errors import ZooError
from ..makers.masked import MaskedWeight
from ..models._reference import differences
from ..own_folders import run_recipe
from ..registry import family_of
from ..reparam import count_parameters
from ..weights.manifest import manifest, paper_of, paper_url, problem_with, trained_by, warm_starts
from ..weights.manifest_change import read_manifest
from ..weights.manifest_check import check_manifest
from . import checkpoint
from .comparison import comparison
from .data import load_splits
from .recipe import RECIPES, Recipe, load_recipe
from .sparsity.base import layers_with
from .sparsity.entries import clear_inactive
from .staged_files import check_size

FREE = (*checkpoint.FREE, "start")
"""Keys in which a run may differ from its recipe: they do not change the result, or name a folder of somebody's."""

US, SOMEBODY = "this project", "a user of this zoo"
"""Who trained a weight, where nobody is named: we did if the recipe ships with the package."""

_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


@dataclass(frozen=True)
class Plan:
    """What is going to be staged, with everything checked that can be checked before the network is measured.

    Attributes:
        recipe: Of the run, as it was resolved; its ``weight`` is the name to be staged.
        state: The checkpoint with the result.
        model: The trained network, in eval mode.
        entry: The manifest entry, with figures of no meaning where only measuring and writing give them.
        runs: Seed and network of the runs with other seeds.
        images: The first test images, prepared; None for folders of photographs.
        check: Refuses a manifest in which the name stands for another weight.
    """

    recipe: Recipe
    state: dict[str, Any]
    model: nn.Module
    entry: dict[str, Any]
    runs: list[tuple[int, nn.Module]]
    images: Tensor | None
    check: Callable[[dict[str, Any]], object]

    def enter(self, content: dict[str, Any], entry: dict[str, Any]) -> None:
        """Put the finished entry into the manifest as it is now, unless somebody has taken its name meanwhile."""
        self.check(content)
        content.update(_entered(content, self.recipe.weight, entry))


def plan(
    run: Path,
    data: str | Path,
    hub: Path,
    manifest_file: Path,
    recipe_name: str,
    embedded: bool,
    seeds: Sequence[str | Path],
    name: str,
    trained_by: str,
) -> Plan:
    """Check all that can be checked without measuring; arguments and errors as :func:`.stage.stage`."""
    content = read_manifest(manifest_file)
    wanted = load_recipe(recipe_name) if recipe_name else None
    recipe, state = read_run(run, wanted)
    others = [read_run(seed, recipe, ("seed",)) for seed in seeds]
    _check_arch(run, recipe, name, content)
    recipe = replace(recipe, weight=name or recipe.weight)
    name = recipe.weight
    shipped = _shipping(recipe, recipe_name)
    who = " ".join(trained_by.split()) or (US if shipped else SOMEBODY)
    _check_name(run, recipe, shipped, who, content)
    description = _description(recipe, who, _share(recipe, state, data))
    model = network_of(recipe, state, description)
    runs = [(other.seed, network_of(other, its)) for other, its in others]
    _check_seeds(recipe, [seed for seed, _ in runs], content["weights"].get(name, {}).get("seeds"))
    check_size(name, sum(t.numel() * (2 if t.is_floating_point() else 1) for t in model.state_dict().values()))
    entry = {
        **_facts(recipe, model, who, description),
        **comparison(recipe, recipe_name or shipped, content["weights"]),
        "recipe": shipped or None,
        "sources": [{"kind": "staged", "path": f"{name}/model.safetensors", "embedded": embedded}],
    }
    entry |= {"model_args": recipe.model_args} if recipe.model_args else {}
    if problem := problem_with(name, entry, content["papers"]):
        raise ZooError(f"{name} cannot be staged: {problem}.")
    check_manifest(_entered(content, name, entry), manifest_file)
    images = _some_images(recipe, data)
    place = next(folder for folder in (hub, *hub.absolute().parents) if folder.exists())
    for folder in (place, manifest_file.parent):
        if not os.access(folder, os.W_OK):
            raise ZooError(f"{folder}: cannot be written, and staging does so. Set ZOO_HUB to a folder of yours.")
    return Plan(recipe, state, model, entry, runs, images, lambda now: _check_name(run, recipe, shipped, who, now))


def _shipping(recipe: Recipe, recipe_name: str = "") -> str:
    """The recipe of the package that a run was made with as it is; empty if there is none."""
    line = f"\nweight: {recipe.weight}\n"  # every recipe that ships names its own weight; reading all takes a second
    names = (path.stem for path in RECIPES.glob("*.yaml") if line in f"\n{path.read_text(encoding='utf-8')}")
    same = [name for name in sorted(names) if not _differences(recipe, load_recipe(name))]
    return recipe_name if recipe_name in same else next(iter(same), "")


def _differences(recipe: Recipe, wanted: Recipe, free: Sequence[str] = ()) -> list[str]:
    """What of a recipe is otherwise in another, such as ``lr 0.05, there 0.06``."""
    ours, theirs = wanted.to_dict(), recipe.to_dict()
    different = [key for key in ours if ours[key] != theirs[key] and key not in {*FREE, *free}]
    return [f"{key} {theirs[key]!r}, there {ours[key]!r}" for key in different]


def _suggestion(recipe: Recipe, name: str, content: dict[str, Any]) -> str:
    """A free name for somebody's run: its own architecture, what can be kept of the tag of ``name``, and its data."""
    arch, suffix = recipe.weight.split(".", 1)[0], get_dataset(recipe.dataset).suffix
    tag = name.partition(".")[2].removeprefix("zoo_")
    own = next((tag[: -len(end)] for d in DATASETS.values() if tag.endswith(end := f"_{d.suffix}")), tag)
    if not re.fullmatch(r"[a-z0-9_]+", own) or own.startswith("zoo") or own in {d.suffix for d in DATASETS.values()}:
        own = "mine"
    tags = (f"{arch}.{own}{number}_{suffix}" for number in ("", *(f"_{n}" for n in range(2, 10_000))))
    return next(name for name in tags if name not in content["weights"] and name not in warm_starts())


def _check_arch(run: Path, recipe: Recipe, name: str, content: dict[str, Any]) -> None:
    """Refuse the name of another network than the run's, which its tensors would not tell in words."""
    if recipe.transform:
        raise ZooError(
            f"{run}: {recipe.weight} was transformed ({recipe.transform}), and a staged weight is of an architecture "
            f"as it is. Pass the run itself on: zoo export {shlex.quote(str(run))} --format safetensors, or zoo bundle."
        )
    arch, other = (weight.split(".", 1)[0] for weight in (recipe.weight, name))
    if name and other != arch:
        told = f"{run} is a run of {arch}, not of {other or repr(name)}"
        raise ZooError(f"{told}: --as {_suggestion(recipe, name, content)}")


def _check_name(run: Path, recipe: Recipe, shipped: str, who: str, content: dict[str, Any]) -> None:
    """Refuse names that are none, or that stand for another weight; the message has the command that goes on."""
    name, suffix = recipe.weight, get_dataset(recipe.dataset).suffix
    arch, _, tag = name.partition(".")
    family_of(arch)
    hint = f"zoo stage {shlex.quote(str(run))} --data DIR --as {_suggestion(recipe, name, content)}"
    if not _NAME.fullmatch(name):
        raise ZooError(f"{name!r} is no name of a weight: it is arch.tag, in small letters, digits and _: {hint}")
    if not name.endswith(f"_{suffix}"):
        raise ZooError(f"{name} was trained on {recipe.dataset}: name it {arch}.TAG_{suffix}, such as {hint}")
    if name in warm_starts():
        raise ZooError(f"{name} is the name of a warm start: choose another, {hint}")
    before = content["weights"].get(name)
    if before and before["origin"] != _origin(who):
        by = trained_by(before)
        yours = "" if by == US or before["origin_url"] else f"; if it is yours: --trained-by {shlex.quote(by)}"
        raise ZooError(f"{name} is a weight of the manifest already, by {by}: choose another name, {hint}{yours}")
    if before and _origin(who) == "zoo" and before["recipe"] != (shipped or None):
        raise ZooError(f"{name} is staged already, by the recipe {before['recipe']}: choose another name, {hint}")
    if tag.startswith("zoo") and _origin(who) != "zoo":
        raise ZooError(f"{name}: tags that begin with zoo are those of weights of this project: {hint}")


def _origin(who: str) -> str:
    return "zoo" if who == US else who


def _check_seeds(recipe: Recipe, others: list[int], before: dict[str, Any] | None) -> None:
    seeds = [recipe.seed, *others]
    if len(set(seeds)) < len(seeds):
        raise ZooError(f"The runs have the seeds {', '.join(map(str, seeds))}: each may appear once.")
    lost = sorted({run["seed"] for run in before["runs"]} - set(seeds)) if before else []
    if lost:
        raise ZooError(f"{recipe.weight} is staged with the seeds {', '.join(map(str, lost))} too: name their runs.")


def _entered(content: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A manifest with one more entry, in its order."""
    return {**content, "weights": in_order({**content["weights"], name: entry})}


def read_run(run: str | Path, wanted: Recipe | None = None, free: Sequence[str] = ()) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and result of a finished run.

    Args:
        run: Its folder.
        wanted: The recipe it must have been made with; any if None.
        free: Keys in which it may differ beside :data:`FREE`.

    Returns:
        The recipe, and the checkpoint of the last epoch, or by ``keep: best`` of the best one, with the run's
        ``log`` and the sha256 of the training ``data``, if it is known.

    Raises:
        ZooError: If it is no finished run of this recipe.
    """
    run, values = Path(run), run_recipe(Path(run))
    if values.get("task"):
        raise ZooError(f"{run}: the run of a language model; only networks for images are staged.")
    try:
        recipe = Recipe(**values)
    except TypeError as error:
        raise ZooError(f"{run}: not a run of zoo train ({error}).") from None
    different = _differences(recipe, wanted, free) if wanted else []
    if different:
        advice = f"leave --recipe out and name it: --as {_suggestion(recipe, recipe.weight, manifest())}"
        advice = "--seeds takes runs that differ in nothing but their seeds" if free else advice
        raise ZooError(f"{run}: not a run of this recipe ({', '.join(different[:6])}); {advice}")
    state = checkpoint.load(run / "checkpoint.pt")
    if state["epoch"] != recipe.epochs:
        raise ZooError(f"{run}: epoch {state['epoch']} of {recipe.epochs}; finish it first with zoo train --resume.")
    try:
        log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ZooError(f"{run / 'log.jsonl'}: cannot be read ({error}), and a weight is staged with it.") from None
    data = (state.get("identity") or {}).get("data")
    state = checkpoint.load(run / "best.pt") if recipe.keep == "best" else state
    return recipe, {**state, "log": log, "data": data}


def network_of(recipe: Recipe, state: dict[str, Any], description: str = "") -> nn.Module:
    """The trained network of a run, in eval mode, with the configuration and ``description`` it gets on the Hub.

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
        "description": description,
        "origin_url": None,
        "paper_name": paper_of(family)["title"],
        "paper_ids": paper_url(family),
    }
    overlay = {"num_classes": info.num_classes, "in_chans": info.input_size[0], **recipe.model_args}
    model = timm.create_model(arch, pretrained_cfg_overlay=cfg, **overlay).eval()
    weights = as_stored_now(model.state_dict(), state["model"])
    if problems := differences(model.state_dict(), weights):
        raise ZooError(f"{recipe.weight}: the run's checkpoint is not of the network in its recipe: {problems}.")
    model.load_state_dict(weights)
    for layer in layers_with(model, MaskedWeight).values():
        clear_inactive(layer)
    return model


def _share(recipe: Recipe, state: dict[str, Any], data: str | Path) -> str:
    """How many of the training images a run had, in words; empty if it had all. They are counted where they lie."""
    if not recipe.held_out:
        return ""
    with contextlib.suppress(ZooError):  # a folder with the test split alone will do
        parts, digest = load_splits(recipe, data, torch.device("cpu"))
        if digest == state["data"]:
            return f", on {len(parts['train']):,} of {sum(map(len, parts.values())):,} training images"
    return f", on all but {recipe.held_out:,} of the training images"


def _description(recipe: Recipe, who: str, share: str) -> str:
    arch, data = recipe.weight.split(".", 1)[0], get_dataset(recipe.dataset).name
    chosen = f"best of {recipe.epochs} epochs on {recipe.held_out:,} training images held out for that"
    chosen = chosen if recipe.keep == "best" else "last epoch"
    return f"{arch} trained on {data} by {who}{share}; {chosen}, nothing chosen on test images"


def _facts(recipe: Recipe, model: nn.Module, who: str, description: str) -> dict[str, Any]:
    """The part of a manifest entry that recipe and network decide; the rest has values of no meaning yet."""
    name, info, (mean, std) = recipe.weight, get_dataset(recipe.dataset), recipe.normalisation()
    return {
        "family": family_of(name.split(".", 1)[0]),
        "description": description,
        "dataset": info.name,
        "num_classes": info.num_classes,
        "preprocessing": {
            "input_size": list(recipe.input_size()),
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bilinear",
            "crop_pct": info.crop_pct,
        },
        "sha256": "0" * 64,
        "size": 1,
        "keys": "zoo",
        "sources": [],
        "licence": "Apache-2.0",
        "licence_source": f"trained by {who}",
        "origin": _origin(who),
        "origin_url": None,
        "recipe": None,
        "training_log": f"{name}/training_log.jsonl",
        "results": [],
        "params": count_parameters(model),
    }


def _some_images(recipe: Recipe, data: str | Path, count: int = 64) -> Tensor | None:
    """The first test images, prepared, for the equivalence record; None for folders of photographs, which are there."""
    if recipe.is_folder():
        ImageFolder(data)
        return None
    images = torch.from_numpy(load_arrays(recipe.dataset, data, "test")[0][:count].copy())
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in recipe.normalisation())
    return ((images.float() / 255 - mean) / std).double()


def in_order(weights: dict[str, Any]) -> dict[str, Any]:
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
