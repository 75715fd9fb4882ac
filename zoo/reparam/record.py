"""The equivalence record: in numbers, how equal two networks are, and what the second one costs."""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..counting import count_macs
from ..errors import ZooError


@dataclass(frozen=True)
class Difference:
    """Scores of two networks on the same images.

    Attributes:
        input: ``random`` or what the caller called the images.
        dtype: ``float64`` or ``float32``.
        n: Number of images.
        max_absolute: Largest difference of a score.
        max_relative: The same over the largest score.
        top1_agreement: Percent of images with the same first guess.
    """

    input: str
    dtype: str
    n: int
    max_absolute: float
    max_relative: float
    top1_agreement: float


@dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: Learnable parameters, each tensor once.
        macs: Multiply-accumulates of its convolution and linear layers for one image.
        bytes: Parameters and buffers in their own data types.
    """

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class EquivalenceRecord:
    """Differences on each input in each precision, and costs before and after."""

    differences: tuple[Difference, ...]
    before: Cost
    after: Cost

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def equivalence_record(
    before: nn.Module, after: nn.Module, real: Tensor | None = None, batch: int = 8, seed: int = 0
) -> EquivalenceRecord:
    """Compare two networks in eval mode.

    Args:
        before: The first.
        after: The second.
        real: Prepared images, to compare on these too.
        batch: Number of random images.
        seed: Of the random images.

    Returns:
        The record; both networks are as they were.

    Raises:
        ZooError: If it is not known what images the networks take.
    """
    size = input_size_of(before)
    random = torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    device = next(before.parameters()).device
    differences = []
    for dtype in (torch.float64, torch.float32):
        first, second = (copy.deepcopy(model).eval().to(dtype) for model in (before, after))
        for name, images in (("random", random), ("real", real)):
            if images is None:
                continue
            a, b = (model(images.to(device, dtype)).double() for model in (first, second))
            gap = (a - b).abs().max().item()
            differences.append(
                Difference(
                    input=name,
                    dtype=str(dtype).removeprefix("torch."),
                    n=len(images),
                    max_absolute=gap,
                    max_relative=gap / max(a.abs().max().item(), 1e-300),
                    top1_agreement=100 * (a.argmax(1) == b.argmax(1)).double().mean().item(),
                )
            )
    return EquivalenceRecord(tuple(differences), cost(before, size), cost(after, size))


def cost(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """What one network takes."""
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, input_size),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def input_size_of(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images a network takes, from its timm configuration and first convolution.

    Raises:
        ZooError: If it has no such configuration.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg or "input_size" not in cfg:
        raise ZooError(
            "It is not known what images this network takes: compare a network made by timm.create_model, or pass "
            "one with a pretrained_cfg that has input_size."
        )
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), cfg["input_size"][0])
    return (channels, *cfg["input_size"][1:])
