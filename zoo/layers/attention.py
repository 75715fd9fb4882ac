"""Attention blocks that a residual block applies to its branch before the addition: SE, GE and CBAM.

Each keeps the shape of its input, (batch, channels, height, width). These are the blocks ParaDise is compared with.
"""

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError

_EXTENTS = (0, 2, 4, 8)


def _hidden_width(channels: int, reduction: int) -> int:
    if not isinstance(reduction, int) or reduction < 1:
        raise ZooError(f"reduction divides the hidden width: an integer from 1, not {reduction!r}.")
    return max(1, channels // reduction)


class SqueezeExcite(nn.Module):
    """One factor per channel, from the channel means.

    J. Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507, equation 3; here
    both linear layers have biases.

    Args:
        channels: Channels.
        reduction: ``channels`` over the hidden width.

    Raises:
        ZooError: If ``reduction`` is not a positive integer.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = _hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        factors = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * factors[:, :, None, None]


class GatherConv(nn.Module):
    """A depthwise convolution that shrinks the map, with batch norm and perhaps ReLU; maps it would make 1 wide pass.

    Args:
        channels: Channels.
        kernel_size: Side of the kernel: 3 with stride 2 and padding, or the whole map with stride 1 and none.
        stride: Stride.
        relu: End with a ReLU.
    """

    def __init__(self, channels: int, kernel_size: int = 3, stride: int = 2, relu: bool = False):
        super().__init__()
        padding = 1 if stride == 2 else 0
        self.conv = nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU() if relu else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the shrunk map, or ``x`` itself if ``width // stride`` is 1.

        The height is never looked at, as in the original, and a width of 1 is convolved at stride 2.
        """
        return _unless_narrow(x, self)

    def shrink(self, x: Tensor) -> Tensor:
        """The layer without its exception for narrow maps."""
        side = self.conv.kernel_size[0]
        if self.conv.stride[0] == 1 and min(x.shape[-2:]) < side:
            raise ZooError(
                f"This global gather was built for maps of {side}x{side}, and its map is {x.shape[-2]}x{x.shape[-1]}: "
                "give larger images, or build the network with their side as img_size."
            )
        return self.act(self.bn(self.conv(x)))

    def __fx_create_arg__(self, tracer: torch.fx.Tracer) -> torch.fx.Node:
        """How torch.fx names this module where it is the argument of a call."""
        return tracer.create_node("get_attr", tracer.path_of_module(self), (), {})


def _unless_narrow(x: Tensor, layer: GatherConv) -> Tensor:
    return x if x.shape[-1] // layer.conv.stride[0] == 1 else layer.shrink(x)


def _average_tiles(x: Tensor, extent: int) -> Tensor:
    """Average pool to ``side // extent``, at least 1 (the original has no answer below)."""
    return F.adaptive_avg_pool2d(x, [max(1, side // extent) for side in x.shape[-2:]])


# One opaque call each in torch.fx, which could not follow a decision about a map's size.
torch.fx.wrap("_unless_narrow")
torch.fx.wrap("_average_tiles")


class GatherExcite(nn.Module):
    """One factor per channel and place, from the neighbourhood.

    J. Hu et al., "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", NeurIPS 2018,
    https://arxiv.org/abs/1810.12348. At small maps gathering stops early (:class:`GatherConv`), so that parameters
    may get no gradient: at 224 pixels those of the third step of every block in a ResNet's last stage.

    Args:
        channels: Channels.
        extent: Ratio of map to gathered map: 2, 4 or 8, or 0 for the whole map.
        extra_params: Gather by convolutions; otherwise by average pooling.
        mlp: Follow with 1x1 convolutions ``channels -> channels / reduction -> channels``.
        reduction: ``channels`` over the hidden width of these.
        map_size: Side of the map; only a convolution over the whole map (extent 0) needs to know it.

    Raises:
        ZooError: If ``extent`` or ``reduction`` is not a valid one.
    """

    def __init__(
        self,
        channels: int,
        extent: int = 8,
        extra_params: bool = True,
        mlp: bool = False,
        reduction: int = 16,
        map_size: int = 1,
    ):
        super().__init__()
        if extent not in _EXTENTS:
            raise ZooError(f"Gather-excite has extent {', '.join(map(str, _EXTENTS))} (0 is global), not {extent!r}.")
        self.extent = extent
        self.gather = nn.Sequential()
        if extra_params and extent:
            steps = _EXTENTS.index(extent)
            self.gather.extend(GatherConv(channels, relu=i < steps - 1) for i in range(steps))
        elif extra_params:
            self.gather.append(GatherConv(channels, map_size, stride=1))
        self.mlp = nn.Sequential()
        if mlp:
            hidden = _hidden_width(channels, reduction)
            self.mlp.add_module("fc1", nn.Conv2d(channels, hidden, 1, bias=False))
            self.mlp.add_module("act", nn.ReLU())
            self.mlp.add_module("fc2", nn.Conv2d(hidden, channels, 1, bias=False))
            for conv in (self.mlp.fc1, self.mlp.fc2):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        if len(self.gather):
            context = self.gather(x)
        else:
            context = _average_tiles(x, self.extent) if self.extent else x.mean((2, 3), keepdim=True)
        context = F.interpolate(self.mlp(context), size=x.shape[-2:])
        return x * torch.sigmoid(context)


class Cbam(nn.Module):
    """A factor per channel, then a factor per place.

    S. Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521,
    equations 2 and 3; with a batch norm after the spatial convolution.

    Args:
        channels: Channels.
        reduction: ``channels`` over the hidden width of the channel gate.

    Raises:
        ZooError: If ``reduction`` is not a positive integer.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = _hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        factors = torch.sigmoid(self._mlp(x.mean((2, 3))) + self._mlp(x.amax((2, 3))))
        x = x * factors[:, :, None, None]
        places = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.bn(self.conv(places)))

    def _mlp(self, z: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(z)))
