"""Symmetric kernels: a part of the kernel is learned, the rest repeats it under a fixed symmetry.

Paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", 2019,
https://arxiv.org/abs/1812.11027. Its code learns a full kernel and ignores what the symmetry overwrites; here only the
part that counts is learned (the *canonical region*), which gives the same function. It also gives the same course of
gradient descent, except for ``wwt``: where the paper's code averages two stored entries, their shared value moves half
as fast as here.

| type | kernel entry at (o, i), for n channels |
| --- | --- |
| ``tri``, ``wwt``, ``evd`` | symmetric: the entry at (min, max) of (o, i) |
| ``quar`` | symmetric about both diagonals |
| ``eight`` | symmetric, and mirrored left-right and up-down |
| ``block4`` | mirrored left-right and up-down |
| ``spa`` | each filter symmetric about its main diagonal |
| ``tri+spa`` | ``tri`` on channels and ``spa`` on taps |
| ``chunk_D_K`` | along dimension D (0 out, 1 in, 2 row, 3 column), a 1/K part repeated K times |

``tri``, ``wwt`` and ``evd`` are one function; they differ in how a full kernel is read (``wwt`` averages the two
mirrored entries, the others take the upper triangle). ``evd`` is a name of the paper's code, where an
eigendecomposition inside the forward pass kept that kernel from ever being trained.
"""

import functools
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ZooError
from .base import make_weight, own_parameter
from .lowrank import LowRankSymmetric

__all__ = ["CHANNEL_TYPES", "TYPES", "SymmetricGates", "SymmetricWeight", "make_symmetric", "symmetric_maker"]

CHANNEL_TYPES = ("tri", "wwt", "evd", "quar", "eight", "block4")
TYPES = (*CHANNEL_TYPES, "spa", "tri+spa", "chunk_D_K", "pdpt")
_CHUNK = re.compile(r"chunk_([0-3])_([1-9]\d*)")


class SymmetricWeight(nn.Module):
    """Makes a kernel by one gather from its canonical region, a matrix (stored taps, stored channel pairs).

    Taps and pairs (o, i) are in row-major order. The matrix has two axes so that optimizers that spare vectors from
    weight decay do not take it for a bias.

    Args:
        shape: Kernel: (out, in, rows, columns), or (out, in) of a matrix.
        symm_type: One of :data:`TYPES`, except ``pdpt``, which :class:`LowRankSymmetric` makes.
        odd_centre: ``"single"``, or ``"reference"`` to repeat the authors' code for odd n: ``eight`` doubles the
            values whose larger folded index is the centre, ``block4`` doubles once for a centre row and once for a
            centre column.

    Raises:
        ZooError: If the type does not exist or does not fit the shape.
    """

    def __init__(self, shape: Sequence[int], symm_type: str = "tri", odd_centre: str = "single"):
        super().__init__()
        check_type(symm_type)
        if odd_centre not in ("single", "reference"):
            raise ZooError(f"odd_centre {odd_centre!r} must be 'single' or 'reference'.")
        self.shape, self.symm_type, self.odd_centre = tuple(shape), symm_type, odd_centre
        _check_shape(self.shape, symm_type)
        self.maps = kernel_maps(self.shape, symm_type, odd_centre)

    @property
    def stored(self) -> tuple[int, int]:
        """(stored taps, stored channel pairs)."""
        return self.maps.stored

    def forward(self, learned: Tensor) -> Tensor:
        """(stored taps, stored channel pairs) -> ``shape``."""
        taps, pairs, factor = self.maps.on(learned.device)
        values = learned if taps is None else learned.index_select(0, taps)
        # Contiguous, so that the gathered kernel is, which convolutions would copy. The axis of 1 has torch take a loop
        # that is 2.5 times as fast for so few columns.
        values = values.t()[None].contiguous()[0]
        values = values if pairs is None else values.index_select(0, pairs)
        values = values if factor is None else values * factor.to(values.dtype)[:, None]
        return values.view(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The nearest kernel with this symmetry: the mean over all entries that are made from one learned value."""
        taps, pairs, factor = self.maps.on(kernel.device)
        values = self._by_tap(kernel).double()
        if factor is not None:
            values = values / factor
        if taps is not None:
            values = _mean_rows(values, taps, self.stored[0])
        if pairs is not None:
            values = _mean_rows(values.t(), pairs, self.stored[1]).t()
        return values.to(kernel.dtype).contiguous()

    def select(self, kernel: Tensor) -> Tensor:
        """The canonical region of a full kernel as the paper's code stores and initialises it; ``wwt`` averages."""
        if self.symm_type == "wwt":
            return self.right_inverse(kernel)
        taps, pairs, _ = _sources(self.shape, self.symm_type)
        taps, pairs = (_own(sources).nonzero().flatten().to(kernel.device) for sources in (taps, pairs))
        return self._by_tap(kernel).index_select(0, taps).index_select(1, pairs)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.symm_type!r}"

    def _by_tap(self, kernel: Tensor) -> Tensor:
        return kernel.reshape(self.shape[0] * self.shape[1], -1).t()


class KernelMaps:
    """Which stored entry each entry of a kernel is made from.

    No buffers: a network that is built without content, averaged or cast has the right ones all the same. They follow
    from the arguments, so that equal layers share them and neither copies nor files hold them.

    Args:
        key: Shape, symmetry type and centre, as :class:`SymmetricWeight` takes them.

    Attributes:
        stored: (stored taps, stored channel pairs).
    """

    def __init__(self, *key):
        self.key = key
        shape, symm_type, odd_centre = key
        taps, pairs, factor = _sources(shape, symm_type)
        self.stored = (int(_own(taps).sum()), int(_own(pairs).sum()))
        quirk = odd_centre == "reference" and bool((factor != 1).any())
        self._by_device = {torch.device("cpu"): (_index(taps), _index(pairs), factor if quirk else None)}

    def on(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Source of each tap, source of each channel pair, factor of each pair; None where it would change nothing."""
        if device in self._by_device:
            return self._by_device[device]
        moved = tuple(t if t is None else t.to(device) for t in self._by_device[torch.device("cpu")])
        if not torch.compiler.is_compiling():  # such tensors are not real ones
            self._by_device[device] = moved
        return moved

    def __deepcopy__(self, memo: dict) -> "KernelMaps":
        return self

    def __reduce__(self):
        return kernel_maps, self.key


@functools.cache
def kernel_maps(shape: tuple[int, ...], symm_type: str, odd_centre: str) -> KernelMaps:
    """The maps of a kind of kernel."""
    return KernelMaps(shape, symm_type, odd_centre)


def _index(sources: Tensor) -> Tensor | None:
    own = _own(sources)
    return None if own.all() else (own.cumsum(0) - 1)[sources]


class SymmetricGates(nn.Module):
    """Makes the weight matrix of a recurrent layer, whose gates are blocks of rows, some of them symmetric.

    The learned vector holds one part per gate, in order: the canonical region, or the whole block row by row.

    Args:
        hidden: Rows of a gate.
        columns: Columns of the matrix; ``hidden`` where any gate is symmetric.
        flags: One character per gate: 1 symmetric, 0 not.
        symm_type: Symmetry of the blocks.
        odd_centre: As in :class:`SymmetricWeight`.
    """

    def __init__(self, hidden: int, columns: int, flags: str, symm_type: str = "wwt", odd_centre: str = "single"):
        super().__init__()
        self.shape, self.flags = (len(flags) * hidden, columns), flags
        self.block = SymmetricWeight((hidden, columns), symm_type, odd_centre)
        symmetric = math.prod(self.block.stored)
        self.sizes = [symmetric if flag == "1" else hidden * columns for flag in flags]

    def forward(self, learned: Tensor) -> Tensor:
        """(stored entries,) -> (gates * hidden, columns)."""
        parts = zip(self.flags, learned.split(self.sizes), strict=True)
        make, shape, stored = self.block, self.block.shape, self.block.stored
        return torch.cat([make(p.view(stored)) if flag == "1" else p.view(shape) for flag, p in parts])

    def right_inverse(self, matrix: Tensor) -> Tensor:
        """The nearest matrix with these symmetries."""
        return self._per_gate(matrix, self.block.right_inverse)

    def select(self, matrix: Tensor) -> Tensor:
        """The canonical regions of a full matrix, see :meth:`SymmetricWeight.select`."""
        return self._per_gate(matrix, self.block.select)

    def _per_gate(self, matrix: Tensor, read) -> Tensor:
        gates = zip(self.flags, matrix.chunk(len(self.flags)), strict=True)
        return torch.cat([(read(gate) if flag == "1" else gate).flatten() for flag, gate in gates])


def check_type(symm_type: str) -> str:
    """Return a symmetry type that exists.

    Raises:
        ZooError: Otherwise; the message lists those that do.
    """
    if symm_type not in TYPES[:-2] and symm_type != "pdpt" and not _CHUNK.fullmatch(str(symm_type)):
        known = ", ".join(name for name in TYPES if name != "chunk_D_K")
        raise ZooError(
            f"Unknown symmetry type {symm_type!r}: choose one of {known}, or chunk_0_2 and the like (dimension 0 to "
            "3, number of equal parts)."
        )
    return symm_type


def symmetric_maker(
    shape: Sequence[int], symm_type: str, odd_centre: str = "single", rank: int | str | None = None
) -> SymmetricWeight | LowRankSymmetric:
    """The maker of a symmetry type.

    Args:
        shape: Kernel.
        symm_type: One of :data:`TYPES`.
        odd_centre: See :class:`SymmetricWeight`.
        rank: See :class:`LowRankSymmetric`; for ``pdpt`` only.

    Raises:
        ZooError: If the type does not exist or an argument does not fit.
    """
    if symm_type == "pdpt":
        return LowRankSymmetric(shape, rank)
    if rank is not None:
        raise ZooError(f"rank belongs to the symmetry type 'pdpt' only, not to {symm_type!r}.")
    return SymmetricWeight(shape, symm_type, odd_centre)


def make_symmetric(
    layer: nn.Module,
    symm_type: str,
    odd_centre: str = "single",
    rank: int | str | None = None,
    project: bool = False,
) -> nn.Module:
    """Let a layer's weight be made symmetric, in place.

    Args:
        layer: Module with a parameter ``weight``.
        symm_type: One of :data:`TYPES`.
        odd_centre: See :class:`SymmetricWeight`.
        rank: See :class:`LowRankSymmetric`.
        project: Start from the nearest symmetric kernel (for trained weights). Otherwise from the entries of the
            canonical region: they keep the variance of random weights, which a mean would reduce.

    Returns:
        ``layer``.

    Raises:
        ZooError: If the type does not exist or does not fit the weight.
    """
    kernel = own_parameter(layer).detach().clone()
    with kernel.device:
        maker = symmetric_maker(kernel.shape, symm_type, odd_centre, rank)
    keep = not project and isinstance(maker, SymmetricWeight)
    return make_weight(layer, maker.to(kernel.dtype), start=maker.select(kernel) if keep else None)


def _check_shape(shape: tuple[int, ...], symm_type: str) -> None:
    if symm_type == "pdpt":
        raise ZooError("Symmetry 'pdpt' is made by LowRankSymmetric, not by SymmetricWeight.")
    if len(shape) not in (2, 4):
        raise ZooError(f"Symmetry {symm_type!r} needs a kernel of 4 dimensions or a matrix; this has {shape}.")
    if symm_type in (*CHANNEL_TYPES, "tri+spa") and shape[0] != shape[1]:
        raise ZooError(
            f"Symmetry {symm_type!r} needs as many input as output channels (of one group); the kernel has {shape}: "
            "'spa' and the chunk types fit others too."
        )
    if symm_type in ("spa", "tri+spa") and (len(shape) != 4 or shape[2] != shape[3]):
        raise ZooError(f"Symmetry {symm_type!r} needs a kernel with as many rows as columns; this has {shape}.")
    if chunk := _CHUNK.fullmatch(symm_type):
        dim, parts = int(chunk[1]), int(chunk[2])
        if dim >= len(shape) or shape[dim] % min(parts, shape[dim]):
            size = f"its size {shape[dim]}" if dim < len(shape) else "no size at all"
            raise ZooError(f"Symmetry {symm_type!r} cuts dimension {dim} of {shape} into {parts}: {size} must divide.")


def _sources(shape: tuple[int, ...], symm_type: str) -> tuple[Tensor, Tensor, Tensor]:
    """Which tap each tap is a copy of, which channel pair each pair, and how the reference scales each pair for odd n.

    All three are on the CPU whatever the default device, since sizes depend on their values.
    """
    rows, columns = shape[2:] if len(shape) == 4 else (1, 1)
    o, i = (torch.arange(shape[dim], device="cpu") for dim in (0, 1))
    r, c = (torch.arange(size, device="cpu") for size in (rows, columns))
    o, i, r, c = o[:, None], i[None], r[:, None], c[None]
    factor = torch.ones(shape[:2], device="cpu")
    if chunk := _CHUNK.fullmatch(symm_type):
        dim, parts = int(chunk[1]), int(chunk[2])
        part = shape[dim] // min(parts, shape[dim])
        o, i, r, c = (x % part if d == dim else x for d, x in enumerate((o, i, r, c)))
    if symm_type in (*CHANNEL_TYPES, "tri+spa"):
        o, i, factor = _channel_source(symm_type, o, i, shape[0])
    if symm_type in ("spa", "tri+spa"):
        r, c = torch.minimum(r, c), torch.maximum(r, c)
    return (r * columns + c).flatten(), (o * shape[1] + i).flatten(), factor.flatten()


def _channel_source(symm_type: str, o: Tensor, i: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    last = n - 1
    one = torch.ones(n, n, device="cpu")
    if symm_type == "block4":
        centre = [(2 * x == last).float() for x in (o, i)]
        return torch.maximum(o, last - o), torch.maximum(i, last - i), (one + centre[0]) * (one + centre[1])
    if symm_type == "eight":
        o, i = torch.minimum(o, last - o), torch.minimum(i, last - i)
    low, high = torch.minimum(o, i), torch.maximum(o, i)
    if symm_type == "eight":
        return low, high, one + (2 * high == last).float()
    if symm_type == "quar":
        beyond = low + high > last
        return torch.where(beyond, last - high, low), torch.where(beyond, last - low, high), one
    return low, high, one


def _own(sources: Tensor) -> Tensor:
    """Which positions are their own source: the canonical region."""
    return sources == torch.arange(sources.numel(), device="cpu")


def _mean_rows(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Average the rows that share an index, (rows, columns) -> (count, columns)."""
    total = values.new_zeros(count, values.shape[1]).index_add(0, index, values)
    sizes = values.new_zeros(count).index_add(0, index, values.new_ones(index.numel()))
    return total / sizes[:, None]
