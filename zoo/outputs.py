"""Running a network once and comparing what two of them return."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .errors import ZooError


def gap_of(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Largest difference of two tensors of one shape, and the same over the largest value of the first."""
    a, b = a.cpu().double(), b.cpu().double()
    gap = (a - b).abs().max().item()
    return gap, gap / max(a.abs().max().item(), 1e-300)


def largest(numbers: list[float]) -> float:
    """The largest number; not a number if any is none."""
    return torch.tensor(numbers, dtype=torch.float64).max().item()


def outputs_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The tensors that a network returns, in order, out of a tensor or any nest of lists, tuples and dictionaries.

    Raises:
        ZooError: If it returns anything else, or cannot run on these inputs.
    """
    try:
        leaves = tree_leaves(model(placed(model, inputs)))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ZooError(
            f"{type(model).__name__} cannot run on {tuple(inputs.shape)} ({' '.join(str(error).split())[:200]}): "
            "give input_size=(channels, height, width), or inputs of its own as example."
        ) from error
    outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [leaf for leaf in leaves if not isinstance(leaf, Tensor | None)]
    if others or not outputs:
        found = type(others[0]).__name__ if others else "nothing"
        raise ZooError(f"{type(model).__name__} returns {found}: only tensors can be compared, or lists of them.")
    return outputs


def placed(model: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs on a network's device and, if they are no indices, in its data type."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), inputs)
    return inputs.to(parameter.device, parameter.dtype if inputs.is_floating_point() else None)
