"""What a transformation did, or would do: layer by layer, and in all."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..layers.paradise import MixedConv2d, PDAConv2d
from ..makers.base import made_tensors, maker_of
from ..makers.masked import MaskedWeight
from ..reparam.counts import count_macs
from ..reparam.walk import plain_copy
from ..tables import table
from .flow import without_values
from .target import Change

_BRANCHED = (PDAConv2d, MixedConv2d)


@dataclass(frozen=True)
class Size:
    """What a network takes.

    Attributes:
        parameters: Entries of all learnable tensors, each tensor once; weights that are switched off are among them.
        on: The same without weights that a mask switches off.
        macs: Multiply-accumulates of one image; None for a network that cannot be counted.
        bytes: Of all tensors in its state dict; a safetensors file has a header of some KB besides.
    """

    parameters: int
    on: int
    macs: int | None
    bytes: int


@dataclass(frozen=True)
class Report:
    """What a transformation did to a network, or would do.

    Attributes:
        transform: The transformation as a string.
        changes: Layer by layer, those left alone among them with the reason.
        before: What the network took.
        after: What the transformed one takes in training.
        collapsed: What the network takes that ``zoo.reparameterize`` makes of it.
        inference: What that is, in words.
        kernel_error: Relative error of all kernels that a step changed (Frobenius norm), of several steps the root of
            the sum of the squares; 0 if the transformed network computes the same function; None if nothing has values
            yet.
    """

    transform: str
    changes: tuple[Change, ...]
    before: Size
    after: Size
    collapsed: Size
    inference: str
    kernel_error: float | None

    @property
    def changed(self) -> tuple[Change, ...]:
        """The layers that were changed."""
        return tuple(change for change in self.changes if change.changed)

    @property
    def left_alone(self) -> dict[str, str]:
        """The reason for each layer that no step changed."""
        done = {change.name for change in self.changed}
        return {change.name: change.note for change in self.changes if change.name not in done}

    @property
    def exact(self) -> bool | None:
        """Whether the transformed network computes the same function in eval mode; None if it has no values yet."""
        return None if self.kernel_error is None else self.kernel_error == 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"exact": self.exact}

    def __str__(self) -> str:
        rows = [
            (c.name, "x".join(map(str, c.shape)), c.kind if c.changed else "-", c.note, _error(c.error))
            for c in self.changes
        ]
        sizes = [
            (word, f"{s.parameters:,}", f"{s.on:,}", "?" if s.macs is None else f"{s.macs:,}", f"{s.bytes:,}")
            for word, s in (("before", self.before), ("transformed", self.after), ("collapsed", self.collapsed))
        ]
        changed = len({change.name for change in self.changed})
        lines = [
            f"{self.transform}: {changed} layers changed, {len(self.left_alone)} left alone",
            "",
            table(rows, ("layer", "kernel", "kind", "what or why", "error")) if rows else "No convolution.",
            "",
            table(sizes, ("", "parameters", "not switched off", "multiply-adds", "bytes")),
            "",
            f"For inference: {self.inference}.",
        ]
        if self.kernel_error is not None:
            words = "the same function" if self.exact else f"kernels differ by {self.kernel_error:.4f}"
            lines.append(f"It starts from the weights there were: {words} (relative Frobenius norm).")
        return "\n".join(lines)


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.4f}" if error else "0"


def size_of(model: nn.Module, image: tuple[int, int, int], before: Size | None = None) -> Size:
    """What a network takes; it may be on the meta device.

    Args:
        model: The network.
        image: (channels, height, width).
        before: What the network took that it was made from: other kernels do not change its multiply-adds, branches do.
    """
    masks: dict[int, MaskedWeight] = {}
    for _, layer, name in made_tensors(model):
        maker = maker_of(layer, name)
        if isinstance(maker, MaskedWeight):
            masks[id(layer.parametrizations[name].original)] = maker
    off = 0
    for maker in masks.values():
        off += math.prod(maker.whole().shape) * maker.weights_per_entry - maker.planned
    parameters = sum(p.numel() for p in model.parameters())
    return Size(
        parameters=parameters,
        on=parameters - off,
        macs=before.macs
        if before and not any(isinstance(m, _BRANCHED) for m in model.modules())
        else _macs(model, image),
        bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    )


def _macs(model: nn.Module, image: tuple[int, int, int]) -> int | None:
    try:
        return count_macs(model, image)
    except Exception:  # some networks compute with numbers of tensors, which a network without values has none of
        return None


def inference_of(plain: nn.Module) -> str:
    """A collapsed network in words."""
    gated = sum(isinstance(module, MixedConv2d) for module in plain.modules())
    same = "the architecture it began as, of plain layers"
    return same if not gated else f"the architecture it began as, but {gated} convolutions stay gated by the input"


@torch.no_grad()
def collapsed_size(model: nn.Module, image: tuple[int, int, int], before: Size) -> tuple[Size, str]:
    """What the collapsed network takes, and what it is."""
    plain = plain_copy(without_values(model).eval())
    return size_of(plain, image, before), inference_of(plain)


def total_error(squares: Sequence[Sequence[float]], has_values: bool) -> float | None:
    """The relative error of the kernels that several steps changed, each (square of the change, of the kernels)."""
    return math.sqrt(sum(a / b for a, b in squares if b)) if has_values else None
