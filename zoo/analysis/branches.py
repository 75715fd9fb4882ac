"""What the branches of ParaDise's layers weigh, and how the gates of PD-B weigh them for the images of a data set."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.paradise import MixedConv2d, PDAConv2d

BINS = 40
"""Of the histograms, from 0 to 1."""


def branched_layers(model: nn.Module, gated: bool = False) -> dict[str, nn.Module]:
    """The layers with parallel branches by name, also those of PD-B that were collapsed; or only those with a gate."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, PDAConv2d | MixedConv2d)}
    return {name: m for name, m in found.items() if not gated or hasattr(m, "gate")}


@torch.no_grad()
def branch_kernels(layer: nn.Module) -> dict[str, Tensor]:
    """The kernel (out, in, 3, 3), float64, that each branch comes to with its batch norm in eval mode, by name."""
    if isinstance(layer, MixedConv2d):
        kernels = layer.weight.double().unflatten(2, (layer.in_channels, 3, 3))
        return {f"branch {k + 1}": kernel for k, kernel in enumerate(kernels)}
    return dict(zip(layer.branches, layer.fold()[0], strict=True))


def branch_norms(model: nn.Module) -> list[dict[str, Any]]:
    """Frobenius norm of each branch's kernel with its batch norm folded: ``layer`` and ``norms`` by branch.

    A gate's factor is not in them.
    """
    return [
        {"layer": name, "norms": {branch: kernel.norm().item() for branch, kernel in branch_kernels(layer).items()}}
        for name, layer in branched_layers(model).items()
    ]


def gate_histograms(model: nn.Module, run: Callable[[], object], limit: int = 0) -> list[dict[str, Any]]:
    """What the gates of a PD-B network say while it runs.

    Args:
        model: The network.
        run: Runs it on images, as often as it likes.
        limit: Count only the first so many of them (batches are run whole); 0 for all.

    Returns:
        Of each layer with a gate: ``layer``, ``images`` seen, and by branch ``mean``, ``std`` (over the images) and
        ``counts`` of images in :data:`BINS` bins of equal width from 0 to 1.
    """
    layers = branched_layers(model, gated=True)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.gate.register_forward_hook(lambda _, __, gates, name=name: seen[name].append(gates.double().cpu()))
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [_histograms(name, layers[name], torch.cat(gates)[: limit or None]) for name, gates in seen.items() if gates]


def _histograms(name: str, layer: nn.Module, gates: Tensor) -> dict[str, Any]:
    """Of gates (images, branches)."""
    names = list(getattr(layer, "branches", ())) or [f"branch {k + 1}" for k in range(gates.shape[1])]
    return {
        "layer": name,
        "images": len(gates),
        "mean": dict(zip(names, gates.mean(0).tolist(), strict=True)),
        "std": dict(zip(names, gates.std(0, correction=0).tolist(), strict=True)),
        "counts": {b: torch.histc(g, BINS, 0, 1).long().tolist() for b, g in zip(names, gates.T, strict=True)},
    }
