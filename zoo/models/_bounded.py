"""How large a network would be, before any of its memory is taken."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from ..errors import UnknownNameError, WeightError, ZooError

_TENSORS = 100_000  # of a network; the deepest here has some thousands
WRONG = (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError, MemoryError, AssertionError)
"""What constructors raise for arguments that make no sense."""


@contextlib.contextmanager
def bounded(elements: int, than: str) -> Iterator[None]:
    """Within it, networks are built on the meta device, which takes no memory, and only up to a size.

    Args:
        elements: So many values may be registered as parameters and buffers, those that are replaced again among them.
        than: What a larger network would be larger than.

    Raises:
        WeightError: If a network has more.
    """
    values = tensors = 0

    def count(network: nn.Module, name: str, tensor: Any) -> None:
        nonlocal values, tensors
        values, tensors = values + (tensor.numel() if tensor is not None else 0), tensors + 1
        if values > elements or tensors > _TENSORS:
            raise WeightError(f"it would be larger than {than}")

    handles = [hook(count) for hook in (
        hooks.register_module_parameter_registration_hook, hooks.register_module_buffer_registration_hook
    )]  # fmt: skip
    try:
        with torch.device("meta"):
            yield
    finally:
        for handle in handles:
            handle.remove()


def try_out(what: str, arguments: dict[str, Any], build: Callable[[], nn.Module], elements: int = 0) -> nn.Module:
    """Build a network on the meta device, for its names and shapes, or to see that it can be built at all.

    Args:
        what: What the error calls it.
        arguments: What it is built with, for the error.
        build: Builds it.
        elements: As :func:`bounded`; by default what the machine's memory would hold.

    Raises:
        WeightError: If it cannot be built, or would be too large; one line that has the arguments.
    """
    than = "its file says" if elements else "this machine's memory"
    try:
        with bounded(elements or _memory() // 4, than):
            return build()
    except WRONG as error:
        raise refused(what, arguments, error) from None


def refused(what: str, arguments: dict[str, Any], error: BaseException) -> ZooError:
    """The error for a network that could not be built, in one line with its arguments."""
    if isinstance(error, UnknownNameError):
        return error
    listed = ", ".join(f"{key}={value!r}"[:60] for key, value in arguments.items())
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return WeightError(f"{what} cannot be built{f' with {listed}' if listed else ''}: {reason}.")


def _memory() -> int:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 64 << 30
