"""``reparameterize``: from what is learned to plain layers.

What collapses into what:

- a made weight (shared, symmetric, masked, tied, low-rank) into an ordinary parameter of an ordinary layer;
- a template bank into nothing;
- parallel branches with a batch norm each (PD-A, AC) into one convolution with bias;
- PD-B's branches into stacked kernels mixed per sample by its gate, which depends on the data and stays;
- a reuse block (LruNet) stays as it is, its layers being plain already, or is unrolled into one convolution per use.

Every layer that collapses has ``fuse()``, which returns a new module; timm's ``reparameterize_model`` calls the same.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from ..errors import ZooError
from ..models.lrunet import ReuseBlock
from .fold import affine, fold_batch_norms, set_module
from .record import EquivalenceRecord, equivalence_record

Network = TypeVar("Network", bound=nn.Module)


def reparameterize(
    model: Network, *, batch_norm: str = "keep", reuse: str = "shared", return_record: bool = False
) -> Network | tuple[Network, EquivalenceRecord]:
    """Return a new network of plain layers that computes the same function in eval mode.

    Args:
        model: Any network, also one that contains a network of this zoo; in eval mode. It is not changed, and shares no
            tensor with the result.
        batch_norm: ``keep`` batch norms where a plain network has them, or ``fold`` every one that directly follows a
            convolution into it (in float64).
        reuse: What becomes of a block that LruNet runs several times: ``shared`` keeps its kernels once (folded batch
            norms are then one scale and bias per use), ``unroll`` gives every use its own.
        return_record: Also return the :func:`equivalence_record` of the two, on random input.

    Raises:
        ZooError: If a part of the model is in training mode, or an option does not exist.
    """
    if batch_norm not in ("keep", "fold") or reuse not in ("shared", "unroll"):
        raise ZooError(
            f"reparameterize: batch_norm is 'keep' or 'fold' (not {batch_norm!r}), reuse is 'shared' or 'unroll' (not "
            f"{reuse!r})."
        )
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ZooError(
            f"{training[0]} is in training mode, where batch norms and branches do not collapse: call eval() first."
        )
    with torch.no_grad():
        plain = _replace(copy.deepcopy(model))
        for name, module in list(plain.named_modules()):
            if isinstance(module, ReuseBlock) and reuse == "unroll":
                plain = set_module(plain, name, module.unrolled())
            elif isinstance(module, ReuseBlock) and batch_norm == "fold":
                module.dw_bns = nn.ModuleList(map(affine, module.dw_bns))
                module.pw_bns = nn.ModuleList(map(affine, module.pw_bns))
        if batch_norm == "fold":
            fold_batch_norms(plain)
    plain.eval()
    return (plain, equivalence_record(model, plain)) if return_record else plain


def _replace(module: nn.Module) -> nn.Module:
    """Replace a module, or what is inside it, by what ``fuse()`` returns; one used twice is replaced by one."""
    done: dict[nn.Module, nn.Module] = {}

    def walk(module: nn.Module) -> nn.Module:
        if module in done:
            return done[module]
        if hasattr(module, "fuse"):
            done[module] = module.fuse()
        else:
            done[module] = module
            for name, child in list(module._modules.items()):
                if child is not None:
                    module._modules[name] = walk(child)
        return done[module]

    return walk(module)
