"""What the networks with sparse or tied weights share: makers, initial values, the published code's keys.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightError, ZooError
from ..makers import is_made, learned_of, maker_of
from ..makers.hooks import copy_of
from ..makers.masked import UNITS, MaskedWeight, check_sparsity, check_unit
from ..makers.sparse import erk_counts as erk_counts
from ..makers.sparse import make_sparse, make_tied, put_masks
from ..makers.tied import TiedWeight
from ..precision import full_precision
from ._same_function import SIZES, check_same_function

_KEYS = {"0.mask": "mask", "0.index": "weight_alloc"}


class SparseNet(ABC):
    """Base of the sparse networks, beside ``nn.Module``.

    Attributes:
        sparsity: Nominal sparsity of the sparse layers; see :func:`zoo.density_report` for the true one.
        fc_sparsity: The same of the linear layers among them.
        sparse_unit: What a mask entry switches, or what is tied.
        reparam: ``sparse`` or ``tied``.
        compared_sizes: Of images on which a plain network is compared before it is made sparse.
    """

    sparsity: float
    fc_sparsity: float
    sparse_unit: str
    reparam: str
    compared_sizes: Sequence[tuple[int, int]] = SIZES
    classifier_parts: tuple[str, ...] = ()

    @abstractmethod
    def sparse_layers(self) -> dict[str, nn.Module]:
        """The layers whose weights the paper makes sparse, by name, in order of execution; also those now dense."""

    @classmethod
    @abstractmethod
    def plain_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments of the dense network that an ordinary state dict belongs to, or None if it is another's."""

    def make_sparse(
        self,
        sparsity: float,
        sparse_unit: str = "weight",
        reparam: str = "sparse",
        fc_sparsity: float | None = None,
        density: str = "uniform",
        mask_dense: bool = True,
    ) -> None:
        """Put a maker on the weight of every sparse layer; the present weights become what is learned.

        Args:
            sparsity: Share of mask entries that are off in every sparse layer.
            sparse_unit: ``weight``, ``row``, ``kernel`` or ``filter``; for tied weights ``weight`` or ``kernel``.
            reparam: ``sparse`` (mask) or ``tied`` (bank).
            fc_sparsity: Sparsity of the sparse linear layers; None for ``sparsity``.
            density: ``uniform``, or ``erk``: as many weights in all, spread over the layers as in
                :func:`zoo.layers.erk_counts`.
            mask_dense: Also where the sparsity is 0, with masks that are all ones.

        Raises:
            ZooError: If an argument has no meaning, or a layer has a maker already.
        """
        if reparam not in ("sparse", "tied"):
            raise ZooError(f"reparam is 'sparse' or 'tied', not {reparam!r}.")
        if reparam == "tied" and density != "uniform":
            raise ZooError("density 'erk' is a distribution of mask entries: use it with reparam 'sparse'.")
        check_unit(sparse_unit)
        self.sparsity, self.sparse_unit, self.reparam = check_sparsity(sparsity), sparse_unit, reparam
        self.fc_sparsity = check_sparsity(sparsity if fc_sparsity is None else fc_sparsity)
        layers = {
            name: layer for name, layer in self.sparse_layers().items() if mask_dense or self._sparsity_of(layer) > 0
        }
        made = [name for name, layer in layers.items() if is_made(layer)]
        if made:
            raise ZooError(f"{made[0]} and {len(made) - 1} more layers have made weights: collapse the network first.")
        sparsities = {name: self._sparsity_of(layer) for name, layer in layers.items()}
        if reparam == "sparse":
            put_masks(layers, sparsities, sparse_unit, density)
        else:
            for layer in layers.values():
                self._put_maker(layer)

    def _sparsity_of(self, layer: nn.Module) -> float:
        return self.fc_sparsity if isinstance(layer, nn.Linear) else self.sparsity

    def _put_maker(self, layer: nn.Module) -> None:
        make = make_tied if self.reparam == "tied" else make_sparse
        make(layer, self._sparsity_of(layer), self.sparse_unit)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As ``nn.Module``'s. If not strict, a classifier of another number of classes is left out.

        timm leaves such a classifier out by the names ``.weight`` and ``.bias``, which made tensors do not have.
        """
        if not strict:
            own = self.state_dict()
            state_dict = {
                name: value
                for name, value in state_dict.items()
                if not (
                    name.startswith(tuple(f"{part}." for part in self.classifier_parts))
                    and name in own
                    and value.shape != own[name].shape
                )
            }
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _made_key(self, name: str) -> str:
        layer, made, rest = name.partition(".parametrizations.weight.")
        if not made:
            return name
        return f"{layer}.d_tensor.{_KEYS.get(rest, 'bank' if self.reparam == 'tied' else 's_tensor')}"

    def reference_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks as booleans, checked index maps; for a layer that is dense here, the product as ``weight``.

        Raises:
            WeightError: If a mask is not of zeros and ones, or an index map points outside its bank.
        """
        state = dict(state)
        for name, layer in self.sparse_layers().items():
            key = self.reference_key(f"{name}.weight").removesuffix("weight")
            learned, mask = state.get(f"{key}d_tensor.s_tensor"), state.get(f"{key}d_tensor.mask")
            bank, index = state.get(f"{key}d_tensor.bank"), state.get(f"{key}d_tensor.weight_alloc")
            folds = not is_made(layer)
            if mask is not None:
                if not torch.all((mask == 0) | (mask == 1)):
                    raise WeightError(f"{key}d_tensor.mask is not a mask: it has values other than 0 and 1.")
                state[f"{key}d_tensor.mask"] = mask = mask.bool()
                fits = learned is not None and mask.shape == learned.shape[: mask.dim()]
                if folds and fits and learned.shape == layer.weight.shape:
                    state[f"{key}weight"] = learned * mask.reshape(*mask.shape, *(1,) * (learned.dim() - mask.dim()))
                    del state[f"{key}d_tensor.s_tensor"], state[f"{key}d_tensor.mask"]
            if bank is not None and index is not None:
                if index.is_floating_point() or not torch.all((index >= 0) & (index < len(bank))):
                    raise WeightError(f"{key}d_tensor.weight_alloc is not a map into a bank of {len(bank)} rows.")
                kernel = bank[index.long()]
                if isinstance(maker_of(layer), TiedWeight) and kernel.numel() == layer.weight.numel():
                    state[f"{key}d_tensor.bank"] = bank.reshape(len(bank), *maker_of(layer).row_shape)
                elif folds and kernel.numel() == layer.weight.numel():
                    state[f"{key}weight"] = kernel.reshape(layer.weight.shape)
                    del state[f"{key}d_tensor.bank"], state[f"{key}d_tensor.weight_alloc"]
        return state


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """Initial values of the published code, sparse or not, of all convolutions and linear layers.

    Convolutions: normal, variance 2 / (height * width * out). Linear: uniform, +-1 / sqrt(in); the first entry of a
    tied layer's bank is 0. Biases: 0.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        weight = learned_of(layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(weight, std=math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
        else:
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(weight, -bound, bound)
            if isinstance(maker_of(layer), TiedWeight):
                weight[0] = 0
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def unit_of(granularity: int, tied: bool) -> str:
    """The unit that the published code's ``sub-kernel-granularity`` stands for.

    Args:
        granularity: 1 to 4, the number of axes of a mask; for tied weights 0 ties kernels, any other ties weights.
        tied: Whether weights are tied.

    Raises:
        ZooError: If it stands for none.
    """
    units = {axes: unit for unit, axes in UNITS.items()}
    if tied:
        units = dict.fromkeys(units, "weight") | {0: "kernel"}
    if granularity not in units:
        kind = "tied" if tied else "sparse"
        raise ZooError(
            f"granularity of {kind} weights is one of {', '.join(map(str, sorted(units)))}, not {granularity!r}."
        )
    return units[granularity]


@full_precision()
def sparse_from_plain(
    model: nn.Module,
    sparsity: float,
    sparse_unit: str = "weight",
    reparam: str = "sparse",
    fc_sparsity: float | None = None,
    density: str = "uniform",
    **kwargs: Any,
) -> tuple[nn.Module, float]:
    """Turn an ordinary network into a sparse one: magnitude pruning layer by layer, or averages for tied weights.

    Args:
        model: A network with the shape and keys of one of this family (any timm or torchvision ResNet-50 too), or one
            of this family that is dense; it is left as it is.
        sparsity: Share of weights to switch off; at 0 the result has all-ones masks and computes the same.
        sparse_unit: As in :meth:`SparseNet.make_sparse`, like the next three.
        reparam: ``sparse`` or ``tied``.
        fc_sparsity: Sparsity of the linear layers.
        density: ``uniform`` or ``erk``.
        **kwargs: Further arguments of the network class, such as ``sparse_downsample``.

    Returns:
        The sparse network, in the mode, precision and place of ``model``; and the relative error of its kernels, the
        norm of all changes over the norm of all kernels that were made sparse.

    Raises:
        ZooError: If ``model`` is no such network.
    """
    sparse = _dense_copy(model, kwargs)
    before = {name: layer.weight.detach().clone() for name, layer in sparse.sparse_layers().items()}
    sparse.make_sparse(sparsity, sparse_unit, reparam, fc_sparsity, density)
    change = size = 0.0
    for name, layer in sparse.sparse_layers().items():
        maker, kernel = maker_of(layer), before[name]
        if isinstance(maker, MaskedWeight):
            maker.keep_largest_(kernel, int(maker.mask.sum()))
        change += float((layer.weight - kernel).double().square().sum())
        size += float(kernel.double().square().sum())
    return sparse, math.sqrt(change / size) if size else 0.0


def _dense_copy(model: nn.Module, kwargs: Mapping[str, Any]) -> nn.Module:
    if isinstance(model, SparseNet):
        if kwargs:
            raise ZooError(f"{type(model).__name__} is a sparse network already: build it with {', '.join(kwargs)}.")
        return copy_of(model)
    state = model.state_dict()
    for cls in SparseNet.__subclasses__():
        arguments = cls.plain_arguments(state)
        if arguments is None:
            continue
        network = cls(**{**arguments, "sparsity": 0.0, **kwargs})
        parameter = next(model.parameters())
        network = network.to(parameter.device, parameter.dtype).train(model.training)
        check_same_function(model, network, f"plain {cls.__name__}", arguments["in_chans"], cls.compared_sizes)
        return network
    classes = ", ".join(cls.__name__ for cls in SparseNet.__subclasses__())
    raise ZooError(f"{type(model).__name__} has no sparse form here: it needs the layers of one of {classes}.")
