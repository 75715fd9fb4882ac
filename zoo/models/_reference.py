"""Bridges to the papers' own code: the same network from its arguments, and its state dict under its key names.

A network class that has a reference offers ``reference_key(name)``, which turns a name of its own state dict into the
reference's, and may offer ``reference_tensors(state)``, which rewrites tensors whose form differs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnknownNameError, WeightError


@dataclass(frozen=True)
class Reference:
    """How one of a paper's architectures is built here.

    Attributes:
        create: Returns the network for the paper's own arguments.
        defaults: Every argument the paper's code takes, with its default.
        prefix: ``arch`` is a label of which only the beginning counts.
    """

    create: Callable[..., nn.Module]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prefix: bool = False


REFERENCES: dict[str, dict[str, Reference]] = {}


def register_reference(family: str, arch: str, create: Callable[..., nn.Module], prefix: bool = False, **defaults):
    """Make an architecture of a paper's code known to :func:`create_reference`."""
    REFERENCES.setdefault(family, {})[arch] = Reference(create, defaults, prefix)


def create_reference(family: str, arch: str, **args: Any) -> nn.Module:
    """Build the network that a paper's own code builds, with randomly initialised weights.

    Args:
        family: ``lrunet``, ``sharing``, ``symmetry``, ``sparse`` or ``paradise``.
        arch: Architecture, in the paper's code's own word.
        **args: Arguments, in its own words; those left out have its defaults.

    Raises:
        UnknownNameError: If family, architecture or an argument does not exist; the message lists the valid ones.
    """
    if family not in REFERENCES:
        raise UnknownNameError(f"Unknown family {family!r}: choose one of {', '.join(sorted(REFERENCES))}.")
    known = REFERENCES[family]
    reference = known.get(arch)
    if reference is None or reference.prefix:
        labels = [name for name, r in known.items() if r.prefix and arch.startswith(name)]
        reference = known[max(labels, key=len)] if labels else None
    if reference is None:
        listed = ", ".join(name + ("..." if r.prefix else "") for name, r in known.items())
        raise UnknownNameError(f"Unknown architecture {arch!r} of family {family!r}: choose one of {listed}.")
    unknown = sorted(set(args) - set(reference.defaults))
    if unknown:
        raise UnknownNameError(
            f"Unknown argument {', '.join(unknown)} of {family} {arch}: it takes {', '.join(reference.defaults)}."
        )
    return reference.create(**{**reference.defaults, **args})


def load_reference(model: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Load a paper's own state dict.

    Args:
        model: Network of this zoo, as :func:`create_reference` or ``timm.create_model`` builds it.
        state_dict: Tensors under the reference's key names, with or without ``module.``;
            ``num_batches_tracked`` entries may be absent (files of old framework versions lack them).

    Returns:
        ``model``.

    Raises:
        WeightError: If keys are missing or left over, or a shape differs; the message names the keys, and the model
            is as it was.
    """
    key_of = _reference_keys(model)
    state = _normalise(model, state_dict)
    expected = model.state_dict()
    problems = differences({ref: expected[name] for ref, name in key_of.items()}, state)
    if problems:
        raise WeightError(f"This state dict is not one of {type(model).__name__}'s reference: {problems}.")
    renamed = {name: state[ref] for ref, name in key_of.items() if ref in state}
    for name, tensor in expected.items():
        renamed.setdefault(name, torch.zeros_like(tensor))  # num_batches_tracked
    model.load_state_dict(renamed)
    return model


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps a state dict from being loaded; empty if nothing does.

    Args:
        expected: A network's tensors; only their shapes and types matter. ``num_batches_tracked`` may be absent.
        given: Those of a file, under the same names. Types fit if both are numbers with or both without a fraction;
            a mask may be stored as numbers 0 and 1.

    Returns:
        Missing keys, unexpected keys, wrong shapes and wrong types, at most eight of each.
    """
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    both = [(name, given[name], tensor) for name, tensor in expected.items() if name in given]
    shapes = [f"{n} {tuple(g.shape)} instead of {tuple(e.shape)}" for n, g, e in both if g.shape != e.shape]
    types = [f"{n} {g.dtype} instead of {e.dtype}" for n, g, e in both if not _is_type(g, e)]
    return "; ".join(
        f"{title}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for title, names in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("wrong shapes", shapes),
            ("wrong types", types),
        )
        if names
    )


def _is_type(given: Tensor, expected: Tensor) -> bool:
    if expected.dtype == torch.bool and given.dtype != torch.bool:
        return bool(((given == 0) | (given == 1)).all())
    if given.is_complex() != expected.is_complex():
        return False
    return expected.dim() == 0 or given.is_floating_point() == expected.is_floating_point()


def rename_from_reference(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a checkpoint this zoo's key names; one that has them already is returned as it is.

    Unlike :func:`load_reference` it does not check completeness: timm's loader does, after it has adapted classifier
    and input channels.
    """
    if not hasattr(model, "reference_key"):
        return dict(state_dict)
    layer = model.get_classifier(name_only=True)  # also where the model has none, so that timm recognises the file's
    names = [*model.state_dict(), f"{layer}.weight", f"{layer}.bias"]
    own = set(names)
    if own.issuperset(state_dict):
        return dict(state_dict)
    key_of = {model.reference_key(name): name for name in names}
    state = _normalise(model, state_dict)
    if sum(name in own for name in state_dict) >= sum(name in key_of for name in state):  # some names are the same
        return dict(state_dict)
    return {key_of.get(name, name): tensor for name, tensor in state.items()}


def rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply the first of some (regular expression, replacement) pairs that matches the whole name."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _reference_keys(model: nn.Module) -> dict[str, str]:
    if not hasattr(model, "reference_key"):
        raise WeightError(f"{type(model).__name__} has no reference implementation whose state dict could be loaded.")
    return {model.reference_key(name): name for name in model.state_dict()}


def _normalise(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    return model.reference_tensors(state) if hasattr(model, "reference_tensors") else state
