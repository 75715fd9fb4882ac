"""Readers for the small data sets, which are held in memory as uint8 arrays.

Accepted, in the folder given or in the subfolder torchvision uses: MNIST and Fashion-MNIST as idx files, plain or
gzipped; CIFAR-10/100 in the official binary form or as the official Python batches, read by an unpickler that knows
arrays only. What was read is compared with the published content (:mod:`zoo.data.known`).
"""

import gzip
import io
import logging
import pickle
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import read_file
from .catalog import STAND_IN, get_dataset

_LOGGER = logging.getLogger(__name__)
_LARGEST_BATCH = 512 << 20  # bytes; all of CIFAR-100 in one file has 184 MB


class Arrays(NamedTuple):
    """One split of a small data set.

    Attributes:
        images: uint8, (N, channels, height, width), in file order.
        labels: int64, (N,).
        sha256: Of ``images`` and of ``labels``, as :func:`.known.digests` computes them.
        warning: Empty if the content is the published one; else one line that says what is known of it.
    """

    images: np.ndarray
    labels: np.ndarray
    sha256: dict[str, str]
    warning: str


def load_arrays(dataset: str, folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of :func:`read_arrays`; its warning is logged."""
    images, labels, _, warning = read_arrays(dataset, folder, split)
    if warning:
        _LOGGER.warning(warning)
    return images, labels


def read_arrays(dataset: str, folder: str | Path, split: str) -> Arrays:
    """Read one split of MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100, and compare it with the published one.

    Args:
        dataset: Name of the data set.
        folder: Where its files lie; the layouts of the module docstring are tried.
        split: ``train`` or ``test``.

    Raises:
        DataError: If a file is missing, damaged, of the wrong form, or of another data set.
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
    images, labels, files = reader(info.name, folder, split)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in the {split} split of {info.name}.")
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise DataError(f"{folder}: a label of the {split} split is outside 0..{info.num_classes - 1}.")
    from .known import compare, digests  # needs torchvision, which facts on data sets do not

    sha256 = digests(images, labels)
    warning = compare(info.name, split, images, sha256, files)
    return Arrays(images, labels.astype(np.int64), sha256, warning)


def _find(folder: Path, places: Iterable[str], what: str, advice: str = "") -> Path:
    places = list(places)
    for place in places:
        if (folder / place).is_file():
            return folder / place
    raise DataError(f"No {what} in {folder}: looked for {', '.join(places)}. {advice}".strip())


def _idx_pair(name: str, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    stem, own = "train" if split == "train" else "t10k", "MNIST" if name == "mnist" else "FashionMNIST"
    files = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        places = [f"{d}{stem}-{kind}{z}" for d in ("", f"{own}/raw/", "raw/") for z in ("", ".gz")]
        files.append(_find(folder, places, f"{name} {split} split", STAND_IN if name == "mnist" else ""))
    images, labels = map(read_idx, files)
    if images.ndim != 3 or labels.ndim != 1 or images.shape[1:] != (28, 28):
        raise DataError(f"{folder}: expected 28x28 images and a list of labels, got {images.shape} and {labels.shape}.")
    return images[:, None], labels, files


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
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Fetch the file again.") from None
    if len(data) != size:
        raise DataError(f"{path}: header and length disagree (shape {shape}). Fetch the file again.")
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # a bytearray keeps the array writable


def _cifar(name: str, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    if name == "cifar10":
        binary, python, label_bytes, key = "cifar-10-batches-bin", "cifar-10-batches-py", 1, b"labels"
        batches = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    else:
        binary, python, label_bytes, key = "cifar-100-binary", "cifar-100-python", 2, b"fine_labels"
        batches = [split]
    images, labels, files = [], [], []
    for batch in batches:
        places = [f"{binary}/{batch}.bin", f"{batch}.bin", f"{python}/{batch}", batch]
        path = _find(folder, places, f"{name} {split} split")
        if path.suffix == ".bin":
            pixels, marks = _binary_batch(path, label_bytes)
        else:
            pixels, marks = _python_batch(path, name, key)
        if images and len(pixels) != len(images[0]):
            raise DataError(f"{path}: {len(pixels):,} images, and {files[0].name} has {len(images[0]):,}: one is cut.")
        images.append(pixels)
        labels.append(marks)
        files.append(path)
    return np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels), files


def _binary_batch(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of a file of records; in CIFAR-100's the fine label is the second."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    if not len(data) or len(data) % (3072 + label_bytes):
        raise DataError(f"{path}: its size is no multiple of {3072 + label_bytes} bytes; fetch it again.")
    data = data.reshape(-1, 3072 + label_bytes)
    return data[:, label_bytes:], data[:, label_bytes - 1]


def _python_batch(path: Path, name: str, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of an official Python batch."""
    try:
        content = _ArrayUnpickler(io.BytesIO(read_file(path, _LARGEST_BATCH)), encoding="bytes").load()
        pixels, labels = content[b"data"], np.asarray(content[key])
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(pixels), 3072):
            raise ValueError(f"its images are no array of bytes, (N, 3072), but {_form(pixels)}")
        if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
            raise ValueError(f"its labels are not {len(pixels)} whole numbers, but {_form(labels)}")
    except Exception as error:  # a hostile pickle can raise anything
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not an official {name} batch ({reason}).") from None
    return pixels, labels


def _form(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


class _ArrayUnpickler(pickle._Unpickler):  # in Python: the memo of the one in C takes any memory it is told to
    """Builds NumPy arrays and plain containers; any other class or function in the file is an error."""

    encoded = 0

    def find_class(self, module: str, name: str) -> Any:
        multiarray = np._core.multiarray if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else np.core.multiarray
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: multiarray._reconstruct(np.ndarray, (0,), b"b"),
            ("numpy", "ndarray"): "ndarray",  # an argument of the one above, which always makes an empty one
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): self._encode,
        }
        if (found := allowed.get((module.replace("_core", "core"), name))) is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return found

    def _encode(self, text: str, encoding: str) -> bytes:
        self.encoded += len(text)
        if self.encoded > _LARGEST_BATCH:
            raise pickle.UnpicklingError("it encodes one text again and again")
        return text.encode("latin1")
