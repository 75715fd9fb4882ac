"""Splits of a training set, held on the device as uint8 and delivered in normalised, augmented batches."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data import load_arrays
from ..errors import ZooError
from .augment import augment, cut_out
from .recipe import Recipe


class Images:
    """A split held on the device as uint8, delivered in normalised float batches.

    Args:
        images: (N, channels, height, width), uint8.
        labels: (N,), int64.
        mean: Per-channel mean in [0, 1].
        std: Per-channel standard deviation in [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]):
        self.images, self.labels = images, labels
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


def load_split(recipe: Recipe, data: str | Path, split: str, device: torch.device) -> Images:
    """Read a split for training or for choosing.

    Args:
        recipe: Gives data set, seed and number of held-out images.
        data: Folder of the data set.
        split: ``train`` (less the held-out images) or ``held-out``; the test set has no place here.
        device: Where the images go.
    """
    return load_splits(recipe, data, device)[0][split]


def load_splits(recipe: Recipe, data: str | Path, device: torch.device) -> tuple[dict[str, Images], str]:
    """Read both parts of a training set at once.

    Args:
        recipe: Gives data set, seed, number of held-out images and how they are chosen.
        data: Folder of the data set.
        device: Where the images go.

    Returns:
        ``train`` and ``held-out`` (which may be empty), and the sha256 of the whole training set's pixels and labels.

    Raises:
        ZooError: If more images are held out than there are.
    """
    arrays = load_arrays(recipe.dataset, data, "train")
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    images, labels = (torch.from_numpy(a) for a in arrays)
    if not 0 <= recipe.held_out < len(labels):
        raise ZooError(f"held_out={recipe.held_out}: the training set has {len(labels)} images, choose fewer.")
    if recipe.held_out_from == "last":
        order = torch.arange(len(labels))
    else:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(recipe.seed))
    cut = len(order) - recipe.held_out
    parts = {
        name: Images(images[chosen].to(device), labels[chosen].to(device), *recipe.normalisation())
        for name, chosen in (("train", order[:cut]), ("held-out", order[cut:]))
    }
    return parts, digest.hexdigest()
