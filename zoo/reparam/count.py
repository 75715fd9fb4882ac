"""Four counts of a network's parameters; which one is meant decides every comparison of parameter-efficient nets."""

import copy

import torch
from torch import nn

from ..makers import is_made, learned_of, maker_of
from ..makers.masked import MaskedWeight
from .collapse import reparameterize


@torch.no_grad()
def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count a network's parameters.

    Args:
        model: The network; it is left as it was.

    Returns:
        ``stored``: entries of all learnable tensors in its state dict. ``unique``: the same with a tensor that appears
        under several names counted once. ``nonzero``: those of them that are not zero and not masked out.
        ``inference``: parameters of the plain network that computes the same, each use of a layer with a kernel of its
        own and batch norms folded where they directly follow a convolution.
    """
    masked = {
        id(learned_of(layer)): layer
        for layer in model.modules()
        if is_made(layer) and isinstance(maker_of(layer), MaskedWeight)
    }
    unique = list(model.parameters())
    entries = model.state_dict().keys()
    plain = reparameterize(copy.deepcopy(model).eval(), batch_norm="fold", reuse="unroll")
    return {
        "stored": sum(p.numel() for name, p in model.named_parameters(remove_duplicate=False) if name in entries),
        "unique": sum(p.numel() for p in unique),
        "nonzero": sum(int(torch.count_nonzero(masked[id(p)].weight if id(p) in masked else p)) for p in unique),
        "inference": sum(p.numel() for p in plain.parameters()),
    }
