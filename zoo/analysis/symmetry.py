"""Which entries of a kernel are one learned value: symmetric and tied kernels."""

from typing import Any

import torch
from torch import Tensor, nn

from ..makers.base import learned_of, made_tensors
from ..makers.lowrank import LowRankSymmetric
from ..makers.symmetric import SymmetricWeight
from ..makers.tied import TiedWeight


def value_of_entries(maker: nn.Module) -> Tensor | None:
    """Which learned value each entry of a kernel repeats.

    Args:
        maker: Of a layer's weight.

    Returns:
        int64, of the kernel's shape: entries with one number are always equal. None if the maker repeats no value. Of
        low-rank symmetric kernels it is the symmetry, since each entry is computed from several learned values.
    """
    if isinstance(maker, LowRankSymmetric):
        maker = SymmetricWeight(maker.shape, "tri")
    if isinstance(maker, SymmetricWeight):
        maker, stored = SymmetricWeight(maker.shape, maker.symm_type), maker.stored  # without the factors of a centre
    elif isinstance(maker, TiedWeight):
        stored = (maker.rows, *maker.row_shape)
    else:
        return None
    device = maker.index.device if isinstance(maker, TiedWeight) else "cpu"
    return maker(torch.arange(torch.Size(stored).numel(), device=device).view(stored)).cpu()


@torch.no_grad()
def symmetry_patterns(model: nn.Module) -> dict[str, list[dict[str, Any]]]:
    """What each kernel repeats, and for each kind of symmetry one pattern, that of its smallest kernel.

    Returns:
        ``layers``: of each its name, ``kind``, ``shape``, ``entries``, ``learned`` values and ``served``, how many
        values stand at so many entries. ``patterns``: ``channels``, the number of the value at each (out, in) of the
        first tap; ``taps``, the same at each (row, column) of one filter (empty for a matrix); and ``kernel``, the
        entries of the middle tap. Both lists are empty if no kernel repeats a value.
    """
    layers, smallest = [], {}
    for name, layer, tensor in made_tensors(model):
        for maker in layer.parametrizations[tensor]:
            ids = value_of_entries(maker)
            if ids is None:
                continue
            kind = "tied" if isinstance(maker, TiedWeight) else getattr(maker, "symm_type", "pdpt")
            counts = ids.flatten().unique(return_counts=True)[1].unique(return_counts=True)
            layers.append(
                {
                    "layer": name,
                    "kind": kind,
                    "shape": list(ids.shape),
                    "entries": ids.numel(),
                    "learned": learned_of(layer, tensor).numel(),
                    "served": {str(times): values for times, values in zip(*(c.tolist() for c in counts), strict=True)},
                }
            )
            if kind not in smallest or ids.numel() < smallest[kind][1].numel():
                smallest[kind] = name, ids, getattr(layer, tensor).detach()
    return {"layers": layers, "patterns": [_pattern(kind, *found) for kind, found in smallest.items()]}


def _pattern(kind: str, name: str, ids: Tensor, kernel: Tensor) -> dict[str, Any]:
    first = ids.flatten(2)[:, :, 0] if ids.dim() > 2 else ids
    taps = ids[0, min(1, ids.shape[1] - 1)] if ids.dim() == 4 else ids.new_empty(0)
    middle = kernel.flatten(2) if kernel.dim() > 2 else kernel[:, :, None]
    return {
        "layer": name,
        "kind": kind,
        "channels": _numbered(first).tolist(),
        "taps": _numbered(taps).tolist(),
        "kernel": [[float(f"{v:.5g}") for v in row] for row in middle[:, :, middle.shape[2] // 2].tolist()],
    }


def _numbered(ids: Tensor) -> Tensor:
    """The same pattern, with numbers from 0."""
    return ids.unique(return_inverse=True)[1]
