"""MobileNet for 32x32 images, as the LruNet paper compares with it: depthwise-separable blocks without shortcuts.

Papers: A. G. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
https://arxiv.org/abs/1704.04861; the small-image version is from the code of O. Kopuklu et al., "Convolutional Neural
Networks with Layer Reuse", ICIP 2019, https://arxiv.org/abs/1901.09615.
"""

import re

from timm.layers import ClassifierHead
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.conv_bn import conv_bn
from ._reference import register_reference, rename
from ._register import register
from ._staged import StagedNet

__all__ = ["LruMobileNet", "SeparableBlock"]
FAMILY = "lrunet"

_STEM = 32
_STAGES = ((64, 1, 2), (128, 2, 2), (256, 2, 1), (512, 6, 2), (1024, 2, 1))  # width, blocks, stride of the first


class SeparableBlock(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.dw = conv_bn(in_channels, in_channels, 3, stride, groups=in_channels)
        self.pw = conv_bn(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        return self.pw(self.dw(x))


class LruMobileNet(StagedNet):
    """MobileNet with a stem of stride 1 and 13 blocks.

    Args:
        width_mult: Factor of every width; each product is truncated.
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
        if width_mult * _STEM < 1:
            raise ZooError(f"MobileNet needs a width_mult of at least 1/{_STEM}, not {width_mult}.")
        channels = int(_STEM * width_mult)
        widths = [int(base * width_mult) for base, _, _ in _STAGES]
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[-1], widths[-1]

        self.stem = conv_bn(in_chans, channels, 3)
        self.stages = nn.ModuleList()
        for width, (_, blocks, stride) in zip(widths, _STAGES, strict=True):
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(SeparableBlock(channels, width, stride if i == 0 else 1))
                channels = width
            self.stages.append(stage)
        self._describe_stages(widths, (2, 4, 4, 8, 8))
        self.final = nn.Identity()
        self.head = ClassifierHead(channels, num_classes, global_pool, drop_rate)

    _KEYS = (
        (r"stem\.conv\.(.*)", r"features.0.0.\1"),
        (r"stem\.bn\.(.*)", r"features.0.1.\1"),
        (r"head\.fc\.(.*)", r"classifier.1.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that okankop/CNN-layer-reuse gives an entry of the state dict; its blocks count on from the stem."""
        match = re.fullmatch(r"stages\.(\d)\.(\d)\.(dw|pw)\.(conv|bn)\.(.*)", name)
        if match is None:
            return rename(name, cls._KEYS)
        stage, block, part, layer, entry = match.groups()
        block = 1 + sum(blocks for _, blocks, _ in _STAGES[: int(stage)]) + int(block)
        return f"features.{block}.{layer}{1 if part == 'dw' else 2}.{entry}"


def _reference(num_classes: int, width_mult: float, init_ch: int) -> LruMobileNet:
    return LruMobileNet(width_mult, num_classes, init_ch)


register_reference("lrunet", "mobilenet", _reference, num_classes=10, width_mult=1, init_ch=3)

register(
    __name__,
    LruMobileNet,
    {
        "lru_mobilenet": (
            {},
            "MobileNet for small images with its own arguments: ``width_mult`` (1), ``drop_rate`` (0.2).",
        ),
        "lru_mobilenet_025": ({"width_mult": 0.25}, "MobileNet 0.25x for small images."),
        "lru_mobilenet_040": ({"width_mult": 0.4}, "MobileNet 0.4x for small images."),
        "lru_mobilenet_100": ({"width_mult": 1}, "MobileNet 1x for small images."),
    },
    levels=len(_STAGES),
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(4, 4),
)
