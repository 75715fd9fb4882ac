"""ShuffleNetV2 for 32x32 images, as the LruNet paper compares with it: half of the channels pass each unit unchanged.

Papers: N. Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018,
https://arxiv.org/abs/1807.11164; the small-image version is from the code of O. Kopuklu et al., "Convolutional Neural
Networks with Layer Reuse", ICIP 2019, https://arxiv.org/abs/1901.09615. Its 0.25x and 0.75x do not exist in the
ShuffleNetV2 paper, and its 2x has 224 instead of 244 channels in the first stage.
"""

import re
from collections import OrderedDict

import torch
import torch.fx
from timm.layers import ClassifierHead
from torch import Tensor, nn

from ..errors import ZooError
from ..layers import interleave_halves, require_map
from ..layers.conv_bn import conv_bn
from ._reference import register_reference, rename
from ._register import register
from ._staged import StagedNet

__all__ = ["BasicUnit", "DownUnit", "LruShuffleNetV2"]
FAMILY = "lrunet"

torch.fx.wrap("require_map")  # fx replaces a wrapped function under its name in each module that says so

_STEM = 24
_UNITS = (4, 8, 4)
_WIDTHS = {  # of the stages and the last convolution, by width_mult
    0.25: (32, 64, 128, 1024),
    0.5: (48, 96, 192, 1024),
    0.75: (60, 120, 240, 1024),
    1: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2: (224, 488, 976, 2048),
}
_WINDOW = 4


def _right_branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            pw1=conv_bn(in_channels, channels),
            dw=conv_bn(channels, channels, 3, stride, groups=channels, act=None),
            pw2=conv_bn(channels, channels),
        )
    )


class DownUnit(nn.Module):
    """Two branches of stride 2, concatenated and shuffled.

    Args:
        in_channels: Channels in.
        out_channels: Channels out, even.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(
            OrderedDict(
                dw=conv_bn(in_channels, in_channels, 3, 2, groups=in_channels, act=None),
                pw=conv_bn(in_channels, half),
            )
        )
        self.right = _right_branch(in_channels, half, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / 2, width / 2)."""
        return interleave_halves(torch.cat([self.left(x), self.right(x)], 1))


class BasicUnit(nn.Module):
    """Passes the first half of the channels, processes the second, and shuffles.

    Args:
        channels: Channels, even.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.right = _right_branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        passed, processed = x.chunk(2, 1)
        return interleave_halves(torch.cat([passed, self.right(processed)], 1))


class LruShuffleNetV2(StagedNet):
    """ShuffleNetV2 with a stem of stride 1 and 16 units.

    Args:
        width_mult: 0.25, 0.5, 0.75, 1, 1.5 or 2, which stand for rows of a table of widths.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling in timm's words, or empty for none.
        fixed_window: Pool only the top left 4x4 corner of the final map, as the paper's code does. The function is the
            same for inputs of 25 to 32 pixels, larger ones lose their border, and those that do not give a map of 4 to
            7 pixels are refused.

    Raises:
        ZooError: If ``width_mult`` is not in the table.
    """

    def __init__(
        self,
        width_mult: float = 1,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        fixed_window: bool = False,
    ):
        super().__init__()
        if width_mult not in _WIDTHS:
            raise ZooError(f"ShuffleNetV2 exists at width_mult {', '.join(map(str, _WIDTHS))} only, not {width_mult}.")
        *widths, last = _WIDTHS[width_mult]
        self.fixed_window = fixed_window
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, last, last

        channels = _STEM
        self.stem = conv_bn(in_chans, channels, 3)
        self.stages = nn.ModuleList()
        for width, units in zip(widths, _UNITS, strict=True):
            self.stages.append(nn.Sequential(DownUnit(channels, width), *(BasicUnit(width) for _ in range(units - 1))))
            channels = width
        self._describe_stages(widths, (2, 4, 8))
        self.final = conv_bn(channels, last)
        self.head = ClassifierHead(last, num_classes, global_pool, drop_rate)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with ``pre_logits`` stop before the classifier, (batch, head_hidden_size)."""
        if self.fixed_window:
            x = require_map(x, _WINDOW, 7, "this ShuffleNetV2 takes inputs of 25 to 56 pixels a side")
            x = x[:, :, :_WINDOW, :_WINDOW]
        return self.head(x, pre_logits=pre_logits)

    _KEYS = (
        (r"stem\.conv\.(.*)", r"conv1.\1"),
        (r"stem\.bn\.(.*)", r"bn1.\1"),
        (r"final\.conv\.(.*)", r"conv2.\1"),
        (r"final\.bn\.(.*)", r"bn2.\1"),
        (r"head\.fc\.(.*)", r"linear.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that okankop/CNN-layer-reuse gives an entry of the state dict; its stages count from 1."""
        match = re.fullmatch(r"stages\.(\d)\.(\d)\.(left|right)\.(dw|pw|pw1|pw2)\.(conv|bn)\.(.*)", name)
        if match is None:
            return rename(name, cls._KEYS)
        stage, unit, branch, part, layer, entry = match.groups()
        if branch == "left":
            number = 1 + ("dw", "pw").index(part)
        else:  # in a down unit, the first of each stage, it counts on from the left branch
            number = (3 if unit == "0" else 1) + ("pw1", "dw", "pw2").index(part)
        return f"layer{int(stage) + 1}.{unit}.{layer}{number}.{entry}"


def _reference(num_classes: int, width_mult: float, init_ch: int) -> LruShuffleNetV2:
    return LruShuffleNetV2(width_mult, num_classes, init_ch, fixed_window=True)


register_reference("lrunet", "shufflenetv2", _reference, num_classes=10, width_mult=1, init_ch=3)

register(
    __name__,
    LruShuffleNetV2,
    {
        "lru_shufflenetv2": (
            {},
            "ShuffleNetV2 for small images with its own arguments: ``width_mult`` (1, one of six).",
        ),
        "lru_shufflenetv2_025": ({"width_mult": 0.25}, "ShuffleNetV2 0.25x for small images."),
        "lru_shufflenetv2_050": ({"width_mult": 0.5}, "ShuffleNetV2 0.5x for small images."),
        "lru_shufflenetv2_075": ({"width_mult": 0.75}, "ShuffleNetV2 0.75x for small images."),
        "lru_shufflenetv2_100": ({"width_mult": 1}, "ShuffleNetV2 1x for small images."),
        "lru_shufflenetv2_150": ({"width_mult": 1.5}, "ShuffleNetV2 1.5x for small images."),
        "lru_shufflenetv2_200": ({"width_mult": 2}, "ShuffleNetV2 2x for small images."),
    },
    levels=len(_UNITS),
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(4, 4),
)
