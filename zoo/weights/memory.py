"""What is remembered about files: sha256s already computed, and those a user chose to trust.

A hash is computed once and remembered by path, size, modification and change time, inode and device; it is forgotten as
soon as one of these differs. Writing through the file system moves the change time, which no program can set back, so
that a flipped bit is seen even if the modification time was restored. What cannot be seen: bits that rot on the disk
below the file system, and whoever can write the zoo's cache folder itself. ``zoo verify`` never uses the memory.

Each record is a small file of its own in the cache folder, written atomically: processes cannot lose one another's, and
a damaged one counts as none.
"""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from ..errors import WeightError
from ..files import write_atomically
from .paths import cache_folder
from .verify import sha256_of, writable_folder

SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGITS = {SHA256: 64, COMMIT: 40}
_GRAIN_NS = 2_000_000_000  # coarsest clock of a file system in use; a younger file could change again unseen


def known_sha256(path: Path, cache_dir: str | Path | None = None) -> str:
    """The sha256 of a file, computed only if it is not remembered.

    Args:
        path: The file.
        cache_dir: As :func:`.paths.cache_folder`; its ``hashes`` is the memory.

    Raises:
        WeightError: If the file cannot be read.
    """
    try:
        before = file_stamp(path)
        found = recall(path, before, cache_dir)
        if found is None:
            found = sha256_of(path)
            if file_stamp(path) == before:
                remember(path, before, found, cache_dir)
        return found
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error})") from None


def hexadecimal(label: str, title: str, given: str | None, form: re.Pattern) -> str | None:
    """A number as the user gave it, in lower case, or None.

    Args:
        label: What it belongs to.
        title: What it is, for the message.
        given: By the user.
        form: :data:`SHA256` or :data:`COMMIT`.

    Raises:
        WeightError: If it is not of this form.
    """
    given = given.lower() if given is not None else None
    if given is not None and not form.fullmatch(given):
        raise WeightError(f"{label}: a {title} has {_DIGITS[form]} hexadecimal digits, not {given!r}.")
    return given


def file_stamp(file: Path | int) -> list[int]:
    """What a file's content cannot change without: size, times in nanoseconds, inode, device.

    Args:
        file: Path or open descriptor.

    Raises:
        OSError: If there is no such file.
    """
    found = os.stat(file)  # noqa: PTH116 (a descriptor is no path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def recall(path: Path, stamp: list[int], cache_dir: str | Path | None = None) -> str | None:
    """The remembered sha256 of a file that still has this stamp, or None."""
    record = _read(_record(path, cache_dir))
    sha256 = record.get("sha256")
    known = record.get("stamp") == stamp and isinstance(sha256, str) and SHA256.fullmatch(sha256)
    return sha256 if known else None


def remember(path: Path, stamp: list[int], sha256: str, cache_dir: str | Path | None = None) -> None:
    """Keep a file's sha256. Where nothing can be written nothing is kept, and the file is hashed again next time."""
    if time.time_ns() - max(stamp[1:3]) < _GRAIN_NS:
        return
    record = {"path": str(path.absolute()), "stamp": stamp, "sha256": sha256}
    try:
        write_atomically(json.dumps(record).encode(), _record(path, cache_dir))
    except OSError:
        return


def trusted_sha256(url: str, cache_dir: str | Path | None = None) -> str | None:
    """The sha256 that an address of the user's was first accepted with, or None.

    Raises:
        WeightError: If the record is there but damaged: it must not be taken for "never seen".
    """
    path = _trust_record(url, cache_dir)
    if not path.exists():
        return None
    return _part(path, "sha256", SHA256)


def trusted_revision(url: str, cache_dir: str | Path | None = None) -> tuple[str, str] | None:
    """Commit and sha256 that a repository's file was accepted with, or None; errors as :func:`trusted_sha256`."""
    path = _trust_record(url, cache_dir)
    return (_part(path, "revision", COMMIT), _part(path, "sha256", SHA256)) if path.exists() else None


def _part(path: Path, name: str, form: re.Pattern) -> str:
    value = _read(path).get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise WeightError(f"{path}: this record of a trusted sha256 is damaged. Delete it to decide anew.")
    return value


def trust(url: str, sha256: str, how: str, cache_dir: str | Path | None = None, revision: str | None = None) -> None:
    """Record the sha256 of an address for every later load.

    Args:
        url: The address.
        sha256: Of its file.
        how: ``given`` by the user, or seen on ``first use``.
        cache_dir: As :func:`.paths.cache_folder`.
        revision: The commit, if the address is that of a repository's file.

    Raises:
        WeightError: If it cannot be written.
    """
    path = _trust_record(url, cache_dir)
    writable_folder(path.parent)
    record = {"url": url, "sha256": sha256, "how": how, "date": time.strftime("%Y-%m-%d")}
    record |= {"revision": revision} if revision else {}
    try:
        write_atomically(json.dumps(record, indent=1).encode(), path)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error})") from None


def forget_trust_hint(url: str, cache_dir: str | Path | None = None) -> str:
    """What a user does who wants a changed file after all."""
    return f"If the change is wanted, delete {_trust_record(url, cache_dir)} and fetch again."


def key(text: str) -> str:
    """A file name for any text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _record(path: Path, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "hashes" / f"{key(str(path.absolute()))}.json"


def _trust_record(url: str, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "trusted" / f"{key(url)}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
