"""From a finished run to a staged weight: what an upload to the Hub would contain, and the manifest's entry."""

import datetime
import json
import logging
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ZooError
from ..evaluation.validate import Result, validate
from ..extras import require
from ..files import write_atomically
from ..publishing.repository import CONFIG, config_json
from ..reparam import count_parameters
from ..weights.card import model_card
from ..weights.convert import safetensors_bytes
from ..weights.manifest_change import clean_up, replace_staged
from ..weights.verify import sha256_of
from .curve import plot_loss
from .plan import network_of, plan, read_run
from .recipe import Recipe
from .staged_files import Measure, check_size, store, write_collapsed, write_kept, write_packed

__all__ = ["network_of", "read_run", "stage"]
_LOGGER = logging.getLogger(__name__)


def stage(
    run: str | Path,
    data: str | Path,
    hub: Path,
    manifest_file: Path,
    recipe_name: str = "",
    embedded: bool = False,
    seeds: Sequence[str | Path] = (),
    name: str = "",
    trained_by: str = "",
) -> dict[str, Any]:
    """Stage the result of a finished run; the test set is read here.

    A weight of that name with other tensors is replaced, which is logged.

    The file is in half precision if exactly as many test images are right as in float32. Beside it lie the collapsed
    form with its equivalence record, the packed form of a sparse network, the recipe as it was resolved, logs, curve
    and card. If anything is refused, the folder and the manifest stay as they were.

    Args:
        run: Folder of the run.
        data: Folder of the data set.
        hub: Folder of staged weights; ``<arch.tag>/`` in it is replaced, as a whole and at the end.
        manifest_file: Gets the weight's entry.
        recipe_name: Recipe that the run must have been made with as it is, seed included, so that a run cannot be
            chosen among several by its accuracy. Without it the run is staged as what its own recipe says.
        embedded: The file also travels in the wheel.
        seeds: Folders of finished runs of the same recipe with other seeds; their accuracies, mean and spread are
            recorded.
        name: ``arch.tag`` to stage it as; by default the one in its recipe.
        trained_by: Who trained it; by default this project if the recipe ships with the package, else nobody is named.

    Returns:
        The manifest entry.

    Raises:
        ZooError: If a run is not finished or not of this recipe, the name is taken or wrong, the entry would not follow
            the manifest's schema, the data is missing, or the file is too large.
    """
    require("jsonschema", "train")  # the entry is checked against the manifest's schema
    _remove_leftovers(hub, manifest_file)
    planned = plan(Path(run), data, hub, manifest_file, recipe_name, embedded, seeds, name, trained_by)
    recipe, model, entry = planned.recipe, planned.model, planned.entry
    name = recipe.weight

    said: set[str] = set()

    def measure(network: nn.Module) -> Result:
        return validate(network, recipe.dataset, data, name=name, device="cpu", said=said)

    before: dict[str, Any] = {}

    def enter(content: dict[str, Any]) -> None:
        before.update(content["weights"].get(name, {}))
        planned.enter(content, entry)

    stored = store(model, measure)
    entry["params"] = count_parameters(model)  # of what is stored: half precision makes the smallest values zero
    part = hub / f".{name}.{os.getpid()}.part"
    try:
        model._model_args |= recipe.model_args
        write_atomically(config_json(model), part / CONFIG)
        file = part / "model.safetensors"
        plain = safetensors_bytes(stored.tensors, {"format": "pt"})
        check_size(name, len(plain))
        write_atomically(plain, file)
        entry |= {"sha256": sha256_of(file), "size": len(plain), "results": [_plain_result(stored.result)]}
        entry |= {"storage": {"dtype": stored.dtype, "correct": stored.correct}}
        entry |= {"predictions": write_kept(stored.result, entry["sha256"], part)}
        packed = write_packed(plain, part)
        collapsed = write_collapsed(model, measure, stored.result, part, planned.images)
        entry |= {"packed": packed} if packed else {}
        entry |= {"collapsed": collapsed} if collapsed else {}
        entry |= {"seeds": _measure_spread(recipe.seed, planned.runs, stored.result, measure)} if seeds else {}
        _copy_logs(run, {seed: other for (seed, _), other in zip(planned.runs, seeds, strict=True)}, part)
        text = json.dumps({**recipe.to_dict(), "start": _name_of_start(recipe)}, indent=2)
        write_atomically(text.encode() + b"\n", part / "recipe.json")
        plot_loss(planned.state["log"], part / "curve.png", name, stored.result.top1)
        card = model_card(name, entry, files=[path.name for path in part.iterdir()])
        write_atomically(card.encode(), part / "README.md")
        replace_staged(name, part, hub, manifest_file, enter)
    except OSError as error:
        raise ZooError(f"{hub}: {name} cannot be staged ({error.strerror or error}); all is as it was.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if before and before["sha256"] != entry["sha256"]:
        _LOGGER.warning(f"replaces {name}, whose file had the sha256 {before['sha256']}")
    return entry


def _remove_leftovers(hub: Path, manifest_file: Path) -> None:
    """Finish or remove what killed processes left."""
    clean_up(hub, manifest_file)
    for part in hub.glob(".*.part"):
        owner = part.name.split(".")[-2]
        if owner == str(os.getpid()) or (owner.isdigit() and not Path(f"/proc/{owner}").exists()):
            shutil.rmtree(part, ignore_errors=True)


def _plain_result(result: Result) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "split": "test",
        "top1": result.top1,
        "top5": result.top5,
        "n": result.n,
        "correct": result.correct,
        "interval95": list(result.interval),
        **{key: value for key, value in result.beside_top1().items() if value is not None},
        "date": str(datetime.date.today()),
        "versions": result.versions,
    }


def _measure_spread(seed: int, runs: list[tuple[int, nn.Module]], first: Result, measure: Measure) -> dict[str, Any]:
    results = [(seed, first), *((other, measure(model)) for other, model in runs)]
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


def _name_of_start(recipe: Recipe) -> str:
    """The weight of the run that this one began with, which means more elsewhere than a folder."""
    file = Path(recipe.start) / "recipe.json"
    return json.loads(file.read_text())["weight"] if recipe.start and file.is_file() else Path(recipe.start).name
