"""Two networks compared on the same images, image by image."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..errors import DataError, ZooError
from ..named import HUB, load_named, own_folder
from ..weights.fetch import find_verified
from ..weights.manifest import full_name, predictions_facts, weights
from .measure import measure
from .predictions import Predictions, different_images, read_predictions
from .results import table
from .validate import wilson_bounds


@dataclass(frozen=True)
class Comparison:
    """What two networks do differently on the same images; differences are the second's accuracy less the first's.

    Attributes:
        first: Name of the network that is compared with.
        second: Name of the other.
        dataset: Name of the data set.
        n: Number of images.
        both: Images that both get right.
        only_first: That only the first does.
        only_second: That only the second does.
        neither: That neither does.
        difference: In percentage points.
        interval: Its paired 95 % interval, see :func:`paired_interval`, in percentage points.
        p_value: Of McNemar's exact test, see :func:`mcnemar`.
        seeds: Where both were trained with several seeds, see :func:`seed_spread`; else empty. The interval is about
            other images, this about other trainings.
    """

    first: str
    second: str
    dataset: str
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    seeds: dict[str, Any]
    of: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.interval[0] <= 0 <= self.interval[1]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"interval_kind": "paired 95 %, Newcombe 1998, method 10"}


def compare(first: Predictions, second: Predictions, seeds: dict[str, Any] | None = None) -> Comparison:
    """Compare two networks' predictions.

    Args:
        first: Of the one.
        second: Of the other.
        seeds: Goes into the comparison.

    Raises:
        DataError: If they are not of the same images in the same order.
    """
    if problem := different_images(first, second):
        raise DataError(f"{first.name} and {second.name} cannot be compared image by image: {problem}.")
    a, b, n = first.right, second.right, len(first.right)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    low, high = paired_interval(both, only_first, only_second, neither)
    return Comparison(
        first=first.name,
        second=second.name,
        dataset=first.dataset,
        n=n,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        difference=round(100 * (only_second - only_first) / n, 4),
        interval=(round(100 * low, 2), round(100 * high, 2)),
        p_value=mcnemar(only_first, only_second),
        seeds=seeds or {},
        of=first.of,
    )


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the second's accuracy less the first's, measured on the same images.

    It is method 10 of Newcombe 1998, Improved confidence intervals for the difference between binomial proportions
    based on paired data: the Wilson intervals of the two accuracies, joined with the correlation between the two, which
    is what independent intervals leave out. It stays within -1 and 1 and is of use where the two never differ.

    Args:
        both: Images that both get right.
        only_first: That only the first does.
        only_second: That only the second does.
        neither: That neither does.

    Returns:
        Both ends, as parts of 1.
    """
    e, f, g, h = both, only_second, only_first, neither
    n = e + f + g + h
    (low2, high2), (low1, high1) = wilson_bounds(e + f, n), wilson_bounds(e + g, n)
    p2, p1 = (e + f) / n, (e + g) / n
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    product = e * h - f * g
    if product > n / 2:  # a correction for continuity, for positive correlations
        product -= n / 2
    elif product > 0:
        product = 0
    phi = product / math.sqrt(margins) if margins else 0.0

    def joined(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    difference = p2 - p1
    return difference - joined(p2 - low2, high1 - p1), difference + joined(high2 - p2, p1 - low1)


def mcnemar(only_first: int, only_second: int) -> float:
    """P-value of McNemar's test, exact and two-sided: how odd it would be, were the two equally good, to be so uneven.

    Args:
        only_first: Images that only the first gets right.
        only_second: That only the second does.

    Returns:
        From 0 to 1.
    """
    n, k = only_first + only_second, min(only_first, only_second)
    halves = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, halves)))


def seed_spread(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """How the difference of two weights varies over the seeds that both were trained with.

    Args:
        first: The manifest's ``seeds`` of the one: ``runs`` with ``seed`` and ``top1`` in percent.
        second: Of the other.

    Returns:
        ``seeds``, and the ``differences`` seed by seed in points, their ``mean`` and standard deviation ``std``; empty
        if fewer than two seeds are both's.
    """
    mine, yours = ({run["seed"]: run["top1"] for run in seeds.get("runs", [])} for seeds in (first, second))
    seeds = sorted(mine.keys() & yours.keys())
    gaps = [round(yours[seed] - mine[seed], 4) for seed in seeds]
    if len(gaps) < 2:
        return {}
    return {"seeds": seeds, "differences": gaps, "mean": round(mean(gaps), 4), "std": round(stdev(gaps), 4)}


def load_predictions(
    words: Sequence[str],
    data: str | Path | None = None,
    *,
    dataset: str = "",
    batch_size: int | None = None,
    device: str = "",
    limit: int = 0,
    cache_dir: str | Path | None = None,
) -> list[Predictions]:
    """What networks say of each image: from files, or measured now.

    Args:
        words: Files that end in ``.npz``; and without ``data`` weights that have such a file (it is fetched and
            verified), else anything that :func:`zoo.named.load_named` takes, which is measured.
        data: Folder of the data set.
        dataset: Its name; by default what the first of the networks was trained on.
        batch_size: Images per step; by default as :func:`.validate` has it.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        limit: Measure the first so many images only, 0 for all.
        cache_dir: Where downloads are kept.

    Raises:
        ZooError: If there is no such name or file, it cannot be read or measured, or a network needs ``data``.
    """
    if data is None and (limit or dataset):
        raise ZooError("--dataset and --limit are for what is measured now: add --data DIR, the folder of the set.")
    found = []
    for word in words:
        if word.endswith(".npz"):
            found.append(read_predictions(word))
        elif data is None:
            found.append(_kept(word, cache_dir))
        else:
            dataset = dataset or next((p.dataset for p in found), "") or _trained_on(word)
            options = {"batch_size": batch_size, "device": device, "limit": limit}
            found.append(Predictions.of_result(measure([word], dataset, data, **options)[0]))
    return found


def _kept(word: str, cache_dir: str | Path | None) -> Predictions:
    """The predictions that come with a weight."""
    if word.startswith(HUB) or own_folder(word):
        raise ZooError(f"{word} comes without a file of its predictions: give --data DIR to measure it.")
    name = full_name(word)
    return read_predictions(find_verified(name, predictions_facts(name), cache_dir).path)


def _trained_on(word: str) -> str:
    """The data set of a network that somebody named."""
    found = load_named(word).dataset
    if not found:
        raise ZooError(f"{word}: nothing says what it was trained on; name the data set with --dataset.")
    return found


def known_seeds(first: Predictions, second: Predictions) -> dict[str, Any]:
    """:func:`seed_spread` of two weights as the manifest has them; empty for anything else."""
    known = (weights().get(p.name, {}) for p in (first, second))
    own = [
        entry.get("seeds", {})
        for entry, p in zip(known, (first, second), strict=True)
        if entry.get("sha256") == p.sha256
    ]
    return seed_spread(*own) if len(own) == 2 else {}


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Comparisons with one network for a reader, a line each; below them what is known of other seeds."""
    first = comparisons[0]
    n, right = first.n, first.both + first.only_first
    lines = [f"against {first.first}: {right:,} of {n:,} images of {first.dataset} right, {100 * right / n:.2f} %"]
    lines[0] += f" (only the first {n:,} of {first.of:,} images)" if n < first.of else ""
    rows = [
        [
            c.second,
            f"{100 * (c.both + c.only_second) / n:.2f}",
            f"{c.difference:+.2f}",
            "{:+.2f} to {:+.2f}".format(*c.interval),
            c.both,
            c.only_first,
            c.only_second,
            c.neither,
            f"{c.p_value:.2g}",
        ]
        for c in comparisons
    ]
    lines.append(table(rows, COLUMNS))
    for c in comparisons:
        if c.seeds:
            runs = f"over the seeds {', '.join(map(str, c.seeds['seeds']))} of both"
            lines.append(f"{c.second}: {runs} the difference is {c.seeds['mean']:+.3f} ± {c.seeds['std']:.3f}")
    if not all(c.seeds for c in comparisons):
        lines.append("Without several seeds of both, the interval is about other images, not about another training.")
    return "\n".join(lines)


COLUMNS = (
    "name",
    "top-1 %",
    "difference",
    "paired 95 %",
    "both right",
    "only the first",
    "only this",
    "both wrong",
    "McNemar p",
)
"""Titles of the table of :func:`comparison_text`."""
