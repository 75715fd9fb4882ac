"""The parallel branches of the ParaDise convolutions: each ends in a batch norm, and is a 3x3 kernel in eval mode."""

import math

from torch import Tensor, nn

from ..errors import ZooError
from ..precision import full_precision
from .batch_norm import folded_tensors
from .stacked import densify, pad_to_3x3

_GROUPS = 64  # of the group branch, at every width the paper uses


class ConvBranch(nn.Module):
    """A bias-free convolution that keeps the map at stride 1, and its batch norm.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride, in both directions.
        kernel_size: Height and width of the kernel, each 1 or 3.
        groups: Groups of the convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kernel_size: tuple[int, int] = (3, 3), groups: int = 1
    ):
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        # Fan-out is out_channels * height * width: the number of groups does not enter.
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        return self.bn(self.conv(x))

    @full_precision()
    def fold(self) -> tuple[Tensor, Tensor]:
        """Eval mode's equal as a dense 3x3 kernel (out, in, 3, 3) and a bias (out,), both float64.

        Raises:
            ZooError: If the convolution or batch norm was changed to one that is no 3x3 convolution with bias.
        """
        conv, sides = self.conv, self.conv.kernel_size
        padding = (sides[0] // 2, sides[1] // 2)
        if (conv.padding, conv.padding_mode, conv.dilation) != (padding, "zeros", (1, 1)):
            raise ZooError(f"This branch is no part of a 3x3 convolution: {conv}.")
        kernel, bias = folded_tensors(conv, self.bn)
        return pad_to_3x3(densify(kernel, conv.groups)), bias


class SkeletonBranch(nn.Module):
    """The sum of a 3x1 and a 1x3 convolution, each after a batch norm of its own."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.vertical = ConvBranch(in_channels, out_channels, stride, (3, 1))
        self.horizontal = ConvBranch(in_channels, out_channels, stride, (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        return self.vertical(x) + self.horizontal(x)

    def fold(self) -> tuple[Tensor, Tensor]:
        """As :meth:`ConvBranch.fold`; the kernel is a cross, whose centre gets both parts."""
        (vertical, bias), (horizontal, other_bias) = self.vertical.fold(), self.horizontal.fold()
        return vertical + horizontal, bias + other_bias


def make_branch(name: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The branch of this name; the group branch has 64 groups, or as many as divide both widths."""
    if name == "skeleton":
        return SkeletonBranch(in_channels, out_channels, stride)
    groups = math.gcd(_GROUPS, in_channels, out_channels) if name == "group" else 1
    return ConvBranch(in_channels, out_channels, stride, groups=groups)
