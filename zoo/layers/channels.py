"""Operations on the channel axis: shuffle, repetition, and a check of the map's size."""

import torch
from torch import Tensor

from ..errors import ZooError


def interleave_halves(x: Tensor, swap: bool = False) -> Tensor:
    """Two-group channel shuffle.

    Works on the channels-last view, where it is one copy in either memory format.

    Args:
        x: (batch, channels, height, width), channels even.
        swap: Swap the halves first, as LruNet does.

    Returns:
        The same shape. Output channels 2k and 2k + 1 are input channels k and channels / 2 + k, with ``swap`` the
        other way round.
    """
    first, second = x.permute(0, 2, 3, 1).chunk(2, -1)
    pair = [second, first] if swap else [first, second]
    return torch.stack(pair, -1).flatten(3).permute(0, 3, 1, 2)


def repeat_channels(x: Tensor, times: int) -> Tensor:
    """Repeat every channel, neighbours together.

    A depthwise convolution with ``m`` outputs per channel is an ordinary depthwise one (one output per channel, the
    same kernel tensor) of the input with every channel repeated ``m`` times. CPU kernels have no fast path for the
    first form: a LruNet-10 training step takes a quarter of the time in the second, inference about half.

    Args:
        x: (batch, channels, height, width).
        times: How often.

    Returns:
        (batch, channels * times, height, width); channels ``times * c ... times * c + times - 1`` are input channel
        ``c``.
    """
    return torch.stack([x.permute(0, 2, 3, 1)] * times, -1).flatten(3).permute(0, 3, 1, 2)


def require_map(x: Tensor, low: int, high: int, advice: str) -> Tensor:
    """Return ``x`` if both sides of its map are within ``low..high``.

    A module that uses it says ``torch.fx.wrap("require_map")``: the check then does not branch on a traced value.

    Raises:
        ZooError: Otherwise; ``advice`` says which inputs are valid.
    """
    height, width = x.shape[-2:]
    if not (low <= height <= high and low <= width <= high):
        raise ZooError(f"The final feature map is {height}x{width}: {advice}.")
    return x
