"""What other installed packages add, by their entry points: networks, manifests of weights, and transformations.

A package that cannot be used is left out with a line that says so; the zoo itself goes on.
"""

import functools
import importlib.util
import json
import logging
from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .files import LARGEST_TEXT, read_file

FAMILIES = "zoo.families"
"""Entry points that name a module which registers networks and has ``FAMILY``, as the modules of ``zoo/models`` do."""

MANIFESTS = "zoo.manifests"
"""Entry points that name a package with ``weights_manifest.json`` in it, and its staged weights below ``hub/``."""

TRANSFORMS = "zoo.transforms"
"""Entry points that name a :class:`zoo.transforms.Kind`."""

_LOGGER = logging.getLogger("zoo")


@functools.cache
def found(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group."""
    return tuple(entry_points(group=group))


def load_families(taken: Collection[str]) -> Iterator[tuple[str, str]]:
    """Import the modules of other packages, which registers their networks with timm.

    Args:
        taken: Names of networks that are there already.

    Yields:
        Each of their networks with its family.
    """
    from timm.models import list_models

    for entry in found(FAMILIES):
        try:
            module = entry.load()
            family, archs = module.FAMILY, list_models(module=module.__name__.rpartition(".")[2])
        except Exception as error:  # another package's code
            leave_out(entry, error)
            continue
        if twice := sorted({*archs} & {*taken}):
            _LOGGER.warning(f"{entry.value} ({FAMILIES}) took the place of the network {twice[0]}: rename its own.")
        yield from ((arch, str(family)) for arch in archs)


@functools.cache
def manifests() -> tuple[tuple[Path, dict[str, Any]], ...]:
    """The manifests of other packages: their files, and ``weights`` and ``papers`` of each."""
    read = []
    for entry in found(MANIFESTS):
        try:
            spec = importlib.util.find_spec(entry.value)
            folder = next(iter((spec and spec.submodule_search_locations) or ()), None)
            if folder is None:
                raise ValueError("there is no such package")
            file = Path(folder).resolve() / "weights_manifest.json"
            content = json.loads(read_file(file, LARGEST_TEXT))
            parts = {key: content[key] for key in ("weights", "papers")}
            if not all(isinstance(part, dict) for part in parts.values()):
                raise ValueError("weights and papers are objects")
            read.append((file, parts))
        except Exception as error:  # another package's code or file
            leave_out(entry, error)
    return tuple(read)


def with_places(entry: dict[str, Any], file: Path) -> dict[str, Any]:
    """A weight's entry whose staged file lies beside a manifest."""
    hub = file.parent / "hub"
    sources = [{**s, "path": str(hub / s["path"])} if s["kind"] == "staged" else s for s in entry["sources"]]
    return {**entry, "sources": sources}


def leave_out(entry: EntryPoint, error: Exception) -> str:
    """Say that an entry point is left out, and return why."""
    package = entry.dist.name if entry.dist else entry.name
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    _LOGGER.warning(f"{entry.value} ({entry.group}) of the package {package} is left out: {reason}")
    return f"{entry.value} of the package {package} cannot be loaded ({reason})"
