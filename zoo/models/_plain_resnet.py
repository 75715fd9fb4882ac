"""timm's ResNet built from plain values, with the two forms timm lacks: other widths, and a stem for small images."""

from timm.models import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..errors import ZooError

DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class PlainResNet(ResNet):
    """ResNet v1.5 (the stride of a bottleneck is on its 3x3), with the keys of timm and torchvision.

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: Multiplies every number of channels, the stem's too.
        small_images: For images of about 32 pixels: a 3x3 stem of stride 1, and no max pool.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, of the last block.
        global_pool: timm's name of the pooling, or empty for none.
        zero_init_last: Let every residual branch start at 0.

    Raises:
        ZooError: If there is no such network.
    """

    def __init__(
        self,
        depth: int = 18,
        width: float = 1.0,
        small_images: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        zero_init_last: bool = False,
    ):
        if depth not in DEPTHS:
            raise ZooError(f"A ResNet has depth {', '.join(map(str, DEPTHS))}, not {depth!r}.")
        channels = [int(base * width) for base in (64, 128, 256, 512)]
        if channels[0] < 2 or channels[0] % 2:
            raise ZooError(f"width {width} gives the stem {channels[0]} channels: it must be an even number from 2.")
        block, layers = DEPTHS[depth]
        super().__init__(
            block,
            layers,
            num_classes,
            in_chans,
            global_pool=global_pool,
            # timm's other stems have 64 channels whatever the width; the convolutions of this one are replaced below.
            stem_type="deep",
            stem_width=channels[0] // 2,
            channels=channels,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            zero_init_last=zero_init_last,
        )
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_chans, channels[0], kernel_size, stride, kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if small_images:
            self.maxpool = nn.Identity()
            for info in self.feature_info:
                info["reduction"] = max(1, info["reduction"] // 4)

    def residual_blocks(self) -> list[BasicBlock | Bottleneck]:
        """The residual blocks in order of execution."""
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]
