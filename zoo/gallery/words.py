"""Figures in words, for the templates."""

import re
from collections.abc import Sequence
from typing import Any

NONE = "\N{EN DASH}"
"""Stands where nothing was measured."""

DATASETS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
}


def count(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return NONE if value is None else f"{value:,}"


def short(value: float | None) -> str:
    """A number with a letter for thousands, millions, ...: three digits that count."""
    if value is None:
        return NONE
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def size(value: int | None) -> str:
    """Bytes as a number of kB or MB, of a thousand each."""
    return NONE if value is None else f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def figure(value: float | None, digits: int = 2) -> str:
    """A number with so many digits behind the point."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """The same with its sign."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def times(value: Sequence[int]) -> str:
    """A shape."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, value))


def dataset(name: str) -> str:
    """How a data set is written."""
    return DATASETS.get(name, name)


def slug(name: str) -> str:
    """A name as a part of an address."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


FILTERS: dict[str, Any] = {f.__name__: f for f in (count, short, size, figure, signed, times, dataset, slug)}
