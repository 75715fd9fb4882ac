"""What was counted of every network: facts that ship with the package, so that no network is built to tell its size.

``networks.json`` is made by ``scripts/count_networks.py``, and tests compare it with the networks. What was counted of
a module of architectures that has changed since is not used: the networks of that module are built.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("networks.json")
_MODELS = Path(__file__).with_name("models")


def network(name: str) -> Mapping[str, Any] | None:
    """What is known of a network, or None if it has to be built.

    Args:
        name: Architecture.

    Returns:
        ``family``, ``description``, ``params`` (what is stored) and what :func:`zoo.overview.model_costs` tells.
    """
    return _networks().get(name)


def families() -> dict[str, str]:
    """The family of every architecture; empty if a module was changed, added or taken out since they were counted."""
    found = source_digests()
    if {name: module["source"] for name, module in _content()["modules"].items()} != found:
        return {}
    return {name: facts["family"] for name, facts in _networks().items()}


def weight_costs(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What :func:`zoo.overview.model_costs` tells of a weight's network, or None if it has to be built.

    Args:
        name: ``arch.tag``.
        entry: Its facts; the network they describe must be the one that was counted.
    """
    known = _content()["weights"].get(name)
    if known is None or known["form"] != form_of(entry) or network(name.split(".", 1)[0]) is None:
        return None
    return known["costs"]


def form_of(entry: Mapping[str, Any]) -> list[Any]:
    """What a weight's network depends on besides its architecture."""
    return [entry["preprocessing"]["input_size"], entry["num_classes"], entry.get("model_args", {})]


@functools.cache
def source_digests() -> dict[str, str]:
    """sha256 of the source of each module of architectures, whatever ends its lines."""
    files = (path for path in sorted(_MODELS.glob("*.py")) if not path.name.startswith("_"))
    return {path.stem: hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() for path in files}


@functools.cache
def _networks() -> dict[str, dict[str, Any]]:
    found, modules = source_digests(), _content()["modules"]
    same = (module for name, module in modules.items() if module["source"] == found.get(name))
    return {name: facts for module in same for name, facts in module["networks"].items()}


@functools.cache
def _content() -> dict[str, Any]:
    try:
        return json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # then every network is built
        return {"modules": {}, "weights": {}}
