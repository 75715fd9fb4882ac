"""timm's ResNet built from plain values, with the two forms timm lacks: other widths, and a stem for small images."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from timm.models import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..errors import ZooError
from ._same_function import first_difference

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


@dataclass(frozen=True)
class ResNetForm:
    """Which plain ResNet has the tensors of a state dict; the arguments of :class:`PlainResNet`."""

    depth: int
    width: float
    small_images: bool
    num_classes: int
    in_chans: int

    @property
    def stock_name(self) -> str | None:
        """The name that timm and torchvision have for this form, or None."""
        return f"resnet{self.depth}" if self.width == 1 and not self.small_images else None

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"stock {self.stock_name}" if self.stock_name else f"plain resnet{self.depth}"


def resnet_form(model: nn.Module, ignore: Callable[[str], bool] = lambda key: False) -> ResNetForm:
    """Read depth, width and stem of a plain ResNet off a network's tensors.

    Only names and shapes are read; whether the network computes what a plain one does is another question.

    Args:
        model: A network with the tensors of a plain ResNet.
        ignore: Says which names of tensors do not matter.

    Raises:
        ZooError: If it has other tensors; with what differs from the ResNet that comes closest.
    """
    state = model.state_dict()
    blocks = {match[0] for match in (re.match(r"layer[1-4]\.\d+\.", key) for key in state) if match}
    layers = tuple(sum(block.startswith(f"layer{i}.") for block in blocks) for i in (1, 2, 3, 4))
    bottleneck = any(key.startswith("layer1.0.conv3") for key in state)
    known = [d for d, (block, n) in DEPTHS.items() if n == layers and (block is Bottleneck) == bottleneck]
    if not known:
        raise ZooError(f"{type(model).__name__} is no ordinary ResNet-18, 34, 50, 101 or 152, the stock ones.")
    stem, classifier = state.get("conv1.weight"), state.get("fc.weight", ())
    if stem is None:
        form = ResNetForm(known[0], 1, False, len(classifier), 3)
    else:
        form = ResNetForm(known[0], len(stem) / 64, stem.shape[-1] == 3, len(classifier), stem.shape[1])
    pattern = re.compile(r"(layer[1-4]\.\d+\.)?(conv[1-3]|bn[1-3]|downsample\.[01]|fc)\.\w+")
    odd = [key for key in state if not pattern.fullmatch(key) and not ignore(key)]
    if stem is None or odd:
        with torch.device("meta"):
            plain = PlainResNet(**asdict(form))
        reason = first_difference(model, plain, form.label) or (f"it has {odd[0]}" if odd else "it has no conv1.weight")
        raise ZooError(f"This {type(model).__name__} is no {form.label}: {reason}.")
    return form
