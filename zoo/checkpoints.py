"""From a file of weights to a network: whose names it uses, its sizes, and how images are prepared for it."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .data.catalog import DATASETS, Dataset
from .errors import DataError, UnknownNameError, WeightError
from .files import write_atomically
from .makers.registered import check_registered
from .models import load_reference
from .models._bounded import try_out
from .models._reference import differences
from .registry import check_name, list_models
from .reparam import reparameterize
from .transforms.transform import ARCHITECTURE
from .weights.convert import safetensors_bytes
from .weights.importers import Checkpoint, open_checkpoint, single, unwrapped

_PROBES = {"num_classes": (2, 3), "in_chans": (1, 3)}
"""Arguments whose value is read off the tensors, and two values at which the shapes of a network are compared."""


@dataclass(frozen=True)
class ReadNetwork:
    """A network with the weights of a file.

    Attributes:
        model: The network, in eval mode, on the CPU.
        arch: Its name in this zoo.
        arguments: What it was created with, beside the name.
        preparation: How images are prepared, as far as the file says.
        notes: What was chosen or assumed where the file leaves a choice, a sentence each.
        dataset: What it was trained on, if it is a run's; else empty.
    """

    model: nn.Module
    arch: str
    arguments: dict[str, Any]
    preparation: dict[str, Any]
    notes: tuple[str, ...]
    dataset: str = ""


def read_network(path: str | Path, arch: str, settings: Mapping[str, Any] | None = None) -> ReadNetwork:
    """Create a network and fill it with the weights of a file, to the last tensor.

    The file may have the zoo's own names or those of the paper's code, inside wrappers such as data parallel and
    ``torch.compile``; classes and channels are read off its tensors.

    Args:
        path: Anything :func:`zoo.weights.importers.open_checkpoint` reads.
        arch: Name of the architecture, without a tag.
        settings: Arguments of the architecture; they come before what the file says.

    Raises:
        UnknownNameError: If there is no such architecture.
        WeightError: If the file cannot be read, or is not of this architecture with these arguments.
    """
    if not timm.is_model(arch):  # plain networks of timm's are trained here too
        check_name(arch)
    checkpoint, settings = open_checkpoint(path), dict(settings or {})
    if checkpoint.architecture == ARCHITECTURE and checkpoint.arguments.get("base") == arch:
        arch = ARCHITECTURE  # the file says how it was transformed
    if checkpoint.own and checkpoint.architecture != arch:
        raise WeightError(f"{path}: holds a {checkpoint.architecture}, not a {arch}: name the architecture it holds.")
    said = checkpoint.architecture
    try:
        arguments = _checked({**checkpoint.arguments, **settings})
        tensors, key_of = _names(_without_memory(arch, arguments), checkpoint.tensors)
        own = all(key == name for name, key in key_of.items())
        arguments = arguments if own else _checked(settings)  # an authors' file has their words for arguments
        arguments = {**_sizes(arch, arguments, key_of, tensors), **arguments}
        state = {name: single(tensor) for name, tensor in tensors.items()}
        model = _filled(arch, arguments, state) if own else load_reference(timm.create_model(arch, **arguments), state)
    except (WeightError, UnknownNameError) as error:
        hint = f" The file says that it holds a {said}." if said and said != arch else ""
        raise WeightError(f"{path}: does not fit {arch}: {error}{hint}") from None
    if own and said != arch and said in list_models() and said != type(model).__name__.lower():  # timm's for a class
        raise WeightError(f"{path}: says that it holds a {said}, not a {arch}: name the architecture it holds.")
    return ReadNetwork(model.eval(), arch, arguments, checkpoint.preparation, _notes(checkpoint), checkpoint.dataset)


def load_checkpoint(
    path: str | Path, arch: str, dataset: Dataset | None = None, settings: Mapping[str, Any] | None = None
) -> ReadNetwork:
    """:func:`read_network`, with images prepared as the file says, else as a data set's usually are.

    Args:
        path: The file.
        arch: Name of the architecture, without a tag.
        dataset: What the network is measured on; None for what the architecture usually is.
        settings: As of :func:`read_network`.

    Raises:
        WeightError: As :func:`read_network`.
        DataError: If the network takes images of other channels than this data set's.
    """
    read = read_network(path, arch, settings)
    usual = read.model.pretrained_cfg
    channels = read.arguments.get("in_chans", usual["input_size"][0])
    trained_on = DATASETS.get(read.dataset)
    if dataset and channels != dataset.input_size[0]:
        raise DataError(
            f"{path}: the network takes images of {channels} channels, {dataset.name} has {dataset.input_size[0]}."
        )
    if dataset is None and channels != usual["input_size"][0]:
        sizes = (channels, read.model.num_classes)
        dataset = next((d for d in DATASETS.values() if (d.input_size[0], d.num_classes) == sizes), None)
    dataset = trained_on or dataset
    said = {key: v for key, v in read.preparation.items() if key not in ("mean", "std") or len(v) == channels}
    if said.get("input_size", (channels,))[0] != channels:
        del said["input_size"]
    if dataset:
        usual |= {"input_size": dataset.input_size, "mean": dataset.mean, "std": dataset.std}
        usual |= {"crop_pct": dataset.crop_pct, "interpolation": "bilinear"}
    usual |= said
    if trained_on and trained_on.num_classes == read.model.num_classes:
        usual["label_names"] = list(trained_on.classes) or None
    source = (
        "as the file, or config.json beside it, says"
        if "mean" in said
        else f"as {dataset.name if dataset else arch}'s usually are; the file does not say how"
    )
    mean, std = (", ".join(f"{value:g}" for value in usual[key]) for key in ("mean", "std"))
    note = f"images are prepared {source} (mean {mean}; std {std})"
    return replace(read, notes=(*read.notes, note))


def as_stored_now(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with learned kernels in the shape they have today: runs of old versions have symmetric ones flat.

    Args:
        expected: The network's tensors.
        state: The run's.
    """
    flat = {name for name, t in state.items() if name.endswith(".original") and t.dim() == 1 and name in expected}
    flat = {name for name in flat if expected[name].numel() == state[name].numel()}
    return {name: t.view(expected[name].shape) if name in flat else t for name, t in state.items()}


def write_network(network: ReadNetwork, path: str | Path) -> None:
    """Write a network as a safetensors file that names its architecture, arguments and preparation of images.

    Args:
        network: What :func:`read_network` returned.
        path: The file; its folder is created.

    Raises:
        WeightError: If it cannot be written.
        ZooError: If the network does not register something that it learns, so that the file would lack it.
    """
    check_registered(network.model)
    metadata = {"format": "pt", "architecture": network.arch, "model_args": json.dumps(network.arguments)}
    if network.preparation:
        metadata["preparation"] = json.dumps(network.preparation)
    tensors = {key: tensor.contiguous() for key, tensor in network.model.state_dict().items()}
    try:
        write_atomically(safetensors_bytes(tensors, metadata), Path(path))
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error}).") from None


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a network alone: timm's own could name other files, or ask for other weights."""
    foreign = sorted(set(arguments) & set(inspect.signature(timm.create_model).parameters))
    if foreign:
        raise WeightError(f"model_args are arguments of a network, and {', '.join(foreign)} is timm's.")
    try:
        return json.loads(json.dumps(arguments))
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightError(f"model_args are no plain values ({error}).") from None


def _without_memory(arch: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network on the meta device: names, shapes and types of its tensors, and nothing allocated."""
    if arguments:
        return try_out(arch, dict(arguments), lambda: timm.create_model(arch, **arguments))
    with torch.device("meta"):
        return timm.create_model(arch)


def _names(sample: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without their wrappers, and the file's key of each of the network's names.

    Of all ways to read the file, the one that knows most of its keys; if none knows any, the authors'.
    """
    own = {name: name for name in sample.state_dict()}
    namings = [own]
    if hasattr(sample, "reference_key"):
        namings.append({name: sample.reference_key(name) for name in own})
    ways = [(state, key_of) for state in unwrapped(tensors) for key_of in namings]
    known = [len(state.keys() & set(key_of.values())) for state, key_of in ways]
    return ways[known.index(max(known))] if any(known) else ways[len(namings) - 1]


def _sizes(
    arch: str,
    arguments: Mapping[str, Any],
    key_of: Mapping[str, str],
    tensors: Mapping[str, Tensor],
) -> dict[str, int]:
    """Classes and channels of a file, read off the first of its tensors whose shape depends on them.

    Which these are is seen by creating the network with two different values; so it does not matter how a family
    names its layers, or whether their weights are made.
    """
    sizes = {}
    for argument, values in _PROBES.items():
        if argument in arguments:
            continue
        one, two = (_shapes(_without_memory(arch, {**arguments, argument: value})) for value in values)
        for name in (name for name in key_of if name in one and name in two):
            axes = [axis for axis, (a, b) in enumerate(zip(one[name], two[name], strict=True)) if a != b]
            tensor = tensors.get(key_of[name])
            if len(axes) != 1 or tensor is None or tensor.dim() != len(one[name]):
                continue
            per, rest = divmod(one[name][axes[0]], values[0])
            if rest or two[name][axes[0]] != per * values[1] or tensor.shape[axes[0]] % per:
                continue
            sizes[argument] = tensor.shape[axes[0]] // per
            break
    return sizes


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _filled(arch: str, arguments: Mapping[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """The network with a state dict of its own names; nothing is allocated before all of them fit."""
    sample = _without_memory(arch, arguments).state_dict()
    state = as_stored_now(sample, state)
    problems = differences(sample, state)
    if problems:
        if plain := _collapsed(arch, arguments, state):
            return plain
        raise WeightError(
            f"{problems}. If it was built with other arguments: zoo import FILE --as {arch} --set KEY=VALUE."
        )
    model = timm.create_model(arch, **arguments)
    counters = {name: torch.zeros_like(t) for name, t in model.state_dict().items() if name not in state}
    model.load_state_dict({**state, **counters}, strict=True)
    return model


def _collapsed(arch: str, arguments: Mapping[str, Any], state: dict[str, Tensor]) -> nn.Module | None:
    """The network of plain layers that an architecture collapses into, if that is what the file holds."""
    needed = sum(t.numel() for t in _without_memory(arch, arguments).state_dict().values())
    if needed > 16 * sum(t.numel() for t in state.values()):  # it has at most a few times as many numbers
        return None
    model = timm.create_model(arch, **arguments).eval()
    for form in ({"batch_norm": norm, "reuse": use} for norm in ("keep", "fold") for use in ("shared", "unroll")):
        plain = reparameterize(model, **form)
        if not differences(plain.state_dict(), state):
            plain.load_state_dict(state)
            return plain
    return None


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    if not checkpoint.others:
        return ()
    left = " and ".join(checkpoint.others)
    return (f"the averaged weights ({checkpoint.taken}) were taken, as timm does, and {left} left",)
