"""How a trained network is stored: half precision where that costs not one image, and its collapsed form."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ZooError
from ..evaluation.predictions import Predictions, predictions_bytes
from ..evaluation.result import Result
from ..files import write_atomically
from ..publishing.repository import COLLAPSED, PREDICTIONS, RECORD
from ..reparam.collapsed import collapsed_form
from ..reparam.record import equivalence_record
from ..weights.convert import safetensors_bytes
from ..weights.packed import PACKED, pack
from ..weights.verify import sha256_of

LIMIT = 25_000_000
"""The most bytes of a staged file."""

METADATA = {"format": "pt", "form": "collapsed"}

Measure = Callable[[nn.Module], Result]
"""Accuracy of a network on the whole test set."""


@dataclass(frozen=True)
class Stored:
    """A network as it is written.

    Attributes:
        tensors: Name to tensor, in the data types of the file.
        dtype: ``float16``, or ``float32`` where half precision changed the accuracy.
        correct: Test images whose first guess is right, by data type.
        result: The measurement of ``tensors``.
    """

    tensors: dict[str, Tensor]
    dtype: str
    correct: dict[str, int]
    result: Result


def check_size(name: str, size: int) -> None:
    """Refuse a file that is too large to be staged.

    Raises:
        ZooError: If it has more than :data:`LIMIT` bytes.
    """
    if size > LIMIT:
        raise ZooError(f"{name}: {size:,} bytes, and a staged file has at most {LIMIT:,}.")


def store(model: nn.Module, measure: Measure, full: Result | None = None) -> Stored:
    """Choose half precision if exactly as many test images are right with it; the network then has these values.

    Batch norms stay in float32: they are small, and their variances leave the range of half precision first.

    Args:
        model: In float32; its values become those that are stored.
        measure: Measures a network.
        full: The measurement of ``model``, if it is known.
    """
    full = full or measure(model)
    exact, half = _in_both(model)
    correct = {"float32": full.correct}
    if all(torch.equal(half[name].to(exact[name].dtype), exact[name]) for name in exact):  # the same network
        return Stored(half, "float16", {"float32": full.correct, "float16": full.correct}, full)
    if all(torch.isfinite(tensor).all() for tensor in half.values() if tensor.is_floating_point()):
        model.load_state_dict(half)
        result = measure(model)
        correct["float16"] = result.correct
        if result.correct == full.correct:
            return Stored(half, "float16", correct, result)
        model.load_state_dict(exact)
    return Stored(exact, "float32", correct, full)


def write_collapsed(
    model: nn.Module, measure: Measure, result: Result, folder: Path, real: Tensor | None = None
) -> dict[str, Any] | None:
    """Write the collapsed form beside a network's file, and the equivalence record of the two in every case.

    It is :func:`.collapsed_form`, and ``zoo.load_collapsed`` reads it. A collapsed network is to be the same function,
    so it is in half precision only if that changes no value, or if the file would be too large otherwise and exactly as
    many test images are right.

    Args:
        model: As it is stored, in eval mode.
        measure: Measures a network.
        result: The measurement of ``model``.
        folder: Gets ``model.collapsed.safetensors`` and ``equivalence.json``.
        real: Prepared images, for the record.

    Returns:
        What the manifest says of it: ``path``, ``sha256``, ``size``, ``dtype``, ``parameters`` and ``options`` of the
        pass, or ``path`` None and the reason; None if the pass has nothing to do.
    """
    form = collapsed_form(model)
    if form is None:
        return None
    plain, options = form
    stored = _as_it_is(plain, measure)
    if len(content := safetensors_bytes(stored.tensors, METADATA)) > LIMIT:
        stored = store(plain, measure, stored.result)
        content = safetensors_bytes(stored.tensors, METADATA)
    record = equivalence_record(model, plain, real)  # of the values that are stored
    entry: dict[str, Any] = {"path": None, "reason": f"{len(content):,} bytes, and a staged file has at most {LIMIT:,}"}
    if len(content) <= LIMIT:
        file = folder / COLLAPSED
        write_atomically(content, file)
        entry = {"path": COLLAPSED, "sha256": sha256_of(file), "size": len(content), "dtype": stored.dtype}
        entry["parameters"] = record.after.parameters
        entry |= {"options": options} if options else {}
    measured = {
        "collapsed": entry,
        "top1": stored.result.top1,
        "correct": stored.correct,
        "correct_before": result.correct,
    }
    write_atomically(json.dumps({**measured, **record.to_dict()}, indent=2).encode() + b"\n", folder / RECORD)
    return entry


def write_packed(plain: bytes, folder: Path) -> dict[str, Any] | None:
    """Write the packed form beside a network's file if it saves a quarter or more: that of a sparse network does.

    Args:
        plain: The network's file.
        folder: Gets ``model.packed.safetensors``.

    Returns:
        What the manifest says of it, ``path``, ``sha256`` and ``size``; None if it was not written.
    """
    packed = pack(plain)
    if len(packed) > len(plain) * 3 / 4:
        return None
    write_atomically(packed, folder / PACKED)
    return {"path": PACKED, "sha256": sha256_of(folder / PACKED), "size": len(packed)}


def write_kept(result: Result, sha256: str, folder: Path) -> dict[str, Any]:
    """Write what a network said of every test image beside its file.

    Args:
        result: The network's measurement.
        sha256: Of its file.
        folder: Gets ``predictions.npz``.

    Returns:
        What the manifest says of it: ``path``, ``sha256`` and ``size``.
    """
    content = predictions_bytes(replace(Predictions.of_result(result), sha256=sha256))
    write_atomically(content, folder / PREDICTIONS)
    return {"path": PREDICTIONS, "sha256": sha256_of(folder / PREDICTIONS), "size": len(content)}


def _as_it_is(model: nn.Module, measure: Measure) -> Stored:
    """A network in float32, or in float16 if no value changes."""
    exact, half = _in_both(model)
    lossless = all(torch.equal(half[name].to(exact[name].dtype), exact[name]) for name in exact)
    dtype, result = "float16" if lossless else "float32", measure(model)
    return Stored(half if lossless else exact, dtype, {dtype: result.correct}, result)


def _in_both(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A network's tensors as they are, and in half precision but for its batch norms."""
    exact = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    half = {
        name: tensor.half() if tensor.is_floating_point() and not name.startswith(norms) else tensor
        for name, tensor in exact.items()
    }
    return exact, half
