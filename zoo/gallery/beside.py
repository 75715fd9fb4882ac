"""What lies beside a weight on this machine: its log, its equivalence record, its predictions. No request is made."""

import json
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..evaluation.predictions import Predictions, read_predictions
from ..files import LARGEST_TEXT, is_file, read_file
from ..weights.audit import predictions_here
from ..weights.fetch import staged_file
from ..weights.manifest import predictions_facts, weights
from ..weights.manifest_check import shape_problem
from ..weights.verify import mismatch, sha256_of

STORIES = {
    "log": "training_log.jsonl",
    "seeds_log": "seeds_log.jsonl",
    "record": "equivalence.json",
    "recipe": "recipe.json",
}
"""Files that tell how a weight came about."""

_NUMBER = (int, float, type(None))
_EPOCH = {"epoch": int, "loss": _NUMBER, "lr": _NUMBER}
_SIZE = {"parameters": int, "macs": int, "bytes": int}
_DIFFERENCE = {
    **dict.fromkeys(("input", "dtype"), str),
    "n": int,
    **dict.fromkeys(("max_absolute", "max_relative", "top1_agreement"), _NUMBER),
}
SHAPES: dict[str, Any] = {
    "training_log.jsonl": _EPOCH,
    "seeds_log.jsonl": {"seed": int, **_EPOCH},
    "equivalence.json": {
        "correct": dict,
        "correct_before": int,
        "differences": [_DIFFERENCE],
        "before": _SIZE,
        "after": _SIZE,
    },
}
"""What the pages rely on; nobody has compared these files with anything."""


def stories(name: str) -> dict[str, Any]:
    """What the files beside a staged weight hold, by the keys of :data:`STORIES`; None for one that is not there.

    Args:
        name: ``arch.tag``.

    Raises:
        ZooError: If one of them is damaged.
    """
    folder = folder_of(name)
    return {key: _read(folder / file) if folder else None for key, file in STORIES.items()}


def folder_of(name: str) -> Path | None:
    """The folder that a weight is staged in, or None."""
    entry = weights()[name]
    file = staged_file(name, entry) or ("packed" in entry and staged_file(name, entry, "packed"))
    return file.parent if file else None


def kept_predictions(name: str) -> Predictions | None:
    """What a weight said of every test image, or None if its file is not on this machine.

    Args:
        name: ``arch.tag``.

    Raises:
        ZooError: If the file is not the manifest's, or damaged.
    """
    path = predictions_here(name)
    if path is None:
        return None
    expected, found = predictions_facts(name)["sha256"], sha256_of(path)
    if found != expected:
        raise mismatch(path, expected, found)
    return read_predictions(path)


def _read(path: Path) -> Any:
    if not is_file(path):
        return None
    try:
        text = read_file(path, LARGEST_TEXT).decode("utf-8")
        lines = [text] if path.suffix != ".jsonl" else [line for line in text.splitlines() if line.strip()]
        values = [json.loads(line, parse_constant=lambda _: None) for line in lines]  # a loss that is not finite
        if problem := next((p for value in values if (p := shape_problem(value, SHAPES.get(path.name, {}), "it"))), ""):
            raise ValueError(problem)
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:200]}): restore or remove it."
        ) from None
    return values if path.suffix == ".jsonl" else values[0]
