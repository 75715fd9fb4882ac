"""The files that belong to a weight: what its Hub repository, its folder in a bundle and in a mirror hold."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from ..errors import HashMismatchError, WeightError
from ..files import open_file
from ..weights.card import model_card
from ..weights.chosen import choose as choose  # its place before it could do without torch
from ..weights.fetch import fetch, find_verified, staged_file
from ..weights.manifest import facts, predictions_facts
from ..weights.packed import PACKED, pack
from ..weights.paths import hub_folder
from ..weights.verify import mismatch

MODEL, CONFIG, CARD, LICENCE = "model.safetensors", "config.json", "README.md", "LICENSE"
COLLAPSED, RECORD, PREDICTIONS = "model.collapsed.safetensors", "equivalence.json", "predictions.npz"
REQUIRED = (CONFIG, LICENCE, CARD)
"""Beside ``model.safetensors``, or its packed form in a bundle."""
STORIES = (RECORD, "recipe.json", "training_log.jsonl", "seeds_log.jsonl", "curve.png")
"""How a weight came about: beside a staged one, and not determined by the manifest."""
OPTIONAL = (COLLAPSED, PREDICTIONS, *STORIES)

File = Path | bytes
"""A file on disk, or the content of one that is made here."""


def repository(name: str, cache_dir: str | Path | None = None) -> dict[str, File]:
    """The files of one weight, sorted by name; fetched and verified if need be.

    Configuration (as timm writes it), card and licence are made from the manifest, wherever the weight lies; a staged
    one has its log and curve besides.

    Args:
        name: ``arch.tag``.
        cache_dir: Where downloads are kept.

    Raises:
        WeightError: If the weight cannot be had, or its licence does not allow it to be passed on.
    """
    entry = facts(name)
    files: dict[str, File] = {LICENCE: licence_text(name, entry).encode()}
    files[CONFIG] = own_config(name)
    found = fetch(name, cache_dir)
    files[MODEL] = found.path
    if found.kind == "staged" and (beside := staged_folder(name)):
        files |= {file: beside / file for file in STORIES if (beside / file).is_file()}
    if (entry.get("collapsed") or {}).get("path"):
        files[COLLAPSED] = fetch(name, cache_dir, collapsed=True).path
    files |= packed_form(name, entry, found.path)
    files |= kept_predictions(name, entry, cache_dir)
    files[CARD] = model_card(name, entry, files=files).encode()
    return dict(sorted(files.items()))


def determined(name: str, files: dict[str, File]) -> dict[str, File]:
    """The forms of a weight among some files, and what the manifest makes of the others: all that it determines."""
    kept: dict[str, File] = {file: files[file] for file in (MODEL, PACKED, COLLAPSED, PREDICTIONS) if file in files}
    kept |= {LICENCE: licence_text(name, facts(name)).encode(), CONFIG: own_config(name)}
    return dict(sorted((kept | {CARD: model_card(name, facts(name), files=kept).encode()}).items()))


def own_config(name: str) -> bytes:
    """The ``config.json`` of a weight, from the manifest."""
    from ..registry import create_model

    return config_json(create_model(name))


def known_sha256s(name: str, files: Iterable[str] = ()) -> dict[str, str]:
    """The sha256 of every file that the manifest determines.

    Args:
        name: ``arch.tag``.
        files: Those that the card is to explain.

    Raises:
        WeightError: If its licence does not allow it to be passed on.
    """
    entry = facts(name)
    made = {LICENCE: licence_text(name, entry).encode(), CONFIG: own_config(name)}
    made[CARD] = model_card(name, entry, files=[*files]).encode()
    forms = {MODEL: entry, PACKED: entry.get("packed"), COLLAPSED: entry.get("collapsed")}
    forms[PREDICTIONS] = entry.get("predictions")
    kept = {file: form["sha256"] for file, form in forms.items() if form and form.get("sha256")}
    return kept | {file: hashlib.sha256(content).hexdigest() for file, content in made.items()}


def staged_folder(name: str) -> Path | None:
    """The folder a weight is staged in, plain or packed, or None."""
    folder = hub_folder() / name
    return folder if any((folder / file).is_file() for file in (MODEL, PACKED)) else None


def packed_form(name: str, entry: dict[str, Any], plain: Path) -> dict[str, File]:
    """The packed form of a weight under its name, staged or made anew; empty if it has none.

    Args:
        name: ``arch.tag``.
        entry: Its facts.
        plain: Its verified plain file.

    Raises:
        HashMismatchError: If the staged one is not the manifest's.
    """
    if "packed" not in entry:
        return {}
    staged, expected = staged_file(name, entry, "packed"), entry["packed"]["sha256"]
    packed: File = staged or pack(plain.read_bytes(), plain)
    found = size_and_sha256(packed)["sha256"]
    if found == expected:
        return {PACKED: packed}
    if staged:
        raise mismatch(staged, expected, found)
    return {}  # this copy packs in another way, and the plain file goes alone


def kept_predictions(name: str, entry: dict[str, Any], cache_dir: str | Path | None = None) -> dict[str, File]:
    """The file of a weight's predictions under its name, if it has one and it can be had; it is no part of the weight.

    Raises:
        HashMismatchError: If the staged one is not the manifest's.
    """
    if "predictions" not in entry:
        return {}
    try:
        return {PREDICTIONS: find_verified(name, predictions_facts(name), cache_dir).path}
    except HashMismatchError:
        raise
    except WeightError:
        return {}


def licence_text(name: str, entry: dict[str, Any]) -> str:
    """The text that must go with a weight wherever it goes.

    Raises:
        WeightError: If the weight has no licence, or one whose text is not at hand.
    """
    folder = Path(__file__).with_name("licences")
    known = {path.stem: path for path in folder.glob("*.txt")}
    licence = entry.get("licence")
    if licence not in known:
        reason = f"its licence is {licence}" if licence else "it has no licence"
        raise WeightError(
            f"{name} is not passed on: {reason}, and only weights under {' or '.join(sorted(known))} are. "
            "Fetch it on the machine that needs it: zoo fetch."
        )
    text = known[licence].read_text(encoding="utf-8")
    if "{notice}" not in text:
        return text
    notice = re.search(r"Copyright .+", entry["licence_source"])
    if not notice:
        raise WeightError(f"{name} is not passed on: the copyright notice its licence asks for is not in the manifest.")
    return text.replace("{notice}", notice[0])


def config_json(model: nn.Module) -> bytes:
    """The ``config.json`` of a network as timm writes it, class names included, in a form transformers takes too."""
    model.state_dict = dict  # timm writes the weights as well, and they are not wanted
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_for_hf(model, folder, safe_serialization=True)
            config = json.loads((Path(folder) / CONFIG).read_bytes())
    except (OSError, SafetensorError) as error:
        raise WeightError(f"The temporary folder cannot be written ({error}).") from None
    finally:
        del model.state_dict
    arguments = {**model._model_args, **config["model_args"]}  # timm leaves dropout out
    arguments.pop("num_classes")  # transformers passes it beside these, timm reads it from the root
    config["model_args"] = arguments
    config["torch_dtype"] = "float32"  # else transformers takes the type of the file's first tensor, which may be half
    if names := config["pretrained_cfg"].pop("label_names", None):
        config["label_names"] = names
    return (json.dumps(config, indent=2) + "\n").encode()


def blocks(file: File) -> Iterator[bytes]:
    """The content of a file, at most a mebibyte at a time."""
    if isinstance(file, bytes):
        yield file
        return
    with open_file(file) as opened:
        while block := opened.read(1 << 20):
            yield block


def size_and_sha256(file: File) -> dict[str, Any]:
    """``size`` in bytes and ``sha256`` of a file."""
    digest, size = hashlib.sha256(), 0
    for block in blocks(file):
        digest.update(block)
        size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}
