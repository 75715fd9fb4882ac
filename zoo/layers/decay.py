"""Which parameters weight decay is for, in a network with made kernels."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..errors import ZooError
from ..makers.base import made_tensors
from ..makers.registered import check_registered
from ..makers.shared import ReusedWeight, SharedWeight


@torch.no_grad()
def decay_groups(model: nn.Module, weight_decay: float, layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: timm's rule, applied to kernels where timm sees what they are made from.

    Decayed is every tensor of two axes or more, and what a kernel of two axes or more is made from, however many axes
    that has. Not decayed are biases, batch norms and other vectors, what ``no_weight_decay()`` of the network or of a
    part of it names, also by pattern, and the coefficients of shared layers: decay on them and on the templates would
    shrink their product twice. Frozen parameters are left out; a bank that several layers share is there once.

    Args:
        model: Any network, also one inside a wrapper such as ``DistributedDataParallel``.
        weight_decay: L2 penalty of the decayed ones.
        layer_decay: Above 0, at most 1: the learning rate of each layer is that of the next one times this, with layers
            as the network's ``group_matcher`` or else timm's ``auto_group_layers`` counts them. A bank that several
            layers share has the rate of the first of them.

    Returns:
        Two groups as timm's ``param_groups_weight_decay`` makes them: ``{"params": [...], "weight_decay": 0.0}`` and
        ``{"params": [...], "weight_decay": weight_decay}``. With ``layer_decay`` as ``param_groups_layer_decay`` does,
        up to two for each layer, with ``lr_scale``, by which timm's schedulers multiply the rate.

    Raises:
        ZooError: If the network does not register something that it learns, or ``layer_decay`` is out of range.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ZooError(f"layer_decay is above 0 and at most 1, not {layer_decay!r}.")
    check_registered(model)
    axes: dict[int, int] = {}
    spared: set[int] = set()
    for _, layer, name in made_tensors(model):
        made = layer.parametrizations[name]
        reused = [maker.bank.templates for maker in made if isinstance(maker, ReusedWeight)]
        for learned in (*made.parameters(recurse=False), *reused):
            axes[id(learned)] = getattr(layer, name).dim()
            if name.endswith("bias") or any(isinstance(maker, SharedWeight) for maker in made):
                spared.add(id(learned))
    named = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in model.named_modules()
        if callable(getattr(part, "no_weight_decay", None))
        for name in part.no_weight_decay()
    }
    scales = {} if layer_decay is None else _rates(model, layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): [], (1.0, True): []} if not scales else {}
    for name, parameter in model.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        spare = name.endswith(".bias") or id(parameter) in spared
        spare = spare or any(fnmatchcase(key, pattern) for pattern in named for key in (name, plain))
        if parameter.requires_grad:
            key = (scales.get(id(parameter), 1.0), axes.get(id(parameter), parameter.dim()) > 1 and not spare)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
        | ({"lr_scale": scale} if scales else {})
        for (scale, decayed), parameters in groups.items()
    ]


def _rates(model: nn.Module, layer_decay: float) -> dict[int, float]:
    """The factor of each parameter's learning rate, by its id."""
    from timm.models import group_parameters  # the layers themselves need torch only
    from timm.optim import auto_group_layers

    while not hasattr(model, "group_matcher") and isinstance(getattr(model, "module", None), nn.Module):
        model = model.module  # of a wrapper
    if hasattr(model, "group_matcher"):
        number = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    else:
        number = auto_group_layers(model)
    last = max(number.values(), default=0)
    return {id(p): layer_decay ** (last - number.get(name, last)) for name, p in model.named_parameters()}
