"""DeepR as compared with in the paper: gradient noise, and every weight that changes its sign moves.

Method: Bellec et al., "Deep rewiring: training very sparse deep networks", ICLR 2018,
https://arxiv.org/abs/1711.05136; in this form Mostafa and Wang 2019, https://arxiv.org/abs/1902.05967. Unlike in the
original the noise is added to the gradient, so that it passes through learning rate and momentum.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ZooError
from ...makers import learned_of, maker_of
from .base import Method
from .entries import allot, clear_inactive, draw, entries_off, switch
from .options import REQUIRED, Option, number, schedule, value_at


class DeepR(Method):
    """Rewiring after every step, in layers that are not fully dense.

    Signs are recorded before the first step, from the initial weights (in the published code they are older than
    those, so that its first step moves half of all weights). A grown weight starts from 0 with sign 0 and cannot leave
    in the step after. Where a layer has fewer free places than weights that leave, other layers take the rest.

    Options:
        temperature: T of the noise, whose standard deviation is sqrt(2 eta T); ``{epoch: T}`` or one number.
        eta: Of the noise.
        stop_epoch: First epoch without noise and rewiring; None for no end.
        report_period: Steps that one record sums up.

    Raises:
        ZooError: If a mask entry switches more than one weight, since kernels have no sign.
    """

    name = "deepr"
    options = Method.options | {
        "temperature": Option(REQUIRED, schedule(number(0))),
        "eta": Option(0.01, number(0)),
        "stop_epoch": Option(None, number(0, whole=True)),
        "report_period": Option(100, number(1, whole=True)),
    }

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        super().__init__(model, options, generator)
        coarse = [name for name, layer in self.layers.items() if maker_of(layer).weights_per_entry > 1]
        if coarse:
            raise ZooError(f"DeepR moves single weights and {coarse[0]} has larger units: make it with unit 'weight'.")
        self.signs: dict[str, Tensor] = {}
        self.moved = self.shortfall = 0

    def moves(self, epoch: int, iteration: int) -> bool:
        """Whether weights may move with this step: with every one."""
        return True

    def _stopped(self, epoch: int) -> bool:
        stop = self.values["stop_epoch"]
        return stop is not None and epoch >= stop

    def _moving(self) -> dict[str, nn.Module]:
        return {name: layer for name, layer in self.layers.items() if not bool(maker_of(layer).mask.all())}

    def _sign(self, layer: nn.Module) -> Tensor:
        return (learned_of(layer).detach() * maker_of(layer).mask).sign().to(torch.int8)

    @torch.no_grad()
    def before_step(self, epoch: int, iteration: int) -> None:
        """Add noise to the gradients of active weights; before the first step of all, record signs."""
        if not self.signs:
            self.signs = {name: self._sign(layer) for name, layer in self.layers.items()}
        std = math.sqrt(2 * self.values["eta"] * value_at(self.values["temperature"], epoch))
        if not std or self._stopped(epoch):
            return
        for layer in self._moving().values():
            gradient, mask = learned_of(layer).grad, maker_of(layer).mask
            if gradient is not None:
                noise = std * torch.randn(int(mask.sum()), generator=self.generator)
                gradient[mask] += noise.to(gradient)

    @torch.no_grad()
    def after_step(self, epoch: int, iteration: int) -> dict[str, Any] | None:
        """Move the weights that changed their signs.

        Returns:
            After every ``report_period`` steps the sums of ``moved`` and ``shortfall`` over them, and ``active``
            weights by layer; else None.

        Raises:
            ZooError: If there was no ``before_step``.
        """
        if self._stopped(epoch):
            return None
        if not self.signs:
            raise ZooError("DeepR has no signs to compare with: call before_step before the optimizer's step.")
        layers = self._moving()
        free, moved = {}, {}
        for name, layer in layers.items():
            free[name] = entries_off(layer)
            sign, before = self._sign(layer), self.signs[name]
            leaving = (maker_of(layer).mask & (before != 0) & (sign != before)).flatten().nonzero().flatten()
            switch(layer, leaving, False)
            clear_inactive(layer)
            moved[name] = len(leaving)
        lost = list(moved.values())
        grown = allot(sum(lost), lost, [len(positions) for positions in free.values()], self.generator)
        for (name, layer), count in zip(layers.items(), grown, strict=True):
            if count:
                switch(layer, draw(free[name], count, self.generator), True)
            self.signs[name] = self._sign(layer)
        self.moved += sum(lost)
        self.shortfall += sum(lost) - sum(grown)
        if (iteration + 1) % self.values["report_period"]:
            return None
        record = {"epoch": epoch, "iteration": iteration, "moved": self.moved, "shortfall": self.shortfall}
        self.moved = self.shortfall = 0
        return record | {"active": self.active()}

    def _state(self) -> dict[str, Any]:
        signs = {name: sign.clone() for name, sign in self.signs.items()}
        return {"signs": signs, "moved": self.moved, "shortfall": self.shortfall}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.signs = {name: sign.to(maker_of(self.layers[name]).mask.device) for name, sign in state["signs"].items()}
        self.moved, self.shortfall = state["moved"], state["shortfall"]
