"""Every copy of every weight on this machine against the manifest: read whole, no network, nothing remembered."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightError
from ..files import is_file, open_file
from .fetch import cached_file, hub_cached_file, read_packed, staged_file
from .manifest import collapsed_facts, predictions_facts, weights
from .verify import parse


@dataclass(frozen=True)
class Copy:
    """One file that claims to be a weight.

    Attributes:
        name: ``arch.tag``.
        where: ``staged``, ``cache`` or ``Hub cache``; of a packed or collapsed form, or predictions, with that word
            behind it.
        path: The file.
        problem: What is wrong with it; empty if nothing is.
    """

    name: str
    where: str
    path: Path
    problem: str


def audit(names: Sequence[str], cache_dir: str | Path | None = None) -> Iterator[Copy]:
    """Check all copies of some weights.

    Args:
        names: ``arch.tag`` of each.
        cache_dir: As :func:`.fetch.fetch`.

    Yields:
        Each copy found, with what is wrong with it.
    """
    for name in names:
        entry = weights()[name]
        yield from _copies(name, entry, _places(name, entry, cache_dir))
        if "packed" in entry:
            yield from _copies(name, entry, _packed_places(name, entry, cache_dir))
        beside = {"collapsed": collapsed_facts} if (entry.get("collapsed") or {}).get("path") else {}
        beside |= {"predictions": predictions_facts} if "predictions" in entry else {}
        for form, facts_of in beside.items():
            entry = facts_of(name)
            places = {f"{where}, {form}": path for where, path in _places(name, entry, cache_dir).items()}
            yield from _copies(name, entry, places)


def is_here(name: str, cache_dir: str | Path | None = None) -> bool:
    """Whether a weight lies on this machine, plain or packed, so that to load it makes no request."""
    entry = weights()[name]
    places = [*_places(name, entry, cache_dir).values()]
    places += _packed_places(name, entry, cache_dir).values() if "packed" in entry else []
    return any(path is not None and is_file(path) for path in places)


def predictions_here(name: str, cache_dir: str | Path | None = None) -> Path | None:
    """A weight's file of predictions on this machine, for which no request is made; None if there is none."""
    if "predictions" not in weights()[name]:
        return None
    places = _places(name, predictions_facts(name), cache_dir).values()
    return next((path for path in places if path is not None and is_file(path)), None)


def _places(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> dict[str, Path | None]:
    return {
        "staged": staged_file(name, entry),
        "cache": cached_file(name, entry, cache_dir),
        "Hub cache": hub_cached_file(entry, cache_dir),
    }


def _packed_places(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> dict[str, Path | None]:
    return {
        "staged, packed": staged_file(name, entry, "packed"),
        "cache, packed": cached_file(name, entry, cache_dir).with_name(entry["packed"]["path"]),
        "Hub cache, packed": hub_cached_file(entry, cache_dir, "packed"),
    }


def _copies(name: str, entry: dict[str, Any], places: dict[str, Path | None]) -> Iterator[Copy]:
    for where, path in places.items():
        if path is not None and is_file(path):
            yield Copy(name, where, path, _problem_of(path, entry, where.endswith("packed")))


def _problem_of(path: Path, entry: dict[str, Any], packed: bool) -> str:
    """What is wrong with a weight's file, in words; empty if nothing is."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not packed and size != entry["size"]:
                return f"has {size} bytes, the manifest has {entry['size']}"
            content = read_packed(path, entry) if packed else file.read(size)
        found = hashlib.sha256(content).hexdigest()
        if found != entry["sha256"]:
            return f"sha256 is {found}, the manifest has {entry['sha256']}"
        if path.suffix != ".npz":
            parse(content, path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except WeightError as error:
        return str(error)
    return ""
