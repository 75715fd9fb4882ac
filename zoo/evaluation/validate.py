"""Accuracy and calibration of a network on a data set."""

import hashlib
import logging
import math
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ..data import get_dataset
from ..data.arrays import read_arrays
from ..data.images import ImageFolder, image_folder_loader, normalised
from ..device import choose_device
from ..distributed import Processes
from ..errors import DataError, ZooError
from ..files import printable
from ..version import __version__
from .corruptions import Corruption
from .guesses import Guesses, best_guesses
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
    amp: str = "",
    channels_last: bool = False,
    processes: Processes | None = None,
) -> Result:
    """Measure a network's accuracy and calibration in one pass, every image counted once, in eval mode.

    The warning of the result is also logged. Several processes take the batches of one in turn, so that each image is
    computed beside the same ones as in one process, and each gets the result of the whole.

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
        amp: Autocast data type, ``bfloat16`` or ``float16``, which result and name then say; empty for float32.
        channels_last: Lay images and network out so; the network stays so.
        processes: Who takes part, in the place of ``device``, see :func:`zoo.distributed.together`; only the first of
            them logs and writes.

    Raises:
        DataError: If the data is missing, damaged or does not fit the network, or is not the same for all processes.
        ZooError: If there is no such device here, it cannot compute in ``amp``, or the file of predictions exists or
            cannot be written.
    """
    processes = processes or Processes(choose_device(device))
    predictions = predictions if processes.first else None
    if predictions is not None:
        refuse_existing(predictions)
    info = get_dataset(dataset)
    config = resolve_data_config(model=model)
    place = processes.device
    check_amp(place, amp)
    name = f"{name} ({amp})".strip() if amp else name
    if batch_size is None:
        batch_size = 64 if place.type == "cpu" else 256  # what 64 become stays in a core's cache: half the time
    if model.num_classes != info.num_classes:
        raise DataError(
            f"{name or 'The network'} tells {model.num_classes} classes apart, {info.name} has {info.num_classes}: "
            "choose a weight for this data set (zoo list --pretrained)."
        )
    left_out, warning, data_sha256 = 0, "", {}
    part = slice(processes.rank, math.ceil(limit / batch_size) or None, processes.world)
    if info.name == "imagenet":
        if corruption:
            raise DataError("Corruptions are made of the small data sets; for ImageNet there is ImageNet-C.")
        options = {"device": place, "channels_last": channels_last, "part": part}
        loader = image_folder_loader(data, config, batch_size, **options)
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
        raw, of = _array_batches(images, labels, batch_size, corruption, part), len(labels)
        batches = ((normalised(x, config, place, channels_last), y) for x, y in raw)
    same = {"images": set_sha256, "batch size": batch_size, "limit": limit, "file of weights": sha256}
    for what, mine in same.items():
        if any(other != mine for other in processes.exchange(mine)):
            raise DataError(f"{name or info.name}: the {processes.world} processes differ in their {what}.")
    count = min(limit or of, of)
    total = math.ceil(count / batch_size)
    if count < of:
        scope = f"only the first {count:,} of {of:,} images were measured: this is no figure of {info.name}"
        warning = f"{scope}; {warning}" if warning else scope
    said = set() if said is None else said
    if warning and warning not in said and processes.first:
        _LOGGER.warning(warning)
    said |= {warning} - {""}
    model = model.to(place).eval()
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    started = time.perf_counter()
    what = f" {corruption.name} {corruption.severity}" if corruption else ""
    options = _BAR if processes.first else {"disable": True}
    autocast = torch.autocast(place.type, getattr(torch, amp)) if amp else nullcontext()
    with torch.inference_mode(), autocast:
        own = (best_guesses(model(x), y) for x, y in batches)
        whole = processes.in_turn(own, math.ceil(total / processes.world))
        bar = tqdm(whole, total=total, desc=f"{name} {info.name}{what}".strip(), **options)
        guesses = Guesses.joined(bar, set_sha256, count)
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
        precision=amp or "float32",
        channels_last=channels_last,
        device=str(place),
        processes=processes.world,
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
    images: np.ndarray, labels: np.ndarray, batch_size: int, corruption: Corruption | None, part: slice
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(labels), batch_size)[part]:
        batch, target = (array[start : start + batch_size] for array in (images, labels))
        batch = corruption(batch, start) if corruption else batch
        yield torch.from_numpy(batch), torch.from_numpy(target)


AMP = ("bfloat16", "float16")
"""Data types of autocast."""


def autocast_type(amp: bool, dtype: str | None) -> str:
    """What ``--amp`` and ``--amp-dtype`` ask for; empty without autocast.

    Raises:
        ZooError: If there is a data type without autocast.
    """
    if dtype and not amp:
        raise ZooError("--amp-dtype is of --amp: add that.")
    return (dtype or AMP[0]) if amp else ""


def check_amp(device: torch.device, amp: str) -> None:
    """Whether a device can compute in a data type under autocast, by computing a little.

    Args:
        device: A device that is here.
        amp: Name of the data type; empty for none, which every device can.

    Raises:
        ZooError: If it cannot, or would go on in float32.
    """
    if amp not in ("", *AMP):
        raise ZooError(f"There is no autocast in {amp!r} here: choose {' or '.join(AMP)}.")
    if not amp:
        return
    try:
        with warnings.catch_warnings(), torch.inference_mode(), torch.autocast(device.type, getattr(torch, amp)):
            warnings.simplefilter("error")  # torch says so where it goes on in float32
            image, kernel, weight = (torch.ones(shape, device=device) for shape in ((1, 3, 3, 3), (8, 3, 3, 3), (2, 8)))
            found = functional.linear(functional.conv2d(image, kernel).flatten(1), weight)
        reason = "" if found.dtype == getattr(torch, amp) else f"it computes in {found.dtype}"
    except Exception as error:  # each backend raises its own
        reason = " ".join(str(error).split())[:100]
    if reason:
        other = next(kind for kind in AMP if kind != amp)
        raise ZooError(f"{device} cannot compute in {amp} ({reason}): try {other}, or measure in float32.")


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
