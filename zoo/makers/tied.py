"""Tied weights: a short bank, each of whose entries serves at many places of the kernel.

The baseline of Mostafa and Wang (ICML 2019, https://arxiv.org/abs/1902.05967) after "HashedNets" (Chen et al. 2015).
In place of a hash there is a map, drawn once and saved, that uses all entries equally often, and no sign.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ZooError
from .masked import check_sparsity
from .whole import WholeNumbers

TIED_UNITS = ("weight", "kernel")


class TiedWeight(WholeNumbers):
    """Kernel = bank[index], reshaped.

    Args:
        shape: Of the kernel: (out, in, height, width) or (out, in).
        sparsity: Share p of the kernel's n entries that the bank does not have: it has r = round((1 - p) n) rows.
        unit: ``weight`` ties single weights; ``kernel`` ties whole height x width kernels, n = out * in.

    Attributes:
        rows: r.
        shape: Of the kernel.

    Raises:
        ZooError: If the unit does not exist, or the bank would be empty.
    """

    constant = True

    def __init__(self, shape: Sequence[int], sparsity: float = 0.0, unit: str = "weight"):
        super().__init__()
        if unit not in TIED_UNITS:
            raise ZooError(f"Tied weights have units {' and '.join(TIED_UNITS)}, not {unit!r}.")
        self.shape = tuple(shape)
        self.row_shape = self.shape[2:] if unit == "kernel" else (1,)
        positions = math.prod(self.shape) // math.prod(self.row_shape)
        self.rows = round((1 - check_sparsity(sparsity)) * positions)
        if not self.rows:
            raise ZooError(
                f"sparsity {sparsity} leaves no weight of a kernel of shape {self.shape}: choose a lower one."
            )
        index = (torch.arange(positions) % self.rows)[torch.randperm(positions)]
        self._register_whole("index", index.to(torch.int32))

    @property
    def index(self) -> Tensor:
        """Integer buffer (n): the bank's row at every position; every row is used floor(n / r) or ceil(n / r) times.

        Raises:
            ZooError: If it is the average of indices.
        """
        return self.whole()

    @property
    def repeats(self) -> float:
        """Mean number of uses of a row, by which a training may divide the bank's gradient before a step."""
        return self.index.numel() / self.rows

    def forward(self, bank: Tensor) -> Tensor:
        """(rows, 1) or (rows, height, width) -> the kernel."""
        return bank.index_select(0, self.index).reshape(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The bank whose kernel is nearest: each row is the mean over its positions; exact if the kernel is tied."""
        values = kernel.reshape(-1, *self.row_shape)
        bank = values.new_zeros(self.rows, *self.row_shape).index_add(0, self.index, values)
        uses = values.new_zeros(self.rows).index_add(0, self.index, values.new_ones(len(values)))
        return bank / uses.clamp(min=1).reshape(-1, *(1,) * len(self.row_shape))

    def extra_repr(self) -> str:
        return f"rows={self.rows}, shape={self.shape}"
