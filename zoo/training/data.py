"""Splits of a training set: small ones held on the device as uint8, photographs read as they are needed."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data import load_arrays
from ..data.images import ImageFolder
from ..errors import ZooError
from .augment import augment, cut_out
from .distributed import Processes
from .folders import Photographs, folder_digest
from .recipe import Recipe


class Images:
    """A split held on the device as uint8, delivered in normalised float batches.

    Args:
        images: (N, channels, height, width), uint8.
        labels: (N,), int64.
        mean: Per-channel mean in [0, 1].
        std: Per-channel standard deviation in [0, 1].
        recipe: Gives batch size and augmentation of :meth:`epoch`, which is not there without it.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        recipe: Recipe | None = None,
    ):
        self.images, self.labels, self.recipe = images, labels, recipe
        self.mean = torch.tensor(mean, device=images.device).view(-1, 1, 1) * 255
        self.std = torch.tensor(std, device=images.device).view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        order: Tensor,
        size: int,
        generator: torch.Generator | None = None,
        first: int = 0,
        cutout: int = 0,
        **augmentation: float,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) for the indices in ``order``.

        Args:
            order: Indices into the split.
            size: Images per batch; the last one may be smaller.
            generator: Randomness of the augmentation; None for none of it.
            first: Batch to begin with.
            cutout: Side of the square of :func:`zoo.training.augment.cut_out`; 0 for none.
            **augmentation: Arguments of :func:`zoo.training.augment.augment`.
        """
        for index in order.split(size)[first:]:
            images = self.images[index]
            if generator is not None:
                images = augment(images, generator, **augmentation)
            images = (images.float() - self.mean) / self.std
            if generator is not None and cutout:
                images = cut_out(images, generator, cutout)
            yield images, self.labels[index]

    def epoch(
        self, number: int, order: Tensor, generator: torch.Generator, first: int, processes: Processes
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """The global batches of an epoch, augmented.

        Args:
            number: Not used: the generator is that of the epoch.
            order: Indices into the split.
            generator: Randomness of the augmentation.
            first: Batch to begin with.
            processes: Not used: every process makes the whole batch, so that mixup pairs the same images.

        Yields:
            Images (batch, channels, height, width), labels (batch,), and their number.
        """
        for images, labels in self.batches(order, self.recipe.batch_size, generator, first, **self.recipe.augment):
            yield images, labels, len(labels)

    def part(self, processes: Processes, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of the whole split, not augmented."""
        own = torch.arange(len(self), device=self.labels.device).tensor_split(processes.world)[processes.rank]
        return self.batches(own, batch_size) if len(own) else iter(())


def read_arrays(dataset: str, data: str | Path) -> tuple[Tensor, Tensor, str]:
    """Images and labels of a small training set, and the sha256 of their values.

    Args:
        dataset: Name of the data set.
        data: Its folder.

    Raises:
        DataError: If the data set is missing or damaged.
    """
    arrays = load_arrays(dataset, data, "train")
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    images, labels = (torch.from_numpy(a) for a in arrays)
    return images, labels, digest.hexdigest()


def load_splits(
    recipe: Recipe, data: str | Path, device: torch.device, read: Callable = read_arrays
) -> tuple[dict[str, Images | Photographs], str]:
    """Read both parts of a training set at once.

    Args:
        recipe: Gives data set, seed, number of held-out images and how they are chosen.
        data: Folder of the data set.
        device: Where the images go.
        read: Reads a small set, as :func:`read_arrays` does.

    Returns:
        ``train`` and ``held-out`` (which may be empty), and a sha256: of the whole training set's pixels and labels, or
        of photographs' paths, labels and sizes in bytes.

    Raises:
        DataError: If the data set is missing or damaged.
        ZooError: If more images are held out than there are.
    """
    if recipe.is_folder():  # class folders in ``train`` below it, or in the folder itself; never in ``val``
        folder = ImageFolder(data, inside=("train",))
        parts = {name: Photographs(folder, c, recipe, device) for name, c in _chosen(recipe, len(folder)).items()}
        return parts, folder_digest(folder)
    images, labels, digest = read(recipe.dataset, data)
    parts = {
        name: Images(images[chosen].to(device), labels[chosen].to(device), *recipe.normalisation(), recipe)
        for name, chosen in _chosen(recipe, len(labels)).items()
    }
    return parts, digest


def _chosen(recipe: Recipe, count: int) -> dict[str, Tensor]:
    """Indices of the two parts of a training set of ``count`` images."""
    if not 0 <= recipe.held_out < count:
        raise ZooError(f"held_out={recipe.held_out}: the training set has {count} images, choose fewer.")
    if recipe.held_out_from == "last":
        order = torch.arange(count)
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed))
    cut = count - recipe.held_out
    return {"train": order[:cut], "held-out": order[cut:]}
