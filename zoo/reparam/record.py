"""The equivalence record: in numbers, how equal two networks are, and what the second one costs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ZooError
from ..makers.hooks import check_values, copy_of
from ..outputs import gap_of, largest, outputs_of, placed
from ..precision import full_precision
from .counts import Cost, cost


@dataclass(frozen=True)
class Difference:
    """Outputs of two networks for the same inputs.

    Attributes:
        input: ``random``, ``example`` or ``real``.
        dtype: ``float64`` or ``float32``.
        n: Number of images.
        max_absolute: Largest difference of an output.
        max_relative: The same over the largest output; of several outputs, such as feature maps, that of the worst.
        top1_agreement: Percent of images with the same first guess; None if no output is (images, classes).
    """

    input: str
    dtype: str
    n: int
    max_absolute: float
    max_relative: float
    top1_agreement: float | None


@dataclass(frozen=True)
class EquivalenceRecord:
    """Differences on each input in each precision, and costs before and after."""

    differences: tuple[Difference, ...]
    before: Cost
    after: Cost

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@full_precision()
def equivalence_record(
    before: nn.Module,
    after: nn.Module,
    real: Tensor | None = None,
    batch: int = 8,
    seed: int = 0,
    input_size: tuple[int, int, int] | None = None,
    example: Tensor | None = None,
) -> EquivalenceRecord:
    """Compare two networks in eval mode, whatever autocast surrounds the call.

    Args:
        before: The first; it may return a tensor, or a list, tuple or dictionary of them.
        after: The second.
        real: Prepared images, to compare on these too.
        batch: Number of random images.
        seed: Of the random images.
        input_size: (channels, height, width) of the random images; by default read off the first network.
        example: Inputs (batch, ...) in place of random images.

    Returns:
        The record; both networks are as they were.

    Raises:
        ZooError: If it is not known what images the networks take, or one cannot run on them or has no values.
    """
    for model in (before, after):
        check_values(model)
    first_name = "random" if example is None else "example"
    if example is None:
        example = random_images(before, batch, seed, input_size)
    for name, inputs in (("example", example), ("real", real)):
        if inputs is not None and not (isinstance(inputs, Tensor) and inputs.dim() and len(inputs)):
            found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ZooError(f"{name} is a tensor of inputs, whose first axis is the batch, not {found}.")
    differences = []
    for dtype in (torch.float64, torch.float32):
        first, second = (copy_of(model).eval().to(dtype) for model in (before, after))
        outputs_of(first, example[:1])  # fails, in a line, without a batch axis
        for name, inputs in ((first_name, example), ("real", real)):
            if inputs is not None:
                a, b = outputs_of(first, inputs), outputs_of(second, inputs)
                differences.append(_difference(name, dtype, len(inputs), a, b))
    one = example[:1]
    return EquivalenceRecord(tuple(differences), cost(before, placed(before, one)), cost(after, placed(after, one)))


def _difference(name: str, dtype: torch.dtype, n: int, a: list[Tensor], b: list[Tensor]) -> Difference:
    if [x.shape for x in a] != [x.shape for x in b]:
        shapes = [", ".join(str(tuple(x.shape)) for x in outputs) for outputs in (a, b)]
        raise ZooError(f"The networks have outputs of other shapes: {shapes[0]} and {shapes[1]}.")
    gaps = [gap_of(x, y) for x, y in zip(a, b, strict=True)]
    same = [(x.argmax(1) == y.argmax(1)).double().mean() for x, y in zip(a, b, strict=True) if x.dim() == 2]
    return Difference(
        input=name,
        dtype=str(dtype).removeprefix("torch."),
        n=n,
        max_absolute=largest([absolute for absolute, _ in gaps]),
        max_relative=largest([relative for _, relative in gaps]),
        top1_agreement=100 * torch.stack(same).mean().item() if same else None,
    )


def random_images(
    model: nn.Module, batch: int, seed: int = 0, input_size: tuple[int, int, int] | None = None
) -> Tensor:
    """Standard normal images of a network's size, float64 on the CPU, (batch, channels, height, width)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    size = input_size_of(model) if input_size is None else input_size
    if not isinstance(size, Sequence) or len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ZooError(f"input_size is (channels, height, width), three integers from 1, not {size!r}.")
    return torch.randn(batch, *size, generator=generator, dtype=torch.float64, device="cpu")


def _count(module: nn.Module) -> int:
    return sum(1 for _ in module.parameters())


def input_size_of(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images a network takes.

    Channels are those of its first convolution; sides those that a part with an ``img_size`` was built for (timm's
    patch embeddings), else those of the timm configuration of the network, or of a part that has all its parameters
    (data parallel, a normalisation before it).

    Raises:
        ZooError: If it has no such configuration.
    """
    modules = list(model.modules())
    cfgs = [m.pretrained_cfg or {} for m in modules if hasattr(m, "pretrained_cfg") and _count(m) == _count(model)]
    size = next((cfg["input_size"] for cfg in cfgs if "input_size" in cfg), None)
    if size is None:
        raise ZooError(
            "It is not known what images this network takes: give input_size=(channels, height, width), or inputs of "
            "its own as example."
        )
    channels = next((m.in_channels for m in modules if isinstance(m, nn.Conv2d)), size[0])
    built = (getattr(module, "img_size", None) for module in modules)
    sides = next((sides for sides in built if isinstance(sides, tuple | list) and len(sides) == 2), size[1:])
    return (channels, *sides)
