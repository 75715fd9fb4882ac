"""From timm's pretrained configuration to a verified state dict."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs
from torch import Tensor

from ..errors import WeightError
from ..files import is_file, open_file
from . import packed
from .fetch import Located, fetch, fetch_address, fetch_from_repository
from .hash_cache import file_stamp, hash_and_remember, known_sha256, recall
from .importers import read_checkpoint
from .manifest import refuse_damaged, warm_starts, weights
from .manifest_check import problem_of_preparation
from .network_settings import failed_hub_call
from .verify import mismatch, other_size, parse
from .warm_start import fetch_base, is_warm_start

_LOGGER = logging.getLogger(__name__)

SOURCES = ("state_dict", "file", "url", "hf_hub_id", "hf_hub_filename", "source")
"""Entries of a timm configuration that say where a weight is."""


def is_own_source(cfg: Mapping[str, Any]) -> bool:
    """Whether a resolved timm configuration names a source that the user has chosen, not one of the manifest's.

    The tag does not decide: a fine-tuned network that timm has saved keeps the tag of the weight it began with.
    """
    arch = cfg.get("architecture")
    registered = get_arch_pretrained_cfgs(arch).get(f"{arch}.{cfg.get('tag')}") if arch else None
    return any(cfg.get(key) and cfg[key] != getattr(registered, key, None) for key in SOURCES)


def load_state_dict(cfg: Mapping[str, Any], cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of the weight that a resolved timm configuration stands for.

    A source of the user's own (``pretrained_cfg_overlay=dict(file=...)``, ``local-dir:``, ``hf-hub:``) is taken as it
    is, and one line says that it is unverified. But a repository with the name of one of our weights, whoever's it is,
    must hold that weight, and what comes from an address (``url``) must have been accepted with
    :func:`.fetch.fetch_address`. Everything else must be what the manifest says, to the byte. For a warm start
    that is the plain network it starts from (:func:`.warm_start.is_warm_start`).

    Args:
        cfg: ``architecture``, ``tag`` and, if the user gave one, ``file``, ``hf_hub_id`` or ``url``.
        cache_dir: Where downloads are kept.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        HashMismatchError: If the bytes are not the manifest's.
        WeightError: If the configuration stands for no weight and names no source, or the weight cannot be had.
    """
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part)
    if cfg.get("state_dict"):
        return cfg["state_dict"]
    if is_own_source(cfg):
        return _own(cfg, name, cache_dir)
    if is_warm_start(cfg):
        return load_fetched(fetch_base(name, cache_dir=cache_dir), cache_dir)
    refuse_damaged(name)
    if name not in weights():
        arch = cfg.get("architecture", "this architecture")
        known = [n for n in weights() if n.split(".", 1)[0] == arch]
        starts = [n for n in warm_starts() if n.split(".", 1)[0] == arch]
        listed = f"it has {', '.join(known)}" if known else "it has none; see: zoo list --pretrained"
        listed += f"; to begin with there is {', '.join(starts)}, a plain network's function" if starts else ""
        raise WeightError(f"{arch} has no pretrained weight {cfg.get('tag') or ''}".rstrip() + f": {listed}.")
    return load_fetched(fetch(name, cache_dir), cache_dir)


def without_other_sources(cfg: Any, arch: str) -> Any:
    """A configuration that timm read from the ``config.json`` of a repository or folder, without what it may not say.

    Which weight is meant is the caller's to say: sources in it other than the place itself (``file``, ``url``,
    ``state_dict``, ...) and entries that timm does not know are dropped, and so is another architecture.

    Args:
        cfg: As timm passes it; anything but such a configuration is returned as it is.
        arch: What is being built.

    Raises:
        WeightError: If its preprocessing or number of classes cannot be used.
    """
    place = {"hf-hub": "hf_hub_id", "local-dir": "file"}.get(cfg.get("source")) if isinstance(cfg, dict) else None
    if place is None:
        return cfg
    known = {field.name for field in fields(PretrainedCfg)} - {*SOURCES, "custom_load"} | {"source", place}
    kept = {key: value for key, value in cfg.items() if key in known and value is not None}
    if problem := problem_of_preparation(kept):
        raise WeightError(f"{cfg[place]}: its config.json cannot be used: {problem}.")
    return kept | {"architecture": arch}


def known_repository(cfg: Mapping[str, Any]) -> str:
    """The weight whose name the Hub repository of a configuration bears, whoever's it is; empty if it bears none.

    Raises:
        WeightError: If the manifest's entry of that name is damaged.
    """
    if cfg.get("source") not in (None, "hf-hub") or cfg.get("file") or not is_own_source(cfg):
        return ""
    name = (cfg.get("hf_hub_id") or "").partition("@")[0].rpartition("/")[2].lower()
    refuse_damaged(name)
    return name if name in weights() else ""


def _own(cfg: Mapping[str, Any], name: str, cache_dir: str | Path | None) -> dict[str, Tensor]:
    """Tensors of a source that the user has chosen."""
    repo, _, revision = (cfg.get("hf_hub_id") or "").partition("@")
    if known := known_repository(cfg):
        return load_fetched(fetch_from_repository(known, repo, revision or None, cache_dir), cache_dir)
    if cfg.get("url") and not any(cfg.get(key) for key in ("file", "hf_hub_id", "source")):
        found = fetch_address(cfg["url"], cache_dir=cache_dir)
        is_safetensors = found.path.suffix == ".safetensors"
        return load_fetched(found, cache_dir) if is_safetensors else _read_checkpoint(found, cache_dir)
    if cfg.get("source") == "hf-hub" or not cfg.get("file"):
        files = [cfg["hf_hub_filename"]] if cfg.get("hf_hub_filename") else ["model.safetensors", "pytorch_model.bin"]
        place, path = cfg["hf_hub_id"], _from_somebody(repo, revision or None, files, cache_dir)
    else:
        place = path = Path(cfg["file"])
    if name not in weights() or not _is_published(path, name, cfg, cache_dir):
        what = f"not the published {name}" if name in weights() else "no weight of the manifest"
        _LOGGER.warning(f"{place}: {what}; it is loaded as it is, unverified.")
    return read_own_file(path)


def _from_somebody(repo: str, revision: str | None, files: list[str], cache_dir: str | Path | None) -> Path:
    """Download the first of some files that a repository has, of which no manifest knows."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        try:
            return Path(hf_hub_download(repo, files[0], revision=revision, cache_dir=cache_dir))
        except EntryNotFoundError:
            return Path(hf_hub_download(repo, files[-1], revision=revision, cache_dir=cache_dir))
    except Exception as error:  # its own, its HTTP client's, and those of variables that these cannot read
        raise WeightError(f"Hub {repo}: {failed_hub_call(error, repo)}") from None


def _is_published(path: Path, name: str, cfg: Mapping[str, Any], cache_dir: str | Path | None) -> bool:
    """Whether a file is a weight's, and images are prepared for it as the manifest says."""
    path = packed.weight_file(path) if path.is_dir() else path
    forms = [weights()[name], weights()[name].get("packed", {})]
    said = weights()[name]["preprocessing"]
    found = {key: list(value) if isinstance(value := cfg.get(key), tuple) else value for key in said}
    same = found == said
    return same and is_file(path) and known_sha256(path, cache_dir) in [form.get("sha256") for form in forms]


def read_own_file(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a file of the user's own: safetensors, packed, or a checkpoint as training scripts save it.

    Args:
        path: The file, or a folder with ``model.safetensors`` or its packed form.

    Raises:
        WeightError: If there is no such file, or it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.exists():
        raise WeightError(f"No such file: {path}")
    try:
        with open_file(path) as file:
            is_safetensors = file.read(9)[8:] == b"{"
            content = is_safetensors and file.seek(0) == 0 and file.read()
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if not is_safetensors:
        return read_checkpoint(path)
    return parse(packed.unpack(content, path) if packed.is_packed(content) else content, path)


def _file_in(folder: Path) -> Path:
    """The file of a network's folder: what this zoo and timm call it, else the only one of its kind."""
    named = packed.weight_file(folder)
    if is_file(named):
        return named
    found = [folder / name for name in ("pytorch_model.bin", "pytorch_model.pth", "model.pth")]
    found += [file for ending in ("safetensors", "pth", "bin") for file in sorted(folder.glob(f"*.{ending}"))]
    return next(filter(is_file, found), named)


def load_fetched(found: Located, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Tensors of a file from :func:`.fetch.fetch`."""
    return _load(found.path, found.sha256, cache_dir, found.size, mapped=found.write_once)


def _read_checkpoint(found: Located, cache_dir: str | Path | None) -> dict[str, Tensor]:
    """Tensors of an accepted file that is no safetensors file; it is opened once, hashed, and read by that name."""
    try:
        with open_file(found.path) as file:
            before = file_stamp(file)
            sha256 = recall(found.path, before, cache_dir) or hash_and_remember(found.path, file, cache_dir)
            if sha256 != found.sha256:
                raise mismatch(found.path, found.sha256, sha256)
            name = Path(f"/dev/fd/{file.fileno()}") if Path("/dev/fd").is_dir() else found.path
            try:
                tensors = read_checkpoint(name)
            except WeightError as error:
                raise WeightError(str(error).replace(str(name), str(found.path))) from None
            if file_stamp(file) != before:
                raise WeightError(f"{found.path}: changed while it was being loaded. Try again.")
            return tensors
    except OSError as error:
        raise WeightError(f"{found.path}: cannot be read ({error.strerror or error}).") from None


def read_verified(path: Path, sha256: str, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Read a file that may be overwritten at any time (staged, or named by the user); the bytes read are loaded.

    Args:
        path: A safetensors file, plain or packed.
        sha256: What the plain file's bytes must hash to.
        cache_dir: As :func:`.paths.cache_folder`.

    Raises:
        HashMismatchError: If they do not.
        WeightError: If the file cannot be read.
    """
    return _load(path, sha256, cache_dir)


def map_verified(path: Path, sha256: str, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """The same for a file in a cache, which is replaced and never overwritten: large ones are mapped into memory.

    Only what is used of a mapped file is read. Before its sha256 is remembered a file is read as any other.
    """
    return _load(path, sha256, cache_dir, mapped=True)


def _load(
    path: Path, sha256: str, cache_dir: str | Path | None, size: int | None = None, mapped: bool = False
) -> dict[str, Tensor]:
    """Open a file once: what this descriptor gives is what is hashed, and what is loaded."""
    try:
        with open_file(path) as file:
            before = file_stamp(file)
            if problem := other_size(file, size):
                raise mismatch(path, sha256, problem)
            known = recall(path, before, cache_dir) == sha256
            if known and mapped and Path("/dev/fd").is_dir():
                tensors = load_file(f"/dev/fd/{file.fileno()}")
                if file_stamp(file) == before:
                    return tensors
                file.seek(0)
            content = file.read(before[0] + 1)
            known = known and file_stamp(file) == before
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, ValueError, OverflowError) as error:
        raise WeightError(f"{path}: not a safetensors file ({error}).") from None
    if packed.is_packed(content):
        content, known = packed.unpack(content, path), False
    if not known:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise mismatch(path, sha256, found)
    return parse(content, path)
