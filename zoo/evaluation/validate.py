"""Accuracy and calibration of a network on a data set."""

import hashlib
import logging
import math
import platform
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from timm.data import resolve_data_config
from torch import Tensor, nn
from tqdm import tqdm

from ..data import get_dataset
from ..data.arrays import read_arrays
from ..data.images import ImageFolder, image_folder_loader
from ..device import choose_device
from ..errors import DataError
from ..files import printable
from ..version import __version__
from .corruptions import Corruption
from .guesses import Guesses
from .predict import class_names
from .predictions import refuse_existing, write_predictions
from .result import Result

_LOGGER = logging.getLogger(__name__)


def validate(
    model: nn.Module,
    dataset: str,
    data: str | Path,
    *,
    name: str = "",
    sha256: str = "",
    batch_size: int | None = None,
    split: str = "test",
    device: str = "",
    limit: int = 0,
    predictions: str | Path | None = None,
    corruption: Corruption | None = None,
    said: set[str] | None = None,
) -> Result:
    """Measure a network's accuracy and calibration in one pass, every image counted once, in float32 and eval mode.

    The warning of the result is also logged.

    Args:
        model: Takes images (batch, channels, height, width), float32, and gives scores (batch, classes); its
            ``pretrained_cfg`` says how images are prepared. It is set to eval mode and moved to ``device``.
        dataset: ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100`` or ``imagenet``.
        data: Folder of the data set.
        name: Goes into the result.
        sha256: Goes into the result.
        batch_size: Images per step; by default 64 on a CPU, 256 elsewhere.
        split: ``test``, or ``train`` of the small sets.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        limit: Measure the first so many images only, which the result says; 0 for all.
        predictions: Write what was said of each image to this file, see :mod:`.predictions`; it may not exist yet.
        corruption: Corrupt the images in this way first, which the result says; not for ImageNet.
        said: Warnings that are not logged once more; this one's is added.

    Raises:
        DataError: If the data is missing, damaged or does not fit the network.
        ZooError: If there is no such device here, or the file of predictions exists or cannot be written.
    """
    if predictions is not None:
        refuse_existing(predictions)
    info = get_dataset(dataset)
    config = resolve_data_config(model=model)
    place = choose_device(device)
    if batch_size is None:
        batch_size = 64 if place.type == "cpu" else 256  # what 64 become stays in a core's cache: half the time
    if model.num_classes != info.num_classes:
        raise DataError(
            f"{name or 'The network'} tells {model.num_classes} classes apart, {info.name} has {info.num_classes}: "
            "choose a weight for this data set (zoo list --pretrained)."
        )
    left_out, warning, data_sha256 = 0, "", {}
    if info.name == "imagenet":
        if corruption:
            raise DataError("Corruptions are made of the small data sets; for ImageNet there is ImageNet-C.")
        loader = image_folder_loader(data, config, batch_size)
        batches, of = iter(loader), len(loader.dataset)
        set_sha256 = _names_sha256(loader.dataset)
        left_out, warning = len(loader.dataset.left_out), _left_out(loader.dataset)
    else:
        images, labels, data_sha256, warning = read_arrays(info.name, data, split)
        set_sha256 = data_sha256
        if images.shape[1] != config["input_size"][0]:
            raise DataError(
                f"{name or 'The network'} takes images of {config['input_size'][0]} channels, {info.name} has "
                f"{images.shape[1]}."
            )
        batches, of = (
            _array_batches(images, labels, config, batch_size, corruption),
            len(labels),
        )
    count = min(limit or of, of)
    total = math.ceil(count / batch_size)
    if count < of:
        part = f"only the first {count:,} of {of:,} images were measured: this is no figure of {info.name}"
        warning = f"{part}; {warning}" if warning else part
    said = set() if said is None else said
    if warning and warning not in said:
        _LOGGER.warning(warning)
        said.add(warning)
    model = model.to(place).eval()
    started = time.perf_counter()
    with torch.inference_mode():
        bar = tqdm(islice(batches, total), total=total, desc=f"{name} {info.name}".strip(), **_BAR)
        guesses = Guesses.of(((model(x.to(place)), y) for x, y in bar), set_sha256, count)
    seconds = time.perf_counter() - started
    seen, first, five = len(guesses.target), int(guesses.right.sum()), int(guesses.right_of_five.sum())
    if seen != count:
        raise DataError(f"{data}: {seen} of {count} images were read.")
    nll, ece = guesses.negative_log_likelihood(), guesses.calibration_error()
    result = Result(
        name=name,
        dataset=info.name,
        top1=round(100 * first / seen, 4),
        top5=round(100 * five / seen, 4),
        n=seen,
        correct=first,
        interval=wilson(first, seen),
        images_per_second=round(seen / seconds, 1),
        versions=versions(),
        sha256=sha256,
        data_sha256=data_sha256,
        left_out=left_out,
        warning=warning,
        of=of,
        split="val" if info.name == "imagenet" else split,
        nll=nll if nll is None else round(nll, 4),
        ece=ece if ece is None else round(100 * ece, 4),
        per_class=guesses.per_class(class_names(info.name)),
        corruption=corruption.to_dict() if corruption else {},
        guesses=guesses,
    )
    if predictions is not None:
        write_predictions(result, predictions)
    return result


_BAR: dict[str, Any] = {"disable": None, "delay": 2, "unit": "batch", "leave": False}


def _left_out(folder: ImageFolder) -> str:
    """In one line, how many files are not measured, and the first of them; empty if there are none."""
    names = ", ".join(map(printable, folder.left_out[:3])) + (", ..." if len(folder.left_out) > 3 else "")
    what = f"{len(folder.left_out):,} of {len(folder.left_out) + len(folder):,} files are"
    return f"{printable(folder.root)}: {what} not measured, being no images by name or place: {names}" if names else ""


def _names_sha256(folder: ImageFolder) -> dict[str, str]:
    """Which photographs, in which order, and their labels: of the names of the files, whose content is not hashed."""
    names = "".join(f"{Path(path).relative_to(folder.root).as_posix()}\n" for path, _ in folder.samples)
    labels = np.array([label for _, label in folder.samples], "<u2")
    return {
        "images": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
    }


def _array_batches(
    images: np.ndarray, labels: np.ndarray, config: dict, batch_size: int, corruption: Corruption | None
) -> Iterator[tuple[Tensor, Tensor]]:
    mean = torch.tensor(config["mean"]).view(-1, 1, 1)
    std = torch.tensor(config["std"]).view(-1, 1, 1)
    for start in range(0, len(labels), batch_size):
        batch, target = (torch.from_numpy(array[start : start + batch_size]) for array in (images, labels))
        if corruption:
            batch = torch.from_numpy(corruption(batch.numpy(), start))
        yield (batch.float() / 255 - mean) / std, target


Z = 1.959963984540054
"""97.5 % point of the standard normal distribution: what makes an interval one of 95 %."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion, in percent with two digits; see :func:`wilson_bounds`."""
    return tuple(round(100 * end, 2) for end in wilson_bounds(hits, n))


def wilson_bounds(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), as parts of 1."""
    p, centre = hits / n, Z * Z / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return tuple((p + centre + sign * half) / (1 + Z * Z / n) for sign in (-1, 1))


def versions() -> dict[str, str]:
    """Versions that a measured number depends on."""
    return {
        "zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "machine": platform.machine(),
    }
