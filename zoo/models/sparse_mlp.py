"""The sparse multilayer perceptron 784-300-100-10 for 28x28 images.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967, appendix. All three layers are sparse. It has no
feature maps, hence no feature levels.
"""

from collections.abc import Mapping
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError
from ..makers import is_made
from ._register import register
from ._sparse import SparseNet, init_weights

__all__ = ["SparseMlp"]
FAMILY = "sparse"

torch.fx.wrap("_flatten")  # the check does not branch on a traced value

_SIDE = 28
_HIDDEN = (300, 100)


def _flatten(x: Tensor, inputs: int) -> Tensor:
    if x[0].numel() != inputs:
        size = f"{inputs // _SIDE**2}x{_SIDE}x{_SIDE}"
        raise ZooError(
            f"This network takes images of {size}, not {'x'.join(map(str, x.shape[1:]))}: resize or crop them."
        )
    return x.flatten(1)


class SparseMlp(SparseNet, nn.Module):
    """Linear layers of 300, 100 and ``num_classes`` outputs, a ReLU after the first two.

    Args:
        sparsity: Share of weights that are off in every layer; 0 makes an ordinary dense network.
        reparam: ``sparse`` or ``tied``.
        density: ``uniform``, or ``erk`` for as many weights spread over the layers by their shapes.
        batch_norm: Batch norm after every layer, that of the scores included; otherwise biases.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        drop_rate: Dropout before the last layer.
        global_pool: timm's argument; there is nothing to pool, and both ``avg`` and empty mean nothing.

    Raises:
        ZooError: If no such network exists.
    """

    classifier_parts = ("fc3.parametrizations", "bn3")

    compared_sizes = ((_SIDE, _SIDE),)

    def __init__(
        self,
        sparsity: float = 0.9,
        reparam: str = "sparse",
        density: str = "uniform",
        batch_norm: bool = True,
        num_classes: int = 10,
        in_chans: int = 1,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__()
        self.num_features = self.head_hidden_size = _HIDDEN[1]
        self.grad_checkpointing = False
        self.batch_norm = batch_norm
        self.fc1, self.bn1 = self._linear(in_chans * _SIDE**2, _HIDDEN[0])
        self.fc2, self.bn2 = self._linear(*_HIDDEN)
        self.drop = nn.Dropout(drop_rate)
        self._make_classifier(num_classes, global_pool)
        self.make_sparse(sparsity, "weight", reparam, density=density, mask_dense=False)
        init_weights(self)

    def _linear(self, inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
        norm = nn.BatchNorm1d(outputs) if self.batch_norm else nn.Identity()
        return nn.Linear(inputs, outputs, bias=not self.batch_norm), norm

    def _make_classifier(self, num_classes: int, global_pool: str | None) -> None:
        if global_pool not in ("avg", "", None):
            raise ZooError(f"An MLP has nothing to pool: global_pool {global_pool!r} must be 'avg' or ''.")
        self.num_classes = num_classes
        self.fc3, self.bn3 = self._linear(_HIDDEN[1], num_classes) if num_classes else (nn.Identity(), nn.Identity())

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (batch, channels, 28, 28) -> hidden activations (batch, 100)."""
        x = F.relu(self.bn1(self.fc1(_flatten(x, self.fc1.in_features))))
        return F.relu(self.bn2(self.fc2(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(batch, 100) -> scores (batch, num_classes), or the input after dropout with ``pre_logits``."""
        x = self.drop(x)
        return x if pre_logits else self.bn3(self.fc3(x))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (batch, num_classes), for images (batch, channels, 28, 28)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the last linear layer, or its name."""
        return "fc3" if name_only else self.fc3

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer and its batch norm; a sparse network gets a sparse one."""
        made = is_made(self.fc1)
        device, dtype = self.fc1.weight.device, self.fc1.weight.dtype
        self._make_classifier(num_classes, global_pool)
        if num_classes and made:
            self._put_maker(self.fc3)
        init_weights(self.fc3)
        for layer in (self.fc3, self.bn3):
            layer.to(device, dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Accepted as timm's networks do; three small layers have nothing to recompute."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Regexes that group the parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:fc|bn)1", "blocks": r"^(?:fc|bn)(\d)"}

    def sparse_layers(self) -> dict[str, nn.Module]:
        """All three layers."""
        layers = {name: getattr(self, name) for name in ("fc1", "fc2", "fc3")}
        return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}

    @classmethod
    def plain_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments for the plain network's state dict."""
        if "fc1.weight" not in state or "fc2.weight" not in state or "conv1.weight" in state:
            return None
        return {
            "batch_norm": "bn1.weight" in state,
            "num_classes": len(state.get("fc3.weight", ())),
            "in_chans": state["fc1.weight"].shape[1] // _SIDE**2,
        }


register(
    __name__,
    SparseMlp,
    {
        "sparse_mlp_300_100": ({}, "The paper's MLP 784-300-100-10 with 10 % of its weights (``sparsity`` 0.9)."),
    },
    levels=0,
    dataset="fashion-mnist",
    first_conv=None,
    classifier="fc3",
    pool_size=None,
)
