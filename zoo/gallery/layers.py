"""The layers of a network for a picture of it: kernels, what makes them, what each learns, how often each runs."""

from typing import Any

import torch
from torch import nn

from ..layers.paradise import MixedConv2d, PDAConv2d
from ..layers.sharing import TemplateBank
from ..makers.base import is_made, learned_of, maker_of
from ..makers.lowrank import LowRankSymmetric, LowRankWeight
from ..makers.masked import MaskedWeight
from ..makers.shared import ReusedWeight, SharedWeight
from ..makers.symmetric import SymmetricWeight
from ..makers.tied import TiedWeight
from ..registry import create_model

_BRANCHED = (PDAConv2d, MixedConv2d)
PLAIN = "as stored"


def layer_facts(name: str, here: bool) -> list[dict[str, Any]]:
    """The convolutions, linear layers and banks of a network, in the order in which it has them.

    Args:
        name: ``arch.tag``.
        here: Whether its file is on this machine; of masks, only that tells how many weights are on.

    Returns:
        For each ``layer``, its name; ``kernel``, its shape (of one run of the layer); ``made``, how its kernel comes
        about, in words, and ``kind``, the same in one; ``learned``, how many entries it learns of its own; ``entries``
        of its kernels, one for each run; ``runs`` in one pass; ``map``, height and width of what it puts out; ``on``,
        how many weights of a masked one are not switched off.

    Raises:
        ZooError: If the network cannot be built.
    """
    with torch.device("meta"):
        model = create_model(name).eval()
    layers, banks = _layers(model), _banks(model)
    seen = _runs(model, layers)
    on = _on(name) if here and any(kind_of(layer) == "masked" for layer in layers.values()) else {}
    users: dict[str, int] = {}
    rows = []
    for label, layer in layers.items():
        shape = _shape(layer)
        row = {"layer": label, "kernel": list(shape), "kind": kind_of(layer), "made": _words(layer, banks)}
        runs, size = seen.get(label, (1, None))
        entries = torch.Size(shape).numel()
        row |= {"learned": _learned(layer), "entries": entries * runs, "runs": runs, "map": size, "on": on.get(label)}
        rows.append(row)
        if bank := _bank_of(layer, banks):
            users[bank] = users.get(bank, 0) + 1
    for label, bank in {label: bank for bank, label in banks.items()}.items():
        shape, uses = bank.templates.shape, users.get(label, 0)
        row = {"layer": label, "kernel": list(shape[1:]), "kind": "bank", "runs": 0, "map": None, "on": None}
        row["made"] = f"{shape[0]} template{'s' * (shape[0] > 1)} for {uses} layers"
        rows.append(row | {"learned": bank.templates.numel(), "entries": 0})
    return rows


def kind_of(layer: nn.Module) -> str:
    """How a layer's kernel comes about, in a word."""
    if isinstance(layer, _BRANCHED):
        return "branches"
    maker = maker_of(layer) if is_made(layer) else None
    kinds = {
        (SharedWeight, ReusedWeight): "shared",
        (SymmetricWeight, LowRankSymmetric): "symmetric",
        (MaskedWeight,): "masked",
        (TiedWeight,): "tied",
        (LowRankWeight,): "low rank",
    }
    found = next((kind for classes, kind in kinds.items() if isinstance(maker, classes)), None)
    return "plain" if maker is None else found or type(maker).__name__


def _words(layer: nn.Module, banks: dict[nn.Module, str]) -> str:
    if isinstance(layer, PDAConv2d):
        return f"sum of {len(layer.branches)} branches: {', '.join(layer.branches)}"
    if isinstance(layer, MixedConv2d):
        return "stacked kernels, mixed by a gate for each image"
    maker = maker_of(layer) if is_made(layer) else None
    if maker is None:
        return PLAIN
    if isinstance(maker, SharedWeight):
        return f"mix of the templates of {banks.get(maker.bank, 'a bank')}"
    if isinstance(maker, SymmetricWeight):
        return f"symmetric ({maker.symm_type})"
    return {"low rank": "product of two thin matrices"}.get(kind_of(layer), kind_of(layer))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Branched convolutions as one; what is in them, and in makers, is left out."""
    found: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer, whole in found.items() if isinstance(whole, _BRANCHED)):
            continue
        if isinstance(layer, (*_BRANCHED, nn.Conv2d, nn.Linear)):
            found[name] = layer
    return found


def _banks(model: nn.Module) -> dict[nn.Module, str]:
    found: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, TemplateBank):
            found.setdefault(module, name)
    return found


def _bank_of(layer: nn.Module, banks: dict[nn.Module, str]) -> str | None:
    maker = maker_of(layer) if is_made(layer) else None
    return banks.get(getattr(maker, "bank", None))


def _shape(layer: nn.Module) -> torch.Size:
    if isinstance(layer, PDAConv2d):
        return torch.Size((layer.out_channels, layer.in_channels, 3, 3))
    if isinstance(layer, MixedConv2d):
        return next(t.shape[1:] for t in layer.parameters() if t.dim() == 5)
    return layer.weight.shape


def _learned(layer: nn.Module) -> int:
    if isinstance(layer, _BRANCHED):
        return sum(p.numel() for p in layer.parameters())
    bias = getattr(layer, "bias", None)
    return learned_of(layer).numel() + (0 if bias is None else bias.numel())


def _runs(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, tuple[int, list[int] | None]]:
    """How often each layer runs in one pass, and the size of the map that it puts out first."""
    seen: dict[str, tuple[int, list[int] | None]] = {}

    def note(label: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            runs, size = seen.get(label, (0, list(output.shape[2:]) or None))
            seen[label] = runs + 1, size

        return hook

    handles = [layer.register_forward_hook(note(label)) for label, layer in layers.items()]
    try:
        with torch.no_grad(), torch.device("meta"):
            model(torch.zeros(1, *model.pretrained_cfg["input_size"]))
    except Exception:  # another package's network that needs values to run: each layer is drawn as if it ran once
        seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _on(name: str) -> dict[str, int]:
    """Weights that a mask does not switch off, by layer."""
    model = create_model(name, pretrained=True)
    makers = {label: maker_of(layer) for label, layer in _layers(model).items() if is_made(layer)}
    return {label: maker.active for label, maker in makers.items() if isinstance(maker, MaskedWeight)}
