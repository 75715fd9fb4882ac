"""Convolution, batch norm and activation under fixed names."""

from collections import OrderedDict

from torch import nn


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A bias-free convolution with its batch norm and activation, named ``conv``, ``bn`` and ``act``.

    The padding keeps the map at stride 1, so (batch, in_channels, height, width) becomes
    (batch, out_channels, height / stride, width / stride), rounded up.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the kernel, odd.
        stride: Stride.
        groups: Groups of the convolution.
        act: Class of the activation, or None for none.
    """
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels))
    if act is not None:
        layers["act"] = act()
    return nn.Sequential(layers)
