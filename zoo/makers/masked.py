"""Sparse weights: a full-size learned tensor times a mask.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967. Which entries are on may change during training;
code that moves them reads and writes three things here: the learned tensor (``zoo.makers.learned_of``),
:attr:`MaskedWeight.mask`, and the scores of :meth:`MaskedWeight.scores`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ZooError
from .hooks import check_values
from .whole import WholeNumbers

UNITS = {"weight": 4, "row": 3, "kernel": 2, "filter": 1}
"""What one mask entry switches, and how many axes of a convolution's weight the mask then has."""


def mask_shape(shape: Sequence[int], unit: str = "weight") -> tuple[int, ...]:
    """Shape of the mask of a weight: the first axes of ``shape``, or all of them for a linear layer's matrix.

    Args:
        shape: Of the weight: (out, in, height, width), with one or three axes in place of the last two for
            convolutions of one or three dimensions, or (out, in).
        unit: One of :data:`UNITS`.

    Raises:
        ZooError: If there is no such unit.
    """
    axes = {"weight": len(shape), "row": len(shape) - 1} | {u: UNITS[u] for u in ("kernel", "filter")}
    return tuple(shape) if len(shape) <= 2 else tuple(shape[: axes[check_unit(unit)]])


def check_unit(unit: str) -> str:
    """Return ``unit`` if it is one of :data:`UNITS`.

    Raises:
        ZooError: If there is no such unit.
    """
    if not isinstance(unit, str) or unit not in UNITS:
        raise ZooError(f"Sparse weights have units {', '.join(UNITS)}, not {unit!r}.")
    return unit


def entries_on(entries: int, sparsity: float) -> int:
    """How many of a mask's entries a sparsity leaves on: floor((1 - p) n + 0.1).

    The 0.1, the published code's, makes up for products such as 0.1 * 10 that fall short of an integer.
    """
    return int((1 - check_sparsity(sparsity)) * entries + 0.1)


def check_sparsity(sparsity: float) -> float:
    """Return ``sparsity`` if it is one.

    Raises:
        ZooError: If it is not a number from 0 to below 1.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise ZooError(
            f"A sparsity is the share of weights that are off, a number from 0 to below 1, not {sparsity!r}."
        )
    return sparsity


class MaskedWeight(WholeNumbers):
    """Kernel = learned tensor * mask (section 3 of the paper).

    The learned tensor may be anything where the mask is off: neither the kernel nor any gradient sees it.

    Args:
        shape: Of the kernel, S.
        sparsity: Share of mask entries that are off; the others are drawn uniformly without replacement.
        unit: What an entry switches, one of :data:`UNITS`.
        on: Number of entries that are on, if not what ``sparsity`` gives.

    Attributes:
        weights_per_entry: Weights that one entry switches.
        planned: Weights that were on when it was made.
    """

    def __init__(self, shape: Sequence[int], sparsity: float = 0.0, unit: str = "weight", on: int | None = None):
        super().__init__()
        switched = mask_shape(shape, unit)
        entries = math.prod(switched)
        on = entries_on(entries, sparsity) if on is None else on
        self.weights_per_entry = math.prod(shape) // entries
        self.planned = on * self.weights_per_entry
        mask = torch.ones(entries, dtype=torch.bool)
        if on < entries:
            mask[torch.randperm(entries)[on:]] = False
        self._register_whole("mask", mask.view(switched))

    @property
    def mask(self) -> Tensor:
        """Boolean buffer of shape S[:granularity]; True is on. Change it in place.

        Raises:
            ZooError: If it is the average of different masks.
        """
        return self.lend()

    @property
    def granularity(self) -> int:
        """Number of axes of the mask, the published code's ``sub-kernel-granularity``."""
        return self.whole().dim()

    @property
    def active(self) -> int:
        """Number of weights that are on.

        Raises:
            ZooError: If the mask has no values.
        """
        check_values(self)
        return int(self.whole().sum()) * self.weights_per_entry

    def forward(self, learned: Tensor) -> Tensor:
        """(S) -> (S), zero where the mask is off."""
        mask = self.whole()
        # As whole numbers: the product takes a CPU a third of one with bool. No graph can record that without a copy.
        eager = type(mask) is Tensor and not torch.jit.is_tracing()
        mask = mask.view(torch.uint8) if eager else mask.to(torch.uint8)
        more = learned.dim() - mask.dim()
        return learned * (mask.reshape(*mask.shape, *(1,) * more) if more else mask)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The kernel itself; what the mask covers is kept but has no effect."""
        return kernel

    def scores(self, learned: Tensor) -> Tensor:
        """Mean magnitude of the weights of each entry, in the mask's shape; for entries that are off as well."""
        return learned.detach().abs().reshape(*self.whole().shape, -1).mean(-1)

    @torch.no_grad()
    def keep_largest_(self, learned: Tensor, on: int) -> None:
        """Magnitude pruning: leave on the ``on`` entries whose scores are largest, whatever the mask was."""
        mask = torch.zeros(self.mask.numel(), dtype=torch.bool, device=self.mask.device)
        mask[self.scores(learned).flatten().topk(on).indices] = True
        self.mask.copy_(mask.view(self.mask.shape))

    def extra_repr(self) -> str:
        return f"mask={tuple(self.whole().shape)}, weights_per_entry={self.weights_per_entry}"
