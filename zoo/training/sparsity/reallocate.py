"""Moving weights every so many steps: the paper's method, SET and RigL.

All switch off some entries, set all weights that are off to zero, and switch on as many elsewhere, from zero. The
optimizer's state is not touched. Longer periods and the share of weights ever tried are the subject of Liu et al., "Do
we actually need dense over-parameterization?", ICML 2021, https://arxiv.org/abs/2102.02887 (ITOP).
"""

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ZooError
from ...makers import maker_of
from .base import Method
from .entries import active_below, allot, clear_inactive, draw, entries_active, entries_off, smallest_active, switch
from .options import REQUIRED, Option, flag, number, schedule, value_at


class Reallocation(Method, ABC):
    """One reallocation after every step whose number is a multiple of the period; a subclass says what moves.

    Options:
        period: Steps from one reallocation to the next, ``{epoch: steps}`` or one number; none takes place after
            step 0.
        stop_epoch: First epoch without reallocations; None for no end.
        track_exploration: Remember which entries were ever on; records then have their share as ``explored``.
    """

    options = Method.options | {
        "period": Option(REQUIRED, schedule(number(1, whole=True))),
        "stop_epoch": Option(None, number(0, whole=True)),
        "track_exploration": Option(False, flag),
    }

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        super().__init__(model, options, generator)
        self.seen: dict[str, Tensor] = {}
        if self.values["track_exploration"]:
            self.seen = {name: torch.zeros_like(maker_of(layer).mask) for name, layer in self.layers.items()}

    def due(self, epoch: int, iteration: int) -> bool:
        """Whether a reallocation follows this step."""
        stop = self.values["stop_epoch"]
        return (
            iteration > 0 and iteration % value_at(self.values["period"], epoch) == 0 and (stop is None or epoch < stop)
        )

    def moves(self, epoch: int, iteration: int) -> bool:
        """Whether weights may move with this step."""
        return self.due(epoch, iteration)

    @abstractmethod
    def _leaving(self, name: str, iteration: int) -> Tensor:
        """Flat positions of the entries of a layer to switch off."""

    def _counts(self, moved: Mapping[str, int], room: Mapping[str, int]) -> list[int]:
        """Entries to switch on in each layer: as many as it lost; where it has no room, other layers take them."""
        return allot(sum(moved.values()), list(moved.values()), list(room.values()), self.generator)

    def _coming(self, name: str, free: Tensor, count: int) -> Tensor:
        """Which ``count`` of the free positions to switch on."""
        return draw(free, count, self.generator)

    def _redraw(self) -> torch.Generator | None:
        return None

    def after_step(self, epoch: int, iteration: int) -> dict[str, Any] | None:
        """Move weights if it is time.

        Returns:
            ``moved``, ``grown`` and ``shortfall`` in mask entries, ``active`` in weights by layer, and what else the
            method reports.
        """
        if not self.due(epoch, iteration):
            return None
        self._note_seen()
        free, moved = {}, {}
        for name, layer in self.layers.items():
            free[name] = entries_off(layer)  # before the removal: what leaves now does not come back at once
            leaving = self._leaving(name, iteration)
            switch(layer, leaving, False)
            clear_inactive(layer, self._redraw())
            moved[name] = len(leaving)
        grown = self._counts(moved, {name: len(free[name]) for name in free})
        for (name, layer), count in zip(self.layers.items(), grown, strict=True):
            switch(layer, self._coming(name, free[name], count), True)
        total = sum(moved.values())
        record = {"epoch": epoch, "iteration": iteration, "moved": total, "grown": sum(grown)}
        record |= {"shortfall": total - sum(grown), **self._report(total, iteration), "active": self.active()}
        if self.seen:
            self._note_seen()
            tried = sum(int(seen.sum()) for seen in self.seen.values())
            record["explored"] = tried / sum(seen.numel() for seen in self.seen.values())
        return record

    def _note_seen(self) -> None:
        for name, seen in self.seen.items():
            seen |= maker_of(self.layers[name]).mask

    def _report(self, moved: int, iteration: int) -> dict[str, Any]:
        return {}

    def _state(self) -> dict[str, Any]:
        return {"seen": {name: seen.clone() for name, seen in self.seen.items()}}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.seen = {name: seen.to(maker_of(self.layers[name]).mask.device) for name, seen in state["seen"].items()}


class Dynamic(Reallocation):
    """Dynamic sparse reparameterization (Mostafa and Wang 2019, section 3): one threshold for all layers.

    Entries whose mean magnitude is below the threshold leave; layers get them back in proportion to what they have
    left, at random positions; then the threshold is halved or doubled if too many or too few left.

    Options:
        target: K, mask entries that should move each time.
        tolerance: Accepted deviation from K, as a share of it.
        initial_threshold: H at first.
        rewire_scaling: False leaves every layer as many entries as it had.
        big_new_weights: Grown weights start from random numbers instead of 0.
    """

    name = "dynamic"
    options = Reallocation.options | {
        "target": Option(REQUIRED, number(1, whole=True)),
        "tolerance": Option(0.1, number(0, 1)),
        "initial_threshold": Option(1e-3, number(1e-30)),
        "rewire_scaling": Option(True, flag),
        "big_new_weights": Option(False, flag),
    }

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        super().__init__(model, options, generator)
        self.threshold = self.values["initial_threshold"]

    def _leaving(self, name: str, iteration: int) -> Tensor:
        return active_below(self.layers[name], self.threshold)

    def _counts(self, moved: Mapping[str, int], room: Mapping[str, int]) -> list[int]:
        if not self.values["rewire_scaling"]:
            return super()._counts(moved, room)
        left = [int(maker_of(layer).mask.sum()) for layer in self.layers.values()]
        return allot(sum(moved.values()), left, list(room.values()), self.generator)

    def _redraw(self) -> torch.Generator | None:
        return self.generator if self.values["big_new_weights"] else None

    def _report(self, moved: int, iteration: int) -> dict[str, Any]:
        used, target, tolerance = self.threshold, self.values["target"], self.values["tolerance"]
        if moved > (1 + tolerance) * target:
            self.threshold /= 2
        elif moved < (1 - tolerance) * target:
            self.threshold *= 2
        return {"threshold": used, "next_threshold": self.threshold}

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"threshold": self.threshold}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.threshold = state["threshold"]


class Set(Reallocation):
    """Sparse evolutionary training (Mocanu et al. 2018), as compared with in the paper.

    In every layer the smallest floor(fraction * active) + 1 active entries leave (never all), and as many come back at
    random.

    Options:
        fraction: Share of the active entries that moves each time.
    """

    name = "set"
    options = Reallocation.options | {"fraction": Option(REQUIRED, number(0, 1))}

    def _leaving(self, name: str, iteration: int) -> Tensor:
        active = int(maker_of(self.layers[name]).mask.sum())
        return smallest_active(self.layers[name], min(int(self.values["fraction"] * active) + 1, max(active - 1, 0)))


class Rigl(Reallocation):
    """RigL: growth where the loss's gradient is largest (Evci et al. 2020, https://arxiv.org/abs/1911.11134).

    In every layer floor(fraction * active) smallest active entries leave, where the fraction falls from its initial
    value to 0 along half a cosine; the inactive entries with the largest mean gradient magnitude come. Two choices
    differ from the paper: the optimizer also makes its step when weights move, and an entry that leaves does not come
    back at once unless ``regrow`` is set. A layer moves no more entries than it has free ones.

    The gradient of a weight that is off is the one of the kernel, before it is multiplied by the mask. It is taken from
    the backward pass of the steps after which weights may move, and in no other.

    Options:
        end_iteration: Step from which nothing moves any more, 75 % of all in the paper.
        fraction: Initial share of active entries that moves.
        regrow: Entries that leave are candidates too, as in the paper.
    """

    name = "rigl"
    options = Reallocation.options | {
        "end_iteration": Option(REQUIRED, number(1, whole=True)),
        "fraction": Option(0.3, number(0, 1)),
        "regrow": Option(False, flag),
    }

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        super().__init__(model, options, generator)
        self._gradients: dict[str, Tensor] = {}
        self._wanted = True  # whether the coming step may be one after which weights move
        self._leavers: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            maker_of(layer).register_forward_hook(_Watch(self, name))

    def _watch(self, name: str, maker: nn.Module, kernel: Tensor) -> None:
        def keep(gradient: Tensor) -> None:
            before = self._gradients.get(name)
            self._gradients[name] = gradient.detach() if before is None else before + gradient.detach()

        if kernel.is_cuda and torch.cuda.is_current_stream_capturing():  # no step with moves is captured
            return
        if maker is maker_of(self.layers[name]) and self._wanted and kernel.requires_grad:
            kernel.register_hook(keep)

    def due(self, epoch: int, iteration: int) -> bool:
        """Whether a reallocation follows this step."""
        return iteration < self.values["end_iteration"] and super().due(epoch, iteration)

    def fraction(self, iteration: int) -> float:
        """Share of the active entries that moves after a step."""
        return self.values["fraction"] / 2 * (1 + math.cos(math.pi * iteration / self.values["end_iteration"]))

    def after_step(self, epoch: int, iteration: int) -> dict[str, Any] | None:
        """Move weights if it is time; see :meth:`Reallocation.after_step`.

        Raises:
            ZooError: If it is, and no backward pass went through the network.
        """
        if self.due(epoch, iteration):
            if not self._gradients:
                raise ZooError("RigL found no gradients: call after_step after a backward pass through the network.")
            self._sum_over_processes()
        record = super().after_step(epoch, iteration)
        self._gradients.clear()
        self._leavers.clear()
        self._wanted = self.due(epoch, iteration + 1) or self.due(epoch + 1, iteration + 1)
        return record

    def _sum_over_processes(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for name, gradient in sorted(self._gradients.items()):
                self._gradients[name] = gradient.contiguous().clone()
                torch.distributed.all_reduce(self._gradients[name])

    def _leaving(self, name: str, iteration: int) -> Tensor:
        layer = self.layers[name]
        if name not in self._gradients:  # the layer took no part in this step
            return smallest_active(layer, 0)
        active, free = len(entries_active(layer)), len(entries_off(layer))
        count = min(int(self.fraction(iteration) * active), max(active - 1, 0), free)
        self._leavers[name] = smallest_active(layer, count)
        return self._leavers[name]

    def _counts(self, moved: Mapping[str, int], room: Mapping[str, int]) -> list[int]:
        return list(moved.values())

    def _coming(self, name: str, free: Tensor, count: int) -> Tensor:
        if not count:
            return free[:0]
        if self.values["regrow"]:
            free = torch.cat([free, self._leavers[name]]).sort().values
        scores = maker_of(self.layers[name]).scores(self._gradients[name]).flatten()[free]
        return free[scores.argsort(descending=True, stable=True)[:count]]

    def _report(self, moved: int, iteration: int) -> dict[str, Any]:
        return {"fraction": self.fraction(iteration)}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self._wanted = True


class _Watch:
    """A forward hook that shows RigL the kernels of one layer, as long as the method exists.

    What a network is pickled or copied to (an average of weights) is not what the method treats: the hook there does
    nothing.
    """

    def __init__(self, method: Rigl | None = None, name: str = ""):
        self._method = None if method is None else weakref.ref(method)
        self._name = name

    def __call__(self, maker: nn.Module, inputs: tuple[Tensor, ...], kernel: Tensor) -> None:
        if self._method is not None and (method := self._method()) is not None:
            method._watch(self._name, maker, kernel)

    def __reduce__(self) -> tuple:
        return _Watch, ()
