"""What a transformation works on: a network, its convolutions, and what was done to each of them."""

import copy
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import ZooError
from ..makers.base import is_made, make_weight
from ..makers.registered import OWN_KEYS
from ..makers.values import to_come
from .flow import Flow, flow_of, writes_kernel

_KNOWN = ("torch.", "timm.", "torchvision.", "zoo.")
"""Packages whose convolutions only read their kernel."""


@dataclass(frozen=True)
class Change:
    """What became of one layer.

    Attributes:
        name: Of the layer in the network that was transformed.
        shape: Of its kernel.
        kind: Of the transformation.
        changed: Whether the layer was changed.
        note: What it is now, or why it was left alone.
        error: Relative error of its kernel (Frobenius norm); None if it was left alone or has no values.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    changed: bool
    note: str
    error: float | None = None


@dataclass
class Target:
    """A network that is being transformed, in place.

    Attributes:
        model: The network.
        image: (channels, height, width) of its images.
        kind: Name of the transformation.
        fresh: Its values were drawn at random a moment ago: a layer may be drawn anew rather than approximated.
        changes: What was done, layer by layer; a kind adds to it with :meth:`changed` and :meth:`leave`.
        taken: Layers that were left alone because they are made already.
    """

    model: nn.Module
    image: tuple[int, int, int]
    kind: str
    fresh: bool = False
    changes: list[Change] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of the changes, and of the kernels changed

    @functools.cached_property
    def flow(self) -> Flow:
        """What the network does with its layers."""
        return flow_of(self.model, self.image)

    def has_values(self, *layers: nn.Module) -> bool:
        """Whether kernels are numbers that a layer can start from; not where a file's are still to come."""
        return not to_come() and not any(p.is_meta for layer in layers for p in layer.parameters())

    def convs(self, layers: str | tuple[str, ...] | None) -> dict[str, nn.Conv2d]:
        """The convolutions to change, in the network's order; the others that were meant are noted with the reason.

        The first layer and the classifier are left alone, unless named to the letter, and so are tied weights.

        Args:
            layers: Shell patterns of names of layers or of parts of the network that contain them; None for all.

        Raises:
            ZooError: If a pattern fits no convolution.
        """
        names = {name: m for name, m in self.model.named_modules() if isinstance(m, nn.Conv2d)}
        patterns = (layers,) if isinstance(layers, str) else layers
        if patterns is not None:
            if bad := [p for p in patterns or [""] if not any(_fits(n, p) for n in names)]:
                raise ZooError(f"{self.kind}: layers={bad[0]!r} names no convolution of this network.")
            names = {name: m for name, m in names.items() if any(_fits(name, p) for p in patterns)}
        outer, tied = self._outer_layers(), _tied(self.model)
        chosen = {}
        for name, conv in names.items():
            if reason := outer.get(name) if name not in (patterns or ()) else None:
                self.leave(name, conv, reason)
            elif is_made(conv):
                chosen[name] = conv
            elif id(conv.weight) in tied:
                self.leave(name, conv, "its weight serves elsewhere too")
            elif not conv.weight.is_floating_point():
                self.leave(name, conv, f"its kernel is of {conv.weight.dtype}")
            elif not type(conv).__module__.startswith(_KNOWN) and writes_kernel(conv):
                self.leave(name, conv, "its forward changes its kernel")
            else:
                chosen[name] = conv
        return chosen

    def _outer_layers(self) -> dict[str, str]:
        """Names of the first and last layers, with the words for it.

        What names them is the configuration of the network, or of a part of it, such as the backbone of a wrapper.
        """
        convs = [name for name, m in self.model.named_modules() if isinstance(m, nn.Conv2d)]
        parts: dict[str, list[str]] = {"first_conv": [], "classifier": []}
        for prefix, module in self.model.named_modules():
            cfg = getattr(module, "pretrained_cfg", None)
            for key, found in parts.items() if isinstance(cfg, Mapping) else ():
                found += [f"{prefix}.{word}".lstrip(".") for word in _words(cfg.get(key))]
        first, last = ([n for n in convs if any(_is_under(n, part) for part in found)] for found in parts.values())
        if not first:
            channels = self.image[0]
            first = [n for n in convs if self.model.get_submodule(n).in_channels == channels][:1]
        return dict.fromkeys(first, "first layer") | dict.fromkeys(last, "last layer")

    def plain(self, name: str, conv: nn.Conv2d, but: str = "") -> bool:
        """Whether a layer has a kernel of its own; else it is noted as left alone, made already."""
        if not is_made(conv):
            return True
        maker = type(conv.parametrizations.weight[0])
        if not maker.__module__.startswith("torch."):  # torch's own, such as a weight norm, are none of ours
            self.taken.append(name)
        self.leave(name, conv, f"made already, by {maker.__name__}{but}")
        return False

    def leave(self, name: str, layer: nn.Module, reason: str) -> None:
        """Note that a layer is left alone."""
        self.changes.append(Change(name, tuple(_kernel_shape(layer)), self.kind, False, reason))

    def changed(self, name: str, layer: nn.Module, note: str, before: Tensor | None = None) -> None:
        """Note that a layer was changed.

        Args:
            name: Its name.
            layer: The layer as it is now, or as it was if another one took its place.
            note: What it is now.
            before: The kernel it had, to tell the error; None where the kernel is the same.
        """
        error = 0.0 if self.has_values(layer) else None
        if before is not None and error is not None:
            difference = float((layer.weight.detach().double() - before.double()).square().sum())
            size = float(before.double().square().sum())
            self.squares[0] += difference
            self.squares[1] += size
            error = math.sqrt(difference / size) if size else 0.0
        self.changes.append(Change(name, tuple(_kernel_shape(layer)), self.kind, True, note, error))

    def learned_by(self, layers: Mapping[str, nn.Module], tensor: str = "weight") -> bool:
        """Whether layers that are to have one kernel in common are trained.

        Raises:
            ZooError: If only some are, so that the frozen ones would move with them.
        """
        trained = {getattr(layer, tensor).requires_grad: name for name, layer in layers.items()}
        if len(trained) > 1:
            raise ZooError(
                f"{self.kind}: {trained[False]} is frozen and would share its kernel with {trained[True]}, which is "
                "not: freeze layers afterwards, or name those that may share with layers=PATTERN."
            )
        return True in trained

    def put(self, layer: nn.Module, maker: nn.Module, name: str = "weight") -> None:
        """Let a maker make a layer's weight, starting from the kernel there is; without values from nothing."""
        weight = getattr(layer, name)
        maker = maker.to(weight.device)
        start = None
        if not self.has_values(layer):
            like = copy.deepcopy(maker).to("meta").right_inverse(torch.empty(weight.shape, device="meta"))
            start = torch.empty(like.shape, dtype=weight.dtype, device=weight.device)
        make_weight(layer, maker, name, start)


def _kernel_shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Conv2d):
        return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    return tuple(layer.weight.shape)


def _words(value: object) -> list[str]:
    return [value] if isinstance(value, str) and value else [v for v in value or () if v]


def _is_under(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _fits(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def _tied(model: nn.Module) -> set[int]:
    """Ids of parameters that several layers have, or one that a plain attribute holds too."""
    owners: dict[int, set[tuple[int, int]]] = {}
    for module in model.modules():
        held = [value for key, value in vars(module).items() if key not in OWN_KEYS]
        for number, values in enumerate((module._parameters.values(), tree_leaves(held))):
            for value in values:
                if isinstance(value, nn.Parameter):
                    owners.setdefault(id(value), set()).add((id(module), number))
    return {key for key, found in owners.items() if len(found) > 1}
