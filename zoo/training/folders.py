"""Photographs in training: timm's transforms, drawn from the seed, the epoch and the image alone.

Which process or worker reads an image, and what was read before, changes nothing; so a run goes on bit for bit in the
middle of an epoch, with any number of workers.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import get_dataset
from ..data.images import ClearErrors, ImageFolder, naming, usable_cores
from ..errors import ZooError
from .distributed import Processes
from .recipe import Recipe

HELD_OUT_BATCH = 128
"""Photographs per step where held-out accuracy is measured."""


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (CPU), which timm's transforms draw from, for a while.

    Args:
        *words: Whole numbers from 0 that together are the seed.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seeds = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class Transformed(Dataset):
    """Images by (index, epoch); their randomness depends on these and the seed only.

    Args:
        folder: The images.
        transform: Makes an RGB image a uint8 tensor (channels, height, width).
        seed: Not below 0.
    """

    def __init__(self, folder: ImageFolder, transform: Callable[[Image.Image], Tensor], seed: int):
        self.folder, self.transform, self.seed = folder, transform, seed

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int]:
        index, epoch = place
        image, label = self.folder[index]
        with seeded(self.seed, epoch, index):
            return naming(self.folder.samples[index][0], self.transform, image), label


class Photographs:
    """A split of an image folder, delivered in normalised float batches on the device.

    Args:
        folder: All images.
        chosen: Indices of the split's, (N,).
        recipe: Gives seed, batch size, augmentation, image size, normalisation and number of workers.
        device: Where the batches go.

    Raises:
        ZooError: If timm refuses the augmentation.
    """

    def __init__(self, folder: ImageFolder, chosen: Tensor, recipe: Recipe, device: torch.device):
        self.folder, self.chosen, self.recipe, self.device = folder, chosen, recipe, device
        self.augmentation, self.plain = train_transform(recipe), held_out_transform(recipe)

    def __len__(self) -> int:
        return len(self.chosen)

    def epoch(
        self, number: int, order: Tensor, generator: torch.Generator, first: int, processes: Processes
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """This process's part of the batches of an epoch, augmented; only these images are read.

        Args:
            number: Of the epoch, from 0.
            order: Indices into the split.
            generator: Not used: each image has its own randomness.
            first: Batch to begin with.
            processes: Who takes part.

        Yields:
            Images (part, channels, height, width), labels (part,), and the number of images in the global batch.
        """
        batches = order.cpu().split(self.recipe.batch_size)[first:]
        parts = [processes.slice(batch) for batch in batches]
        loaded = self._load(parts, self.augmentation, number)
        for (images, labels), batch in zip(loaded, batches, strict=True):
            yield images, labels, len(batch)

    def part(self, processes: Processes) -> Iterable[tuple[Tensor, Tensor]]:
        """This process's part of the whole split for evaluation: resized, centre crop."""
        own = torch.arange(len(self)).tensor_split(processes.world)[processes.rank]
        return self._load([batch for batch in own.split(HELD_OUT_BATCH) if len(batch)], self.plain, 0)

    def _load(self, batches: list[Tensor], transform: Any, epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        plan = [self.chosen[batch] for batch in batches]
        loader = DataLoader(
            Transformed(self.folder, transform, self.recipe.seed),
            batch_sampler=_Plan(plan, epoch),
            num_workers=min(self.recipe.workers, usable_cores()),
            collate_fn=fast_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global one, which dropout uses
        )
        mean, std = self.recipe.normalisation()
        return PrefetchLoader(ClearErrors(loader), mean, std, channels=len(mean), device=self.device)


class _Plan:
    """The (index, epoch) pairs of every batch, made when they are asked for."""

    def __init__(self, batches: list[Tensor], epoch: int):
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(index, self.epoch) for index in batch.tolist()]


def train_transform(recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's training transform of a recipe, to uint8; bilinear and without colour jitter if it says nothing.

    Args:
        recipe: Its ``augment`` holds arguments of ``timm.data.create_transform``.

    Raises:
        ZooError: If timm refuses them.
    """
    settings = {"color_jitter": None, "interpolation": "bilinear", **recipe.augment}
    try:
        return create_transform(recipe.input_size(), is_training=True, use_prefetcher=True, **settings)
    except (TypeError, ValueError, KeyError, IndexError, AssertionError) as error:
        raise ZooError(f"augment: timm cannot make a transform of {recipe.augment} ({error!r}).") from None


def held_out_transform(recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform at a recipe's image size, to uint8."""
    crop_pct = get_dataset(recipe.dataset).crop_pct
    return create_transform(recipe.input_size(), use_prefetcher=True, interpolation="bilinear", crop_pct=crop_pct)


def folder_digest(folder: ImageFolder) -> str:
    """sha256 of the images' paths, labels and sizes in bytes; their content is not read."""
    digest = hashlib.sha256()
    for path, label in folder.samples:
        line = f"{Path(path).relative_to(folder.root)}\0{label}\0{Path(path).stat().st_size}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
