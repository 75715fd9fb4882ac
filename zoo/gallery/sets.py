"""Test sets that several weights were measured on: true classes, who gets what right, and pictures of the images.

A file of predictions has no labels. A weight that is right about an image tells its true class, so the weights of a set
tell together those of all images that one of them gets right; the data set itself, where it is at hand, tells the rest.
Of Fashion-MNIST the package has the labels, whose licence allows that.
"""

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.arrays import read_arrays
from ..data.catalog import get_dataset
from ..data.known import PUBLISHED
from ..errors import DataError, ZooError
from ..evaluation.compare import Comparison, compare, known_seeds
from ..evaluation.predictions import Predictions
from .words import slug

SAMPLE = Path(__file__).parent.parent / "data" / "fashion_mnist_1000"
"""The first 1,000 test images of Fashion-MNIST, which the package carries."""

LABELS = {path.stem: path for path in (Path(__file__).parent / "labels").glob("*.gz")}
"""Labels of test sets, a byte each, by the sha256 of these bytes."""

UNKNOWN = -1
COLUMNS = 10
"""Images of a row of a sheet, and rows of one."""


@dataclass
class ImageSet:
    """Images in an order, and the weights whose predictions are of them.

    Attributes:
        key: What its files are called.
        dataset: Name of the data set.
        split: Of it.
        predictions: By name of the weight.
        labels: True classes, (n,), :data:`UNKNOWN` where nothing tells it.
        images: uint8, (m, channels, height, width), the first m images; None if there are none.
    """

    key: str
    dataset: str
    split: str
    predictions: dict[str, Predictions]
    labels: np.ndarray
    images: np.ndarray | None

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; their numbers, where there are no names."""
        info = get_dataset(self.dataset)
        return list(info.classes) or [str(k) for k in range(info.num_classes)]

    @property
    def shown(self) -> np.ndarray:
        """Places of the images there are pictures of: those that a weight gets wrong."""
        if self.images is None:
            return np.zeros(0, np.int64)
        wrong = ~np.logical_and.reduce([p.right for p in self.predictions.values()])
        return np.flatnonzero(wrong[: len(self.images)])


def image_sets(predictions: Mapping[str, Predictions], data: Mapping[str, str | Path]) -> list[ImageSet]:
    """Sort weights by what they were measured on: the set of most weights first, in each the best weight.

    Args:
        predictions: By name of the weight.
        data: Folders of data sets by name.

    Raises:
        ZooError: If a folder has no such data set, another one than was measured, or no weight was measured on it.
    """
    sorted_out: dict[tuple[Any, ...], dict[str, Predictions]] = {}
    for name, p in predictions.items():
        same = (p.dataset, p.split, p.images, p.labels, p.of, len(p.right))
        sorted_out.setdefault(same, {})[name] = p
    if unused := sorted(set(data) - {same[0] for same in sorted_out}):
        raise ZooError(f"--data {unused[0]}={data[unused[0]]}: no weight here has predictions of {unused[0]}.")
    found: list[ImageSet] = []
    for same, members in sorted(sorted_out.items(), key=lambda pair: -len(pair[1])):
        members = dict(sorted(members.items(), key=lambda pair: -pair[1].correct))
        key = f"{same[0]}-{slug(same[1])}"
        key += f"-{twice + 1}" if (twice := sum(s.key.startswith(key) for s in found)) else ""
        found.append(_image_set(key, members, data.get(same[0])))
    return found


def _image_set(key: str, members: dict[str, Predictions], folder: str | Path | None) -> ImageSet:
    first = next(iter(members.values()))
    labels = np.full(len(first.right), UNKNOWN)
    for name, p in members.items():
        if p.prediction.max() >= get_dataset(p.dataset).num_classes:
            raise DataError(f"{name}: its predictions name class {p.prediction.max()}, which {p.dataset} has not.")
        labels[p.right] = p.prediction[p.right]
    images = None
    if folder is not None:
        arrays = read_arrays(first.dataset, folder, first.split)
        if arrays.sha256 != {"images": first.images, "labels": first.labels}:
            raise DataError(
                f"{folder}: the images or labels of the {first.split} split are not those that {first.name} was "
                "measured on (sha256)."
            )
        images, labels = arrays.images[: len(labels)], arrays.labels[: len(labels)]
    elif first.labels in LABELS:
        labels = np.frombuffer(gzip.decompress(LABELS[first.labels].read_bytes()), np.uint8)[: len(labels)].astype(int)
    if images is None and first.images == next(iter(PUBLISHED["fashion-mnist", "test"])):
        images = read_arrays("fashion-mnist", SAMPLE, "test").images[: len(labels)]
    return ImageSet(key, first.dataset, first.split, members, labels, images)


def pair_facts(found: ImageSet) -> dict[str, dict[str, Any]]:
    """Every weight of a set compared with every other, as ``zoo compare`` does: by the first's name and the second's.

    Beside the figures stands ``said``, the same in the words of ``zoo compare``.
    """
    return {
        first: {
            second: _pair(compare(p, q, known_seeds(p, q)))
            for second, q in found.predictions.items()
            if second != first
        }
        for first, p in found.predictions.items()
    }


def _pair(c: Comparison) -> dict[str, Any]:
    seeds = ""
    if c.seeds:
        of = ", ".join(map(str, c.seeds["seeds"]))
        seeds = f"Over the seeds {of} of both the difference is {c.seeds['mean']:+.3f} ± {c.seeds['std']:.3f}."
    said = {
        "top1": f"{100 * (c.both + c.only_second) / c.n:.2f}",
        "difference": f"{c.difference:+.2f}",
        "interval": "{:+.2f} to {:+.2f}".format(*c.interval),
        "p": f"{c.p_value:.2g}",
        "clear": c.is_clear,
        "seeds": seeds,
    }
    return c.to_dict() | {"said": said}


def packed(values: np.ndarray) -> str:
    """Whole numbers below 65,536 for a script: two bytes each, in base64."""
    return base64.b64encode(values.astype("<u2").tobytes()).decode()


def said(p: Predictions) -> dict[str, str]:
    """What a weight said, for a script: classes, and their probabilities in thousandths."""
    thousandths = np.nan_to_num(p.score.astype(np.float64) * 1000).round()
    return {"prediction": packed(p.prediction), "score": packed(thousandths)}


def confusion(found: ImageSet, name: str) -> dict[str, Any]:
    """How often each true class was taken for which, and how many wrong images have a true class that nothing tells."""
    p, k = found.predictions[name], len(found.classes)
    known = found.labels != UNKNOWN
    matrix = np.zeros((k, k), np.int64)
    np.add.at(matrix, (found.labels[known], p.prediction[known]), 1)
    return {"matrix": matrix.tolist(), "unknown": int((~known).sum())}


def surest_mistakes(found: ImageSet, name: str, most: int) -> list[dict[str, Any]]:
    """The wrong images that a weight was surest of: ``index``, ``label`` (None if nothing tells it), ``guess``,
    ``confidence`` from 0 to 1."""
    p, classes = found.predictions[name], found.classes
    wrong = np.flatnonzero(~p.right)
    wrong = wrong[np.argsort(-p.score[wrong].astype(np.float32), kind="stable")][:most]
    return [
        {
            "index": int(i),
            "label": None if found.labels[i] == UNKNOWN else classes[found.labels[i]],
            "guess": classes[p.prediction[i]],
            "confidence": round(float(p.score[i]), 3),
        }
        for i in wrong
    ]


def write_sheets(found: ImageSet, folder: Path) -> dict[str, Any] | None:
    """Write pictures of the images that a weight gets wrong, a hundred a file.

    Args:
        found: The set.
        folder: Of its pictures.

    Returns:
        ``places`` of the images in the set, in the order of the sheets, packed; ``columns``, ``width`` and ``height``
        of one, and ``folder``, its name. None if there are no images.
    """
    shown = found.shown
    if found.images is None or not len(shown):
        return None
    folder.mkdir(parents=True)
    _, channels, height, width = found.images.shape
    for start in range(0, len(shown), COLUMNS**2):
        sheet = np.zeros((COLUMNS * height, COLUMNS * width, channels), np.uint8)
        for k, place in enumerate(shown[start : start + COLUMNS**2]):
            row, column = divmod(k, COLUMNS)
            cell = found.images[place].transpose(1, 2, 0)
            sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = cell
        Image.fromarray(sheet.squeeze()).save(folder / f"{start // COLUMNS**2}.png")
    size = {"columns": COLUMNS, "width": width, "height": height}
    return {"places": packed(shown), "folder": f"images/{folder.name}", **size}
