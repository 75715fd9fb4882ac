"""SymmResNet: timm's ResNet whose 3x3 bottleneck kernels repeat a learned part under a fixed symmetry.

Paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027. Its code has no ImageNet network; the construction is
inferred from the abstract's "almost 25% less parameters" for ResNet-101: 10,635,552 of 44,549,160 here.
"""

from timm.models.resnet import Bottleneck, ResNet

from ._register import register
from ._symmetric import put_makers, redraw_made

__all__ = ["SymmResNet"]
FAMILY = "symmetry"


class SymmResNet(ResNet):
    """ResNet of bottlenecks, each with a symmetric 3x3 kernel, those of stride 2 included.

    Args:
        layers: Blocks per stage.
        symm_type: One of ``zoo.makers.symmetric.TYPES``.
        odd_centre: ``single``, or ``reference`` for the authors' doubled values with odd numbers of channels.
        rank: Rank per tap of ``pdpt``; None for half the channels.
        **kwargs: As timm's ResNet takes them.

    Raises:
        ZooError: If the symmetry does not exist or does not fit the kernels.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        symm_type: str = "tri",
        odd_centre: str = "single",
        rank: int | str | None = None,
        **kwargs,
    ):
        super().__init__(Bottleneck, tuple(layers), **kwargs)
        put_makers(self, symm_type, "second", odd_centre, rank)

    def init_weights(self, zero_init_last: bool = True) -> None:
        """timm's initialisation; of symmetric kernels the learned part has its variance."""
        super().init_weights(zero_init_last)
        redraw_made(self, "fan_out")


register(
    __name__,
    SymmResNet,
    {
        "symm_resnet50": (
            {"layers": (3, 4, 6, 3)},
            "ResNet-50 with symmetric 3x3 kernels (``symm_type``, default ``tri``).",
        ),
        "symm_resnet101": (
            {"layers": (3, 4, 23, 3)},
            "ResNet-101 with symmetric 3x3 kernels (``symm_type``, default ``tri``).",
        ),
    },
    levels=5,
    dataset="imagenet",
    first_conv="conv1",
    classifier="fc",
    pool_size=(7, 7),
)
