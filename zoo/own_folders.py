"""Folders of the user's own: whether a word names one, and how far the run in one is. Nothing here needs torch."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

from .errors import UnknownNameError, WeightError
from .files import LARGEST_TEXT, is_file, read_file
from .names import check_name

LOCAL = "local-dir:"
"""timm's word before a folder."""

HUB = ("hf-hub:", "hf_hub:")
"""timm's words before a repository of the Hub."""


def own_folder(word: str) -> Path | None:
    """The folder that a word of the command line names; None if it is the name of an architecture or weight.

    A name is a name: a folder that is called like one needs a separator (``./NAME``) or timm's ``local-dir:``.

    Raises:
        UnknownNameError: If there is neither such a name nor such a folder.
        WeightError: If there is no such folder.
    """
    if word.startswith(HUB):
        return None
    path = Path(word.removeprefix(LOCAL)).expanduser()
    if word.startswith(LOCAL) or "/" in word or path.name in ("", ".", ".."):
        if is_file(path):
            raise WeightError(f"{path} is a file: name its architecture and add --checkpoint {path}.")
        if not path.is_dir():
            raise WeightError(f"No such folder: {path}")
        return path
    try:
        check_name(word)
    except UnknownNameError:
        if path.is_dir():
            return path
        raise
    if path.is_dir():
        _say_once(f"{word} is taken by its name, not as the folder ./{word}")
    return None


def names_folder(word: str) -> bool:
    """Whether a word is that of a folder; False too for a pattern or a mistake, which others explain.

    Raises:
        WeightError: As :func:`own_folder`.
    """
    try:
        return own_folder(word) is not None
    except UnknownNameError:
        return False


@functools.cache
def _say_once(sentence: str) -> None:
    logging.getLogger("zoo").warning(sentence)


def run_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a run as plain values.

    Raises:
        WeightError: If the folder is not that of a run.
    """
    try:
        values = json.loads(read_file(folder / "recipe.json", LARGEST_TEXT))
    except FileNotFoundError:
        raise WeightError(f"{folder}: not the folder of a run of zoo train: recipe.json is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightError(f"{folder / 'recipe.json'}: cannot be read ({error}).") from None
    if not isinstance(values, dict) or not (values.get("weight") or values.get("task")):
        raise WeightError(f"{folder / 'recipe.json'}: not the recipe of a run of zoo train.")
    return values


def run_progress(folder: Path) -> tuple[int, int]:
    """The finished epochs of a run, and how many its recipe has; errors as :func:`run_recipe`."""
    log = folder / "log.jsonl"
    done = sum(1 for line in log.read_text(encoding="utf-8").splitlines() if line) if is_file(log) else 0
    return done, int(run_recipe(folder).get("epochs", 0))
