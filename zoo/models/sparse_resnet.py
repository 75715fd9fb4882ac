"""ResNet-50 with sparse or tied weights, in timm's own residual network.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967. Sparse are the three convolutions of every block
and the classifier's weight; the stem, the batch norms and the classifier's bias are dense, and so are the
1x1 convolutions of the shortcuts unless asked for.
"""

from collections.abc import Mapping
from typing import Any

from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from ..errors import ZooError
from ..makers import is_made
from ._reference import register_reference
from ._register import register
from ._sparse import SparseNet, init_weights, unit_of

__all__ = ["SparseResNet"]
FAMILY = "sparse"


class SparseResNet(SparseNet, ResNet):
    """ResNet-50 with sparse blocks and classifier; collapsed, it has timm's and torchvision's keys.

    Args:
        width: Factor of all channels, of the stem too: round(64 width) in the stem and 1, 2, 4, 8 times that in the
            stages' 3x3 convolutions.
        sparsity: Share of mask entries that are off in every sparse convolution; 0 leaves them dense.
        fc_sparsity: The same of the classifier; None for ``sparsity``.
        sparse_unit: What an entry switches: ``weight``, ``row``, ``kernel`` or ``filter`` (of convolutions; of the
            classifier always a weight). Tied: ``weight`` or ``kernel``.
        reparam: ``sparse`` or ``tied``.
        density: ``uniform``, or ``erk`` for as many weights spread over the layers by their shapes.
        sparse_downsample: Make the 1x1 convolutions of the shortcuts sparse too.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the classifier.
        global_pool: timm's name of the pooling, or empty for none.

    Raises:
        ZooError: If no such network exists.
    """

    classifier_parts = ("fc.parametrizations",)

    def __init__(
        self,
        width: float = 1.0,
        sparsity: float = 0.9,
        fc_sparsity: float | None = None,
        sparse_unit: str = "weight",
        reparam: str = "sparse",
        density: str = "uniform",
        sparse_downsample: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        base = round(64 * width)
        if base < 1:
            raise ZooError(f"width {width} leaves the stem without channels: choose 1/64 or more.")
        super().__init__(
            Bottleneck,
            (3, 4, 6, 3),
            num_classes,
            in_chans,
            channels=tuple(base * 2**stage for stage in range(4)),
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        if base != 64:  # timm's 7x7 stem has 64 channels whatever its arguments
            self.conv1 = nn.Conv2d(in_chans, base, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(base)
            self.feature_info[0]["num_chs"] = base
            shortcut = nn.Sequential(nn.Conv2d(base, 4 * base, 1, bias=False), nn.BatchNorm2d(4 * base))
            self.layer1[0] = Bottleneck(base, base, downsample=shortcut)
            self.init_weights()
        self.sparse_downsample = sparse_downsample
        self.make_sparse(sparsity, sparse_unit, reparam, fc_sparsity, density, mask_dense=False)
        if reparam == "tied":
            self.init_weights()

    def init_weights(self, zero_init_last: bool = False) -> None:
        """Initial values of the published code; timm calls this while it builds the network.

        Args:
            zero_init_last: timm's argument; no batch norm starts at zero here.
        """
        init_weights(self)

    def sparse_layers(self) -> dict[str, nn.Module]:
        """The blocks' convolutions, those of the shortcuts if they are to be sparse, and the classifier."""
        layers: dict[str, nn.Module] = {}
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for i, block in enumerate(getattr(self, stage)):
                layers |= {f"{stage}.{i}.{name}": getattr(block, name) for name in ("conv1", "conv2", "conv3")}
                if self.sparse_downsample and block.downsample is not None:
                    layers[f"{stage}.{i}.downsample.0"] = block.downsample[0]
        return layers | ({"fc": self.fc} if isinstance(self.fc, nn.Linear) else {})

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As timm's; while the network's weights are made, the new classifier's are too, at ``fc_sparsity``."""
        made = any(is_made(layer) for layer in self.sparse_layers().values())
        super().reset_classifier(num_classes, global_pool)
        if isinstance(self.fc, nn.Linear):
            nn.init.zeros_(self.fc.bias)
            if made and self.fc_sparsity:
                self._put_maker(self.fc)

    @classmethod
    def plain_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments for a plain ResNet-50's state dict, timm's or torchvision's."""
        if "layer3.5.conv3.weight" not in state or state["conv1.weight"].shape[2:] != (7, 7):
            return None
        return {
            "width": len(state["conv1.weight"]) / 64,
            "num_classes": len(state.get("fc.weight", ())),
            "in_chans": state["conv1.weight"].shape[1],
        }

    def reference_key(self, name: str) -> str:
        """The name that IntelAI/dynamic-reparameterization gives an entry of the state dict."""
        return self._made_key(name)


def _reference(
    widen_factor: float, sparsity_conv: float, sparsity_fc: float, granularity: int, tied: bool, sparse_downsample: bool
) -> SparseResNet:
    model = SparseResNet(widen_factor, sparsity=0.0, sparse_downsample=sparse_downsample)
    model.make_sparse(sparsity_conv, unit_of(granularity, tied), "tied" if tied else "sparse", sparsity_fc)
    if tied:
        model.init_weights()
    return model


register_reference(
    "sparse",
    "imagenet_resnet50",
    _reference,
    widen_factor=1.0,
    sparsity_conv=0.9,
    sparsity_fc=0.9,
    granularity=4,
    tied=False,
    sparse_downsample=False,
)

register(
    __name__,
    SparseResNet,
    {
        "sparse_resnet50": ({}, "The paper's ResNet-50 at ``sparsity`` 0.9, which leaves 20.0 % of all parameters."),
        "sparse_resnet50_thin054": (
            {"width": 0.54, "sparsity": 0.0},
            "The dense network that ResNet-50 at sparsity 0.8 is compared with: 35 channels in the stem.",
        ),
        "sparse_resnet50_thin046": (
            {"width": 0.46, "sparsity": 0.0},
            "The dense network that ResNet-50 at sparsity 0.9 is compared with: 29 channels in the stem.",
        ),
    },
    levels=5,
    dataset="imagenet",
    first_conv="conv1",
    classifier="fc",
    pool_size=(7, 7),
)
