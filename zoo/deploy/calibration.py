"""Training images that a network is calibrated with: what its layers' values range over is measured on them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.arrays import load_arrays
from ..data.catalog import get_dataset
from ..data.images import ImageFolder, evaluation_transform
from ..errors import DataError
from ..named import Named


def training_images(found: Named, dataset: str, data: str | Path, config: dict[str, Any], count: int) -> np.ndarray:
    """Images of a training split, spread evenly over it and prepared as for the network. Test images are not read.

    Args:
        found: The network.
        dataset: Its data set.
        data: The data set's folder; of ImageNet one that holds ``train``.
        config: As ``timm.data.resolve_data_config`` gives it.
        count: How many, if there are so many.

    Returns:
        (images, channels, height, width), float32, in a random order that is always the same.

    Raises:
        DataError: If the training split is missing, damaged or does not fit the network.
    """
    info, channels = get_dataset(dataset), config["input_size"][0]
    if found.model.num_classes != info.num_classes:
        raise DataError(
            f"{found.name} tells {found.model.num_classes} classes apart, {info.name} has {info.num_classes}: name its "
            "data set with --dataset."
        )
    if info.name == "imagenet":
        folder = ImageFolder(Path(data).expanduser() / "train", inside=(), channels=channels)
        folder.transform = evaluation_transform(config)
        places = _spread(data, len(folder), count)
        return np.stack([folder[index][0].numpy() for index in places])
    images, _ = load_arrays(info.name, data, "train")
    if images.shape[1] != channels:
        raise DataError(f"{found.name} takes images of {channels} channels, {info.name} has {images.shape[1]}.")
    pixels = torch.from_numpy(images[_spread(data, len(images), count)]).float() / 255
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return ((pixels - mean) / std).numpy()


def _spread(data: str | Path, of: int, count: int) -> np.ndarray:
    if of < 2:
        raise DataError(f"{data}: int8 takes training images to calibrate on and others to compare on, two at least.")
    places = np.linspace(0, of - 1, min(count, of)).round().astype(int)
    return np.random.default_rng(0).permutation(places)
