"""The collapsed form of a network that is kept beside it: what it is, and reading it from its own verified file."""

from pathlib import Path

import timm
import torch
from torch import nn

from ..errors import ZooError
from ..weights.fetch import fetch
from ..weights.load import load_fetched
from ..weights.manifest import collapsed_facts, full_name
from .collapse import reparameterize

FURTHER = {"batch_norm": "fold", "reuse": "unroll"}
"""Options of the pass for a network of ordinary layers."""


def collapsed_form(model: nn.Module) -> tuple[nn.Module, dict[str, str]] | None:
    """The network of plain layers that is kept beside a network.

    It is what :func:`.reparameterize` makes; of a network that this leaves as it is, the one with its batch norms
    folded and every use of a repeated block apart.

    Args:
        model: Network in eval mode.

    Returns:
        The collapsed network and the options of the pass; None if that leaves the network as it is, too.
    """
    own = model.state_dict()
    for options in ({}, FURTHER):
        plain = reparameterize(model, **options)
        state = plain.state_dict()
        if own.keys() != state.keys() or not all(torch.equal(own[name], state[name]) for name in own):
            return plain, options
    return None


def load_collapsed(name: str, cache_dir: str | Path | None = None, *, batch_norm: str = "fold") -> nn.Module:
    """A pretrained weight as the network of plain layers that computes the same function.

    It is read from the file that was made and measured when the weight was staged. That file has the batch norms that
    the pass keeps by default; those that directly follow a convolution are folded into it here, in float64, whatever
    the family. Of a wide residual network some stay: they stand before a convolution, after a sum.

    Args:
        name: ``arch.tag``, or an architecture for its first weight.
        cache_dir: Where downloads are kept.
        batch_norm: ``fold``, or ``keep`` for the file as it is.

    Returns:
        The network in eval mode.

    Raises:
        UnknownNameError: If there is no such weight.
        ZooError: If there is no such option.
        WeightError: If it has no collapsed file, or the file cannot be had or is not the manifest's.
    """
    if batch_norm not in ("keep", "fold"):
        raise ZooError(f"load_collapsed: batch_norm is 'keep' or 'fold', not {batch_norm!r}.")
    name = full_name(name)
    entry = collapsed_facts(name)
    state = load_fetched(fetch(name, cache_dir, collapsed=True), cache_dir)
    plain = reparameterize(timm.create_model(name).eval(), **entry["collapsed"].get("options", {}))
    plain.load_state_dict(state)
    return plain if batch_norm == "keep" else reparameterize(plain, batch_norm="fold")
