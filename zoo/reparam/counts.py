"""All counts of a network: parameters, multiply-accumulates, bytes, and how sparse it really is.

Which count of parameters is meant decides every comparison of parameter-efficient networks. The sparsity a sparse
network is named after ("0.9") covers only the layers that are sparse: of a ResNet-50 at 0.9 a fifth is left, not a
tenth. The density report has both.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached
from torch.utils.flop_counter import FlopCounterMode

from ..makers.base import learned_of, made_tensors, maker_of
from ..makers.hooks import copy_of
from ..makers.masked import MaskedWeight
from ..makers.registered import check_registered
from ..makers.tied import TiedWeight
from ..precision import full_precision
from .walk import plain_copy


@dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: Learnable parameters, each tensor once.
        macs: Multiply-accumulates of its convolution and linear layers for one image.
        bytes: Parameters and buffers in their own data types.
    """

    parameters: int
    macs: int
    bytes: int


def cost(model: nn.Module, example: Tensor) -> Cost:
    """What one network takes for one input; see :func:`count_macs` for the input."""
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, example),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


@full_precision()
def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count a network's parameters.

    Args:
        model: The network; it is left as it was.

    Returns:
        ``stored``: entries of all learnable tensors in its state dict. ``unique``: the same with a tensor that appears
        under several names counted once. ``nonzero``: those of them that are not zero and not masked out;
        left out of a network on the meta device, which has no values.
        ``inference``: parameters of the plain network that computes the same, each use of a layer with a kernel of its
        own and batch norms folded where they directly follow a convolution.
    """
    entries = model.state_dict().keys()
    current = copy_of(model).eval()  # with the weights that torch's pruning leaves
    masked = {key: maker for key, maker in _makers(current).items() if isinstance(maker, MaskedWeight)}
    plain = plain_copy(current, batch_norm="fold", reuse="unroll")
    counts = {
        "stored": sum(p.numel() for name, p in model.named_parameters(remove_duplicate=False) if name in entries),
        "unique": sum(p.numel() for p in model.parameters()),
    }
    if not any(tensor.is_meta for tensor in (*current.parameters(), *current.buffers())):
        kernels = (masked[id(p)](p) if id(p) in masked else p for p in current.parameters())
        counts["nonzero"] = sum(int(torch.count_nonzero(kernel)) for kernel in kernels)
    return counts | {"inference": sum(p.numel() for p in plain.parameters())}


@full_precision()
def count_macs(model: nn.Module, image: tuple[int, int, int] | Tensor) -> int:
    """Count multiply-accumulates of convolutions and matrix products for one image, each use of a layer once.

    What makes kernels from learned tensors is not counted: a collapsed network does not do it.

    Args:
        model: The network, on any device, ``meta`` included; it is left as it was.
        image: (channels, height, width) of the image; or an input itself, a batch of one.
    """
    if not isinstance(image, Tensor):
        parameter = next(model.parameters())
        image = torch.zeros(1, *image, device=parameter.device, dtype=parameter.dtype)
    training = {module: module.training for module in model.modules()}
    made = made_tensors(model)
    try:
        model.eval()
        with cached():
            for _, layer, name in made:
                getattr(layer, name)  # now, so that it is not counted below
            with FlopCounterMode(display=False) as counter:
                model(image)
    finally:
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class TensorDensity:
    """One learnable tensor.

    Attributes:
        name: Layer and parameter, ``stages.0.0.conv1.weight``.
        kind: ``sparse``, ``tied``, or ``fixed`` for a tensor that is always dense.
        active: Learnable numbers: weights that are on, or entries of the bank.
        total: Entries of the tensor that the layer uses.
    """

    name: str
    kind: str
    active: int
    total: int

    @property
    def density(self) -> float:
        """active / total."""
        return self.active / self.total


@dataclass(frozen=True)
class DensityReport:
    """Counts of a network.

    Attributes:
        tensors: All learnable tensors, in the network's order.
        nominal_sparsity: The sparsity the network was built with, or None if it has none.
    """

    tensors: tuple[TensorDensity, ...]
    nominal_sparsity: float | None

    @property
    def model_size(self) -> dict[str, int]:
        """Active counts under the published code's words: ``learnable`` is ``sparse`` + ``tied`` + ``fixed``."""
        size = {kind: sum(t.active for t in self.tensors if t.kind == kind) for kind in ("sparse", "tied", "fixed")}
        return size | {"learnable": sum(size.values())}

    @property
    def active(self) -> int:
        """Learnable numbers of the network."""
        return sum(t.active for t in self.tensors)

    @property
    def total(self) -> int:
        """Parameters of the dense network of the same shape."""
        return sum(t.total for t in self.tensors)

    @property
    def density(self) -> float:
        """The true density of the network, active / total."""
        return self.active / self.total

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values; ``tensors`` holds only those that are not always dense."""
        return {
            "nominal_sparsity": self.nominal_sparsity,
            "true_density": self.density,
            "true_sparsity": 1 - self.density,
            "active": self.active,
            "total": self.total,
            "model_size": self.model_size,
            "tensors": [asdict(t) | {"density": t.density} for t in self.tensors if t.kind != "fixed"],
        }


def density_report(model: nn.Module) -> DensityReport:
    """Count the active and all weights of a network, tensor by tensor.

    Sparse and tied weights are counted by their makers; all other parameters count as dense, those of a collapsed
    network included, since its plain layers hold zeros like any other number.
    """
    check_registered(model)
    makers = _makers(model)
    tensors = tuple(_tensor(name, p, makers.get(id(p))) for name, p in model.named_parameters())
    return DensityReport(tensors, getattr(model, "sparsity", None))


def _makers(model: nn.Module) -> dict[int, nn.Module]:
    """The maker of each learned tensor, by the tensor's id; not where a weight is made from several tensors."""
    made = [(layer, tensor) for _, layer, tensor in made_tensors(model)]
    alone = [(layer, tensor) for layer, tensor in made if layer.parametrizations[tensor].is_tensor]
    return {id(learned_of(layer, tensor)): maker_of(layer, tensor) for layer, tensor in alone}


def _tensor(name: str, learned: nn.Parameter, maker: nn.Module | None) -> TensorDensity:
    name = name.replace("parametrizations.", "").removesuffix(".original")
    if isinstance(maker, MaskedWeight):
        return TensorDensity(name, "sparse", maker.active, learned.numel())
    if isinstance(maker, TiedWeight):
        return TensorDensity(name, "tied", learned.numel(), math.prod(maker.shape))
    return TensorDensity(name, "fixed", learned.numel(), learned.numel())
