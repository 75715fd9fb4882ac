"""Kernels of low rank: symmetric ones, stored as eigenvalues and eigenvectors per tap, and products of two factors.

Symmetric, paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", 2019,
https://arxiv.org/abs/1812.11027; its code calls the type ``pdpt``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ZooError


class LowRankSymmetric(nn.Module):
    """Makes each tap of a kernel as V diag(e) V^T, with e of ``rank`` entries.

    The learned matrix has a row per tap: e, (rank,), followed by V, (n, rank), row-major. Nothing keeps the columns of
    V orthonormal.

    Args:
        shape: Kernel, (n, n, rows, columns) or (n, n).
        rank: Rank of each tap, 1 to n; None for n // 2 (at least 1). ``"reference"`` is n // 2 - 1, the rank of the
            authors' code, which drops the largest eigenvalue; it is 0, a zero kernel, at n = 2.

    Raises:
        ZooError: If the kernel is not square in its channels, or the rank does not exist.
    """

    def __init__(self, shape: Sequence[int], rank: int | str | None = None):
        super().__init__()
        self.shape = tuple(shape)
        n = self.shape[0]
        if len(self.shape) < 2 or n != self.shape[1]:
            raise ZooError(f"Symmetry 'pdpt' needs as many input as output channels; the kernel has {self.shape}.")
        if rank == "reference":
            if n < 2:
                raise ZooError("Symmetry 'pdpt' has no reference rank for one channel: choose a wider network.")
            rank = n // 2 - 1
        elif rank is None:
            rank = max(1, n // 2)
        elif isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= n:
            raise ZooError(f"rank {rank!r} must be an integer from 1 to {n}, None (half of it) or 'reference'.")
        self.taps, self.rank = math.prod(self.shape[2:]), rank

    def forward(self, learned: Tensor) -> Tensor:
        """(taps, rank * (n + 1)) -> ``shape``."""
        values, vectors = self.unpack(learned)
        kernel = (vectors * values[:, None]) @ vectors.transpose(1, 2)
        return kernel.permute(1, 2, 0).reshape(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The nearest symmetric kernel of this rank: the eigenvalues of largest size of (A + A^T) / 2, tap by tap."""
        taps = kernel.flatten(2).permute(2, 0, 1) if kernel.dim() > 2 else kernel[None]
        taps = taps.double()
        values, vectors = torch.linalg.eigh((taps + taps.transpose(1, 2)) / 2)
        largest = values.abs().argsort(1, descending=True)[:, : self.rank]
        values = values.gather(1, largest)
        vectors = vectors.gather(2, largest[:, None].expand(-1, self.shape[0], -1))
        return self.pack(values, vectors).to(kernel.dtype)

    def select(self, kernel: Tensor) -> Tensor:
        """What to learn from a freshly drawn kernel: its projection."""
        return self.right_inverse(kernel)

    def pack(self, values: Tensor, vectors: Tensor) -> Tensor:
        """(taps, rank) and (taps, n, rank) -> the learned matrix."""
        return torch.cat([values, vectors.flatten(1)], 1)

    def unpack(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """The learned matrix -> eigenvalues (taps, rank) and eigenvectors (taps, n, rank)."""
        return learned[:, : self.rank], learned[:, self.rank :].unflatten(1, (self.shape[0], self.rank))

    def extra_repr(self) -> str:
        return f"{self.shape}, rank={self.rank}"


class LowRankWeight(nn.Module):
    """Makes a kernel, as a matrix (out, in * rows * columns), as the product of two factors.

    The learned matrix (rank, out + in * rows * columns) has the left factor transposed, then the right one.

    Args:
        shape: Of the kernel: (out, in, rows, columns) or (out, in).
        rank: An integer from 1 (at most the smaller side of the matrix is taken), or a share of that side, from above 0
            to below 1.

    Raises:
        ZooError: If there is no such rank.
    """

    def __init__(self, shape: Sequence[int], rank: int | float):
        super().__init__()
        self.shape = tuple(shape)
        self.sides = (self.shape[0], math.prod(self.shape[1:]))
        self.rank = rank_of(self.sides, rank)

    def forward(self, learned: Tensor) -> Tensor:
        """(rank, out + in * rows * columns) -> ``shape``."""
        left, right = learned.split(self.sides, 1)
        return (left.t() @ right).view(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The nearest kernel of this rank, with both factors of one norm: the singular values of largest size.

        Where one is zero only the right factor is, so that there is a gradient.
        """
        left, right = leading_factors(kernel.reshape(self.sides).double(), self.rank)
        norms = right.norm(dim=1)
        root = norms.where(norms > 0, 1).sqrt()
        return torch.cat([left.t() * root[:, None], right / root[:, None]], 1).to(kernel.dtype)

    def extra_repr(self) -> str:
        return f"{self.shape}, rank={self.rank}"


def leading_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of two factors (m, rank) and (rank, n) to a matrix (m, n): its leading singular vectors.

    They are those of the smaller side's Gram matrix, which takes a small part of the time of a full decomposition. The
    columns of the left factor are orthonormal, the rows of the right one orthogonal with the singular values as norms.

    Raises:
        ZooError: If a value is not finite.
    """
    if not matrix.is_meta and not matrix.isfinite().all():
        raise ZooError("A kernel has values that are not finite: nothing comes near it.")
    if matrix.shape[0] <= matrix.shape[1]:
        left = torch.linalg.eigh(matrix @ matrix.t())[1].flip(1)[:, :rank]
        return left, left.t() @ matrix
    right = torch.linalg.eigh(matrix.t() @ matrix)[1].flip(1)[:, :rank]
    left = matrix @ right
    norms = left.norm(dim=0).clamp_min(torch.finfo(matrix.dtype).tiny)
    return left / norms, norms[:, None] * right.t()


def rank_of(sides: Sequence[int], rank: int | float) -> int:
    """A rank as a number, of a matrix with these sides; see :class:`LowRankWeight`."""
    least = min(sides)
    if isinstance(rank, float) and 0 < rank < 1:
        return max(1, round(rank * least))
    if isinstance(rank, bool) or not isinstance(rank, int) or not rank >= 1:
        raise ZooError(f"rank {rank!r} must be an integer from 1, or a share of the full rank from above 0 to below 1.")
    return min(rank, least)
