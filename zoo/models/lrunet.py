"""LruNet: one block per stage, run N times on its own output, with batch norms of its own for every run.

Paper: O. Kopuklu, M. Babaee, S. Hormann, G. Rigoll, "Convolutional Neural Networks with Layer Reuse", ICIP 2019,
https://arxiv.org/abs/1901.09615. What is shared across the N steps are both kernels of the block; so each further
step costs 5,760 parameters (batch norms) and repeats the block's multiply-adds.
"""

import copy
import math
import re
from collections import OrderedDict

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError
from ..layers import interleave_halves, repeat_channels, require_map
from ..layers.batch_norm import affine
from ._reference import register_reference, rename
from ._register import register
from ._staged import StagedNet

__all__ = ["LruNet", "ReuseBlock"]
FAMILY = "lrunet"

torch.fx.wrap("require_map")  # torch.fx looks the name up in the module that calls it

_GROUPS = 8  # of every pointwise convolution before the classifier


class ReuseBlock(nn.Module):
    """A depthwise and a pointwise convolution, run ``reuse`` times (section 3 of the paper, figure 2).

    Args:
        channels: Width P, a multiple of 8; kept by the block.
        reuse: Number of runs N, at least 1.
    """

    def __init__(self, channels: int, reuse: int):
        super().__init__()
        self.dw = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)  # of [c, c]
        self.pw = nn.Conv2d(2 * channels, channels, 1, groups=_GROUPS, bias=False)
        self.dw_bns = nn.ModuleList(nn.BatchNorm2d(2 * channels) for _ in range(reuse))
        self.pw_bns = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(reuse))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, P, height, width) -> the same shape."""
        last = len(self.dw_bns) - 1
        for step, (dw_bn, pw_bn) in enumerate(zip(self.dw_bns, self.pw_bns, strict=True)):
            x = F.relu(pw_bn(self.pw(dw_bn(self.dw(repeat_channels(x, 2))))) + x)
            if step != last:
                x = interleave_halves(x, swap=True)
        return x

    def fuse(self, batch_norm: str = "keep", reuse: str = "shared") -> nn.Module:
        """The same function in eval mode, as a new module.

        Args:
            batch_norm: ``fold`` makes each batch norm one scale and bias per channel; ``keep``.
            reuse: ``unroll`` gives kernels of its own to every run; ``shared``.
        """
        if reuse == "unroll":
            return UnrolledBlock(self)
        block = copy.deepcopy(self)
        if batch_norm == "fold":
            block.dw_bns = nn.ModuleList(map(affine, block.dw_bns))
            block.pw_bns = nn.ModuleList(map(affine, block.pw_bns))
        return block


class UnrolledBlock(nn.Module):
    """A reuse block's function as a chain of ordinary convolutions, each followed by its own batch norm."""

    def __init__(self, block: ReuseBlock):
        super().__init__()
        self.steps = nn.ModuleList()
        for dw_bn, pw_bn in zip(block.dw_bns, block.pw_bns, strict=True):
            layers = {"dw": block.dw, "dw_bn": dw_bn, "pw": block.pw, "pw_bn": pw_bn}
            self.steps.append(nn.Sequential(OrderedDict((k, copy.deepcopy(v)) for k, v in layers.items())))
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, P, height, width) -> the same shape."""
        last = len(self.steps) - 1
        for step, layers in enumerate(self.steps):
            halved = torch.onnx.is_in_onnx_export() and isinstance(layers.dw_bn, nn.Identity)
            y = layers.pw_bn(_in_halves(layers.dw, layers.pw, x)) if halved else layers(repeat_channels(x, 2))
            x = F.relu(y + x)
            if step != last:
                x = interleave_halves(x, swap=True)
        return x


def _in_halves(dw: nn.Conv2d, pw: nn.Conv2d, x: Tensor) -> Tensor:
    """``pw(dw(repeat_channels(x, 2)))`` without a repetition: the first and second outputs of all channels apart.

    Other engines run depthwise convolutions of plain maps best; PyTorch, that of the repeated one: see
    docs/families/lrunet.md.
    """
    parts = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        bias = None if dw.bias is None else dw.bias[half]
        part = F.conv2d(x, dw.weight[half], bias, dw.stride, dw.padding, groups=x.shape[1])
        bias = pw.bias if not parts else None
        parts.append(F.conv2d(part, pw.weight[:, half], bias, groups=pw.groups))
    return parts[0] + parts[1]


class ReuseStage(nn.Module):
    """A reuse block, preceded by the parameter-free transition that halves the map and doubles the channels.

    Args:
        channels: Width P of the block.
        reuse: Number of runs N.
        pool: Start with a 3x3 max pool of stride 2.
        duplicate: Then concatenate the tensor with itself.
    """

    def __init__(self, channels: int, reuse: int, pool: bool, duplicate: bool):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.duplicate = duplicate
        self.block = ReuseBlock(channels, reuse)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, height, width) -> (batch, P, height, width) or half the map."""
        x = self.pool(x)
        if self.duplicate:
            x = torch.cat([x, x], 1)
        return self.block(x)


class LruNetHead(nn.Module):
    """Hidden 1x1 convolution, dropout, 1x1 classifier, ReLU, then average pooling, in this order.

    Scores are never negative: the ReLU before the pooling is the reference's, and its weights were trained with it.
    """

    def __init__(self, in_features: int, hidden: int, num_classes: int, global_pool: str, drop_rate: float):
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(in_features, hidden, 1, groups=_GROUPS, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; keep the pooling unless a new one is given."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise ZooError(f"LruNet pools by average only: global_pool {global_pool!r} must be 'avg' or ''.")
            self.global_pool = global_pool
        self.fc = nn.Conv2d(self.hidden, num_classes, 1) if num_classes else nn.Identity()
        self.num_classes = num_classes

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(batch, in_features, 2, 2) -> (batch, num_classes), or the pooled hidden features (batch, hidden)."""
        x = self.drop(F.relu(self.bn(self.conv(x))))
        if self.num_classes and not pre_logits:
            x = F.relu(self.fc(x))
        if not self.global_pool:
            return x
        x = require_map(x, 2, 2, "LruNet classifies inputs of 17 to 32 pixels a side; resize or crop them")
        return x.mean((2, 3))


class LruNet(StagedNet):
    """LruNet.

    Args:
        layer_reuse: Runs of each stage's block, N.
        width_mult: 1 or 2. At 2 the stem's output is duplicated, not widened.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        global_pool: ``avg``, or empty for no pooling.

    Raises:
        ZooError: If an argument has no meaning for this architecture.
    """

    def __init__(
        self,
        layer_reuse: int = 8,
        width_mult: float = 1,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        global_pool: str = "avg",
    ):
        super().__init__()
        if width_mult not in (1, 2):
            raise ZooError(f"LruNet exists at width_mult 1 and 2 only, not {width_mult}.")
        if not isinstance(layer_reuse, int) or layer_reuse < 1:
            raise ZooError(f"layer_reuse is the number of runs of each block: an integer from 1, not {layer_reuse!r}.")
        widths = [int(base * width_mult) for base in (64, 128, 256, 512)]
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[3], int(256 * width_mult)

        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(in_chans, 64, 3, 2, 1, bias=False))
        self.stem.add_module("bn", nn.BatchNorm2d(64))
        self.stem.add_module("act", nn.ReLU())
        self.stages = nn.ModuleList(
            ReuseStage(width, layer_reuse, pool=i in (1, 2), duplicate=i > 0 or width_mult == 2)
            for i, width in enumerate(widths)
        )
        self._describe_stages(widths, (2, 4, 8, 8))
        self.final = nn.MaxPool2d(3, 2, 1)
        self.head = LruNetHead(widths[3], self.head_hidden_size, num_classes, global_pool, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # fan-out of the whole kernel: the groups are not divided out
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    _KEYS = (
        (r"stem\.conv\.(.*)", r"features.0.\1"),
        (r"stem\.bn\.(.*)", r"features.1.\1"),
        (r"stages\.(\d)\.block\.(dw|pw)\.(.*)", r"stage\1.\2.\3"),
        (r"stages\.(\d)\.block\.(dw|pw)_bns\.(.*)", r"stage\1.\2_bn_list.\3"),
        (r"head\.conv\.(.*)", r"classifier.0.\1"),
        (r"head\.bn\.(.*)", r"classifier.1.\1"),
        (r"head\.fc\.(.*)", r"classifier.4.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that okankop/CNN-layer-reuse gives an entry of the state dict; its stages count from 1."""
        key = rename(name, cls._KEYS)
        return re.sub(r"^stage(\d)", lambda match: f"stage{int(match[1]) + 1}", key)


def _reference(num_classes: int, width_mult: float, layer_reuse: int, drop: float, init_ch: int) -> LruNet:
    return LruNet(layer_reuse, width_mult, num_classes, init_ch, drop_rate=drop)


register_reference("lrunet", "lrunet", _reference, num_classes=10, width_mult=1, layer_reuse=8, drop=0.5, init_ch=3)

register(
    __name__,
    LruNet,
    {
        "lrunet": (
            {},
            "LruNet with the paper's own arguments: ``layer_reuse`` (8), ``width_mult`` (1 or 2), ``drop_rate`` (0.5).",
        ),
        "lrunet1_100": ({"layer_reuse": 1}, "1-LruNet-1x: every block is run once."),
        "lrunet2_100": ({"layer_reuse": 2}, "2-LruNet-1x: every block is run 2 times."),
        "lrunet8_100": ({"layer_reuse": 8}, "8-LruNet-1x: every block is run 8 times."),
        "lrunet10_100": ({"layer_reuse": 10}, "10-LruNet-1x: every block is run 10 times."),
        "lrunet14_100": ({"layer_reuse": 14}, "14-LruNet-1x: every block is run 14 times."),
        "lrunet1_200": (
            {"layer_reuse": 1, "width_mult": 2},
            "1-LruNet-2x: every block is run once, at twice the width.",
        ),
        "lrunet2_200": (
            {"layer_reuse": 2, "width_mult": 2},
            "2-LruNet-2x: every block is run 2 times, at twice the width.",
        ),
        "lrunet8_200": (
            {"layer_reuse": 8, "width_mult": 2},
            "8-LruNet-2x: every block is run 8 times, at twice the width.",
        ),
        "lrunet10_200": (
            {"layer_reuse": 10, "width_mult": 2},
            "10-LruNet-2x: every block is run 10 times, at twice the width.",
        ),
        "lrunet14_200": (
            {"layer_reuse": 14, "width_mult": 2},
            "14-LruNet-2x: every block is run 14 times, at twice the width.",
        ),
    },
    levels=4,
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(2, 2),
)
