"""Arithmetic that does not depend on what surrounds it: no autocast, no inference tensors, no gradients."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the tensors' own data types, without gradients, and make tensors that can be trained afterwards.

    Inside ``torch.autocast`` a kernel would be made in bfloat16, and inside ``torch.inference_mode`` a new network
    could never be trained. Use it as a decorator or in a ``with`` statement.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in _DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def in_double(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device or, where that has no float64 (MPS), on the CPU."""
    device = torch.device("cpu") if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device, torch.float64)


def same_format(tensor: Tensor, like: Tensor) -> Tensor:
    """A contiguous tensor with storage of its own, channels-last if ``like`` is laid out so.

    Args:
        tensor: Any tensor.
        like: Gives the memory format; only four-dimensional tensors can be channels-last.
    """
    wanted = torch.channels_last if tensor.dim() == 4 and is_channels_last(like) else torch.contiguous_format
    return tensor.detach().clone(memory_format=wanted)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is laid out channels-last and not, as kernels of size 1 are, in both formats."""
    return (
        tensor.dim() == 4
        and tensor.layout == torch.strided
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
