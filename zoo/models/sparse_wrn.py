"""Wide residual networks for 32x32 images with sparse or tied convolution weights.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967. Sparse are the 3x3 convolutions of the blocks; the
stem, the shortcuts, the batch norms and the classifier are always dense.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..makers.masked import check_sparsity
from ._reference import register_reference, rename
from ._register import register
from ._sparse import SparseNet, init_weights, unit_of
from ._wide_resnet import BasicBlock, WideResNet

__all__ = ["SparseWideResNet"]
FAMILY = "sparse"


class SparseWideResNet(SparseNet, WideResNet):
    """WRN-depth-width with sparse 3x3 convolutions.

    Args:
        depth: 6n + 4, with n blocks per stage.
        width: Widening factor; the stages have 16, 32 and 64 times as many channels, rounded half to even.
        sparsity: Share of mask entries that are off in every sparse layer; 0 makes an ordinary dense network.
        sparse_unit: What an entry switches: ``weight``, ``row``, ``kernel``, ``filter``; tied: ``weight``, ``kernel``.
        reparam: ``sparse`` or ``tied``.
        density: ``uniform``, or ``erk`` for as many weights spread over the layers by their shapes.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout between the convolutions of a block.
        global_pool: timm's name of the pooling, or empty for none.

    Raises:
        ZooError: If no such network exists.
    """

    def __init__(
        self,
        depth: int = 28,
        width: float = 2.0,
        sparsity: float = 0.9,
        sparse_unit: str = "weight",
        reparam: str = "sparse",
        density: str = "uniform",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__(depth, width, BasicBlock, round, num_classes, in_chans, drop_rate, global_pool)
        self.make_sparse(sparsity, sparse_unit, reparam, density=density, mask_dense=False)
        if reparam == "tied":
            self.reset_parameters()

    def sparse_layers(self) -> dict[str, nn.Module]:
        """The 3x3 convolutions of the blocks."""
        return self.block_convs()

    def reset_parameters(self) -> None:
        """Initial values of the published code; masks stay as they are."""
        init_weights(self)

    @classmethod
    def plain_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments for a plain wide residual network's state dict."""
        if "stages.0.0.conv1.weight" not in state or "final.bn.weight" not in state:
            return None
        blocks = len({name.split(".")[2] for name in state if name.startswith("stages.0.")})
        return {
            "depth": 6 * blocks + 4,
            "width": len(state["final.bn.weight"]) / 64,
            "num_classes": len(state.get("head.fc.weight", ())),
            "in_chans": state["stem.conv.weight"].shape[1],
        }

    _KEYS = (
        (r"stem\.conv\.(.*)", r"conv1.\1"),
        (r"stages\.0\.(\d+)\.(.*)", r"block1.layer.\1.\2"),
        (r"stages\.1\.(\d+)\.(.*)", r"block2.layer.\1.\2"),
        (r"stages\.2\.(\d+)\.(.*)", r"block3.layer.\1.\2"),
        (r"final\.bn\.(.*)", r"bn1.\1"),
        (r"head\.fc\.(.*)", r"fc.\1"),
    )

    def reference_key(self, name: str) -> str:
        """The name that IntelAI/dynamic-reparameterization gives an entry of the state dict."""
        return rename(self._made_key(name), self._KEYS).replace(".shortcut.", ".convShortcut.")


def _reference(
    depth: int, widen_factor: float, sparsity_conv: float, sparsity_fc: float, granularity: int, tied: bool
) -> SparseWideResNet:
    check_sparsity(sparsity_fc)  # the published network takes it and has no sparse linear layer
    model = SparseWideResNet(depth, widen_factor, sparsity=0.0)
    model.make_sparse(sparsity_conv, unit_of(granularity, tied), "tied" if tied else "sparse")
    model.reset_parameters()
    return model


# Defaults of the paper's experiment; the published command line's (width 10, sparsity 0.5, kernels) appear nowhere.
register_reference(
    "sparse",
    "cifar10_WideResNet",
    _reference,
    depth=28,
    widen_factor=2.0,
    sparsity_conv=0.9,
    sparsity_fc=0.0,
    granularity=4,
    tied=False,
)

register(
    __name__,
    SparseWideResNet,
    {
        "sparse_wrn": (
            {},
            "Sparse wide residual network: ``depth`` (28), ``width`` (2), ``sparsity`` (0.9), ...",
        ),
        "sparse_wrn_16_1": ({"depth": 16, "width": 1.0}, "WRN-16-1 with 10 % of the block weights (``sparsity`` 0.9)."),
        "sparse_wrn_16_2": ({"depth": 16, "width": 2.0}, "WRN-16-2 with 10 % of the block weights (``sparsity`` 0.9)."),
        "sparse_wrn_28_2": (
            {"depth": 28, "width": 2.0},
            "The paper's WRN-28-2 with 10 % of the block weights (``sparsity`` 0.9), 11.0 % of all parameters.",
        ),
        "sparse_wrn_28_2_thin075": (
            {"depth": 28, "width": 0.75, "sparsity": 0.0},
            "The dense network that WRN-28-2 at sparsity 0.9 is compared with: 0.75 times 16, 32 and 64 channels.",
        ),
    },
    levels=3,
    dataset="cifar10",
    first_conv="stem.conv",
    classifier="head.fc",
    pool_size=(8, 8),
)
