"""The published content of the small data sets, by sha256: files of one name and size can hold anything."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100, MNIST

from ..errors import DataError
from .catalog import STAND_IN

PUBLISHED = {
    ("cifar10", "train"): {
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a": (
            "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"
        )
    },
    ("cifar10", "test"): {
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04": (
            "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"
        )
    },
    ("fashion-mnist", "train"): {
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012": (
            "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
        )
    },
    ("fashion-mnist", "test"): {
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a": (
            "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"
        ),
        # its first 1,000 images, which the package carries
        "8d46efb2efae7259de048298adb99140d06082b91c430833a54d7ce30f21c9c9": (
            "86fea14d645de73ec2f8e0e859add59c557ccdf73e3e419692220b128c15ec47"
        ),
    },
}
"""sha256 of the images to that of their labels, by data set and split; computed as :func:`digests` does."""
_FILES = {"mnist": dict(MNIST.resources), "cifar100": dict(CIFAR100.train_list + CIFAR100.test_list)}
"""File name to md5 as torchvision knows it, where the sha256 of the content is not known here."""
_FASHION_FIRST = (
    "5bd44e331a6d6998daf675700cd0c13dcd7af8ab954b7585124124da61459e7b",
    "ffc7351ed0f8bae542820866086177fa4e0b366b97bf9d998dffdb8dbe138787",
)
"""sha256 of the first image of Fashion-MNIST's training and test split, by which a part of it is known."""
_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_FULL = {"train": 60_000, "test": 10_000}


def digests(images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """sha256 of ``images`` as bytes in the order (N, height, width, channels), and of ``labels`` with a byte each.

    Args:
        images: uint8, (N, channels, height, width).
        labels: Whole numbers from 0 to 255, (N,).
    """
    arrays = {"images": images.transpose(0, 2, 3, 1), "labels": labels.astype(np.uint8)}
    return {name: hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for name, array in arrays.items()}


def compare(name: str, split: str, images: np.ndarray, sha256: dict[str, str], files: Sequence[Path]) -> str:
    """Compare what was read with what was published.

    Args:
        name: Data set.
        split: ``train`` or ``test``.
        images: uint8, (N, channels, height, width).
        sha256: As :func:`digests` gives it.
        files: Those that were read; their folder is named in messages.

    Returns:
        Empty if it is the published content, or a part of it that is known; else a warning in one line.

    Raises:
        DataError: If it is known to be another data set.
    """
    title, found, folder = _TITLES[name], sha256["images"], files[0].parent
    what = f"{folder}: the images of the {split} split are"
    place = next((place for place, contents in PUBLISHED.items() if found in contents), None)
    if name == "mnist" and (place or hashlib.sha256(images[:1].tobytes()).hexdigest() in _FASHION_FIRST):
        raise DataError(f"{what} Fashion-MNIST's, not MNIST's. {STAND_IN}")
    if place:
        wrong = f"those of the {place[1]} split" if place[1] != split else ""
        if PUBLISHED[place][found] != sha256["labels"]:
            wrong = f"{title}'s, but their labels are others (sha256 {sha256['labels'][:12]})"
        return f"{what} {wrong}: figures measured with them do not compare." if wrong else ""
    if name == "fashion-mnist" and len(images) == _FULL[split]:
        raise DataError(
            f"{folder}: the {split} split has the size of Fashion-MNIST's but other images (sha256 {found[:12]}). "
            "If they are MNIST's, say mnist in place of fashion-mnist; else fetch the files again."
        )
    official = _FILES.get(name, {})
    if official and all(official.get(path.name) == _md5(path) for path in files):
        return ""
    form = f" in its files {', '.join(official)}" if official else ""
    return (
        f"{folder}: the {len(images):,} images of the {split} split are not the published {title}{form} (sha256 "
        f"{found[:12]}): figures measured on them do not compare."
    )


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
