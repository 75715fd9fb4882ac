"""SymmWideResNet: wide residual networks whose 3x3 kernels repeat a learned part under a fixed symmetry.

Paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027; code: https://github.com/hushell/deep-symmetry.

``scope`` says which convolutions are symmetric. The default is ``second``, the second convolution of every block (of a
bottleneck the 3x3 one): the paper's code counts only those as reduced, and it is the one scope that every type fits.
"""

import re
from collections.abc import Mapping

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import WeightError, ZooError
from ..makers.base import is_made, maker_of
from ..makers.lowrank import LowRankSymmetric
from ..weights.manifest import timm_cfgs
from ._build import build_model
from ._reference import register_reference, rename
from ._symmetric import put_makers, redraw_made, symmetric_from_plain
from ._wide_resnet import BasicBlock, BottleneckBlock, WideResNet

__all__ = ["SymmWideResNet", "symmetric_from_plain"]

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

_TYPED = ("tri", "wwt", "spa", "tri_spa", "quar", "eight", "block4")
_BASIC = ("16_1", "16_2", "16_4", "28_2", "28_10", "40_4")
_BOTTLENECK = ("16_1", "16_4", "28_2", "28_10", "40_4")


def _fixed() -> dict[str, dict]:
    """Arguments of every registered name."""
    entries: dict[str, dict] = {}
    for stem, block, sizes, typed in (
        ("symm_wrn", "basic", _BASIC, ("16_4", "28_10")),
        ("symm_wrn_bottleneck", "bottleneck", _BOTTLENECK, ("16_4",)),
    ):
        entries[stem] = {"block": block}
        for size in sizes:
            depth, width = map(int, size.split("_"))
            entries[f"{stem}_{size}"] = entries[stem] | {"depth": depth, "width": width}
            for kind in _TYPED if size in typed else ():
                entries[f"{stem}_{size}_{kind}"] = entries[f"{stem}_{size}"] | {"symm_type": kind.replace("_", "+")}
    return entries


_FIXED = _fixed()

default_cfgs = generate_default_cfgs(
    timm_cfgs(list(_FIXED), first_conv="stem.conv", classifier="head.fc", pool_size=(8, 8))
)


def _entry(variant: str, arguments: dict):
    def create(pretrained: bool = False, **kwargs) -> SymmWideResNet:
        return build_model(SymmWideResNet, variant, pretrained, levels=3, **{**arguments, **kwargs})

    size = f"WRN-{arguments['depth']}-{arguments['width']}" if "depth" in arguments else "Wide residual network"
    kind = arguments.get("symm_type")
    free = "``symm_type``" if "depth" in arguments else "``depth``, ``width``, ``symm_type``"
    create.__doc__ = f"{size} of {arguments['block']} blocks with " + (
        f"kernels of symmetry {kind}." if kind else f"symmetric kernels; takes {free} and ``scope``."
    )
    create.__name__ = create.__qualname__ = variant
    return register_model(create)


globals().update({variant: _entry(variant, arguments) for variant, arguments in _FIXED.items()})
