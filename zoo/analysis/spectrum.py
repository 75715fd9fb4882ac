"""Singular values of kernels: how much of its rank a layer uses."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ZooError
from ..layers.paradise import MixedConv2d, PDAConv2d
from ..precision import full_precision
from .branches import branch_kernels


@full_precision()
def kernel_spectra(model: nn.Module) -> list[dict[str, Any]]:
    """Singular values of each convolution's and linear layer's kernel as a matrix (out, in * taps), in float64.

    Returns:
        Of each layer, in the network's order: ``layer``; ``shape`` of the kernel; ``makers`` of it, by class;
        ``values``, descending; ``rank``, how many differ from 0 in the kernel's own precision; ``rank_90`` and
        ``rank_99``, how many the first of them carry 90 % and 99 % of the sum of squares. The branches of a ParaDise
        layer count as their sum, that is with equal gates.

    Raises:
        ZooError: If a kernel has a value that is not finite.
    """
    found, inside = [], set()
    for name, layer in model.named_modules():
        if layer in inside:
            continue
        makers = []
        if isinstance(layer, PDAConv2d | MixedConv2d):
            inside |= set(layer.modules())
            kernel, makers = sum(branch_kernels(layer).values()), [type(layer).__name__]
            precision = next(p.dtype for p in layer.parameters())
        elif isinstance(layer, _ConvNd | nn.Linear):
            if is_parametrized(layer, "weight"):
                makers = [type(maker).__name__ for maker in layer.parametrizations.weight]
            kernel = layer.weight.detach()
            precision = kernel.dtype
        else:
            continue
        if not kernel.isfinite().all():
            raise ZooError(f"{name}: the kernel has values that are not finite.")
        values = torch.linalg.svdvals(kernel.double().flatten(1)).cpu()
        rounding = max(kernel.flatten(1).shape) * torch.finfo(precision).eps
        found.append(
            {
                "layer": name,
                "shape": list(kernel.shape),
                "makers": makers,
                "rank": int((values > rounding * values[0]).sum()),
                "rank_90": _carrying(values, 0.9),
                "rank_99": _carrying(values, 0.99),
                "values": [float(f"{value:.6g}") for value in values.tolist()],
            }
        )
    return found


def _carrying(values: Tensor, share: float) -> int:
    """How many of the descending values carry a share of the sum of squares; 0 if all are 0."""
    energy = values.square().cumsum(0)
    return int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1 if energy[-1] > 0 else 0
