"""Checkpoints: everything a run needs to go on bit for bit, and the refusal of what does not belong to it.

Image networks and language models share this module.
"""

import hashlib
import io
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch

from ..errors import ZooError
from ..files import open_file, write_atomically
from ..locks import alone
from ..own_folders import run_progress
from ..version import __version__
from ..weights.pickles import read_pickle
from .distributed import Processes

FREE = ("checkpoint_every", "workers")
"""Keys of a recipe that may change between the parts of a run, for they do not change its result."""

FORCED = ("versions", "code")
"""Parts of a run's identity that may differ where a user insists."""

_PARTS = {
    "recipe": "with another recipe",
    "data": "on other data",
    "machine": "with another kind of machine",
    "versions": "with other versions",
    "code": "with other code",
}
_ADVICE = "choose another --output, or restore what the run began with"
_LOGGER = logging.getLogger(__name__)


class AnyRecipe(Protocol):
    """A recipe of any task."""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""


def identity(
    recipe: AnyRecipe, data_sha256: str, device: torch.device, processes: int, code: Mapping[str, str]
) -> dict[str, Any]:
    """What a run depends on: recipe, data, kind of machine, versions and code.

    Args:
        recipe: The run's recipe.
        data_sha256: Of the training set.
        device: Its type counts.
        processes: Their number.
        code: sha256 by file, see :func:`zoo.training.used_code.used_code`.
    """
    plain = recipe.to_dict()
    if not plain.get("transform"):  # runs that began before there was such a key go on
        plain.pop("transform", None)
    for key in ("start", "masks_from"):  # where that run lies may change while this one goes on
        if plain.get(key):
            plain[key] = Path(plain[key]).name
    return {
        "recipe": {key: value for key, value in plain.items() if key not in FREE},
        "data": data_sha256,
        "machine": {"device": device.type, "processes": processes},
        "versions": {"zoo": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
        "code": dict(code),
    }


def check_identity(
    stored: Mapping[str, Any] | None, present: Mapping[str, Any], folder: Path, force: bool = False
) -> list[str]:
    """Refuse to go on with a run under other conditions.

    Other versions or code may be forced: they may change what follows, and the log tells so. Another recipe, other
    data or another machine may not: the run's files name one of each, which would be wrong for a part of it.

    Args:
        stored: Identity in the run's checkpoint; None or empty in those of old versions.
        present: What the run would go on with.
        folder: Of the run.
        force: Go on with other versions or other code.

    Returns:
        What was forced, such as ``torch '2.11.0', here '2.14.0'``.

    Raises:
        ZooError: If anything else differs, or something does and ``force`` is not set; the message names it.
    """
    if not stored:
        raise ZooError(f"{folder}: its checkpoint is of an older version of the zoo and cannot be resumed; {_ADVICE}.")
    forced = []
    for part, what in _PARTS.items():
        old, new = ({"sha256": at[part]} if part == "data" else at[part] for at in (stored, present))
        # code that a run no longer imports is no difference by itself: the file that imported it has changed too
        different = [key for key in sorted(new if part == "code" else {*old, *new}) if old.get(key) != new.get(key)]
        details = [key if part == "code" else f"{key} {old.get(key)!r}, here {new.get(key)!r}" for key in different]
        if details and force and part in FORCED:
            forced += [f"other code: {detail}" if part == "code" else detail for detail in details]
        elif details:
            listed = ", ".join(details[:6])
            hint = f"{_ADVICE}; --force goes on anyway and notes it in the log" if part in FORCED else _ADVICE
            raise ZooError(f"{folder} holds a run {what} ({listed}); {hint}.")
    return forced


def warn_of(forced: list[str], folder: Path) -> None:
    """Say in one line what was forced, if anything was."""
    if forced:
        _LOGGER.warning(f"{folder}: goes on in spite of {'; '.join(forced)}; the log of the next epoch notes it.")


@contextmanager
def must_fit(folder: Path) -> Iterator[None]:
    """Around the restoring of a checkpoint: an error of torch's, with its list of keys, becomes one line.

    Raises:
        ZooError: If the checkpoint has another form, for the code has changed since.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, ZooError):
            raise
        what = str(error).splitlines()[0]
        raise ZooError(f"{folder}: its checkpoint does not fit this network or code ({what}); {_ADVICE}.") from None


def random_state() -> dict[str, Any]:
    """The state of every global random generator, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def save(state: Mapping[str, Any], path: Path) -> None:
    """Replace a checkpoint atomically; whatever goes wrong, the previous one stays.

    The bytes are made in memory first, for torch's own writer hides the cause of a failing write.

    Raises:
        ZooError: If the weights are no longer finite, or the file cannot be written.
    """
    for name, tensor in state["model"].items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ZooError(
                f"{name} is no longer finite at epoch {state['epoch'] + 1}, step {state['step']}: lower --set lr=... ; "
                f"{kept(path)}."
            )
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write(_sealed(buffer.getvalue()), path)


_SEAL = b"sha256 "
_END = 2 + len(_SEAL) + 64  # of an archive: the length of its comment, and the comment


def _sealed(archive: bytes) -> bytes:
    """An archive of torch.save with the sha256 of its bytes as its comment; it remains one that torch can load."""
    return archive[:-2] + _comment(hashlib.sha256(archive).hexdigest())


def _comment(sha256: str) -> bytes:
    return (len(_SEAL) + 64).to_bytes(2, "little") + _SEAL + sha256.encode()


def _check_seal(content: bytes, path: Path) -> None:
    if content[-22:-18] == b"PK\5\6" and content.endswith(b"\0\0"):
        return  # an archive without a comment, of an older version; its records have checksums
    archive = hashlib.sha256(memoryview(content)[:-_END])
    archive.update(b"\0\0")
    if content[-_END:] != _comment(archive.hexdigest()):
        raise ZooError(
            f"{path}: not a checkpoint of zoo train, or damaged: its sha256 is not the one it was saved with."
        )


def write(content: bytes | memoryview, path: Path) -> None:
    """Write a file of a run atomically.

    Raises:
        ZooError: If that fails, for instance because the disk is full.
    """
    try:
        write_atomically(content, path)
    except OSError as error:
        checkpoint = path.with_name("checkpoint.pt")
        raise ZooError(
            f"{path}: cannot be written ({error.strerror or error}); {kept(checkpoint)}. Make room there and go on "
            "with --resume."
        ) from None


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Write a text file of a run atomically, one line each; errors as :func:`write`."""
    write("".join(f"{line}\n" for line in lines).encode(), path)


def kept(path: Path) -> str:
    """A clause on the checkpoint that is there."""
    return f"the last good checkpoint, {path}, is kept" if path.exists() else "there is no checkpoint yet"


def occupied(folder: Path) -> ZooError:
    """The error for a folder that holds a run already, finished or not, where another was to begin."""
    done, epochs = run_progress(folder)
    if done < epochs:
        advice = "pass --resume to go on with it, or another folder"
        return ZooError(f"{folder} already holds a run, {done} of {epochs} epochs: {advice}.")
    advice = f"measure it with zoo validate {folder}, or choose another --output"
    return ZooError(f"{folder} already holds a run, which is finished ({epochs} epochs): {advice}.")


def load(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint, on the CPU; nothing in it is executed, and it is what was saved, to the bit.

    Raises:
        ZooError: If it is no such file, is damaged, or says that it is at an impossible epoch or step.
    """
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error.strerror or error}).") from None
    _check_seal(content, path)
    state = read_pickle(path, content)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ZooError(f"{path}: not a checkpoint of zoo train.")
    for key in ("epoch", "step"):
        value = state.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ZooError(f"{path}: not a checkpoint of zoo train (its {key} is {str(value)[:40]!r}).")
    return state


@contextmanager
def only_trainer(folder: Path, processes: Processes) -> Iterator[None]:
    """Hold the folder of a run; the processes of one run hold it together.

    Raises:
        ZooError: If another run is at work there, in all processes alike.
    """
    with ExitStack() as stack:
        problem = ""
        if processes.first:
            try:
                stack.enter_context(alone(folder / ".lock", f"{folder}: another zoo train is at work there"))
            except ZooError as error:
                problem = str(error)
        if problem := processes.gather(problem)[0]:
            raise ZooError(problem)
        yield
        processes.wait()  # all have done with the folder when it is given away


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files of a process that was killed; the folder is held, see :func:`only_trainer`."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)
