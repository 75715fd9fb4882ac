"""What the steps of an epoch add up to, kept where they run, so that a GPU need not wait to be asked."""

import math
import time
from typing import Any

import torch
from torch import Tensor

AHEAD = 32
"""Steps that a GPU is given before they are due: it is never idle, and a run can stop soon."""


class Tally:
    """The sum of an epoch's losses, and the first loss that is not finite.

    Args:
        device: Where the losses are.

    Attributes:
        total: Sum of the losses, (), float32.
        bad: Number of the step (from 1) whose loss is not finite, and that loss, (2,); infinite if there is none.
    """

    def __init__(self, device: torch.device):
        self.total, self.step = torch.zeros((), device=device), torch.zeros((), device=device)
        self.bad = torch.full((2,), math.inf, device=device)

    def begin(self, total: float, step: int) -> None:
        """Begin an epoch, or go on after some of its steps, whose losses were finite."""
        self.total.fill_(total)
        self.step.fill_(step)
        self.bad.fill_(math.inf)

    def add(self, loss: Tensor) -> None:
        """Take in the loss of the next step; every tensor stays where it is, as a captured step needs it."""
        self.total += loss
        self.step += 1
        first = ~torch.isfinite(loss) & torch.isinf(self.bad[0])
        self.bad.copy_(torch.where(first, torch.stack([self.step, loss.float()]), self.bad))


class StepClock:
    """Adds up the time inside ``with`` blocks; on a GPU by events.

    The GPU waits for nothing, but the host does, once it is :data:`AHEAD` steps ahead.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[Any, Any]] = []

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        self.begin = self._now()

    def __exit__(self, *exception: object) -> None:
        self.marks.append((self.begin, self._now()))
        if self.cuda and len(self.marks) > AHEAD:
            self.marks[-AHEAD - 1][1].synchronize()

    def take(self) -> float:
        """Seconds since the last call."""
        if self.cuda:
            torch.cuda.current_stream().synchronize()
            seconds = sum(begin.elapsed_time(end) for begin, end in self.marks) / 1000
        else:
            seconds = sum(end - begin for begin, end in self.marks)
        self.marks = []
        return seconds
