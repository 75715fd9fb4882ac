"""Iterative magnitude pruning of a trained dense network, the "compressed sparse" of Mostafa and Wang (2019)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import ZooError
from ...makers import maker_of
from .base import Method
from .entries import clear_inactive, smallest_active, switch
from .options import REQUIRED, Option, choice, number, table


def prune_fraction(schedule: str, target: float, prune: int, prunes: int) -> float:
    """Share of the remaining entries that a prune removes.

    Args:
        schedule: ``exponential``, the same share every time, or ``cubic``, most at first (c_t = (1 - t / n)^3).
        target: Sparsity p after the last prune.
        prune: t, from 0.
        prunes: n.
    """
    if schedule == "exponential":
        return 1 - (1 - target) ** (1 / prunes)
    now, then = ((1 - t / prunes) ** 3 for t in (prune, prune + 1))
    return 1 - (1 - target + target * then) / (1 - target + target * now)


class Pruned(Method):
    """Prunes after epochs start_epoch, start_epoch + every, ... (epochs counted from 0), layer by layer.

    Each removes the smallest floor(f * active) + 1 active entries of every layer, never all. The network starts from
    trained weights with masks that are all ones. The published runs go on for 10 epochs from the last prune on:
    epochs = start_epoch + every * (prunes - 1) + 10.

    Options:
        target: Sparsity p to reach.
        prunes: Number of prunes n.
        start_epoch: Epoch after which the first takes place.
        every: Epochs from one to the next.
        schedule: ``exponential`` or ``cubic``.
        caps: ``{layer: sparsity}`` of layers that are pruned less; the others take up the difference. (The paper's
            MLP, whose last layer stops at 0.9.)

    Raises:
        ZooError: If a cap names no sparse layer, or the others would have to be empty.
    """

    name = "pruned"
    options = Method.options | {
        "target": Option(REQUIRED, number(0, 0.9999)),
        "prunes": Option(20, number(1, whole=True)),
        "start_epoch": Option(0, number(0, whole=True)),
        "every": Option(2, number(1, whole=True)),
        "schedule": Option("exponential", choice("exponential", "cubic")),
        "caps": Option({}, table(number(0, 0.9999))),
    }

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        super().__init__(model, options, generator)
        self.done = 0
        self.targets = self._targets()

    def _check_no_layers(self, model: nn.Module) -> None:
        raise ZooError(
            f"Pruning works on masks and {type(model).__name__} has none: zoo.layers.make_sparse(network, 0.0) gives "
            "it masks that are all ones; call it before the optimizer is made."
        )

    def _targets(self) -> dict[str, float]:
        target = self.values["target"]
        caps = {name: cap for name, cap in self.values["caps"].items() if cap < target}
        entries = {name: maker_of(layer).mask.numel() for name, layer in self.layers.items()}
        unknown = sorted(self.values["caps"].keys() - entries.keys())
        if unknown:
            raise ZooError(f"Option caps names {unknown[0]!r}: the sparse layers are {', '.join(entries)}.")
        kept = (1 - target) * sum(entries.values()) - sum((1 - cap) * entries[name] for name, cap in caps.items())
        rest = sum(count for name, count in entries.items() if name not in caps)
        if not rest or kept <= 0:
            raise ZooError(f"Option caps leaves too much to reach sparsity {target}: raise a cap or lower the target.")
        return {name: caps.get(name, 1 - kept / rest) for name in entries}

    def _due_after(self, epoch: int) -> int:
        """Number of prunes that have taken place once ``epoch`` is over."""
        past = epoch - self.values["start_epoch"]
        return 0 if past < 0 else min(past // self.values["every"] + 1, self.values["prunes"])

    def before_step(self, epoch: int, iteration: int) -> None:
        """Check that no prune was left out.

        Raises:
            ZooError: If the loop does not call :meth:`after_epoch`.
        """
        if self.done < self._due_after(epoch - 1):
            raise ZooError(f"Epoch {epoch} begins and a prune is missing: call after_epoch after every epoch.")

    def after_epoch(self, epoch: int) -> dict[str, Any] | None:
        """Prune if it is time.

        Returns:
            ``moved``, entries removed, and ``active`` weights by layer.

        Raises:
            ZooError: If the first prune finds a network that is sparse already.
        """
        if self._due_after(epoch) <= self.done:
            return None
        if not self.done and not all(bool(maker_of(layer).mask.all()) for layer in self.layers.values()):
            raise ZooError("Pruning starts from masks that are all ones: begin with a dense network.")
        removed = 0
        for name, layer in self.layers.items():
            fraction = prune_fraction(self.values["schedule"], self.targets[name], self.done, self.values["prunes"])
            active = int(maker_of(layer).mask.sum())
            leaving = smallest_active(layer, min(int(fraction * active) + 1, active - 1))
            switch(layer, leaving, False)
            clear_inactive(layer)
            removed += len(leaving)
        self.done += 1
        return {"epoch": epoch, "prune": self.done, "moved": removed, "active": self.active()}

    def _state(self) -> dict[str, Any]:
        return {"done": self.done}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
