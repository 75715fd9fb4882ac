"""Sparsity during training: fixed, moving, pruned and tied weights, by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import UnknownNameError
from .base import Dense, Method, Tied
from .deepr import DeepR
from .pruning import Pruned
from .reallocate import Dynamic, Rigl, Set
from .transfer import transfer_masks

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (Dense, Method, Dynamic, Set, DeepR, Rigl, Pruned, Tied)}

__all__ = ["METHODS", "Method", "make_method", "transfer_masks"]


def make_method(name: str, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator) -> Method:
    """The sparsity method of a training.

    Args:
        name: One of :data:`METHODS`.
        model: The network, not wrapped.
        options: Plain values; each method's are described at its class.
        generator: Source of all randomness, on the CPU, equal in all processes.

    Raises:
        UnknownNameError: If there is no such method or option.
        ZooError: If an option has no meaning or the network has no weights the method is for.
    """
    if name not in METHODS:
        raise UnknownNameError(f"No sparsity method {name!r}: choose {', '.join(METHODS)}.")
    return METHODS[name](model, options, generator)
