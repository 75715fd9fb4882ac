"""Masks of one run for another."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import WeightError
from ...makers import maker_of
from ...makers.masked import MaskedWeight
from .base import layers_with

_MASK = ".parametrizations.weight.0.mask"


@torch.no_grad()
def transfer_masks(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the masks of another; its weights and all else stay as they are.

    Args:
        model: Network with masked weights.
        state: State dict of a network of the same kind; only its masks are read.

    Raises:
        WeightError: If a mask is missing, superfluous, of another shape, or not of zeros and ones.
    """
    own = {name: maker_of(layer).mask for name, layer in layers_with(model, MaskedWeight).items()}
    given = {name.removesuffix(_MASK): mask for name, mask in state.items() if name.endswith(_MASK)}
    if not own:
        raise WeightError(f"{type(model).__name__} has no masks to replace: give it some with zoo.layers.make_sparse.")
    for names, place in ((own.keys() - given.keys(), "masks given"), (given.keys() - own.keys(), "network")):
        if names:
            raise WeightError(f"No mask of {', '.join(sorted(names)[:4])} in the {place}: use the same architecture.")
    for name, mask in own.items():
        found = given[name]
        if found.shape != mask.shape:
            raise WeightError(
                f"The mask of {name} has shape {tuple(found.shape)}, not {tuple(mask.shape)}: make both networks "
                "of the same widths, and sparse with the same unit."
            )
        if not torch.all((found == 0) | (found == 1)):
            raise WeightError(f"The mask of {name} has values other than 0 and 1.")
    for name, mask in own.items():
        mask.copy_(given[name].bool())
