"""What somebody's own network, in the folder of a run or as timm saved it, takes along in a bundle or a mirror."""

import json
from typing import Any

from ..errors import WeightError
from ..files import LARGEST_TEXT, read_file
from ..named import load_named, own_folder
from ..reparam import count_parameters
from ..weights.convert import safetensors_bytes
from ..weights.manifest import facts, weights
from .repository import (
    CARD,
    CONFIG,
    LICENCE,
    MODEL,
    OPTIONAL,
    File,
    config_json,
    determined,
    repository,
    size_and_sha256,
)

FOREIGN = ("license", "description", "origin_url")
"""Entries of a configuration that speak of the weight that training began with, whose they stay."""

NO_LICENCE = "Whoever trained this weight decides on its licence; none was given, unless README.md names one.\n"


def belongings(word: str, cache_dir: str | None = None) -> tuple[str, dict[str, Any], dict[str, File]]:
    """Name, facts and files of a weight of the manifest, or of a folder of the user's own.

    A folder is taken as it is: no manifest says what is in it, so its facts are only what its own file shows.

    Args:
        word: ``arch.tag``, or a folder as :func:`zoo.named.own_folder` finds it.
        cache_dir: Where downloads are kept.

    Raises:
        WeightError: If the weight cannot be had or passed on, or the folder has another weight's name.
    """
    if not own_folder(word):
        return word, facts(word), repository(word, cache_dir)
    found = load_named(word)
    saved = found.folder / CONFIG
    if (found.folder / "checkpoint.pt").is_file() or not (found.folder / MODEL).is_file():
        tensors = {key: tensor.contiguous() for key, tensor in found.model.state_dict().items()}
        files: dict[str, File] = {MODEL: safetensors_bytes(tensors, {"format": "pt"}), CONFIG: config_json(found.model)}
        files[CONFIG] = _without_foreign(files[CONFIG])
    else:
        files = {MODEL: found.folder / MODEL, CONFIG: _without_foreign(read_file(saved, LARGEST_TEXT))}
    wanted = (CARD, LICENCE, *OPTIONAL)
    files |= {file: found.folder / file for file in wanted if (found.folder / file).is_file()}
    entry: dict[str, Any] = {"own": True, **size_and_sha256(files[MODEL])}
    if entry["sha256"] != weights().get(found.name, entry)["sha256"]:
        raise WeightError(f"{word}: {found.name} is another weight's name. Give the folder a name of its own.")
    if found.name in weights():
        return found.name, facts(found.name), determined(found.name, files)
    count = f"{count_parameters(found.model)['stored']:,} parameters"
    card = f"# {found.name}\n\nSomebody's own network, not one of the zoo's weights: {count}"
    files.setdefault(CARD, f"{card}{f', trained on {found.dataset}' if found.dataset else ''}.\n".encode())
    files.setdefault(LICENCE, NO_LICENCE.encode())
    return found.name, entry, dict(sorted(files.items()))


def _without_foreign(config: bytes) -> bytes:
    """A ``config.json`` without :data:`FOREIGN`: who trained a network decides on its licence."""
    values = json.loads(config)
    for place in (values, values.get("pretrained_cfg") or {}):
        for key in FOREIGN:
            place.pop(key, None)
    return (json.dumps(values, indent=2) + "\n").encode()
