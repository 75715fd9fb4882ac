"""The kind that runs one block of a stage several times: equal blocks get one set of kernels, batch norms apart."""

import torch
from torch import nn

from ..errors import ZooError
from ..layers.sharing import TemplateBank
from ..makers.base import is_made, learned_of, make_weight
from ..makers.shared import ReusedWeight
from .kinds import Kind
from .target import Target

_LAYERS = (nn.Conv2d, nn.Linear)


def reuse(target: Target, times: int | None, layers: str | tuple[str, ...] | None) -> None:
    """Consecutive equal blocks share the kernels of their convolutions and linear layers; norms stay apart.

    Args:
        target: The network.
        times: How often each block is run: so many consecutive ones become one; None for all that are equal.
        layers: Patterns; a block is taken if all its convolutions are.
    """
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 2):
        raise ZooError(f"reuse: times is how often a block is run, an integer from 2, not {times!r}.")
    chosen = target.convs(layers)
    free = {name: conv for name, conv in chosen.items() if target.plain(name, conv)}
    done: set[str] = set()
    for prefixes in _runs(target.model):
        usable = [p for p in prefixes if all(n in free for n, m in target.model.named_modules() if _conv_in(n, m, p))]
        usable = usable if usable == prefixes else []
        for start in range(0, len(usable), times or len(usable) or 1):
            part = usable[start : start + (times or len(usable))]
            if len(part) > 1:
                done |= _share_blocks(target, part)
    for name, conv in free.items():
        if name not in done:
            target.leave(name, conv, "its block has no equal beside it")


def _conv_in(name: str, module: nn.Module, prefix: str) -> bool:
    return isinstance(module, nn.Conv2d) and name.startswith(f"{prefix}.")


def _runs(model: nn.Module) -> list[list[str]]:
    """Names of blocks that follow one another and are equal but for their values; the outermost ones."""
    runs: list[list[str]] = []

    def walk(module: nn.Module, prefix: str) -> None:
        children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
        at = 0
        while at < len(children):
            name, child = children[at]
            end = at + 1
            if isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(child, _LAYERS):
                form = _form(child)
                while form and end < len(children) and _form(children[end][1]) == form:
                    end += 1
            if end - at > 1:
                runs.append([name for name, _ in children[at:end]])
            else:
                walk(child, f"{name}.")
            at = end

    walk(model, "")
    return runs


def _form(block: nn.Module) -> tuple:
    """Everything that equal blocks have in common; empty for one without a convolution."""
    parts = [
        (
            name,
            type(m),
            m.extra_repr() if isinstance(m, _LAYERS) else "",
            [p.shape for p in m._parameters.values() if p is not None],
        )
        for name, m in block.named_modules()
    ]
    return tuple(map(str, parts)) if any(isinstance(m, nn.Conv2d) for m in block.modules()) else ()


@torch.no_grad()
def _share_blocks(target: Target, prefixes: list[str]) -> set[str]:
    model, done = target.model, set()
    parts = [n for n, m in model.get_submodule(prefixes[0]).named_modules() if isinstance(m, _LAYERS)]
    for part in parts:
        names = [f"{prefix}.{part}" for prefix in prefixes]
        layers = [model.get_submodule(name) for name in names]
        if any(is_made(layer) for layer in layers) or len(set(layers)) < len(layers):  # made, or one layer already
            continue
        before = [layer.weight.detach().clone() for layer in layers]
        for key in ("weight", "bias"):
            if getattr(layers[0], key) is None:
                continue
            trained = target.learned_by(dict(zip(names, layers, strict=True)), key)
            values = [getattr(layer, key).detach() for layer in layers]
            mean = values[0].clone()
            if target.has_values(*layers) and not target.fresh:
                mean = torch.stack(values).double().mean(0).to(mean.dtype)
            bank = TemplateBank.holding(mean[None].clone()).requires_grad_(trained)
            for layer in layers:
                make_weight(layer, ReusedWeight(bank), key)
                learned_of(layer, key).requires_grad_(False)
        for name, layer, kernel in zip(names, layers, before, strict=True):
            if isinstance(layer, nn.Conv2d):
                target.changed(name, layer, f"one kernel, run {len(names)} times", kernel)
                done.add(name)
    return done


KINDS = (
    Kind("reuse", "one block of a stage is run several times, batch norms apart", reuse,
         {"times": None, "layers": None}, "times", "reuse"),
)  # fmt: skip
