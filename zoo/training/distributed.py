"""Several processes that share a run: plain torchrun, one process per GPU (or on the CPU)."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..device import choose_device


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
            distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
        return cls(place, distributed.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network with gradients averaged over the processes."""
        if self.world == 1:
            return model
        from ..layers.attention import GatherConv  # other networks do not depend on its code

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
