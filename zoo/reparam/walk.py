"""The walk that replaces every layer which is more than a plain one."""

import inspect

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..makers.base import plain_layer
from ..makers.hooks import copy_of, own_storage
from ..precision import full_precision
from .fold import fold_batch_norms


@full_precision()
def plain_copy(model: nn.Module, batch_norm: str = "keep", reuse: str = "shared") -> nn.Module:
    """A copy in eval mode in which each layer that has ``fuse()`` is replaced by what that returns.

    Args:
        model: In eval mode; see :func:`zoo.reparameterize`, which says what the options mean.
        batch_norm: ``keep`` or ``fold``.
        reuse: ``shared`` or ``unroll``.
    """
    plain = _replace(copy_of(model), {"batch_norm": batch_norm, "reuse": reuse})
    if batch_norm == "fold":
        fold_batch_norms(plain)
    own_storage(plain, channels_last=_is_channels_last(model))
    return plain.eval()


def _is_channels_last(model: nn.Module) -> bool:
    """Whether all kernels are whose layout tells: one of a single tap or channel is contiguous in both formats."""
    layouts = ((p.is_contiguous(), p.is_contiguous(memory_format=torch.channels_last)) for p in _kernels(model))
    return {last for first, last in layouts if first != last} == {True}


def _kernels(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 4 and p.layout == torch.strided]


def _replace(module: nn.Module, options: dict[str, str]) -> nn.Module:
    """Replace modules by what ``fuse()`` returns, inner ones first; one used twice is replaced by one."""
    done: dict[nn.Module, nn.Module] = {}

    def walk(module: nn.Module) -> nn.Module:
        if module not in done:
            if not is_parametrized(module):  # its makers belong to it, and it replaces them
                for name, child in list(module._modules.items()):
                    if child is not None and (plain := walk(child)) is not child:
                        module._modules[name] = plain
            done[module] = _keep_hooks(module, _fused(module, options))
        return done[module]

    return walk(module)


def _fused(module: nn.Module, options: dict[str, str]) -> nn.Module:
    if hasattr(module, "fuse"):
        accepted = inspect.signature(module.fuse).parameters
        return module.fuse(**{key: value for key, value in options.items() if key in accepted})
    return plain_layer(module) if is_parametrized(module) else module


def _keep_hooks(module: nn.Module, plain: nn.Module) -> nn.Module:
    """Hooks see a layer's inputs and outputs, which are those of the layer in its place too."""
    if plain is not module:
        for name, value in vars(module).items():
            if name.startswith(("_forward_hooks", "_forward_pre_hooks")) and name in vars(plain):
                getattr(plain, name).update(value)
    return plain
