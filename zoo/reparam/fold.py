"""Which batch norms of a network can be folded into the layers before them, read off its traced graph."""

import operator
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.batch_norm import CONV_NORMS, fold_into

_NORMS = {nn.Conv2d: CONV_NORMS, nn.Linear: (nn.BatchNorm1d, nn.SyncBatchNorm)}
"""Classes of layers, and of the batch norms that are folded into each; not their subclasses, which may do more."""


class _Tracer(torch.fx.Tracer):
    """Also notes the ids of all tensors that the network reads itself, not by calling the layer they belong to."""

    def __init__(self):
        super().__init__()
        self.read: set[int] = set()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, Tensor):
            self.read.add(id(attr_val))
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in CONV_NORMS or super().is_leaf_module(module, name)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold, in place, each batch norm whose only input is a convolution or linear layer that nothing else reads.

    Which those are is read off the traced graph, so that the order in which modules were created does not matter. A
    batch norm stays where the layer or the batch norm is used several times or carries hooks, and where it normalises
    by its batch. A folded batch norm becomes ``nn.Identity``.

    Args:
        model: In eval mode, of plain layers.

    Raises:
        ZooError: If torch.fx cannot trace the model.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module  # torch.fx does not see through these
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # a model of the user's own can fail in any way
        raise ZooError(
            f"The model cannot be traced to find which batch norm follows which convolution "
            f"({' '.join(str(error).split())[:200]}): take the part of it that can, or keep the batch norms."
        ) from None
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    modules = {node: model.get_submodule(node.target) for node in calls}
    uses: dict[int, int] = {}
    for module in modules.values():
        uses[id(module)] = uses.get(id(module), 0) + 1
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(part := operator.attrgetter(node.target)(model), nn.Module):
            tracer.read |= set(map(id, [*part.parameters(), *part.buffers()]))  # a module handed to a function
    for node in calls:
        bn, before = modules[node], node.args[0] if len(node.args) == 1 else None
        if not isinstance(before, torch.fx.Node) or before not in modules:
            continue
        layer = modules[before]
        alone = len(before.users) == 1 and all(
            uses[id(m)] == 1 and not _has_hooks(m) and tracer.read.isdisjoint(map(id, [*m.parameters(), *m.buffers()]))
            for m in (layer, bn)
        )
        if not alone or not _fits(layer, bn):
            continue
        folded = fold_into(layer, bn)
        if isinstance(folded, nn.Linear):
            folded.register_forward_pre_hook(_check_rows)
        for module, new in ((layer, folded), (bn, nn.Identity())):
            for name in names[id(module)]:
                set_module(model, name, new)


def _fits(layer: nn.Module, bn: nn.Module) -> bool:
    if type(bn) not in _NORMS.get(type(layer), ()) or bn.running_mean is None or bn.running_var is None:
        return False
    weight = layer.weight
    ordinary = type(weight.data) is Tensor and weight.is_floating_point() and weight.device == bn.running_mean.device
    return ordinary and len(bn.running_mean) == len(weight)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _check_rows(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
    """A batch norm after a linear layer normalises the second axis, which is the layer's only in (batch, features)."""
    if inputs[0].dim() != 2:
        raise ZooError(
            f"A batch norm was folded into this linear layer, which is right for inputs (batch, features), not for "
            f"{inputs[0].dim()} axes: keep the batch norms of this network."
        )


def set_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a dotted name."""
    parent, _, last = name.rpartition(".")
    root.get_submodule(parent)._modules[last] = module
