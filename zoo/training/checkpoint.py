"""Checkpoints: everything a run needs to go on bit for bit, and the refusal of what does not belong to it.

Image networks and language models share this module; their checkpoints differ in the code that decides a run only.
"""

import hashlib
import io
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch

from ..errors import ZooError
from ..files import write_atomically
from ..version import __version__

FREE = ("checkpoint_every", "workers")
"""Keys of a recipe that may change between the parts of a run, for they do not change its result."""

IMAGE_CODE = (
    "makers/*.py",
    "layers/*.py",
    "models/*.py",
    "data/arrays.py",
    "data/catalog.py",
    "data/images.py",
    "training/sparsity/*.py",
    *(f"training/{name}.py" for name in ("augment", "data", "folders", "learner", "loop", "processes", "schedule")),
)
"""Code that decides what an image network's run computes, as patterns within the package."""

_PACKAGE = Path(__file__).resolve().parent.parent


class AnyRecipe(Protocol):
    """A recipe of any task."""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""


def identity(
    recipe: AnyRecipe,
    data_sha256: str,
    device: torch.device,
    processes: int = 1,
    code: Sequence[str] = IMAGE_CODE,
) -> dict[str, Any]:
    """What must be the same for a run to go on: recipe, data, machine kind, versions and code.

    Args:
        recipe: The run's recipe.
        data_sha256: Of the training set.
        device: Its type decides.
        processes: Their number.
        code: Files that decide what the run computes, as patterns within the package.
    """
    plain = recipe.to_dict()
    for key in ("start", "masks_from"):  # where that run lies may change while this one goes on
        if plain.get(key):
            plain[key] = Path(plain[key]).name
    files = sorted(path for pattern in code for path in _PACKAGE.glob(pattern))
    return {
        "recipe": {key: value for key, value in plain.items() if key not in FREE},
        "data": data_sha256,
        "machine": {"device": device.type, "processes": processes},
        "versions": {"zoo": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
        "code": {str(p.relative_to(_PACKAGE)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }


def check_identity(stored: Mapping[str, Any], present: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run under other conditions.

    Raises:
        ZooError: If anything differs; the message names it.
    """
    advice = "choose another --output, or restore what the run began with"
    if not stored:
        raise ZooError(f"{folder}: its checkpoint is of an older version of the zoo and cannot be resumed; {advice}.")
    for part in ("recipe", "data", "machine", "versions", "code"):
        old, new = stored[part], present[part]
        if part == "data":
            if old != new:
                raise ZooError(f"{folder} holds a run on other data (sha256 {old[:12]}, here {new[:12]}); {advice}.")
            continue
        different = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if not different:
            continue
        what = {"recipe": "another recipe", "machine": "another kind of machine"}.get(part, f"other {part}")
        if part == "code":
            names = ", ".join(different[:6])
        else:
            names = ", ".join(f"{key} {old.get(key)!r}, here {new.get(key)!r}" for key in different[:6])
        raise ZooError(f"{folder} holds a run with {what} ({names}); {advice}.")


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
    write(buffer.getbuffer(), path)


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


def load(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint, on the CPU; nothing in it is executed.

    Raises:
        ZooError: If it is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive can raise anything
        raise ZooError(f"{path}: not a checkpoint ({str(error).splitlines()[0]}).") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ZooError(f"{path}: not a checkpoint of zoo train.")
    return state


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files of a process that was killed."""
    for path in folder.glob(".*.part"):
        owner = path.name.split(".")[-2]
        if not owner.isdigit() or not Path(f"/proc/{owner}").exists() or int(owner) == os.getpid():
            path.unlink(missing_ok=True)
