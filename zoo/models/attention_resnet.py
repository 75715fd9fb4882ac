"""SE-, GE- and CBAM-ResNets: the networks ParaDise is compared with, in its own training frame.

The attention block stands after the last batch norm of every residual branch, before the addition, and has the width
of the branch's output. Papers: see :mod:`zoo.layers.attention`.
"""

import re

from torch import Tensor, nn

from ..errors import UnknownNameError
from ..layers.attention import Cbam, GatherExcite, SqueezeExcite
from ._plain_resnet import PlainResNet
from ._reference import register_reference, rename
from ._register import register
from .paradise import strip_half_prefix

__all__ = ["AttentionResNet"]
FAMILY = "paradise"

_ATTENTIONS = ("se", "ge", "cbam")
_KEYS = {
    "se": ((r"(.*)\.se\.fc1\.(.*)", r"\1.se.fc.0.\2"), (r"(.*)\.se\.fc2\.(.*)", r"\1.se.fc.2.\2")),
    "ge": (
        (r"(.*)\.se\.gather\.(\d)\.conv\.(.*)", r"\1.ge.downop.\2.dwconv.\3"),
        (r"(.*)\.se\.gather\.(\d)\.bn\.(.*)", r"\1.ge.downop.\2.bn.\3"),
        (r"(.*)\.se\.mlp\.fc1\.(.*)", r"\1.ge.mlp.0.\2"),
        (r"(.*)\.se\.mlp\.fc2\.(.*)", r"\1.ge.mlp.2.\2"),
    ),
    "cbam": (
        (r"(.*)\.se\.fc1\.(.*)", r"\1.cbam.ChannelGate.mlp.1.\2"),
        (r"(.*)\.se\.fc2\.(.*)", r"\1.cbam.ChannelGate.mlp.3.\2"),
        (r"(.*)\.se\.(conv|bn)\.(.*)", r"\1.cbam.SpatialGate.spatial.\2.\3"),
    ),
}


class AttentionResNet(PlainResNet):
    """ResNet with an attention block in every residual branch.

    Args:
        depth: 18, 34, 50, 101 or 152.
        attention: ``se``, ``ge`` or ``cbam``.
        reduction: Divisor of the hidden width of SE, CBAM and GE's 1x1 convolutions.
        extent: GE's ratio of map to gathered map: 2, 4 or 8, or 0 for the whole map.
        extra_params: Whether GE gathers by convolutions rather than by average pooling.
        mlp: Whether GE has 1x1 convolutions after gathering.
        img_size: Side of the images; only GE with parameters and extent 0 depends on it. None for 224, or 32 with
            ``small_images``.
        small_images: As :class:`PlainResNet`.
        **kwargs: As :class:`PlainResNet`.

    Raises:
        ZooError: If there is no such network.
    """

    def __init__(
        self,
        depth: int = 18,
        attention: str = "se",
        reduction: int = 16,
        extent: int = 8,
        extra_params: bool = True,
        mlp: bool = False,
        img_size: int | None = None,
        small_images: bool = False,
        **kwargs,
    ):
        super().__init__(depth, small_images=small_images, **kwargs)
        if attention not in _ATTENTIONS:
            raise UnknownNameError(f"Unknown attention {attention!r}: choose one of {', '.join(_ATTENTIONS)}.")
        side = img_size or (32 if small_images else 224)
        for halvings, stage in enumerate(
            (self.layer1, self.layer2, self.layer3, self.layer4), 0 if small_images else 2
        ):
            map_size = -(-side // 2**halvings)
            for block in stage:
                channels = (block.bn3 if hasattr(block, "bn3") else block.bn2).num_features
                if attention == "ge":
                    block.se = GatherExcite(channels, extent, extra_params, mlp, reduction, map_size)
                else:
                    block.se = (SqueezeExcite if attention == "se" else Cbam)(channels, reduction)
        self.attention = attention

    def reference_key(self, name: str) -> str:
        """The name that an entry of the state dict has in networks put together from ma-xu/ParaDise's blocks."""
        return rename(name, _KEYS[self.attention])

    def reference_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a single gathering step, which may stand without a number, and fit global ones to the checkpoint.

        The arguments of the original do not say for which image size a network with extent 0 was built; its kernels
        do.
        """
        state = strip_half_prefix(state)
        state = {re.sub(r"\.ge\.downop\.(dwconv|bn)\.", r".ge.downop.0.\1.", key): t for key, t in state.items()}
        for name, module in self.named_modules():
            if isinstance(module, GatherExcite) and module.extent == 0 and len(module.gather):
                conv = module.gather[0].conv
                kernel = state.get(self.reference_key(f"{name}.gather.0.conv.weight"))
                if kernel is not None and kernel.shape[:2] == conv.weight.shape[:2] and kernel.ndim == 4:
                    conv.kernel_size = tuple(kernel.shape[2:])
                    conv.weight = nn.Parameter(conv.weight.new_zeros(kernel.shape))
        return state


def _reference_se(depth: int, num_classes: int, reduction: int) -> AttentionResNet:
    return AttentionResNet(depth, "se", reduction, num_classes=num_classes)


def _reference_cbam(depth: int, num_classes: int, reduction: int) -> AttentionResNet:
    return AttentionResNet(depth, "cbam", reduction, num_classes=num_classes)


def _reference_ge(depth: int, num_classes: int, extent: int, extra_params: bool, mlp: bool) -> AttentionResNet:
    return AttentionResNet(depth, "ge", extent=extent, extra_params=extra_params, mlp=mlp, num_classes=num_classes)


_COMMON = {"prefix": True, "depth": 18, "num_classes": 1000}
register_reference("paradise", "se_", _reference_se, **_COMMON, reduction=16)
register_reference("paradise", "cbam_", _reference_cbam, **_COMMON, reduction=16)
register_reference("paradise", "ge_", _reference_ge, **_COMMON, extent=8, extra_params=True, mlp=False)

register(
    __name__,
    AttentionResNet,
    {
        "se_resnet18": ({"depth": 18, "attention": "se"}, "ResNet-18 with squeeze-and-excitation."),
        "se_resnet34": ({"depth": 34, "attention": "se"}, "ResNet-34 with squeeze-and-excitation."),
        "se_resnet50": ({"depth": 50, "attention": "se"}, "ResNet-50 with squeeze-and-excitation."),
        "se_resnet101": ({"depth": 101, "attention": "se"}, "ResNet-101 with squeeze-and-excitation."),
        "ge_resnet18": ({"depth": 18, "attention": "ge"}, "ResNet-18 with gather-excite of extent 8 with parameters."),
        "ge_resnet34": ({"depth": 34, "attention": "ge"}, "ResNet-34 with gather-excite of extent 8 with parameters."),
        "ge_resnet50": ({"depth": 50, "attention": "ge"}, "ResNet-50 with gather-excite of extent 8 with parameters."),
        "ge_resnet101": (
            {"depth": 101, "attention": "ge"},
            "ResNet-101 with gather-excite of extent 8 with parameters.",
        ),
        "cbam_resnet18": ({"depth": 18, "attention": "cbam"}, "ResNet-18 with CBAM."),
        "cbam_resnet34": ({"depth": 34, "attention": "cbam"}, "ResNet-34 with CBAM."),
        "cbam_resnet50": ({"depth": 50, "attention": "cbam"}, "ResNet-50 with CBAM."),
        "cbam_resnet101": ({"depth": 101, "attention": "cbam"}, "ResNet-101 with CBAM."),
    },
    levels=5,
    dataset="imagenet",
    first_conv="conv1",
    classifier="fc",
    pool_size=(7, 7),
)

register(
    __name__,
    AttentionResNet,
    {
        "se_resnet18_cifar": (
            {"depth": 18, "attention": "se", "small_images": True},
            "ResNet-18 with squeeze-and-excitation, for 32x32 images.",
        ),
        "ge_resnet18_cifar": (
            {"depth": 18, "attention": "ge", "small_images": True},
            "ResNet-18 with gather-excite of extent 8 with parameters, for 32x32 images.",
        ),
    },
    levels=5,
    dataset="cifar10",
    first_conv="conv1",
    classifier="fc",
    pool_size=(4, 4),
)
