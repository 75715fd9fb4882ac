"""The collapsed form of a pretrained weight, read from its own verified file."""

from pathlib import Path

import timm
from torch import nn

from ..weights.fetch import fetch
from ..weights.load import load_fetched
from ..weights.manifest import collapsed_facts, full_name
from .collapse import reparameterize


def load_collapsed(name: str, cache_dir: str | Path | None = None) -> nn.Module:
    """A pretrained weight as the network of plain layers that computes the same function.

    It is what ``zoo.reparameterize(zoo.create_model(name, pretrained=True).eval())`` gives (for networks of ordinary
    layers with batch norms folded), read from the file that was made and measured when the weight was staged.

    Args:
        name: ``arch.tag``, or an architecture for its first weight.
        cache_dir: Where downloads are kept.

    Returns:
        The network in eval mode.

    Raises:
        UnknownNameError: If there is no such weight.
        WeightError: If it has no collapsed file, or the file cannot be had or is not the manifest's.
    """
    name = full_name(name)
    entry = collapsed_facts(name)
    state = load_fetched(fetch(name, cache_dir, collapsed=True), cache_dir)
    plain = reparameterize(timm.create_model(name).eval(), **entry["collapsed"].get("options", {}))
    plain.load_state_dict(state)
    return plain
