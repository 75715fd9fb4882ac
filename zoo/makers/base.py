"""Putting a maker on a layer, reading what it makes, and taking it off again.

A kernel is never cached: outside training it is made once per use of the layer, and ``zoo.reparameterize`` removes
even that. A cache would have to notice every way in which a learned tensor can change, and a stale one would be a
wrong network without an error.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize

from ..errors import ZooError
from ..precision import full_precision, same_format
from . import values
from .masked import MaskedWeight
from .tied import TiedWeight
from .whole import WholeNumbers


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

    Raises:
        ZooError: If the layer has no such parameter, it has a maker already (torch's own parametrizations included), or
            the maker is one for another shape. The layer is as it was then.
    """
    weight = own_parameter(layer, name)
    before = weight.data
    if start is not None:
        maker.right_inverse = lambda kernel: start  # this once
    kind = weight.device.type
    try:
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):  # torch compares types of the kernels
            parametrize.register_parametrization(layer, name, maker, unsafe=values.to_come())
    except ZooError:
        weight.data = before
        raise
    except Exception as error:  # a maker of the user's own can fail in any way
        weight.data = before  # torch has begun
        raise ZooError(
            f"{type(maker).__name__} cannot make the {name} of {label_of(layer)}, whose shape is "
            f"{tuple(weight.shape)} ({' '.join(str(error).split())[:200]}): give it a maker for this shape."
        ) from None
    finally:
        getattr(maker, "__dict__", {}).pop("right_inverse", None)
    layer.parametrizations[name].unsafe = False  # what is assigned later is compared again
    learned = layer.parametrizations[name].original
    learned.data = learned.data.contiguous()  # a slice would keep the whole tensor, and no file format takes it
    _extend(layer, name)
    return layer.train(layer.training)  # the maker too


def _extend(layer: nn.Module, *names: str) -> None:
    """Add what is ours to the class that torch has made for this layer alone."""
    cls = type(layer)
    for name in names:
        setattr(cls, name, _shortened(name, getattr(cls, name)))
    if not hasattr(cls.__mro__[1], "fuse"):  # else the class has its own way of becoming plain
        cls.fuse = plain_layer
    cls.__reduce_ex__ = _reduce


def _shortened(name: str, long: property) -> property:
    """Torch's property of a made tensor, without its calls in between where they do nothing but take time."""

    def get(layer: nn.Module) -> Tensor:
        made = layer.parametrizations._modules[name]
        hooked = made._forward_hooks or made._forward_pre_hooks or _has_any_global_hook()
        if hooked or len(made._modules) > 1 or not made.is_tensor or parametrize._cache_enabled:
            return long.fget(layer)
        return made._modules["0"](made.original)

    return property(get, long.fset)


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
    _extend(layer, *names)
    return layer


def is_made(layer: nn.Module, name: str = "weight") -> bool:
    """Whether a maker makes this weight."""
    return parametrize.is_parametrized(layer, name)


def made_tensors(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Every made tensor of a network, in its order: name of the layer, the layer, name of the tensor in it."""
    made = [(name, layer) for name, layer in model.named_modules() if parametrize.is_parametrized(layer)]
    return [(name, layer, tensor) for name, layer in made for tensor in layer.parametrizations]


def maker_of(layer: nn.Module, name: str = "weight") -> nn.Module | None:
    """The maker of a weight, or None if it is an ordinary parameter.

    Where torch's own parametrizations come after it, such as a spectral norm of a masked kernel, it is the first:
    what is learned is its input.

    Raises:
        ZooError: If a mask or index comes after another maker, where it would be neither counted nor moved.
    """
    if not is_made(layer, name):
        return None
    first, *others = layer.parametrizations[name]
    masked = isinstance(first, MaskedWeight)  # of a bank, whose entries then serve at many places
    if late := [m for m in others if isinstance(m, WholeNumbers) and not (masked and isinstance(m, TiedWeight))]:
        raise ZooError(
            f"The {name} of {label_of(layer)} is made by {type(first).__name__} and then by {type(late[0]).__name__}, "
            "which cannot be counted or moved there: put one maker on a weight, with zoo.layers.make_weight."
        )
    return first


def learned_of(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    """The learned tensor of a made weight, or the weight itself.

    Raises:
        ZooError: If the weight is made from several tensors, as torch's weight norm does.
    """
    if not is_made(layer, name):
        return getattr(layer, name)
    made = layer.parametrizations[name]
    if not made.is_tensor:
        raise ZooError(f"{label_of(layer)}: {type(made[0]).__name__} makes its {name} from {made.ntensors} tensors.")
    return made.original


def own_parameter(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    """The ordinary parameter of a layer that a maker can take the place of.

    Raises:
        ZooError: If there is none: the message says why, and what to do.
    """
    if not isinstance(layer, nn.Module):
        raise ZooError(f"A maker goes on a layer (an nn.Module), not on a {type(layer).__name__}.")
    if is_made(layer, name):
        makers = " and ".join(type(maker).__name__ for maker in layer.parametrizations[name])
        raise ZooError(
            f"The {name} of {label_of(layer)} is made already, by {makers}, and one weight has one maker: take a new "
            "layer, or the plain one that zoo.reparameterize gives."
        )
    weight = layer._parameters.get(name)
    if weight is None:
        what = "give a single layer, such as a convolution"
        if name in vars(layer):
            what = "a hook computes it, such as torch's pruning or weight_norm, which is to be removed first"
        raise ZooError(f"{label_of(layer)} has no parameter {name!r} for a maker to take the place of: {what}.")
    if nn.parameter.is_lazy(weight):
        raise ZooError(f"{label_of(layer)} is a lazy layer without a shape yet: run the network once first.")
    return weight


def label_of(layer: nn.Module) -> str:
    """A layer in a message: its class, and its sizes if it says them in a line."""
    cls = type(layer).__mro__[1] if parametrize.is_parametrized(layer) else type(layer)
    sizes = layer.extra_repr()
    return cls.__name__ if not sizes or "\n" in sizes else f"{cls.__name__}({sizes})"


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
