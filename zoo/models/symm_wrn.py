"""SymmWideResNet: wide residual networks whose 3x3 kernels repeat a learned part under a fixed symmetry.

Paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027; code: https://github.com/hushell/deep-symmetry.

``scope`` says which convolutions are symmetric. The default is ``second``, the second convolution of every block (of a
bottleneck the 3x3 one): the paper's code counts only those as reduced, and it is the one scope that every type fits.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import WeightError, ZooError
from ..makers.base import is_made, maker_of
from ..makers.lowrank import LowRankSymmetric
from ._reference import register_reference, rename
from ._register import register
from ._symmetric import put_makers, redraw_made, symmetric_from_plain
from ._wide_resnet import BasicBlock, BottleneckBlock, WideResNet

__all__ = ["SymmWideResNet", "symmetric_from_plain"]
FAMILY = "symmetry"

_BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class SymmWideResNet(WideResNet):
    """Wide residual network with symmetric kernels.

    Args:
        depth: 6n + 4.
        width: Widening factor; may be fractional.
        symm_type: One of ``zoo.makers.symmetric.TYPES``, or ``"None"`` for ordinary kernels.
        scope: ``second``, ``square`` (every 3x3 convolution of a block with as many input as output channels) or, for
            ``spa``, ``all``. Bottleneck blocks have one 3x3 convolution, so it makes no difference there.
        block: ``basic`` or ``bottleneck``.
        odd_centre: ``single``, or ``reference`` for the authors' doubled values with odd numbers of channels.
        rank: Rank per tap of ``pdpt``; None for half the channels, ``reference`` for the authors' one less.
        norm_init: Batch norm scales start at 1 (``ones``) or, as in the authors' code, uniform in 0 to 1 (``uniform``).
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout inside the blocks.
        global_pool: timm's name of the pooling, or empty for none.

    Raises:
        ZooError: If an argument does not exist, or the symmetry does not fit the kernels.
    """

    norm_init = "ones"

    def __init__(
        self,
        depth: int = 16,
        width: float = 4,
        symm_type: str | None = "tri",
        scope: str = "second",
        block: str = "basic",
        odd_centre: str = "single",
        rank: int | str | None = None,
        norm_init: str = "ones",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        if block not in _BLOCKS:
            raise ZooError(f"Unknown block {block!r}: choose one of {', '.join(_BLOCKS)}.")
        if norm_init not in ("ones", "uniform"):
            raise ZooError(f"norm_init {norm_init!r} must be 'ones' or 'uniform'.")
        super().__init__(
            depth,
            width,
            block=_BLOCKS[block],
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        self.norm_init = norm_init
        if symm_type not in (None, "None"):
            put_makers(self, symm_type, scope, odd_centre, rank)
        if norm_init == "uniform":
            self._reset_norms()

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-in, ReLU gain; of symmetric kernels the learned part has that variance."""
        super().reset_parameters()
        redraw_made(self, "fan_in")
        self._reset_norms()

    def _reset_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                if self.norm_init == "uniform":
                    nn.init.uniform_(module.weight)

    _KEYS = (
        (r"stem\.conv\.weight", "conv0"),
        (r"stages\.(\d)\.(\d+)\.shortcut\.weight", r"group\1.block\2.convdim"),
        (r"stages\.(\d)\.(\d+)\.conv(\d)\.(?:weight|parametrizations\.weight\.original)", r"group\1.block\2.conv#\3"),
        (r"stages\.(\d)\.(\d+)\.bn(\d)\.(.*)", r"group\1.block\2.bn#\3.\4"),
        (r"final\.bn\.(.*)", r"bn.\1"),
        (r"head\.fc\.(.*)", r"fc.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that hushell/deep-symmetry gives an entry of the state dict; its layers count from 0."""
        return re.sub(r"#(\d)", lambda match: str(int(match[1]) - 1), rename(name, cls._KEYS))

    def reference_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take from the reference's full kernels, or its e and V of ``pdpt``, what is learned here.

        Raises:
            WeightError: If such a tensor is missing or has another shape; the message names it.
        """
        state = dict(state)
        for name, conv in self.block_convs().items():
            if is_made(conv):
                key, maker = self.reference_key(f"{name}.weight"), maker_of(conv)
                if isinstance(maker, LowRankSymmetric):
                    if key in state:
                        raise WeightError(f"{key} is a whole kernel: this network takes {key}.e and {key}.V.")
                    values = _take(state, f"{key}.e", (maker.taps, maker.rank))
                    vectors = _take(state, f"{key}.V", (maker.taps, maker.shape[0], maker.rank))
                    state[key] = maker.pack(values, vectors)
                else:
                    state[key] = maker.select(_take(state, key, maker.shape))
        return state


def _take(state: dict[str, Tensor], key: str, shape: tuple[int, ...]) -> Tensor:
    if key not in state:
        raise WeightError(f"This state dict has no {key}.")
    tensor = state.pop(key)
    if tensor.shape != shape:
        raise WeightError(f"{key} has the shape {tuple(tensor.shape)} instead of {tuple(shape)}.")
    return tensor


def _reference_basic(depth: int, width: float, num_classes: int, symm_type: str | None, ALL_CONV_SYMM: bool):
    known = ("None", "tri", "evd", "spa", "tri+spa", "wwt")
    if str(symm_type) not in known:
        raise ZooError(f"The reference's resnet_basic has the symm_type {', '.join(known)}, not {symm_type!r}.")
    if ALL_CONV_SYMM and str(symm_type) not in ("None", "spa"):
        raise ZooError(f"ALL_CONV_SYMM works with symm_type None and spa, not with {symm_type!r}: set it to false.")
    scope = "all" if ALL_CONV_SYMM else "second"
    return SymmWideResNet(depth, width, symm_type, scope, "basic", num_classes=num_classes, **_QUIRKS)


def _reference_bottleneck(depth: int, width: float, num_classes: int, symm_type: str | None):
    rank = "reference" if symm_type == "pdpt" else None
    return SymmWideResNet(depth, width, symm_type, block="bottleneck", rank=rank, num_classes=num_classes, **_QUIRKS)


_QUIRKS = {"odd_centre": "reference", "norm_init": "uniform"}
_ARGS = {"depth": 16, "width": 1, "num_classes": 10, "symm_type": "None"}

for _prefix in ("", "symm_"):
    register_reference("symmetry", f"{_prefix}resnet_basic", _reference_basic, **_ARGS, ALL_CONV_SYMM=True)
    register_reference("symmetry", f"{_prefix}resnet_bottleneck", _reference_bottleneck, **_ARGS)

_BOTTLENECK = {"block": "bottleneck"}
_BOTTLENECK_16_4 = {**_BOTTLENECK, "depth": 16, "width": 4}

register(
    __name__,
    SymmWideResNet,
    {
        "symm_wrn": ({}, "Symmetric wide residual network: ``depth``, ``width``, ``symm_type``, ``scope``."),
        "symm_wrn_16_1": ({"depth": 16, "width": 1}, "WRN-16-1 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_16_2": ({"depth": 16, "width": 2}, "WRN-16-2 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_16_4": ({"depth": 16, "width": 4}, "WRN-16-4 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_16_4_tri": ({"depth": 16, "width": 4, "symm_type": "tri"}, "WRN-16-4, symmetry tri."),
        "symm_wrn_16_4_wwt": ({"depth": 16, "width": 4, "symm_type": "wwt"}, "WRN-16-4, symmetry wwt."),
        "symm_wrn_16_4_spa": ({"depth": 16, "width": 4, "symm_type": "spa"}, "WRN-16-4, symmetry spa."),
        "symm_wrn_16_4_tri_spa": ({"depth": 16, "width": 4, "symm_type": "tri+spa"}, "WRN-16-4, symmetry tri+spa."),
        "symm_wrn_16_4_quar": ({"depth": 16, "width": 4, "symm_type": "quar"}, "WRN-16-4, symmetry quar."),
        "symm_wrn_16_4_eight": ({"depth": 16, "width": 4, "symm_type": "eight"}, "WRN-16-4, symmetry eight."),
        "symm_wrn_16_4_block4": ({"depth": 16, "width": 4, "symm_type": "block4"}, "WRN-16-4, symmetry block4."),
        "symm_wrn_28_2": ({"depth": 28, "width": 2}, "WRN-28-2 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_28_10": ({"depth": 28, "width": 10}, "WRN-28-10 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_28_10_tri": ({"depth": 28, "width": 10, "symm_type": "tri"}, "WRN-28-10, symmetry tri."),
        "symm_wrn_28_10_wwt": ({"depth": 28, "width": 10, "symm_type": "wwt"}, "WRN-28-10, symmetry wwt."),
        "symm_wrn_28_10_spa": ({"depth": 28, "width": 10, "symm_type": "spa"}, "WRN-28-10, symmetry spa."),
        "symm_wrn_28_10_tri_spa": ({"depth": 28, "width": 10, "symm_type": "tri+spa"}, "WRN-28-10, symmetry tri+spa."),
        "symm_wrn_28_10_quar": ({"depth": 28, "width": 10, "symm_type": "quar"}, "WRN-28-10, symmetry quar."),
        "symm_wrn_28_10_eight": ({"depth": 28, "width": 10, "symm_type": "eight"}, "WRN-28-10, symmetry eight."),
        "symm_wrn_28_10_block4": ({"depth": 28, "width": 10, "symm_type": "block4"}, "WRN-28-10, symmetry block4."),
        "symm_wrn_40_4": ({"depth": 40, "width": 4}, "WRN-40-4 with symmetric kernels: ``symm_type``, ``scope``."),
        "symm_wrn_bottleneck": ({"block": "bottleneck"}, "As symm_wrn, of bottleneck blocks."),
        "symm_wrn_bottleneck_16_1": ({**_BOTTLENECK, "depth": 16, "width": 1}, "Bottleneck WRN-16-1."),
        "symm_wrn_bottleneck_16_4": ({**_BOTTLENECK, "depth": 16, "width": 4}, "Bottleneck WRN-16-4."),
        "symm_wrn_bottleneck_16_4_tri": (_BOTTLENECK_16_4 | {"symm_type": "tri"}, "Bottleneck, tri."),
        "symm_wrn_bottleneck_16_4_wwt": (_BOTTLENECK_16_4 | {"symm_type": "wwt"}, "Bottleneck, wwt."),
        "symm_wrn_bottleneck_16_4_spa": (_BOTTLENECK_16_4 | {"symm_type": "spa"}, "Bottleneck, spa."),
        "symm_wrn_bottleneck_16_4_tri_spa": (_BOTTLENECK_16_4 | {"symm_type": "tri+spa"}, "Bottleneck, tri+spa."),
        "symm_wrn_bottleneck_16_4_quar": (_BOTTLENECK_16_4 | {"symm_type": "quar"}, "Bottleneck, quar."),
        "symm_wrn_bottleneck_16_4_eight": (_BOTTLENECK_16_4 | {"symm_type": "eight"}, "Bottleneck, eight."),
        "symm_wrn_bottleneck_16_4_block4": (_BOTTLENECK_16_4 | {"symm_type": "block4"}, "Bottleneck, block4."),
        "symm_wrn_bottleneck_28_2": ({**_BOTTLENECK, "depth": 28, "width": 2}, "Bottleneck WRN-28-2."),
        "symm_wrn_bottleneck_28_10": ({**_BOTTLENECK, "depth": 28, "width": 10}, "Bottleneck WRN-28-10."),
        "symm_wrn_bottleneck_40_4": ({**_BOTTLENECK, "depth": 40, "width": 4}, "Bottleneck WRN-40-4."),
    },
    levels=3,
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(8, 8),
)
