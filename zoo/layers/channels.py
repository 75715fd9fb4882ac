"""Operations on the channel axis: shuffles, and a depthwise convolution with several outputs per channel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class RepeatDepthwise2d(nn.Conv2d):
    """Depthwise convolution with ``out_channels / in_channels`` outputs per input channel; bias-free by default.

    The same function and parameter as ``nn.Conv2d(groups=in_channels)``: outputs ``m c ... m c + m - 1`` read input
    ``c``. It repeats the input instead and runs one output per channel, because CPU kernels have no fast path for
    several: a LruNet-10 training step takes a quarter of the time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, bias: bool = False):
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, groups=in_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        repeats = self.out_channels // self.in_channels
        x = torch.stack([x.permute(0, 2, 3, 1)] * repeats, -1).flatten(3).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.out_channels)


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
