"""Which parameters weight decay is for, in a network with made kernels."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..makers.base import made_tensors
from ..makers.registered import check_registered
from ..makers.shared import SharedWeight


@torch.no_grad()
def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: timm's rule, applied to kernels where timm sees what they are made from.

    Decayed is every tensor of two axes or more, and what a kernel of two axes or more is made from, however many axes
    that has. Not decayed are biases, batch norms and other vectors, what ``no_weight_decay()`` of the network or of a
    part of it names, also by pattern, and the coefficients of shared layers: decay on them and on the templates would
    shrink their product twice. Frozen parameters are left out; a bank that several layers share is there once.

    Args:
        model: Any network, also one inside a wrapper such as ``DistributedDataParallel``.
        weight_decay: L2 penalty of the decayed ones.

    Returns:
        Two groups as timm's ``param_groups_weight_decay`` makes them: ``{"params": [...], "weight_decay": 0.0}`` and
        ``{"params": [...], "weight_decay": weight_decay}``.

    Raises:
        ZooError: If the network does not register something that it learns.
    """
    check_registered(model)
    axes: dict[int, int] = {}
    spared: set[int] = set()
    for _, layer, name in made_tensors(model):
        made = layer.parametrizations[name]
        for learned in made.parameters(recurse=False):
            axes[id(learned)] = getattr(layer, name).dim()
            if name.endswith("bias") or any(isinstance(maker, SharedWeight) for maker in made):
                spared.add(id(learned))
    named = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in model.named_modules()
        if callable(getattr(part, "no_weight_decay", None))
        for name in part.no_weight_decay()
    }
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        spare = name.endswith(".bias") or id(parameter) in spared
        spare = spare or any(fnmatchcase(key, pattern) for pattern in named for key in (name, plain))
        if parameter.requires_grad:
            groups[axes.get(id(parameter), parameter.dim()) > 1 and not spare].append(parameter)
    return [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1], "weight_decay": weight_decay}]
