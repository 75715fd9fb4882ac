"""Copies of networks some of whose kernels are computed by hooks, with the kernels as they are now.

``torch.nn.utils.prune`` and the older ``weight_norm`` and ``spectral_norm`` keep what is learned under another name and
let a forward pre-hook set ``weight`` before each pass: after a state dict has been loaded, or an optimizer's step,
``weight`` is stale until then.
"""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import ZooError
from .registered import check_registered


def copy_of(model: nn.Module, instead: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy whose kernels are ordinary parameters where torch's own hooks computed them, at their current values.

    Args:
        model: Any network; it is not changed.
        instead: By the ``id`` of a tensor, what the copy has in its place.

    Raises:
        ZooError: If a hook of another kind computes a weight, the network does not register what it learns, or it
            cannot be copied.
    """
    _refuse(model)
    memo: dict[int, object] = dict(instead or {})
    for module in model.modules():  # tensors with a gradient history cannot be deep-copied
        for value in (*vars(module).values(), *vars(module).get("_flat_weights", ())):  # of recurrent layers
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise ZooError(f"{type(model).__name__} cannot be copied ({' '.join(str(error).split())[:200]}).") from None
    check_registered(twin)  # whose functions may also close over parts of the original
    for name, module in twin.named_modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod):
                hook.remove(module)
            elif isinstance(hook, WeightNorm | SpectralNorm):
                hook.remove(module)
                _forget(module, hook)
            else:
                continue
            del module._forward_pre_hooks[key]
        _check(name, module)
    return twin


def _forget(module: nn.Module, hook: object) -> None:
    """Spectral norm also has hooks on the state dict, which look for tensors that are no more."""
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, other in list(hooks.items()):
            if getattr(getattr(other, "hook", other), "fn", None) is hook:
                del hooks[key]


def _check(name: str, module: nn.Module) -> None:
    if module.__module__.startswith("torch.nn."):
        for key in ("weight", "bias"):
            if isinstance(vars(module).get(key), Tensor):
                raise ZooError(
                    f"{name or type(module).__name__}.{key} is no parameter but computed elsewhere, by a hook perhaps: "
                    "store its current value as a parameter first."
                )


def _refuse(model: nn.Module) -> None:
    """Networks that have no kernels yet, or none that can be read."""
    for name, module in model.named_modules():
        label = name or type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise ZooError(f"{label} is compiled by torch.jit: take the network from before compiling.")
        if hasattr(module, "_orig_mod"):
            raise ZooError(f"{label} is compiled by torch.compile: take its _orig_mod, the network itself.")
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ZooError(f"{label} is quantized: take the network from before quantization.")
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if nn.parameter.is_lazy(tensor):
                raise ZooError(f"{label} is a lazy layer without a shape yet: run the network once first.")


def check_values(model: nn.Module) -> None:
    """Check that no tensor is on the meta device.

    Raises:
        ZooError: If one is.
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ZooError(f"{type(model).__name__} is on the meta device and has no values: load weights first.")


def own_storage(model: nn.Module, channels_last: bool = False) -> None:
    """Give every tensor of a network a contiguous storage of its own, as file formats demand; in place.

    Args:
        model: Network; one parameter under several names stays one.
        channels_last: Lay all four-dimensional parameters out channels-last.
    """
    seen: set[int] = set()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_meta or tensor.layout != torch.strided or type(tensor.data) is not Tensor:
            continue
        last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == math.prod(tensor.shape) * tensor.element_size() and storage.data_ptr() not in seen
        if channels_last and isinstance(tensor, nn.Parameter) and tensor.dim() == 4 and not last:
            tensor.data = tensor.data.clone(memory_format=torch.channels_last)
        elif not (whole and (last or tensor.is_contiguous())):
            wanted = torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
            tensor.data = tensor.data.clone(memory_format=wanted)
        if tensor.numel():
            seen.add(tensor.untyped_storage().data_ptr())
