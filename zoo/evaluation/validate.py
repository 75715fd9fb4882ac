"""Top-1 and top-5 accuracy of a network on a data set."""

import contextlib
import logging
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

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

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        name: ``arch.tag``, or what the caller called the network.
        dataset: Data set name.
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
        n: Number of images that were measured.
        correct: Number of images whose first guess is right.
        interval: 95 % Wilson interval of ``top1``, in percent.
        images_per_second: Speed of the whole loop.
        versions: Of this package and what it runs on.
        sha256: Of the weight's file; empty if there is none.
        data_sha256: Of ``images`` and ``labels`` as :func:`zoo.data.known.digests` computes them; empty for ImageNet.
        left_out: Files in the folder that are not measured: hidden, or without an ending of an image.
        warning: Empty, or in one line why the figures do not compare: the content is not the published one, only a part
            of it was measured, or files were left out, the first of which are named.
        of: Number of images there are; more than ``n`` if only the first ones were measured.
    """

    name: str
    dataset: str
    top1: float
    top5: float
    n: int
    correct: int
    interval: tuple[float, float]
    images_per_second: float
    versions: dict[str, str]
    sha256: str = ""
    data_sha256: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    warning: str = ""
    of: int = 0


@contextlib.contextmanager
def warned_once() -> Iterator[None]:
    """Within it, a warning that several measurements share is logged once."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in said
        said.add(record.getMessage())
        return not known

    _LOGGER.addFilter(is_new)
    try:
        yield
    finally:
        _LOGGER.removeFilter(is_new)


def validate(
    model: nn.Module,
    dataset: str,
    data: str | Path,
    *,
    name: str = "",
    sha256: str = "",
    batch_size: int = 256,
    split: str = "test",
    device: str = "",
    limit: int = 0,
) -> Result:
    """Measure a network's accuracy, every image counted once, in float32 and eval mode.

    The warning of the result is also logged.

    Args:
        model: Takes images (batch, channels, height, width), float32, and gives scores (batch, classes); its
            ``pretrained_cfg`` says how images are prepared. It is set to eval mode and moved to ``device``.
        dataset: ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100`` or ``imagenet``.
        data: Folder of the data set.
        name: Goes into the result.
        sha256: Goes into the result.
        batch_size: Images per step.
        split: ``test``, or ``train`` of the small sets.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        limit: Measure the first so many images only, which the result says; 0 for all.

    Raises:
        DataError: If the data is missing, damaged or does not fit the network.
        ZooError: If there is no such device here.
    """
    info = get_dataset(dataset)
    config = resolve_data_config(model=model)
    place = choose_device(device)
    if model.num_classes != info.num_classes:
        raise DataError(
            f"{name or 'The network'} tells {model.num_classes} classes apart, {info.name} has {info.num_classes}: "
            "choose a weight for this data set (zoo list --pretrained)."
        )
    left_out, warning, data_sha256 = 0, "", {}
    if info.name == "imagenet":
        loader = image_folder_loader(data, config, batch_size)
        batches, of = iter(loader), len(loader.dataset)
        left_out, warning = len(loader.dataset.left_out), _left_out(loader.dataset)
    else:
        images, labels, data_sha256, warning = read_arrays(info.name, data, split)
        if images.shape[1] != config["input_size"][0]:
            raise DataError(
                f"{name or 'The network'} takes images of {config['input_size'][0]} channels, {info.name} has "
                f"{images.shape[1]}."
            )
        batches, of = (
            _array_batches(torch.from_numpy(images), torch.from_numpy(labels), config, batch_size),
            len(labels),
        )
    count = min(limit or of, of)
    total = math.ceil(count / batch_size)
    if count < of:
        part = f"only the first {count:,} of {of:,} images were measured: this is no figure of {info.name}"
        warning = f"{part}; {warning}" if warning else part
    if warning:
        _LOGGER.warning(warning)
    model = model.to(place).eval()
    correct = torch.zeros(2, dtype=torch.long)
    seen, started = 0, time.perf_counter()
    with torch.inference_mode():
        bar = tqdm(islice(batches, total), total=total, desc=f"{name} {info.name}".strip(), **_BAR)
        for batch, target in ((x[: count - seen], y[: count - seen]) for x, y in bar):
            guesses = model(batch.to(place)).topk(min(5, info.num_classes), 1).indices.cpu()
            hits = guesses == target.cpu()[:, None]
            correct += torch.stack([hits[:, 0].sum(), hits.any(1).sum()])
            seen += len(target)
    seconds = time.perf_counter() - started
    if seen != count:
        raise DataError(f"{data}: {seen} of {count} images were read.")
    first, five = correct.tolist()
    return Result(
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
    )


_BAR: dict[str, Any] = {"disable": None, "delay": 2, "unit": "batch", "leave": False}


def _left_out(folder: ImageFolder) -> str:
    """In one line, how many files are not measured, and the first of them; empty if there are none."""
    names = ", ".join(map(printable, folder.left_out[:3])) + (", ..." if len(folder.left_out) > 3 else "")
    what = f"{len(folder.left_out):,} of {len(folder.left_out) + len(folder):,} files are"
    return f"{printable(folder.root)}: {what} not measured, being no images by name or place: {names}" if names else ""


def _array_batches(images: Tensor, labels: Tensor, config: dict, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    mean = torch.tensor(config["mean"]).view(-1, 1, 1)
    std = torch.tensor(config["std"]).view(-1, 1, 1)
    for batch, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        yield (batch.float() / 255 - mean) / std, target


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), in percent with two digits."""
    p, centre = hits / n, z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple(round(100 * (p + centre + sign * half) / (1 + z * z / n), 2) for sign in (-1, 1))


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
