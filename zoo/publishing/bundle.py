"""One file that carries weights, and what the manifest says of them, to a machine without network.

A bundle is a zip archive without compression: ``bundle.json`` first, then ``arch.tag/file``, sorted, with fixed times
and modes, so that the same weights always give the same bytes. ``bundle.json`` has the sha256 of every member and the
weights' entries of the manifest. A weight that has a packed form travels in it and is unpacked where it is installed.
Installing believes none of this before each member's sha256 was compared, with the list and with this copy's own
manifest, which determines every file of a weight; up to then nothing is written.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from ..errors import HashMismatchError, WeightError
from ..files import open_file, write_atomically
from ..version import __version__
from ..weights.cached import locked
from ..weights.fetch import cached_file
from ..weights.manifest import collapsed_facts, manifest, predictions_facts, weights
from ..weights.packed import PACKED, unpack
from ..weights.paths import cache_folder
from .own import belongings
from .repository import (
    CARD,
    COLLAPSED,
    MODEL,
    OPTIONAL,
    PREDICTIONS,
    REQUIRED,
    File,
    blocks,
    determined,
    known_sha256s,
    size_and_sha256,
)
from .signature import SIGNATURE, sign

INDEX = "bundle.json"
FORMAT = "repara-zoo bundle 1"
_MODE = stat.S_IFREG | 0o644
_LARGEST_INDEX = 16 << 20  # bytes
_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Installed:
    """A weight from a bundle.

    Attributes:
        name: ``arch.tag``.
        path: Its file.
        known: Whether this copy's manifest has it, so that its name alone loads it.
    """

    name: str
    path: Path
    known: bool


def write_bundle(
    names: Iterable[str], path: str | Path, cache_dir: str | Path | None = None, key: str | Path | None = None
) -> list[str]:
    """Write a bundle; weights that are not here yet are fetched first.

    Args:
        names: ``arch.tag`` of each weight, or folders as :func:`.own.belongings` takes them.
        path: The bundle.
        cache_dir: Where downloads are kept.
        key: Sign each weight's files with this private key, see :func:`.signature.sign`.

    Returns:
        The names in it, sorted.

    Raises:
        WeightError: If a weight cannot be had or has no licence to be passed on, or the bundle cannot be written.
    """
    path = Path(path)
    members: dict[str, File] = {}
    entries: dict[str, dict[str, Any]] = {}
    for word in tqdm(sorted(set(names)), desc="collecting", delay=2, disable=None, leave=False):
        name, entry, files = belongings(word, cache_dir)
        if name in entries:
            raise WeightError(f"{word}: the bundle has a {name} already. Give the folder another name.")
        entries[name] = entry
        if name in weights():
            files = determined(name, files)
        if key:
            files[SIGNATURE] = sign(name, files, key)
        if PACKED in files and entry["packed"]["size"] < entry["size"]:
            del files[MODEL]
        members |= {f"{name}/{file}": content for file, content in files.items()}
    entries = dict(sorted(entries.items()))
    listed = {member: size_and_sha256(content) for member, content in members.items()}
    for name, entry in entries.items():
        if f"{name}/{MODEL}" in listed:
            _compare(f"{name}/{MODEL}", entry["sha256"], listed[f"{name}/{MODEL}"]["sha256"])
    papers = {entry.get("family") for entry in entries.values()}
    index = {
        "format": FORMAT,
        "made_with": __version__,
        "papers": {family: paper for family, paper in manifest()["papers"].items() if family in papers},
        "weights": entries,
        "files": listed,
    }

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, INDEX, (json.dumps(index, indent=1) + "\n").encode(), None)
            for member, content in members.items():
                _add(archive, member, content, listed[member])

    try:
        write_atomically(write, path)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error}).") from None
    return list(entries)


def _add(archive: zipfile.ZipFile, member: str, content: File, expected: dict[str, Any] | None) -> None:
    info = zipfile.ZipInfo(member)  # its date is the format's first, 1980-01-01
    info.create_system, info.external_attr = 3, _MODE << 16
    info.file_size = len(content) if isinstance(content, bytes) else expected["size"]
    digest = hashlib.sha256()
    with archive.open(info, "w") as target:
        for block in blocks(content):
            digest.update(block)
            target.write(block)
    if expected:
        _compare(member, expected["sha256"], digest.hexdigest())


def install_bundle(
    path: str | Path, folder: str | Path | None = None, cache_dir: str | Path | None = None
) -> list[Installed]:
    """Install every weight of a bundle, or none.

    Args:
        path: The bundle.
        folder: Where to put one folder for each weight, as ``ZOO_HUB`` and timm's ``local-dir:`` take it. By default
            the zoo's cache, where the names alone find them.
        cache_dir: The cache, as :func:`zoo.weights.paths.cache_folder`.

    Raises:
        HashMismatchError: If a member is not what the bundle says, or a weight not what this copy's manifest says.
        WeightError: If the file is no sound bundle, holds a weight that this copy does not know (and no folder is
            given), or cannot be installed.
    """
    path = Path(path)
    try:
        with open_file(path) as opened, zipfile.ZipFile(opened) as archive:
            index = _read_index(archive, path, os.fstat(opened.fileno()).st_size)
            _check_weights(index, path, folder)
            for _ in _verified(archive, index, path):
                pass  # nothing is written before everything was read once
            plain = {f"{name}/{MODEL}": _plain(archive, index, path, name) for name in _packed_only(index)}
            return _install(archive, index, plain, path, folder, cache_dir)
    except OSError as error:
        raise _broken(error, path) from None
    except _DAMAGED as error:
        if isinstance(error, WeightError):
            raise
        raise _unsound(path, f"it is damaged or no zip archive: {error}") from None


def _read_index(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, Any]:
    """``bundle.json``, once it and the list of members are what ``write_bundle`` writes."""
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        if info.filename in sizes:
            raise _unsound(path, f"{info.filename[:100]!r} is in it twice")
        plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not plain or info.flag_bits or info.external_attr >> 16 != _MODE:
            raise _unsound(path, f"{info.filename[:100]!r} is a link, compressed, encrypted or otherwise no plain file")
        sizes[info.filename] = info.file_size
    if sum(sizes.values()) > size:
        raise _unsound(path, "its members would be larger than the archive")
    if not 0 < sizes.pop(INDEX, 0) <= _LARGEST_INDEX:
        raise _unsound(path, f"it has no {INDEX}, or one of an impossible size")
    try:
        index = json.loads(archive.read(INDEX))
        listed = {member: (file["size"], file["sha256"]) for member, file in index["files"].items()}
        sha256s = {name: entry["sha256"] for name, entry in index["weights"].items()}
        form = index["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _unsound(path, f"its {INDEX} cannot be read") from None
    if form != FORMAT:
        raise _unsound(path, f"its format is {str(form)[:40]!r}, not {FORMAT!r}: install a newer repara-zoo")
    if {member: size for member, (size, _) in listed.items()} != sizes:
        raise _unsound(path, f"its members are not those listed in {INDEX}")
    claimed = [*sha256s.values(), *(sha256 for _, sha256 in listed.values())]
    if not sha256s or not all(isinstance(sha256, str) and _SHA256.fullmatch(sha256) for sha256 in claimed):
        raise _unsound(path, f"its {INDEX} lists no weight, or a sha256 that is none")
    if not all(_NAME.fullmatch(name) for name in sha256s):
        raise _unsound(path, "a weight in it has an impossible name")
    required = {f"{name}/{file}" for name in sha256s for file in REQUIRED}
    required |= {f"{name}/{PACKED if f'{name}/{PACKED}' in sizes else MODEL}" for name in sha256s}
    allowed = required | {f"{name}/{file}" for name in sha256s for file in (MODEL, SIGNATURE, *OPTIONAL)}
    for member in sorted(required - sizes.keys()) + sorted(sizes.keys() - allowed):
        raise _unsound(path, f"{member[:100]!r} is {'missing' if member in required else 'not a file of a bundle'}")
    return index


def _check_weights(index: dict[str, Any], path: Path, folder: str | Path | None) -> None:
    """Compare each weight with the bundle's entry, and every file of it with what this copy's manifest makes it."""
    made = str(index.get("made_with"))[:20]
    hint = f" It was made with version {made}, this is {__version__}." if made != __version__ else ""
    for name, entry in index["weights"].items():
        listed = {m.split("/")[1]: f["sha256"] for m, f in index["files"].items() if m.split("/")[0] == name}
        if name in weights():
            _compare(f"{path.name}: {name}", weights()[name]["sha256"], entry["sha256"])
            known = known_sha256s(name, listed)
            for file in sorted(listed.keys() - {SIGNATURE}, key=CARD.__eq__):  # last: what is beside it is named on it
                _compare(f"{path.name}: {name}/{file}", known.get(file, "none"), listed[file], hint)
        elif folder is None and entry.get("own") is True:
            raise WeightError(
                f"{path.name}: {name} is somebody's own network, which no manifest has: put it into a folder "
                "for timm's local-dir: with --to DIR. Nothing was installed."
            )
        elif folder is None:
            raise WeightError(
                f"{path.name}: this repara-zoo ({__version__}) does not know {name}, the bundle was made with "
                f"{made!r}. Install that version, or put the weights into a folder for "
                "timm's local-dir: with --to DIR. Nothing was installed."
            )
        if MODEL in listed:
            _compare(f"{path.name}: {name}/{MODEL}", entry["sha256"], listed[MODEL])


def _packed_only(index: dict[str, Any]) -> list[str]:
    return [name for name in index["weights"] if f"{name}/{MODEL}" not in index["files"]]


def _plain(archive: zipfile.ZipFile, index: dict[str, Any], path: Path, name: str) -> bytes:
    """The plain file of a weight that travels packed; its member has been verified."""
    member = f"{name}/{PACKED}"
    content = archive.read(member)
    _compare(f"{path.name}: {member}", index["files"][member]["sha256"], hashlib.sha256(content).hexdigest())
    plain = unpack(content, f"{path.name}: {member}", weights().get(name, {}).get("size"))
    _compare(f"{path.name}: {member}, unpacked", index["weights"][name]["sha256"], hashlib.sha256(plain).hexdigest())
    return plain


def _verified(archive: zipfile.ZipFile, index: dict[str, Any], path: Path) -> Iterator[tuple[str, bytes]]:
    """Every member in blocks; a member whose sha256 differs raises after its last block."""
    total = sum(file["size"] for file in index["files"].values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="verifying", delay=2, disable=None, leave=False) as bar:
        for member, expected in index["files"].items():
            digest = hashlib.sha256()
            with archive.open(member) as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    bar.update(len(block))
                    yield member, block
            _compare(f"{path.name}: {member}", expected["sha256"], digest.hexdigest())


def _install(
    archive: zipfile.ZipFile,
    index: dict[str, Any],
    plain: dict[str, bytes],
    path: Path,
    folder: str | Path | None,
    cache_dir: str | Path | None,
) -> list[Installed]:
    root = cache_folder(folder if folder is not None else cache_dir)
    files = index["files"] | {member: size_and_sha256(content) for member, content in plain.items()}
    targets = {member: root / member for member in files}
    if folder is None:
        for name in index["weights"]:
            file = cached_file(name, weights()[name], cache_dir)
            inside = {member: file.parent / Path(member).name for member in targets if member.startswith(f"{name}/")}
            targets |= inside | {f"{name}/{MODEL}": file}
            for form, facts_of in ((COLLAPSED, collapsed_facts), (PREDICTIONS, predictions_facts)):
                if f"{name}/{form}" in targets:
                    targets[f"{name}/{form}"] = cached_file(name, facts_of(name), cache_dir)
    with locked(root):
        for leftover in root.glob(".install-*"):  # of a killed process: the lock is held, so none is in use
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=".install-"))
        try:
            missing = {member: target for member, target in targets.items() if not _is(target, files[member])}
            foreign = [target for target in missing.values() if target.exists()] if folder is not None else []
            if foreign:
                raise WeightError(f"{foreign[0]} is not the bundle's file: move it away, or name another --to.")
            _move(_extract(archive, index, plain, path, missing, temporary))
        except OSError as error:
            raise _broken(error, path) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return [Installed(name, targets[f"{name}/{MODEL}"], name in weights()) for name in sorted(index["weights"])]


def _is(target: Path, expected: dict[str, Any]) -> bool:
    same_size = target.is_file() and not target.is_symlink() and target.stat().st_size == expected["size"]
    return same_size and size_and_sha256(target) == expected


def _extract(
    archive: zipfile.ZipFile,
    index: dict[str, Any],
    plain: dict[str, bytes],
    path: Path,
    missing: dict[str, Path],
    temporary: Path,
) -> list[tuple[Path, Path]]:
    """Write the missing members, hashed once more, below names of our own."""
    sources = {member: temporary / str(number) for number, member in enumerate(missing)}
    for source in sources.values():
        source.touch(0o644)
    for member, block in itertools.chain(_verified(archive, index, path), plain.items()):
        if member in sources:
            with open(sources[member], "ab") as file:
                file.write(block)
    for source in sources.values():
        with open(source, "ab") as file:
            os.fsync(file.fileno())
    return [(sources[member], target) for member, target in missing.items()]


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Give files their final names; if one move fails, the earlier ones are taken back."""
    undo: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                aside = source.with_suffix(".before")
                target.replace(aside)
                undo.append((aside, target))
            source.replace(target)
            undo.append((target, source))
    except BaseException:
        for now, before in reversed(undo):
            now.replace(before)
        raise


def _compare(what: str, expected: str, found: str, hint: str = "") -> None:
    if expected != found:
        wrong = f"sha256 mismatch: expected {str(expected)[:64]}, found {found}"
        raise HashMismatchError(f"{what}: {wrong}. Nothing was installed or written.{hint}")


def _broken(error: OSError, path: Path) -> WeightError:
    return WeightError(f"{error.filename or path}: {error.strerror or error}. Nothing of {path.name} was installed.")


def _unsound(path: Path, reason: str) -> WeightError:
    return WeightError(f"{path}: not a bundle of this zoo ({reason}). Nothing was installed.")
