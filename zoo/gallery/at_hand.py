"""Weights that are on this machine: building a site makes no request."""

from typing import TYPE_CHECKING

from ..errors import WeightError
from ..weights.audit import is_here

if TYPE_CHECKING:
    from torch import nn


def check_here(name: str) -> None:
    """Raise a WeightError if a weight, ``arch.tag``, is not on this machine."""
    if not is_here(name):
        raise WeightError(f"{name} is not on this machine; after zoo fetch {name} the gallery can show it.")


def load_here(name: str) -> "nn.Module":
    """A weight's network, in eval mode.

    Args:
        name: ``arch.tag``.

    Raises:
        WeightError: If the weight is not on this machine, or its file is not the manifest's.
    """
    check_here(name)
    from ..registry import create_model

    return create_model(name, pretrained=True).eval()
