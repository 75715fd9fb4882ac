"""SWRN-50-2 for ImageNet: soft parameter sharing in the bottlenecks of WRN-50-2.

This project's own construction: the paper (https://arxiv.org/abs/1902.09701) reports a network of this name, but its
released code cannot build one. The plain network is timm's and torchvision's ``wide_resnet50_2``. In each stage the
first block is ordinary; the others share one bank per role, because the kernels of the three roles differ in shape.
"""

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from ..errors import ZooError
from ..layers.sharing import coefficient_names, name_banks, share_weights
from ._register import register

__all__ = ["SharedResNet"]
FAMILY = "sharing"

_ROLES = {"3x3": ("conv2",), "all": ("conv1", "conv2", "conv3")}


class SharedResNet(ResNet):
    """WRN-50-2 with template banks.

    Args:
        bank_size: Templates per bank T, capped at the number of layers L of the bank's group, which is 2, 3, 5 and 2
            in the four stages; so 5 or more means T = L. A list gives one number per bank.
        roles: ``3x3`` to share the 3x3 convolutions only, ``all`` for the two 1x1 convolutions too.
        **kwargs: Further arguments of ``timm.models.resnet.ResNet``: ``num_classes``, ``in_chans``, ...

    Raises:
        ZooError: If no such network exists.
    """

    def __init__(self, bank_size: int | Sequence[int] = 5, roles: str = "3x3", **kwargs: Any):
        if roles not in _ROLES:
            raise ZooError(f"roles {roles!r}: choose one of {', '.join(_ROLES)}.")
        groups = [(f"layer{stage}", role) for stage in (1, 2, 3, 4) for role in _ROLES[roles]]
        sizes = [bank_size] * len(groups) if isinstance(bank_size, int) else bank_size
        valid = isinstance(sizes, Sequence) and all(isinstance(n, int) and n > 0 for n in sizes)
        if not valid or len(sizes) != len(groups):
            raise ZooError(f"bank_size is an integer from 1, or a list of {len(groups)} of them, not {bank_size!r}.")
        super().__init__(Bottleneck, (3, 4, 6, 3), base_width=128, **kwargs)
        self.banks = nn.ModuleDict()
        for (layer, role), size in zip(groups, sizes, strict=True):
            convs = [getattr(block, role) for block in getattr(self, layer)[1:]]
            self.banks[f"{layer}_{role}"] = share_weights(convs, min(size, len(convs)))
        name_banks(self, "banks")

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory does not decay: the coefficients."""
        return coefficient_names(self)

    def group_matcher(self, coarse: bool = False) -> dict:
        """As timm's; a bank is as deep as its stage, or as the first block that uses it."""
        matcher = super().group_matcher(coarse)
        if coarse:
            return {**matcher, "blocks": r"^(?:banks\.)?layer(\d+)"}
        return {**matcher, "blocks": [(r"^banks\.layer(\d+)", (1,)), (matcher["blocks"], None)]}

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one wanted, and their banks; return the absolute indices."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.banks = nn.ModuleDict(
            {name: bank for name, bank in self.banks.items() if int(name[len("layer")]) <= max(take)}
        )
        return take


register(
    __name__,
    SharedResNet,
    {
        "swrn_50_2": (
            {},
            "SWRN-50-2, this project's construction: ``bank_size`` (5, so T = L), ``roles`` (``3x3`` or ``all``).",
        ),
    },
    levels=5,
    dataset="imagenet",
    first_conv="conv1",
    classifier="fc",
    pool_size=(7, 7),
)
