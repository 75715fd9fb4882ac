"""SWRN: wide residual networks whose stages share their kernels through template banks.

Paper: P. Savarese and M. Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR 2019,
https://arxiv.org/abs/1902.09701. The first block of a stage is ordinary; the L = 2 (n - 1) convolutions of the others
combine the T templates of the stage's bank, each with T coefficients of its own. SWRN-28-10-2 has depth 28, width 10
and T = 2. ``wrn`` is the same network without sharing.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import WeightError, ZooError
from ..layers.sharing import coefficient_names, name_banks, share_weights, sharing_groups
from ..makers.base import is_made
from ..makers.hooks import copy_of
from ..precision import full_precision
from ._reference import register_reference, rename
from ._register import register
from ._same_function import check_same_function
from ._wide_resnet import BasicBlock, WideResNet

__all__ = ["SharedWideResNet", "swrn_from_plain"]
FAMILY = "sharing"

_BANK_ALIASES = ("bank", "conv1.bank", "conv2.bank")  # where a shared block of the authors' code lists its stage's bank


class SharedWideResNet(WideResNet):
    """SWRN, or with ``bank_size`` None the plain wide residual network.

    Args:
        depth: 6n + 4, with n blocks per stage; sharing needs n >= 2.
        width: Widening factor, an integer.
        bank_size: Templates per bank T; a list of three for different stages; None for no sharing.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        share_second: Share the second convolution of a stage's first block too: L = 2n - 1. An extension; the paper's
            networks do not.
        drop_rate: Dropout inside the blocks; the paper's networks have none.
        global_pool: timm's name of the pooling, or empty for none.

    Raises:
        ZooError: If no such network exists.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        bank_size: int | Sequence[int] | None = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        share_second: bool = False,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        if not isinstance(depth, int) or not isinstance(width, int):
            raise ZooError(f"depth and width of an SWRN are integers, not {depth!r} and {width!r}.")
        if depth == 10 and bank_size is not None:
            raise ZooError("At depth 10 a stage has one block and so nothing to share: choose depth 16 or more.")
        sizes = () if bank_size is None else _three(bank_size)
        super().__init__(
            depth, width, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, global_pool=global_pool
        )
        self.banks = nn.ModuleList()
        for stage, size in zip(self.stages, sizes, strict=False):  # no sizes, no banks
            convs = [conv for block in stage[1:] for conv in (block.conv1, block.conv2)]
            self.banks.append(share_weights([stage[0].conv2, *convs] if share_second else convs, size))
        name_banks(self, "banks")

    def reset_parameters(self) -> None:
        """Draw all parameters anew: Kaiming normal kernels and templates, orthogonal coefficients per stage."""
        super().reset_parameters()
        for group in sharing_groups(self):
            group.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory does not decay: the coefficients."""
        return coefficient_names(self)

    def group_matcher(self, coarse: bool = False) -> dict:
        """As the plain network's; a bank is as deep as its stage, or as the first block that uses it."""
        matcher = super().group_matcher(coarse)
        if coarse:
            return {**matcher, "blocks": r"^(?:stages|banks)\.(\d+)"}
        return {**matcher, "blocks": [(r"^banks\.(\d+)", (1,)), *matcher["blocks"]]}

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one wanted, and their banks; return the absolute indices."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.banks = self.banks[: len(self.stages)]
        return take

    _KEYS = (
        (r"stem\.conv\.(.*)", r"conv_3x3.\1"),
        (r"banks\.(\d)\.(.*)", r"bank_\1.\2"),
        (r"stages\.(\d)\.(\d+\.conv\d)\.parametrizations\.weight\.original", r"stage_\1.\2.coefficients"),
        (r"stages\.(\d)\.(\d+)\.shortcut\.(.*)", r"stage_\1.\2.convShortcut.\3"),
        (r"stages\.(\d)\.(.*)", r"stage_\1.\2"),
        (r"final\.bn\.(.*)", r"lastact.0.\1"),
        (r"head\.fc\.(.*)", r"classifier.\1"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that lolemacs/soft-sharing gives an entry of the state dict; its stages count from 1."""
        key = rename(name, cls._KEYS)
        return re.sub(r"^(stage|bank)_(\d)", lambda match: f"{match[1]}_{int(match[2]) + 1}", key)

    def reference_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make the authors' coefficients (T, 1, 1, 1, 1) vectors, and drop the repeated entries of the banks.

        Raises:
            WeightError: If coefficients have another shape, or a repeated entry differs from its bank.
        """
        state = dict(state)
        for group in sharing_groups(self):
            templates = state.get(self.reference_key(f"{group.name}.templates"))
            for conv in group.convs:
                key = self.reference_key(f"{conv}.parametrizations.weight.original")
                if key in state:
                    state[key] = _as_vector(key, state[key])
                block = key.rsplit(".", 2)[0]
                for alias in (f"{block}.{name}.templates" for name in _BANK_ALIASES):
                    if templates is not None and alias in state and not torch.equal(state.pop(alias), templates):
                        raise WeightError(f"{alias} must repeat the templates of its stage's bank, but they differ.")
        return state


def _as_vector(key: str, coefficients: Tensor) -> Tensor:
    if coefficients.ndim != 5 or coefficients.numel() != len(coefficients):
        raise WeightError(f"{key} has the shape {tuple(coefficients.shape)} instead of (T, 1, 1, 1, 1).")
    return coefficients.flatten()


def _three(bank_size: int | Sequence[int]) -> Sequence[int]:
    sizes = [bank_size] * 3 if isinstance(bank_size, int) else bank_size
    if not isinstance(sizes, Sequence) or len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ZooError(f"bank_size is an integer from 1, a list of three of them, or None (wrn), not {bank_size!r}.")
    return sizes


@full_precision()
def swrn_from_plain(model: WideResNet) -> SharedWideResNet:
    """An SWRN that computes exactly what a plain wide residual network computes.

    Its banks have one template per shared layer (T = L), which is that layer's kernel; the coefficients are the rows
    of the identity. :func:`zoo.analysis.compress_banks` and further training start from here.

    Args:
        model: ``wrn``, or any other network of its form whose kernels are ordinary parameters.

    Raises:
        ZooError: If it has another form, or computes another function than the ``wrn`` with its tensors.
    """
    model = copy_of(model)
    shared = _swrn_of_form(model)
    state, plain = shared.state_dict(), model.state_dict()
    for group in sharing_groups(shared):
        kernels = torch.stack([plain.pop(f"{name}.weight") for name in group.convs])
        state[f"{group.name}.templates"] = kernels
        rows = torch.eye(len(kernels))
        state.update({f"{name}.parametrizations.weight.original": rows[i] for i, name in enumerate(group.convs)})
    shared.load_state_dict({**state, **plain})
    return shared.train(model.training)


def _swrn_of_form(model: WideResNet) -> SharedWideResNet:
    if not isinstance(model, WideResNet) or not isinstance(model.stages[0][0], BasicBlock) or len(model.stages) != 3:
        raise ZooError(
            f"swrn_from_plain takes a WideResNet of basic blocks with its three stages, not {type(model).__name__}."
        )
    made = [name for name, module in model.named_modules() if is_made(module)]
    if made:
        raise ZooError(f"{made[0]} does not have an ordinary kernel: reparameterize the network first.")
    blocks, width = len(model.stages[0]), model.stages[0][0].conv2.out_channels // 16
    arguments = {
        "num_classes": model.num_classes,
        "in_chans": model.stem.conv.in_channels,
        "drop_rate": model.stages[0][0].drop.p,
        "global_pool": model.head.global_pool.pool_type,
    }
    shared = SharedWideResNet(6 * blocks + 4, width, 2 * (blocks - 1), **arguments)
    widths = [[stage[0].conv2.out_channels for stage in network.stages] for network in (shared, model)]
    if widths[0] != widths[1]:
        raise ZooError(f"An SWRN has stages of widths {widths[0]}, not {widths[1]}.")
    plain = SharedWideResNet(6 * blocks + 4, width, None, **arguments).to(model.stem.conv.weight)
    check_same_function(model, plain, f"wrn_{6 * blocks + 4}_{width}", arguments["in_chans"], ((32, 32), (37, 29)))
    return shared.to(model.stem.conv.weight)


def _reference_swrn(depth: int, width: int, num_templates: int | None, num_classes: int) -> SharedWideResNet:
    if num_templates is None:  # the paper then means as many templates as layers
        num_templates = 2 * ((depth - 4) // 6 - 1)
    return SharedWideResNet(depth, width, num_templates, num_classes)


def _reference_wrn(depth: int, width: int, num_classes: int) -> SharedWideResNet:
    return SharedWideResNet(depth, width, None, num_classes)


register_reference("sharing", "swrn", _reference_swrn, depth=28, width=10, num_templates=None, num_classes=10)
register_reference("sharing", "wrn", _reference_wrn, depth=28, width=10, num_classes=10)

register(
    __name__,
    SharedWideResNet,
    {
        "swrn": ({}, "SWRN with the paper's own arguments: ``depth`` (28), ``width`` (10), ``bank_size`` (2)."),
        "wrn": ({"bank_size": None}, "Wide residual network without sharing: ``depth`` (28), ``width`` (10)."),
        "swrn_16_1_2": ({"depth": 16, "width": 1, "bank_size": 2}, "SWRN-16-1-2: 2 templates per stage."),
        "swrn_16_2_2": ({"depth": 16, "width": 2, "bank_size": 2}, "SWRN-16-2-2: 2 templates per stage."),
        "swrn_16_4_2": ({"depth": 16, "width": 4, "bank_size": 2}, "SWRN-16-4-2: 2 templates per stage."),
        "swrn_22_2_4": ({"depth": 22, "width": 2, "bank_size": 4}, "SWRN-22-2-4: 4 templates per stage."),
        "swrn_28_1_2": ({"depth": 28, "width": 1, "bank_size": 2}, "SWRN-28-1-2: 2 templates per stage."),
        "swrn_28_4_1": ({"depth": 28, "width": 4, "bank_size": 1}, "SWRN-28-4-1: 1 template per stage."),
        "swrn_28_10_1": ({"depth": 28, "width": 10, "bank_size": 1}, "SWRN-28-10-1: 1 template per stage."),
        "swrn_28_10_2": ({"depth": 28, "width": 10, "bank_size": 2}, "SWRN-28-10-2: 2 templates per stage."),
        "swrn_28_10_4": ({"depth": 28, "width": 10, "bank_size": 4}, "SWRN-28-10-4: 4 templates per stage."),
        "swrn_28_10_6": ({"depth": 28, "width": 10, "bank_size": 6}, "SWRN-28-10-6: 6 templates per stage."),
        "swrn_28_14_2": ({"depth": 28, "width": 14, "bank_size": 2}, "SWRN-28-14-2: 2 templates per stage."),
        "swrn_28_14_6": ({"depth": 28, "width": 14, "bank_size": 6}, "SWRN-28-14-6: 6 templates per stage."),
        "swrn_28_18_2": ({"depth": 28, "width": 18, "bank_size": 2}, "SWRN-28-18-2: 2 templates per stage."),
        "swrn_28_18_6": ({"depth": 28, "width": 18, "bank_size": 6}, "SWRN-28-18-6: 6 templates per stage."),
        "swrn_40_4_3": ({"depth": 40, "width": 4, "bank_size": 3}, "SWRN-40-4-3: 3 templates per stage."),
        "swrn_40_4_10": ({"depth": 40, "width": 4, "bank_size": 10}, "SWRN-40-4-10: 10 templates per stage."),
        "swrn_40_8_2": ({"depth": 40, "width": 8, "bank_size": 2}, "SWRN-40-8-2: 2 templates per stage."),
        "wrn_16_1": ({"depth": 16, "width": 1, "bank_size": None}, "WRN-16-1: no sharing."),
        "wrn_16_2": ({"depth": 16, "width": 2, "bank_size": None}, "WRN-16-2: no sharing."),
        "wrn_16_4": ({"depth": 16, "width": 4, "bank_size": None}, "WRN-16-4: no sharing."),
        "wrn_28_1": ({"depth": 28, "width": 1, "bank_size": None}, "WRN-28-1: no sharing."),
        "wrn_28_2": ({"depth": 28, "width": 2, "bank_size": None}, "WRN-28-2: no sharing."),
        "wrn_28_10": ({"depth": 28, "width": 10, "bank_size": None}, "WRN-28-10: no sharing."),
        "wrn_40_4": ({"depth": 40, "width": 4, "bank_size": None}, "WRN-40-4: no sharing."),
    },
    levels=3,
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(8, 8),
)
