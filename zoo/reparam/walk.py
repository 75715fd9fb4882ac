"""The walk that replaces every layer which is more than a plain one."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..makers.base import plain_layer
from ..makers.hooks import copy_of, own_storage
from ..makers.registered import OWN_KEYS
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
    plain = _replace(copy_of(model), {"batch_norm": batch_norm, "reuse": reuse}, only_made=is_transformed(model))
    for part in plain.modules():
        vars(part).pop("zoo_report", None)
    if batch_norm == "fold":
        old, names = _parts(plain), dict(plain.named_modules())
        fold_batch_norms(plain)
        _replace_in_lists(plain, old, {part: plain.get_submodule(name) for name, part in names.items()})
    own_storage(plain, channels_last=_is_channels_last(model))
    return plain.eval()


def is_transformed(model: nn.Module) -> bool:
    """Whether a network, or a part of it, comes from ``zoo.transform``: what collapses then is what that put there.

    Blocks of timm's that have a ``fuse`` of their own stay what they were.
    """
    return any("zoo_report" in vars(module) for module in model.modules())


def _is_channels_last(model: nn.Module) -> bool:
    """Whether all kernels are whose layout tells: one of a single tap or channel is contiguous in both formats."""
    layouts = ((p.is_contiguous(), p.is_contiguous(memory_format=torch.channels_last)) for p in _kernels(model))
    return {last for first, last in layouts if first != last} == {True}


def _kernels(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 4 and p.layout == torch.strided]


def _replace(module: nn.Module, options: dict[str, Any], only_made: bool) -> nn.Module:
    """Replace modules by what ``fuse()`` returns, inner ones first; one used twice is replaced by one."""
    done: dict[nn.Module, nn.Module] = {}
    old = _parts(module)
    options = {**options, "network": set(old)}

    def walk(module: nn.Module) -> nn.Module:
        if module not in done:
            if not is_parametrized(module):  # its makers belong to it, and it replaces them
                for name, child in list(module._modules.items()):
                    if child is not None and (plain := walk(child)) is not child:
                        module._modules[name] = plain
            done[module] = _keep_hooks(module, _fused(module, options, only_made))
        return done[module]

    plain = walk(module)
    _replace_in_lists(plain, old, done)
    return plain


def _parts(model: nn.Module) -> list[nn.Module | nn.Parameter]:
    return [*model.modules(), *model.parameters()]


def replace_parts(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the places of some, in place; also where a network holds them in plain attributes."""
    old = _parts(model)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            module._modules[name] = new.get(child, child)
    _replace_in_lists(model, old, new)


def _replace_in_lists(plain: nn.Module, old: list[nn.Module | nn.Parameter], new: Mapping[Any, nn.Module]) -> None:
    """Replace what a network also holds in plain attributes, in place: else a list of layers keeps what has collapsed.

    Args:
        plain: Network of which every list, mapping and set is its own.
        old: Parts that it had before. One that is gone, such as a bank, becomes None, so that nothing can compute with
            it unnoticed; a parameter becomes a constant.
        new: What took the place of a part.
    """
    had, kept = set(old), set(_parts(plain))
    done: dict[int, tuple[Any, Any]] = {}  # with the value, so that no other one gets its id

    def instead(value: Any) -> Any:
        if isinstance(value, nn.Module | Tensor):
            now = new.get(value, value)
            if value not in had or now in kept:
                return now
            if isinstance(value, Tensor):
                return value.detach()
            return None if any(True for _ in now.parameters()) else now
        if not isinstance(value, list | tuple | set | dict):
            return value
        if id(value) not in done:
            done[id(value)] = value, value
            parts = list(value.values() if isinstance(value, dict) else value)
            others = [instead(part) for part in parts]
            if any(other is not part for other, part in zip(others, parts, strict=True)):
                if isinstance(value, list):
                    value[:] = others
                elif isinstance(value, dict):
                    value.update(zip(value, others, strict=True))
                elif isinstance(value, set):
                    value.clear()
                    value.update(others)
                else:
                    done[id(value)] = value, value._make(others) if hasattr(value, "_make") else tuple(others)
        return done[id(value)][1]

    for part in plain.modules():
        for key, value in list(vars(part).items()):
            if key not in OWN_KEYS and (other := instead(value)) is not value:
                vars(part)[key] = other


def _fused(module: nn.Module, options: dict[str, Any], only_made: bool) -> nn.Module:
    made = is_parametrized(module) or type(module).__module__.startswith("zoo.")
    if hasattr(module, "fuse") and (made or not only_made):
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
