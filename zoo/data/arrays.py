"""Readers for the small data sets, which are held in memory as uint8 arrays.

Accepted, in the folder given or in the subfolder torchvision uses: MNIST and Fashion-MNIST as idx files, plain or
gzipped; CIFAR-10/100 in the official binary form or as the official Python batches, read by an unpickler that knows
arrays only. The files of MNIST and Fashion-MNIST have the same names and sizes, so the images themselves are looked at.
"""

import gzip
import hashlib
import io
import logging
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .catalog import get_dataset

_LOGGER = logging.getLogger(__name__)
_FASHION = {
    "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}
"""sha256 of Fashion-MNIST's images by split, uint8 of shape (N, 28, 28)."""
_FASHION_FIRST = (
    "5bd44e331a6d6998daf675700cd0c13dcd7af8ab954b7585124124da61459e7b",
    "ffc7351ed0f8bae542820866086177fa4e0b366b97bf9d998dffdb8dbe138787",
)
"""sha256 of the first image of its training and of its test split, by which a part of it is known."""
_SIZES = {"train": 60_000, "test": 10_000}
_STAND_IN = (
    "To try Fashion-MNIST in place of MNIST, say so: zoo train ... --set dataset=fashion-mnist, zoo validate ... "
    "--dataset fashion-mnist; results then carry that name."
)


def load_arrays(dataset: str, folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100.

    Args:
        dataset: Name of the data set.
        folder: Where its files lie; the layouts of the module docstring are tried.
        split: ``train`` or ``test``.

    Returns:
        Images, uint8 of shape (N, channels, height, width), and labels, int64 of shape (N,), in file order.

    Raises:
        DataError: If a file is missing, damaged, of the wrong form, or of the other one of MNIST and Fashion-MNIST.
    """
    info = get_dataset(dataset)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"No such folder: {folder}. Pass the folder that holds the {info.name} files with --data.")
    if split not in ("train", "test"):
        raise DataError(f"Unknown split {split!r}: choose train or test.")
    if info.name == "imagenet":
        raise DataError("ImageNet does not fit in memory: read it as an image folder (zoo.data.images).")
    reader = _idx_pair if info.name.endswith("mnist") else _cifar
    images, labels = reader(info.name, folder, split)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in the {split} split of {info.name}.")
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise DataError(f"{folder}: a label of the {split} split is outside 0..{info.num_classes - 1}.")
    if reader is _idx_pair:
        _tell_apart(info.name, folder, split, images)
    return images, labels.astype(np.int64)


def _find(folder: Path, places: Iterable[str], what: str, advice: str = "") -> Path:
    places = list(places)
    for place in places:
        if (folder / place).is_file():
            return folder / place
    raise DataError(f"No {what} in {folder}: looked for {', '.join(places)}. {advice}".strip())


def _idx_pair(name: str, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem, own = "train" if split == "train" else "t10k", "MNIST" if name == "mnist" else "FashionMNIST"
    parts = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        places = [f"{d}{stem}-{kind}{z}" for d in ("", f"{own}/raw/", "raw/") for z in ("", ".gz")]
        advice = _STAND_IN if name == "mnist" else ""
        parts.append(read_idx(_find(folder, places, f"{name} {split} split", advice)))
    images, labels = parts
    if images.ndim != 3 or labels.ndim != 1 or images.shape[1:] != (28, 28):
        raise DataError(f"{folder}: expected 28x28 images and a list of labels, got {images.shape} and {labels.shape}.")
    return images[:, None], labels


def _tell_apart(name: str, folder: Path, split: str, images: np.ndarray) -> None:
    """Refuse Fashion-MNIST under the name of MNIST, and the reverse; warn of an unknown part."""
    whole, first = (hashlib.sha256(part.tobytes()).hexdigest() for part in (images, images[:1]))
    fashion = whole in _FASHION.values() or first in _FASHION_FIRST
    if name == "mnist" and fashion:
        raise DataError(f"{folder}: the images of the {split} split are Fashion-MNIST's, not MNIST's. {_STAND_IN}")
    if name == "fashion-mnist" and whole != _FASHION[split]:
        if len(images) == _SIZES[split]:
            raise DataError(
                f"{folder}: the {split} split has the size of Fashion-MNIST's but other images (sha256 {whole[:12]}). "
                "If they are MNIST's, say mnist in place of fashion-mnist; else fetch the files again."
            )
        if not fashion:
            _LOGGER.warning(
                f"{folder}: the {len(images):,} images of the {split} split are not the published Fashion-MNIST: "
                "figures measured on them do not compare."
            )


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes (the format of the MNIST page), plain or gzipped.

    Raises:
        DataError: If the header is not that of such a file or the length does not match it.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= 3:
                raise DataError(f"{path}: not an idx file of bytes (header {head.hex() or 'empty'}).")
            shape = tuple(np.frombuffer(file.read(4 * head[3]), ">u4").astype(int).tolist())
            size = int(np.prod(shape, dtype=object)) if len(shape) == head[3] else -1
            if not 0 < size <= 1 << 30:
                raise DataError(f"{path}: the idx header asks for an array of shape {shape}; the file is damaged.")
            data = file.read(size + 1)  # one more than promised shows a file that is too long
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Fetch the file again.") from None
    if len(data) != size:
        raise DataError(f"{path}: header and length disagree (shape {shape}). Fetch the file again.")
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # a bytearray keeps the array writable


def _cifar(name: str, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "cifar10":
        binary, python, label_bytes, key = "cifar-10-batches-bin", "cifar-10-batches-py", 1, b"labels"
        batches = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    else:
        binary, python, label_bytes, key = "cifar-100-binary", "cifar-100-python", 2, b"fine_labels"
        batches = [split]
    images, labels = [], []
    for batch in batches:
        places = [f"{binary}/{batch}.bin", f"{batch}.bin", f"{python}/{batch}", batch]
        path = _find(folder, places, f"{name} {split} split")
        if path.suffix == ".bin":
            data = np.fromfile(path, np.uint8)
            if not len(data) or len(data) % (3072 + label_bytes):
                raise DataError(f"{path}: its size is no multiple of {3072 + label_bytes} bytes; fetch it again.")
            data = data.reshape(-1, 3072 + label_bytes)
            labels.append(data[:, label_bytes - 1])  # CIFAR-100: coarse label first, fine label second
            images.append(data[:, label_bytes:])
        else:
            content = _load_python_batch(path)
            pixels, fine = content.get(b"data"), content.get(key)
            if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072 or fine is None:
                raise DataError(f"{path}: not an official {name} batch.")
            labels.append(np.asarray(fine))
            images.append(pixels.astype(np.uint8, copy=False))
    return np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers; any other class or function in the file is an error."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        if module == "numpy.core.multiarray":
            module = "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else module
        return super().find_class(module, name)


def _load_python_batch(path: Path) -> dict:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a hostile pickle can raise anything
        raise DataError(f"{path}: not an official CIFAR batch ({error}).") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an official CIFAR batch.")
    return content
