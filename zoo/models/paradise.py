"""ParaDise ResNets: every 3x3 convolution of a residual block is trained as parallel branches and folds into one.

Paper: X. Ma et al., "ParaDise: Parameter Disentanglement for Neural Networks", 2020; published as "Parameter
Disentanglement for Diverse Representations", Big Data Mining and Analytics 8(3), 2025,
doi 10.26599/BDMA.2024.9020087. AC-ResNet, from X. Ding et al., "ACNet", ICCV 2019,
https://arxiv.org/abs/1908.03930, is PD-A with two of the branches.
"""

from collections.abc import Mapping, Sequence

import torch
from timm.models import BasicBlock
from torch import Tensor, nn

from ..errors import UnknownNameError, WeightError, ZooError
from ..layers.paradise import AC_BRANCHES as _AC
from ..layers.paradise import BRANCHES, PDAConv2d, PDBConv2d
from ._plain_resnet import PlainResNet
from ._reference import register_reference, rename
from ._register import register

__all__ = ["ParadiseResNet", "expand_plain"]
FAMILY = "paradise"


class ParadiseResNet(PlainResNet):
    """ResNet whose 3x3 convolutions, with their batch norms, are PD convolutions.

    In a basic block these are ``conv1`` and ``conv2``, in a bottleneck ``conv2``; the batch norm there is empty. A
    folded PD-A network has the keys of a plain one, but for a bias in place of these batch norms.

    Args:
        depth: 18, 34, 50, 101 or 152.
        kind: ``pd_a`` (sum of the branches) or ``pd_b`` (gated by the input).
        branches: Names out of :data:`zoo.layers.paradise.BRANCHES`; the order does not matter.
        reduction: PD-B's divisor of the gate's hidden width, 16 in the published networks.
        zero_init_last: Let every residual branch start at 0.
        **kwargs: As :class:`PlainResNet`.

    Raises:
        ZooError: If there is no such network.
    """

    def __init__(
        self,
        depth: int = 18,
        kind: str = "pd_a",
        branches: str | Sequence[str] = BRANCHES,
        reduction: int = 16,
        zero_init_last: bool = False,
        **kwargs,
    ):
        super().__init__(depth, **kwargs)
        if kind not in ("pd_a", "pd_b"):
            raise UnknownNameError(f"Unknown kind {kind!r} of a PD convolution: choose pd_a or pd_b.")
        for block in self.residual_blocks():
            basic = isinstance(block, BasicBlock)
            for i in (1, 2) if basic else (2,):
                plain = getattr(block, f"conv{i}")
                shape = (plain.in_channels, plain.out_channels, plain.stride[0], branches)
                setattr(block, f"conv{i}", PDAConv2d(*shape) if kind == "pd_a" else PDBConv2d(*shape, reduction))
                setattr(block, f"bn{i}", nn.Identity())
            if zero_init_last:
                for bn in block.conv2.batch_norms() if basic else [block.bn3]:
                    nn.init.zeros_(bn.weight)

    def pd_convs(self) -> dict[str, PDAConv2d]:
        """The PD convolutions by name, in order of execution; none after folding."""
        return {name: module for name, module in self.named_modules() if isinstance(module, PDAConv2d)}

    def warm_start(self, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict that :func:`expand_plain` gives this network, which is changed in place as well.

        Args:
            plain: State dict of the plain ResNet. Its stem and classifier are returned as they are, also if this
                network has other channels and classes: timm's loader adapts them.

        Raises:
            WeightError: If the tensors are not those of the plain ResNet of this depth.
        """
        given = {key: plain[key] for key in ("conv1.weight", "fc.weight", "fc.bias") if key in plain}
        if len(given) < 3:
            raise WeightError("This is no plain ResNet with a classifier: a network cannot start from it.")
        own = {key: tensor for key, tensor in self.state_dict().items() if key.startswith(("conv1.", "fc."))}
        expand_plain(self, {key: tensor for key, tensor in plain.items() if key not in given} | own)
        return self.state_dict() | given

    _KEYS = (
        (r"(.*)\.branches\.standard1\.(conv|bn)\.(.*)", r"\1.ori_\2.\3"),
        (r"(.*)\.branches\.standard2\.(conv|bn)\.(.*)", r"\1.new_\2.\3"),
        (r"(.*)\.branches\.skeleton\.vertical\.(conv|bn)\.(.*)", r"\1.ac_convbn.ver_\2.\3"),
        (r"(.*)\.branches\.skeleton\.horizontal\.(conv|bn)\.(.*)", r"\1.ac_convbn.hor_\2.\3"),
        (r"(.*)\.branches\.group\.(conv|bn)\.(.*)", r"\1.group_\2.\3"),
        (r"(.*)\.gate\.fc1\.(.*)", r"\1.fc.0.\2"),
        (r"(.*)\.gate\.fc2\.(.*)", r"\1.fc.2.\2"),
    )

    @classmethod
    def reference_key(cls, name: str) -> str:
        """The name that ma-xu/ParaDise gives an entry of the state dict."""
        return rename(name, cls._KEYS)

    def reference_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop the prefix that files trained in half precision have."""
        return strip_half_prefix(state)


def strip_half_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop ``1.`` from the keys if all have it: apex puts the network second in a sequence."""
    return {name[2:]: tensor for name, tensor in state.items()} if all(n.startswith("1.") for n in state) else state


@torch.no_grad()
def expand_plain(model: ParadiseResNet, source: nn.Module | Mapping[str, Tensor]) -> ParadiseResNet:
    """Start a PD network from a plain ResNet, or PD-B from PD-A: the same function, in eval and in train mode.

    From a plain network, ``standard1`` takes the convolution and batch norm, and the gains and shifts of the other
    branches become 0; they learn from the first step and the branch's kernels from the second. In PD-B all gates
    start equal and the branches are scaled by their number (exact where that is a power of 2).

    Args:
        model: PD network; its other branches keep their kernels. Changed in place.
        source: Plain ResNet of the same shape (ours, timm's or torchvision's), or PD-A network with the same
            branches; or the state dict of one.

    Returns:
        ``model``.

    Raises:
        WeightError: If the tensors are not those of such a network; ``model`` is then as it was.
        ZooError: If ``model`` has no branch ``standard1`` to take a plain convolution.
    """
    state = dict(source.state_dict() if isinstance(source, nn.Module) else source)
    convs = model.pd_convs()
    plain = not any(".branches." in name for name in state)
    if plain:
        if any("standard1" not in conv.branches for conv in convs.values()):
            raise ZooError("A plain ResNet starts the branch standard1, which this network lacks: add it to branches.")
        for name in convs:
            own, parent, index = f"{name}.branches.standard1", name.rpartition(".")[0], name[-1]
            if f"{name}.weight" in state:
                state[f"{own}.conv.weight"] = state.pop(f"{name}.weight")
            for key in [key for key in state if key.startswith(f"{parent}.bn{index}.")]:
                state[f"{own}.bn.{key.rpartition('.')[2]}"] = state.pop(key)
    target = model.state_dict()

    def starts_fresh(key: str) -> bool:
        other_branch = plain and ".branches." in key and ".branches.standard1." not in key
        return ".gate." in key or other_branch or key.endswith("num_batches_tracked")

    problems = [f"missing {key}" for key in target if key not in state and not starts_fresh(key)]
    problems += [f"unexpected {key}" for key in state if key not in target or ".gate." in key]
    problems += [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in target.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise WeightError(
            f"This is neither a plain ResNet nor a PD-A network of the same shape as the PD network: "
            f"{', '.join(problems[:8])}{f' and {len(problems) - 8} more' if len(problems) > 8 else ''}."
        )
    model.load_state_dict(state, strict=False)
    for conv in convs.values():
        others = [name for name in conv.branches if name != "standard1"]
        for bn in conv.batch_norms(*others) if plain and others else []:
            bn.reset_running_stats()
            nn.init.zeros_(bn.weight)
            nn.init.zeros_(bn.bias)
        if isinstance(conv, PDBConv2d):
            conv.level_gate()
    return model


def _reference(
    kind: str, depth: int, num_classes: int, branches: str | Sequence[str], gate_reduction: int
) -> ParadiseResNet:
    return ParadiseResNet(depth, kind, branches, gate_reduction, num_classes=num_classes)


for _prefix, _kind, _names in (("pd_a_", "pd_a", BRANCHES), ("pd_b_", "pd_b", BRANCHES), ("ac_", "pd_a", _AC)):
    register_reference(
        "paradise",
        _prefix,
        _reference,
        prefix=True,
        depth=18,
        num_classes=1000,
        kind=_kind,
        branches=_names,
        gate_reduction=16,
    )

register(
    __name__,
    PlainResNet,
    {
        "resnet18_cifar": (
            {"depth": 18, "small_images": True},
            "ResNet-18 for 32x32 images, the plain network that PD-A folds into.",
        ),
        "resnet18_half_cifar": (
            {"depth": 18, "width": 0.5, "small_images": True},
            "ResNet-18 of half the width for 32x32 images, the plain network that PD-A folds into.",
        ),
    },
    levels=5,
    dataset="cifar10",
    first_conv="conv1",
    classifier="fc",
    pool_size=(4, 4),
)

register(
    __name__,
    ParadiseResNet,
    {
        "pd_a_resnet18": ({"depth": 18, "kind": "pd_a"}, "PD-A ResNet-18: the branches are summed."),
        "pd_a_resnet34": ({"depth": 34, "kind": "pd_a"}, "PD-A ResNet-34: the branches are summed."),
        "pd_a_resnet50": ({"depth": 50, "kind": "pd_a"}, "PD-A ResNet-50: the branches are summed."),
        "pd_a_resnet101": ({"depth": 101, "kind": "pd_a"}, "PD-A ResNet-101: the branches are summed."),
        "pd_a_resnet152": ({"depth": 152, "kind": "pd_a"}, "PD-A ResNet-152: the branches are summed."),
        "pd_b_resnet18": ({"depth": 18, "kind": "pd_b"}, "PD-B ResNet-18: the branches are gated by the input."),
        "pd_b_resnet34": ({"depth": 34, "kind": "pd_b"}, "PD-B ResNet-34: the branches are gated by the input."),
        "pd_b_resnet50": ({"depth": 50, "kind": "pd_b"}, "PD-B ResNet-50: the branches are gated by the input."),
        "pd_b_resnet101": ({"depth": 101, "kind": "pd_b"}, "PD-B ResNet-101: the branches are gated by the input."),
        "pd_b_resnet152": ({"depth": 152, "kind": "pd_b"}, "PD-B ResNet-152: the branches are gated by the input."),
        "ac_resnet18": ({"depth": 18, "branches": _AC}, "AC-ResNet-18: PD-A with the branches standard1 and skeleton."),
        "ac_resnet34": ({"depth": 34, "branches": _AC}, "AC-ResNet-34: PD-A with the branches standard1 and skeleton."),
        "ac_resnet50": ({"depth": 50, "branches": _AC}, "AC-ResNet-50: PD-A with the branches standard1 and skeleton."),
        "ac_resnet101": (
            {"depth": 101, "branches": _AC},
            "AC-ResNet-101: PD-A with the branches standard1 and skeleton.",
        ),
    },
    levels=5,
    dataset="imagenet",
    first_conv="conv1",
    classifier="fc",
    pool_size=(7, 7),
)

register(
    __name__,
    ParadiseResNet,
    {
        "pd_a_resnet18_cifar": (
            {"depth": 18, "kind": "pd_a", "small_images": True},
            "PD-A ResNet-18 for 32x32 images: the branches are summed.",
        ),
        "pd_b_resnet18_cifar": (
            {"depth": 18, "kind": "pd_b", "small_images": True},
            "PD-B ResNet-18 for 32x32 images: the branches are gated by the input.",
        ),
        "ac_resnet18_cifar": (
            {"depth": 18, "branches": _AC, "small_images": True},
            "AC-ResNet-18 for 32x32 images: PD-A with the branches standard1 and skeleton.",
        ),
        "pd_a_resnet18_half_cifar": (
            {"depth": 18, "kind": "pd_a", "width": 0.5, "small_images": True},
            "PD-A ResNet-18 of half the width for 32x32 images: the branches are summed.",
        ),
        "pd_b_resnet18_half_cifar": (
            {"depth": 18, "kind": "pd_b", "width": 0.5, "small_images": True},
            "PD-B ResNet-18 of half the width for 32x32 images: the branches are gated by the input.",
        ),
    },
    levels=5,
    dataset="cifar10",
    first_conv="conv1",
    classifier="fc",
    pool_size=(4, 4),
)
