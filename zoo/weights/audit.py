"""Every copy of every weight on this machine against the manifest: read whole, no network, nothing remembered."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightError
from .fetch import cached_file, hub_cached_file, staged_file
from .manifest import collapsed_facts, weights
from .packed import PACKED, is_packed, unpack
from .verify import parse


@dataclass(frozen=True)
class Copy:
    """One file that claims to be a weight.

    Attributes:
        name: ``arch.tag``.
        where: ``staged``, ``packed``, ``cache`` or ``Hub cache``; of a collapsed form with that word behind it.
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
        staged = staged_file(name, entry)
        places = _places(name, entry, cache_dir) | {"packed": staged and staged.with_name(PACKED)}
        yield from _copies(name, entry, places)
        if (entry.get("collapsed") or {}).get("path"):
            entry = collapsed_facts(name)
            places = {f"{where}, collapsed": path for where, path in _places(name, entry, cache_dir).items()}
            yield from _copies(name, entry, places)


def _places(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> dict[str, Path | None]:
    return {
        "staged": staged_file(name, entry),
        "cache": cached_file(name, entry, cache_dir),
        "Hub cache": hub_cached_file(entry, cache_dir),
    }


def _copies(name: str, entry: dict[str, Any], places: dict[str, Path | None]) -> Iterator[Copy]:
    for where, path in places.items():
        if path is not None and path.is_file():
            yield Copy(name, where, path, problem_of(path, entry))


def problem_of(path: Path, entry: dict[str, Any]) -> str:
    """What is wrong with a weight's file, plain or packed, in words; empty if nothing is."""
    try:
        content = path.read_bytes()
        if is_packed(content):
            content = unpack(content, path)
        found = hashlib.sha256(content).hexdigest()
        if found != entry["sha256"]:
            return f"sha256 is {found}, the manifest has {entry['sha256']}"
        if len(content) != entry["size"]:
            return f"has {len(content)} bytes, the manifest has {entry['size']}"
        parse(content, path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except WeightError as error:
        return str(error)
    return ""
