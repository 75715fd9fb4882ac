"""Whether layers that get their makers have values: a network whose tensors are yet to be loaded needs none."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_TO_COME = ContextVar("to_come", default=False)


def to_come() -> bool:
    """Whether the values of the layers that are being built are yet to be loaded, all of them."""
    return _TO_COME.get()


@contextlib.contextmanager
def loaded_later() -> Iterator[None]:
    """Within it no kernel is made to see whether a maker fits its layer, and nothing is noted of values."""
    token = _TO_COME.set(True)
    try:
        yield
    finally:
        _TO_COME.reset(token)
