"""Several processes that share a run or a measurement: plain torchrun, one process per GPU (or on the CPU)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .device import choose_device
from .errors import ZooError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        device: Where it computes.
        rank: Its number.
        world: How many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: str = "") -> "Processes":
        """Join the processes that torchrun has started (it sets WORLD_SIZE, RANK and LOCAL_RANK), or be alone.

        Args:
            device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        """
        place, world = choose_device(device), int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(place)
        if place.type == "cuda":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(place)
        if not distributed.is_initialized():
            try:
                distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:  # a variable is missing, or there is nobody at the address
                reason = " ".join(str(error).split())[:200]
                raise ZooError(f"The {world} processes of WORLD_SIZE do not meet ({reason}): use torchrun.") from None
        return cls(place, distributed.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network with gradients averaged over the processes."""
        if self.world == 1:
            return model
        from .layers.attention import GatherConv  # other networks do not depend on its code

        places = [self.device.index] if self.device.type == "cuda" else None
        unused = any(isinstance(module, GatherConv) for module in model.modules())  # small maps pass these by
        return DistributedDataParallel(model, device_ids=places, find_unused_parameters=unused)

    def slice(self, batch: Tensor) -> Tensor:
        """This process's part of a global batch; all of it if there is not an image for each process."""
        return batch if len(batch) < self.world else batch.tensor_split(self.world)[self.rank]

    def share(self, images: int) -> float:
        """Weight of this process's mean loss that makes the average over processes the mean over the global batch."""
        if images < self.world:
            return 1.0
        own = images // self.world + (self.rank < images % self.world)
        return own * self.world / images

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor summed over the processes."""
        if self.world > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """A small value of every process, in the order of their numbers."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            distributed.barrier()

    def exchange(self, value: T) -> list[T]:
        """A small value of every process in the order of their numbers, or the error of one that failed instead.

        Raises:
            ElsewhereError: If a process has ended, or has failed within :func:`together`.
        """
        try:
            values = self.gather(value)
        except RuntimeError as error:  # as gloo says that the other end is closed
            reason = " ".join(str(error).split())[:100]
            raise LostError(f"Another of the {self.world} processes has ended ({reason}); its words say why.") from None
        failed = [(rank, found) for rank, found in enumerate(values) if isinstance(found, _Failure)]
        if failed:
            rank, failure = failed[0]
            raise ElsewhereError(f"process {rank} of {self.world}: {failure.message}")
        return values

    def in_turn(self, own: Iterator[T], rounds: int) -> Iterator[T]:
        """What the processes make in turn: the first of each in the order of their numbers, then the second of each.

        Args:
            own: What this process makes.
            rounds: How much the one makes that makes most; the others make as much or one less.

        Raises:
            ElsewhereError: As :meth:`exchange`.
        """
        if self.world == 1:
            yield from own
            return
        for _ in range(rounds):
            made = self.exchange([found for _, found in zip(range(1), own, strict=False)])
            yield from (found for part in made for found in part)


class ElsewhereError(ZooError):
    """Another process of the same work has failed; the message is that of the first which did."""


class LostError(ElsewhereError):
    """Another process has ended without a word to this one."""


@dataclass(frozen=True)
class _Failure:
    message: str


@contextmanager
def together(device: str = "") -> Iterator[Processes]:
    """Processes that do one piece of work together: where one fails, all end, and one line of the first's says why.

    Every process calls :meth:`Processes.exchange` and :meth:`Processes.in_turn` equally often; one that fails tells the
    others when they next do.

    Args:
        device: As :meth:`Processes.join` takes it.

    Raises:
        ZooError: In the first process, if any has failed.
        SystemExit: In the others then, with exit code 1 and without words.
    """
    processes = Processes.join(device)
    if processes.world == 1:
        yield processes
        return
    try:
        yield processes
        processes.exchange(None)
    except LostError:
        raise
    except ElsewhereError:
        if processes.first:
            raise
    except Exception as error:
        known, words = isinstance(error, ZooError | OSError), " ".join(str(error).split())
        with suppress(RuntimeError):
            processes.gather(_Failure(words if known else f"{type(error).__name__}: {words}"))
        if processes.first or not known:
            raise
    else:
        return
    with suppress(RuntimeError):
        processes.wait()  # until the first has said why and ended: torchrun ends it as soon as another one has
    raise SystemExit(1)
