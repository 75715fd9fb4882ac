"""Penalties on sparse and tied weights; dense layers are never penalised."""

from collections.abc import Iterable

from torch import Tensor, nn

from ...makers import learned_of, maker_of
from ...makers.tied import TiedWeight

SMALL = 1e-12
"""Added below the root, so that its gradient is finite at 0."""


def penalty(layers: Iterable[nn.Module], group_lasso: bool = False) -> Tensor:
    """Sum of the magnitudes of all learned numbers (weights that are off included), or of kernels' lengths.

    Args:
        layers: Layers with sparse or tied weights.
        group_lasso: For convolutions, the sum over (out, in) of the root of the sum of squares of each kernel
            (height, width) + 1e-12, of a tied layer's expanded weight; linear layers as without.

    Returns:
        Scalar, differentiable.
    """
    terms = []
    for layer in layers:
        learned = learned_of(layer)
        kernels = layer.weight if isinstance(maker_of(layer), TiedWeight) and group_lasso else learned
        if group_lasso and kernels.dim() == 4:
            terms.append((kernels.square().sum((2, 3)) + SMALL).sqrt().sum())
        else:
            terms.append(learned.abs().sum())
    return sum(terms)
