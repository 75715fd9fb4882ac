"""The queue: the checkpoints the zoo wants, in order of worth.

``zoo/queue.yaml`` says what is wanted; ``queue_run`` trains it. How far an entry is lies in its run's folder and, once
it is staged, in the manifest; nothing is noted by hand.
"""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..extras import require
from ..weights.manifest import weights
from . import checkpoint
from .recipe import load_recipe, task_of

QUEUE = Path(__file__).resolve().parent.parent / "queue.yaml"

_FREE = ("start", *checkpoint.FREE)  # a run may name another folder to start from, or save more often


@dataclass(frozen=True)
class Entry:
    """One wanted checkpoint.

    Attributes:
        recipe: Name of a recipe.
        set: Values that replace the recipe's; a twin made so (another seed, say) is not staged.
        after: Name of the entry whose finished run this one starts from; empty for none.
        gpu: Expected minutes on an H200-class GPU.
        cpu: Expected minutes on two CPU cores.
        measured: Which of ``gpu`` and ``cpu`` were measured; the others are estimates.
    """

    recipe: str
    gpu: float
    cpu: float
    set: dict[str, Any] = field(default_factory=dict)
    after: str = ""
    measured: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Recipe and replaced values as one word; also the name of the run's folder."""
        words = [f"{key}{value}" for key, value in self.set.items()]
        return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([self.recipe, *words]))

    def minutes(self, device: str) -> float:
        """Expected minutes on a kind of device, ``cuda`` or ``cpu``."""
        return self.cpu if device == "cpu" else self.gpu

    def load(self, runs: Path) -> Any:
        """The recipe with the replaced values, a :class:`Recipe` or a ``LanguageRecipe``.

        Args:
            runs: Folder of the runs, where one to start from lies.
        """
        if task_of(self.recipe) == "language":
            from ..language.recipe import load_language_recipe

            return load_language_recipe(self.recipe, self.set)
        return load_recipe(self.recipe, {**self.set, **({"start": str(runs / self.after)} if self.after else {})})


@dataclass(frozen=True)
class Progress:
    """How far an entry is.

    Attributes:
        state: ``waiting``, ``part-trained``, ``trained`` (its run is finished), ``staged``, or ``measured`` (another
            seed, which stands with the staged weight); else what is wrong with its run's folder.
        epoch: Finished epochs of its run.
        epochs: Epochs of its recipe.
    """

    state: str
    epoch: int
    epochs: int

    def __str__(self) -> str:
        return f"part-trained, epoch {self.epoch} of {self.epochs}" if self.state == "part-trained" else self.state


def load_queue(path: str | Path = QUEUE) -> list[Entry]:
    """Read a queue file: a list of mappings, in order of worth.

    Args:
        path: A YAML file; by default the one that ships with the package.

    Raises:
        ZooError: If it cannot be read, or an entry has unknown keys, lacks some, or bears the name of another.
    """
    path = Path(path)
    yaml = require("yaml", "train")
    try:
        rows = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ZooError(f"{path}: no queue file can be read there ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ZooError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ZooError(f"{path}: a queue is a list of entries such as {{recipe: lrunet1_fmnist, gpu: 3, cpu: 40}}.")
    known = [f.name for f in fields(Entry)]
    entries: list[Entry] = []
    for row in rows:
        wrong = sorted({str(key) for key in row} - set(known)) + [k for k in ("recipe", "gpu", "cpu") if k not in row]
        if wrong:
            raise ZooError(f"{path}: entry {row}: {', '.join(wrong)}: an entry needs recipe, gpu and cpu, and may have "
                           "set, after and measured.")  # fmt: skip
        entry = Entry(**row)
        names = [other.name for other in entries]
        if entry.name in names:
            raise ZooError(f"{path}: {entry.name} is there twice.")
        if entry.after and entry.after not in names:
            raise ZooError(f"{path}: {entry.name} comes after {entry.after}, which is not above it.")
        entries.append(entry)
    return entries


def progress(entry: Entry, runs: Path | None = None) -> Progress:
    """How far an entry is, from the manifest and its run's folder.

    A run is finished when its log has a line for each epoch, so that a folder without the checkpoint still tells.

    Args:
        entry: Of the queue.
        runs: Folder of the runs; None to look into the manifest only.
    """
    recipe = entry.load(runs or Path())
    if staged := [facts for facts in weights().values() if facts["recipe"] == entry.recipe]:
        if not entry.set:
            return Progress("staged", recipe.epochs, recipe.epochs)
        seeds = [run["seed"] for facts in staged for run in facts.get("seeds", {}).get("runs", [])]
        if entry.set in [{"seed": seed} for seed in seeds]:
            return Progress("measured", recipe.epochs, recipe.epochs)
    return progress_of_run(entry, runs) if runs else Progress("waiting", 0, recipe.epochs)


def progress_of_run(entry: Entry, runs: Path) -> Progress:
    """How far an entry's run is, whatever the manifest says.

    Args:
        entry: Of the queue.
        runs: Folder of the runs.
    """
    recipe, folder = entry.load(runs), runs / entry.name
    if not (folder / "recipe.json").exists():
        return Progress("waiting", 0, recipe.epochs)
    try:
        stored = json.loads((folder / "recipe.json").read_text())
        log = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
        wanted = json.loads(json.dumps(recipe.to_dict()))
        different = [key for key in wanted if key not in _FREE and stored.get(key, wanted[key]) != wanted[key]]
        done, begun = len(log), (folder / "checkpoint.pt").exists()
        if done < recipe.epochs and begun:
            done = checkpoint.load(folder / "checkpoint.pt")["epoch"]
    except (OSError, ValueError, AttributeError, KeyError, ZooError) as error:
        return Progress(f"damaged ({error})", 0, recipe.epochs)
    if different:
        return Progress(f"a run with another recipe ({', '.join(different)})", 0, recipe.epochs)
    if done >= recipe.epochs:
        return Progress("trained", recipe.epochs, recipe.epochs)
    return Progress("part-trained", done, recipe.epochs) if begun else Progress("waiting", 0, recipe.epochs)
