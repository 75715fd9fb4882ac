"""Putting a maker on a layer, reading what it makes, and taking it off again.

A kernel is never cached: outside training it is made once per use of the layer, and ``zoo.reparameterize`` removes
even that. A cache would have to notice every way in which a learned tensor can change, and a stale one would be a
wrong network without an error.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..precision import full_precision, same_format


def make_weight(layer: nn.Module, maker: nn.Module, name: str = "weight", start: Tensor | None = None) -> nn.Module:
    """Let ``maker`` make a layer's weight.

    Args:
        layer: Any module with a parameter ``name``.
        maker: Module with ``forward(learned) -> kernel`` and ``right_inverse(kernel) -> learned``.
        name: The parameter.
        start: What is learned begins with this; None for ``maker.right_inverse`` of the present weight.

    Returns:
        ``layer``, whose state dict now has ``parametrizations.<name>.original`` in place of ``<name>``, and the
        maker's own entries under ``parametrizations.<name>.0``. It has a method ``fuse()``, which timm's
        ``reparameterize_model`` and ``zoo.reparameterize`` call to get the plain layer, and it can be pickled whole.
    """
    if start is not None:
        maker.right_inverse = lambda kernel: start  # this once
    kind = getattr(layer, name).device.type
    with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):  # torch compares the types of the kernels
        parametrize.register_parametrization(layer, name, maker)
    vars(maker).pop("right_inverse", None)
    learned = layer.parametrizations[name].original
    learned.data = learned.data.contiguous()  # a slice would keep the whole tensor, and no file format takes it
    _extend(layer)
    return layer.train(layer.training)  # the maker too


def _extend(layer: nn.Module) -> None:
    """Add what is ours to the class that torch has made for this layer alone."""
    cls = type(layer)
    if "fuse" not in cls.__mro__[1].__dict__:  # a class that has its own way of becoming plain
        cls.fuse = plain_layer
    cls.__reduce_ex__ = _reduce


def _reduce(layer: nn.Module, protocol: int) -> tuple:
    """How pickle saves a made layer: its ordinary class, the names of made weights, and its content."""
    return _restore, (type(layer).__mro__[1], list(layer.parametrizations)), layer.__dict__


def _restore(cls: type[nn.Module], names: list[str]) -> nn.Module:
    """A layer of torch's parametrized class without content, which pickle fills."""
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    for name in names:
        layer.register_parameter(name, nn.Parameter(torch.empty(0)))
        parametrize.register_parametrization(layer, name, nn.Identity())
    _extend(layer)
    return layer


def is_made(layer: nn.Module, name: str = "weight") -> bool:
    """Whether a maker makes this weight."""
    return parametrize.is_parametrized(layer, name)


def maker_of(layer: nn.Module, name: str = "weight") -> nn.Module | None:
    """The maker of a weight, or None if it is an ordinary parameter."""
    return layer.parametrizations[name][0] if is_made(layer, name) else None


def learned_of(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    """The learned tensor of a made weight, or the weight itself."""
    return layer.parametrizations[name].original if is_made(layer, name) else getattr(layer, name)


@torch.no_grad()
def set_learned(layer: nn.Module, value: Tensor, name: str = "weight") -> None:
    """Overwrite the learned tensor of a made weight, in place."""
    learned_of(layer, name).copy_(value)


@full_precision()
def plain_layer(layer: nn.Module) -> nn.Module:
    """A new layer of the ordinary class with the made tensors as its own parameters; ``layer`` stays as it is.

    The tensors are contiguous (or channels-last), with a storage of their own; one made from frozen parameters is
    frozen. Hooks are not copied.

    ``torch.nn.utils.parametrize.remove_parametrizations`` is not used: on a deep copy it also breaks the original,
    whose class the copy shares.

    Args:
        layer: A layer with one or more made tensors, by a maker of this package or by torch's own parametrizations.
    """
    cls = type(layer).__mro__[1]  # the class before torch added the parametrization
    plain = cls.__new__(cls)
    nn.Module.__init__(plain)
    plain.__dict__.update({key: value for key, value in vars(layer).items() if key not in vars(plain)})  # not the hooks
    plain.training = layer.training
    for name, made in layer.parametrizations.items():
        kernel = getattr(layer, name)
        trained = any(parameter.requires_grad for parameter in made.parameters())
        plain.register_parameter(name, nn.Parameter(same_format(kernel, kernel), trained))
    for name, parameter in layer._parameters.items():
        plain.register_parameter(name, copy.deepcopy(parameter))
    for name, buffer in layer._buffers.items():
        plain.register_buffer(name, copy.deepcopy(buffer), name not in layer._non_persistent_buffers_set)
    for name, module in layer.named_children():
        if module is not layer.parametrizations:
            plain.add_module(name, copy.deepcopy(module))
    return plain
