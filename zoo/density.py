"""How sparse a network really is.

The sparsity a sparse network is named after ("0.9") counts only the layers that are sparse. The true density counts
all learnable parameters: of a ResNet-50 at 0.9 a fifth is left, not a tenth. This report has both.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .makers import is_made, learned_of, maker_of
from .makers.masked import MaskedWeight
from .makers.tied import TiedWeight


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

    Sparse and tied weights are told by their makers; all other parameters count as dense, those of a collapsed network
    included, since its plain layers hold zeros like any other number.
    """
    makers = {id(learned_of(layer)): maker_of(layer) for layer in model.modules() if is_made(layer)}
    tensors = tuple(_tensor(name, p, makers.get(id(p))) for name, p in model.named_parameters())
    return DensityReport(tensors, getattr(model, "sparsity", None))


def _tensor(name: str, learned: nn.Parameter, maker: nn.Module | None) -> TensorDensity:
    name = name.replace("parametrizations.", "").removesuffix(".original")
    if isinstance(maker, MaskedWeight):
        return TensorDensity(name, "sparse", maker.active, learned.numel())
    if isinstance(maker, TiedWeight):
        return TensorDensity(name, "tied", learned.numel(), math.prod(maker.shape))
    return TensorDensity(name, "fixed", learned.numel(), learned.numel())
