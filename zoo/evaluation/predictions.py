"""The file ``predictions.npz``: what a network said of every image of a test set, in the order of the set.

It is an archive of plain NumPy arrays (no pickle): ``prediction`` (class, uint8 or uint16), ``score`` (probability of
that class to a thousandth, float16) and ``right`` (bool), one entry an image, and what they belong to: ``name`` and
``sha256`` of the weight, ``dataset`` and ``split``, the sha256 of its ``images`` and ``labels``, and ``of``, how many
images the set has.
The same measurement gives the same bytes.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, ZooError
from ..files import printable, read_file, write_atomically
from .result import Result

TIE = 1e-3
"""Probabilities nearer than this are a tie: which of two such classes comes first, another processor may decide."""

SCORE = 2e-3
"""By how much the probability of a guess may differ from the file's, which is rounded."""

_LARGEST = 64 << 20  # bytes, also unpacked
_END = 22  # bytes of an archive's last record
_TEXTS = ("name", "sha256", "dataset", "split", "images", "labels")
_ARRAYS = ("prediction", "score", "right")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network said of every image.

    Attributes:
        name: ``arch.tag``, or what the network was called.
        sha256: Of the weight's file; empty if there is none.
        dataset: Name of the data set.
        split: ``test``, or ``train`` of the small sets.
        images: sha256 of the images as :func:`zoo.data.known.digests` computes it; of ImageNet, of the names of the
            files.
        labels: The same of the labels.
        of: Images of the whole set; more than predictions if only the first ones were measured.
        prediction: Class of each image, (n,), uint8 or uint16.
        score: Its probability to a thousandth, (n,), float16.
        right: Whether it is the true class, (n,), bool.
    """

    name: str
    sha256: str
    dataset: str
    split: str
    images: str
    labels: str
    of: int
    prediction: np.ndarray
    score: np.ndarray
    right: np.ndarray

    @property
    def correct(self) -> int:
        """How many images are right."""
        return int(self.right.sum())

    @classmethod
    def of_result(cls, result: Result) -> "Predictions":
        """The predictions of a measurement."""
        guesses = result.guesses
        return cls(
            result.name,
            result.sha256,
            result.dataset,
            result.split,
            guesses.set_sha256["images"],
            guesses.set_sha256["labels"],
            result.of,
            guesses.classes[:, 0].astype(np.uint8 if guesses.classes.max() < 256 else np.uint16),
            guesses.probabilities[:, 0].round(3).astype(np.float16),
            guesses.right,
        )


def predictions_bytes(predictions: Predictions) -> bytes:
    """The content of a file of predictions; of bzip2 there is one implementation, so every machine writes the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in (*_TEXTS, "of", *_ARRAYS):
            info = zipfile.ZipInfo(f"{key}.npy")  # its date is the format's first, 1980-01-01
            info.create_system, info.external_attr, info.compress_type = 3, 0o644 << 16, zipfile.ZIP_BZIP2
            with archive.open(info, "w") as member:
                value = np.asarray(getattr(predictions, key))
                np.lib.format.write_array(member, value.astype(value.dtype.newbyteorder("<")), allow_pickle=False)
    return buffer.getvalue()


def refuse_existing(path: str | Path) -> Path:
    """The path of a file of predictions that is to be written.

    Raises:
        ZooError: If it does not end in ``.npz``, or there is such a file already.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ZooError(f"{path}: predictions are written as .npz; give the file this ending.")
    if path.exists() or path.is_symlink():
        raise ZooError(f"{path} is there already and is not replaced: remove it, or give another name.")
    return path


def write_predictions(result: Result, path: str | Path) -> Predictions:
    """Write the predictions of a measurement; an existing file is not replaced.

    Raises:
        ZooError: As :func:`refuse_existing`, or if the file cannot be written.
    """
    path, predictions = refuse_existing(path), Predictions.of_result(result)
    try:
        write_atomically(predictions_bytes(predictions), path)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror}).") from None
    return predictions


def read_predictions(path: str | Path) -> Predictions:
    """Read a file of predictions; nothing in it is executed, and its sizes are checked before anything is allocated.

    Raises:
        DataError: If it cannot be read or is no such file.
    """
    content = b""
    try:
        content = read_file(path, _LARGEST)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST:
                raise ValueError("it would unpack to more than 64 MiB")
            values = {key: _array(archive.read(f"{key}.npy")) for key in (*_TEXTS, "of", *_ARRAYS)}
        texts = {key: str(values[key][()]) for key in _TEXTS if values[key].dtype.kind == "U" and not values[key].ndim}
        kinds = {key: values[key].dtype for key in _ARRAYS}
        if kinds["prediction"] not in (np.uint8, np.uint16) or (kinds["score"], kinds["right"]) != (np.float16, bool):
            raise ValueError("its arrays have other types")
        shapes = {values[key].shape for key in _ARRAYS}
        of, n = int(values["of"]), len(values["prediction"])
        if len(texts) != len(_TEXTS) or shapes != {(n,)} or not 0 < n <= of:
            raise ValueError("its arrays do not belong together")
    except KeyError as error:
        raise DataError(f"{printable(path)}: not a file of predictions ({error.args[0]}).") from None
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # zipfile and zlib raise whatever comes
        if content[:4] in (b"", b"PK\3\4") and not 0 <= content.rfind(b"PK\5\6") <= len(content) - _END:
            raise DataError(
                f"{printable(path)}: not a file of predictions but an incomplete one, truncated after {len(content):,} "
                "bytes: fetch it again, or remove it and measure again with zoo validate ... --predictions."
            ) from None
        raise DataError(f"{printable(path)}: not a file of predictions ({printable(error)[:200]}).") from None
    return Predictions(**texts, of=of, **{key: values[key] for key in _ARRAYS})


def _array(content: bytes) -> np.ndarray:
    """The array in a member of the archive."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its arrays are of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    rest = content[file.tell() :]
    if dtype.hasobject or fortran or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError("an array is not what its header says")
    return np.frombuffer(rest, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def differences(kept: Predictions, now: Result) -> tuple[int, int]:
    """Compare a file of predictions with a new measurement, image by image.

    An image whose guess is another one now is a *tie* if the network still gives the file's class a probability within
    :data:`TIE` of its first guess's; two processors may round such a pair either way. Every other image whose guess is
    another, or whose probability is not the file's within :data:`SCORE`, is *wrong*.

    Returns:
        How many images are wrong, and how many are ties.

    Raises:
        DataError: If the two are not of the same images.
    """
    if problem := different_images(kept, Predictions.of_result(now)):
        raise DataError(f"The predictions of {kept.name} and what was measured now differ: {problem}.")
    guesses = now.guesses
    first, score = guesses.probabilities[:, 0], kept.score.astype(np.float32)
    same = guesses.classes[:, 0] == kept.prediction
    mine = (guesses.classes == kept.prediction[:, None]) * guesses.probabilities  # of the file's class, if among five
    tie = ~same & (mine.max(1) > first - TIE) & (np.abs(score - first) <= SCORE)
    flag = kept.right == (kept.prediction == guesses.target)
    fine = flag & (tie | (same & (np.abs(score - first) <= SCORE)))
    return int((~fine).sum()), int((tie & flag).sum())


def different_images(first: Predictions, second: Predictions) -> str:
    """Why two lists of predictions are not of the same images, in words; empty if they are."""
    for key, what in (("dataset", "data set"), ("split", "split")):
        if getattr(first, key) != getattr(second, key):
            return f"the {what} is {getattr(first, key)} of the one, {getattr(second, key)} of the other"
    if (first.images, first.labels, first.of) != (second.images, second.labels, second.of):
        return f"they are of other images, labels or another order of {first.dataset} (sha256)"
    if len(first.prediction) != len(second.prediction):
        n = [f"{len(p.prediction):,}" for p in (first, second)]
        return f"{n[0]} images of the one, {n[1]} of the other (--limit)"
    return ""
