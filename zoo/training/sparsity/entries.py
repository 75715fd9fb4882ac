"""Steps on the mask entries of a layer, and the sharing out of entries over layers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...makers import learned_of, maker_of


def entries_off(layer: nn.Module) -> Tensor:
    """Flat positions (int64) of the mask entries that are off."""
    return (~maker_of(layer).mask).flatten().nonzero().flatten()


def entries_active(layer: nn.Module) -> Tensor:
    """Flat positions (int64) of the mask entries that are on."""
    return maker_of(layer).mask.flatten().nonzero().flatten()


def smallest_active(layer: nn.Module, count: int) -> Tensor:
    """Flat positions of the ``count`` active entries whose mean magnitude is smallest; the first among equals."""
    active = entries_active(layer)
    scores = maker_of(layer).scores(learned_of(layer)).flatten()[active]
    return active[scores.argsort(stable=True)[:count]]


def active_below(layer: nn.Module, threshold: float) -> Tensor:
    """Flat positions of active entries with a mean magnitude strictly below a threshold, but never of all.

    If all are below, the first in index order is left out.
    """
    active = entries_active(layer)
    below = active[maker_of(layer).scores(learned_of(layer)).flatten()[active] < threshold]
    return below[1:] if len(below) == len(active) else below


@torch.no_grad()
def switch(layer: nn.Module, positions: Tensor, on: bool) -> None:
    """Switch mask entries on or off, in place."""
    mask = maker_of(layer).mask
    flat = mask.flatten()  # a copy in row-major order where the mask's memory is in another, such as channels_last
    flat[positions] = on
    mask.copy_(flat.view(mask.shape))


@torch.no_grad()
def clear_inactive(layer: nn.Module, redraw: torch.Generator | None = None) -> None:
    """Set the weights that are off to zero, in place, or draw them anew.

    Args:
        layer: With a masked weight of shape S.
        redraw: If given, they become normal numbers of variance 2 / (height * width * out) in a convolution and of
            standard deviation 1 / sqrt(in) in a linear layer.
    """
    learned, mask = learned_of(layer), maker_of(layer).mask
    off = ~mask.reshape(*mask.shape, *(1,) * (learned.dim() - mask.dim()))
    if redraw is None:
        learned.masked_fill_(off, 0)
        return
    shape = learned.shape
    std = math.sqrt(2 / (shape[0] * math.prod(shape[2:]))) if len(shape) > 2 else 1 / math.sqrt(shape[1])
    drawn = std * torch.randn(shape, generator=redraw)
    learned.copy_(torch.where(off, drawn.to(learned), learned))


def draw(positions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the positions, uniformly without replacement."""
    return positions[torch.randperm(len(positions), generator=generator)[:count].to(positions.device)]


def allot(total: int, shares: Sequence[int], room: Sequence[int], generator: torch.Generator) -> list[int]:
    """Share out entries over layers (section 3 of the paper, with the published code's rounding).

    Each layer is given its share, rounded half to even, of the total; the rounding difference goes to a layer drawn at
    random, which is not given less than 0. What finds no room is shared out again by the same shares. Layers that are
    full are left out then: giving them their share again and again would come to the same, if rounding let it come to
    an end.

    Args:
        total: Number of entries.
        shares: Of the layers, in any unit.
        room: The most that each layer can take.
        generator: For the draw.

    Returns:
        What each layer takes: ``total`` in all, or everything that there is room for.
    """
    placed = [0] * len(room)
    layers = list(range(len(room)))
    while (left := total - sum(placed)) > 0 and sum(room) > sum(placed):
        parts = [shares[i] for i in layers]
        if not sum(parts):
            parts = [1] * len(layers)
        counts = [round(left * part / sum(parts)) for part in parts]
        if sum(counts) != left:
            lucky = int(torch.randint(len(layers), (1,), generator=generator))
            counts[lucky] = max(0, counts[lucky] + left - sum(counts))
        for i, count in zip(layers, counts, strict=True):
            placed[i] += min(count, room[i] - placed[i], total - sum(placed))
        layers = [i for i in range(len(room)) if placed[i] < room[i]]
    return placed
