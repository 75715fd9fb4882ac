"""ShuffleNet for 32x32 images, as the LruNet paper compares with it: grouped pointwise convolutions and a shuffle.

Papers: X. Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR
2018, https://arxiv.org/abs/1707.01083; the small-image version is from the code of O. Kopuklu et al., "Convolutional
Neural Networks with Layer Reuse", ICIP 2019, https://arxiv.org/abs/1901.09615. Unlike the paper's, its first unit is
grouped as well and a ReLU follows each depthwise convolution.
"""

import re

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError
from ..layers.conv_bn import conv_bn
from ._reference import register_reference, rename
from ._register import register
from ._staged import StagedNet

__all__ = ["LruShuffleNet", "ShuffleUnit", "shuffle_groups"]
FAMILY = "lrunet"

_WIDTHS = {3: (24, 240, 480, 960), 8: (24, 384, 768, 1536)}  # of stem and stages, by groups
_UNITS = (4, 8, 4)
_VALID = "groups 3 takes 0.25, 0.4, 0.5, 0.75, 1, 1.25, 1.5 and 2, groups 8 takes 1 and 2"


def shuffle_groups(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: deal each group's channels out over all groups.

    Works on the channels-last view, where it is one copy in either memory format.

    Args:
        x: (batch, channels, height, width), channels a multiple of ``groups``.
        groups: Number of groups G.

    Returns:
        The same shape. Output channel G a + b is input channel b (channels / G) + a.
    """
    x = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    return x.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class ShuffleUnit(nn.Module):
    """Grouped pointwise, shuffle, depthwise 3x3, grouped pointwise, around a shortcut.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; equal to ``in_channels`` at stride 1.
        stride: 1 to add the input, 2 to concatenate its average-pooled map.
        groups: Groups of the pointwise convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int):
        super().__init__()
        self.stride, self.groups = stride, groups
        branch = out_channels if stride == 1 else out_channels - in_channels
        mid = branch // (4 * groups) * groups
        self.pw1 = conv_bn(in_channels, mid, groups=groups)
        self.dw = conv_bn(mid, mid, 3, stride, groups=mid)
        self.pw2 = conv_bn(mid, branch, groups=groups, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        branch = self.pw2(self.dw(shuffle_groups(self.pw1(x), self.groups)))
        if self.stride == 1:
            return F.relu(branch + x)
        return F.relu(torch.cat([branch, F.avg_pool2d(x, 3, 2, 1)], 1))


class LruShuffleNet(StagedNet):
    """ShuffleNet with a stem of stride 1 and 16 units.

    Args:
        width_mult: Factor of every width; each product is truncated and must be a multiple of ``groups``.
        groups: 3 or 8.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling in timm's words, or empty for none.

    Raises:
        ZooError: If ``groups`` or ``width_mult`` is not valid.
    """

    def __init__(
        self,
        width_mult: float = 1,
        groups: int = 3,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__()
        if groups not in _WIDTHS:
            raise ZooError(f"ShuffleNet exists with 3 and 8 groups only, not {groups}.")
        channels, *widths = [int(base * width_mult) for base in _WIDTHS[groups]]
        if channels < groups or any(width % groups for width in (channels, *widths)):
            raise ZooError(
                f"ShuffleNet with width_mult {width_mult} has widths {channels}, {', '.join(map(str, widths))}, "
                f"which must be positive multiples of its {groups} groups: {_VALID}."
            )
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[-1], widths[-1]

        self.stem = conv_bn(in_chans, channels, 3)
        self.stages = nn.ModuleList()
        for width, units in zip(widths, _UNITS, strict=True):
            stage = nn.Sequential()
            for i in range(units):
                stage.append(ShuffleUnit(channels, width, 2 if i == 0 else 1, groups))
                channels = width
            self.stages.append(stage)
        self._describe_stages(widths, (2, 4, 8))
        self.final = nn.Identity()
        self.head = ClassifierHead(channels, num_classes, global_pool, drop_rate)

    _KEYS = (
        (r"stem\.conv\.(.*)", r"conv1.\1"),
        (r"stem\.bn\.(.*)", r"bn1.\1"),
        (r"head\.fc\.(.*)", r"linear.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that okankop/CNN-layer-reuse gives an entry of the state dict; its stages count from 1."""
        match = re.fullmatch(r"stages\.(\d)\.(\d)\.(pw1|dw|pw2)\.(conv|bn)\.(.*)", name)
        if match is None:
            return rename(name, cls._KEYS)
        stage, unit, part, layer, entry = match.groups()
        return f"layer{int(stage) + 1}.{unit}.{layer}{('pw1', 'dw', 'pw2').index(part) + 1}.{entry}"


def _reference(num_classes: int, width_mult: float, groups: int, init_ch: int) -> LruShuffleNet:
    return LruShuffleNet(width_mult, groups, num_classes, init_ch)


register_reference("lrunet", "shufflenet", _reference, num_classes=10, width_mult=1, groups=3, init_ch=3)

register(
    __name__,
    LruShuffleNet,
    {
        "lru_shufflenet": (
            {},
            "ShuffleNet for small images with its own arguments: ``width_mult`` (1), ``groups`` (3 or 8).",
        ),
        "lru_shufflenet_g3_025": ({"groups": 3, "width_mult": 0.25}, "ShuffleNet 0.25x for small images, 3 groups."),
        "lru_shufflenet_g3_050": ({"groups": 3, "width_mult": 0.5}, "ShuffleNet 0.5x for small images, 3 groups."),
        "lru_shufflenet_g3_075": ({"groups": 3, "width_mult": 0.75}, "ShuffleNet 0.75x for small images, 3 groups."),
        "lru_shufflenet_g3_100": ({"groups": 3, "width_mult": 1}, "ShuffleNet 1x for small images, 3 groups."),
        "lru_shufflenet_g8_100": ({"groups": 8, "width_mult": 1}, "ShuffleNet 1x for small images, 8 groups."),
        "lru_shufflenet_g8_200": ({"groups": 8, "width_mult": 2}, "ShuffleNet 2x for small images, 8 groups."),
    },
    levels=len(_UNITS),
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(4, 4),
)
