"""MobileNetV2 for 32x32 images, as the LruNet paper compares with it: inverted residuals with linear bottlenecks.

Papers: M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381; the small-image version is from the code of O. Kopuklu et al., "Convolutional Neural
Networks with Layer Reuse", ICIP 2019, https://arxiv.org/abs/1901.09615. Unlike the paper's, its widths are truncated
and not rounded to multiples of 8.
"""

import math
import re

from timm.layers import ClassifierHead
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.conv_bn import conv_bn
from ._reference import register_reference, rename
from ._register import register
from ._staged import StagedNet

__all__ = ["InvertedResidual", "LruMobileNetV2"]
FAMILY = "lrunet"

_STEM = 32
_LAST = 1280
_STAGES = (  # expansion, width, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 1),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise 3x3, linear pointwise projection; with a shortcut where the shape is kept.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride of the depthwise convolution.
        expansion: Hidden width over ``in_channels``; at 1 there is no expansion layer.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_channels
        self.shortcut = stride == 1 and in_channels == out_channels
        self.expand = nn.Identity() if expansion == 1 else conv_bn(in_channels, hidden, act=nn.ReLU6)
        self.dw = conv_bn(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6)
        self.project = conv_bn(hidden, out_channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        branch = self.project(self.dw(self.expand(x)))
        return x + branch if self.shortcut else branch


class LruMobileNetV2(StagedNet):
    """MobileNetV2 with a stem of stride 1 and 17 blocks.

    Args:
        width_mult: Factor of every width, each product truncated; the last layer stays at 1280 below 1.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling in timm's words, or empty for none.

    Raises:
        ZooError: If ``width_mult`` leaves a layer without channels.
    """

    def __init__(
        self,
        width_mult: float = 1,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.2,
        global_pool: str = "avg",
    ):
        super().__init__()
        widths = [int(base * width_mult) for _, base, _, _ in _STAGES]
        if widths[0] < 1:
            raise ZooError(f"MobileNetV2 needs a width_mult of at least 1/{_STAGES[0][1]}, not {width_mult}.")
        channels = int(_STEM * width_mult)
        last = int(_LAST * max(1, width_mult))
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, last, last

        self.stem = conv_bn(in_chans, channels, 3, act=nn.ReLU6)
        self.stages = nn.ModuleList()
        for width, (expansion, _, blocks, stride) in zip(widths, _STAGES, strict=True):
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
                channels = width
            self.stages.append(stage)
        self._describe_stages(widths, (1, 2, 4, 4, 4, 8, 8))
        self.final = conv_bn(channels, last, act=nn.ReLU6)
        self.head = ClassifierHead(last, num_classes, global_pool, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # fan-out of the whole kernel: the groups are not divided out
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    _KEYS = (
        (r"stem\.conv\.(.*)", r"features.0.0.\1"),
        (r"stem\.bn\.(.*)", r"features.0.1.\1"),
        (r"final\.conv\.(.*)", r"features.18.0.\1"),
        (r"final\.bn\.(.*)", r"features.18.1.\1"),
        (r"head\.fc\.(.*)", r"classifier.1.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that okankop/CNN-layer-reuse gives an entry of the state dict; its blocks count on from the stem."""
        match = re.fullmatch(r"stages\.(\d)\.(\d)\.(expand|dw|project)\.(conv|bn)\.(.*)", name)
        if match is None:
            return rename(name, cls._KEYS)
        stage, block, part, layer, entry = match.groups()
        block = 1 + sum(blocks for _, _, blocks, _ in _STAGES[: int(stage)]) + int(block)
        parts = ("dw", "project") if _STAGES[int(stage)][0] == 1 else ("expand", "dw", "project")
        index = 3 * parts.index(part) + ("conv", "bn").index(layer)  # three layers a part, the activation included
        return f"features.{block}.conv.{index}.{entry}"


def _reference(num_classes: int, width_mult: float, init_ch: int) -> LruMobileNetV2:
    return LruMobileNetV2(width_mult, num_classes, init_ch)


register_reference("lrunet", "mobilenetv2", _reference, num_classes=10, width_mult=1, init_ch=3)

register(
    __name__,
    LruMobileNetV2,
    {
        "lru_mobilenetv2": (
            {},
            "MobileNetV2 for small images with its own arguments: ``width_mult`` (1), ``drop_rate`` (0.2).",
        ),
        "lru_mobilenetv2_025": ({"width_mult": 0.25}, "MobileNetV2 0.25x for small images."),
        "lru_mobilenetv2_040": ({"width_mult": 0.4}, "MobileNetV2 0.4x for small images."),
        "lru_mobilenetv2_100": ({"width_mult": 1}, "MobileNetV2 1x for small images."),
        "lru_mobilenetv2_140": ({"width_mult": 1.4}, "MobileNetV2 1.4x for small images."),
    },
    levels=len(_STAGES),
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(4, 4),
)
