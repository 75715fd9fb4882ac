"""The pre-activation wide residual network that three families start from.

Paper: S. Zagoruyko and N. Komodakis, "Wide Residual Networks", BMVC 2016, https://arxiv.org/abs/1605.07146. The form
for 32x32 images: an unnormalised 3x3 stem of 16 channels, three stages of strides 1, 2, 2, and shortcuts that are 1x1
convolutions of the activated input where the number of channels changes.
"""

from collections.abc import Callable

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError
from ._staged import StagedNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        stride: Stride of the first convolution and of the shortcut.
        drop_rate: Dropout between the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, drop_rate: float = 0.0):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        h = F.relu(self.bn1(x))
        y = self.conv2(self.drop(F.relu(self.bn2(self.conv1(h)))))
        return y + (x if self.shortcut is None else self.shortcut(h))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch norm and ReLU; the inner width is a quarter of the output's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, drop_rate: float = 0.0):
        super().__init__()
        inner = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.drop = nn.Dropout(drop_rate)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        h = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(h))))
        y = self.conv3(self.drop(F.relu(self.bn3(y))))
        return y + (x if self.shortcut is None else self.shortcut(h))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d | None:
    return None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class WideResNet(StagedNet):
    """WideResNet for small images; any input size works, since the pooling is global.

    Args:
        depth: 6n + 4, with n blocks per stage (also for bottleneck blocks, which have three convolutions).
        width: Widening factor; may be fractional.
        block: :class:`BasicBlock` or :class:`BottleneckBlock`.
        to_width: How a fractional number of channels becomes an integer (``int`` truncates, ``round`` is half-even).
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout inside the blocks.
        global_pool: timm's name of the pooling, or empty for none.

    Raises:
        ZooError: If no such network exists.
    """

    def __init__(
        self,
        depth: int = 28,
        width: float = 10,
        block: type[nn.Module] = BasicBlock,
        to_width: Callable[[float], int] = int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__()
        if (depth - 4) % 6 or depth < 10:
            raise ZooError(f"A wide residual network has depth 6n + 4 (10, 16, 22, 28, 40, ...), not {depth}.")
        widths = [to_width(base * width) for base in (16, 32, 64)]
        if min(widths) < 4:
            raise ZooError(f"width {width} leaves a stage with {min(widths)} channels: choose a larger one.")
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[2], widths[2]
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False))
        blocks = (depth - 4) // 6
        self.stages = nn.ModuleList(
            nn.Sequential(
                block(before, after, stride, drop_rate), *(block(after, after, 1, drop_rate) for _ in range(blocks - 1))
            )
            for before, after, stride in zip([16, *widths], widths, (1, 2, 2), strict=False)
        )
        self._describe_stages(widths, (1, 2, 4))
        self.final = nn.Sequential()
        self.final.add_module("bn", nn.BatchNorm2d(widths[2]))
        self.final.add_module("act", nn.ReLU())
        self.head = ClassifierHead(widths[2], num_classes, global_pool)
        self.reset_parameters()

    def block_convs(self) -> dict[str, nn.Conv2d]:
        """The 3x3 convolutions of the blocks, by name, in order of execution."""
        return {
            name: module
            for name, module in self.stages.named_modules(prefix="stages")
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Kaiming normal, fan-in, ReLU gain for convolutions and classifier; batch norms 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
