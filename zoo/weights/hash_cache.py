"""Remembered sha256s, so that a large file is hashed once and not at every load.

A sha256 is remembered by path, size, modification and change time, inode and device, and forgotten as soon as one of
these differs. Writing through the file system moves the change time, which no program can set back, so a flipped bit is
seen even if the modification time was restored. What cannot be seen: bits that rot on the disk below the file system,
and somebody who can write the zoo's cache folder. ``zoo verify`` never uses this cache.

Each record is a small file of its own in the cache folder, written atomically: processes cannot lose one another's, and
a damaged one counts as none. Without a cache folder that can be written, files are hashed every time.
"""

import json
import os
import time
from pathlib import Path

from ..errors import WeightError
from ..files import write_atomically
from .paths import cache_folder
from .trusted import SHA256, key, read_record
from .verify import sha256_of

_GRAIN_NS = 2_000_000_000  # coarsest clock of a file system in use; a younger file could change again unseen


def known_sha256(path: Path, cache_dir: str | Path | None = None) -> str:
    """The sha256 of a file, computed only if it is not remembered.

    Args:
        path: The file.
        cache_dir: As :func:`.paths.cache_folder`; the records lie in its ``hashes``.

    Returns:
        64 hexadecimal digits.

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


def file_stamp(file: Path | int) -> list[int]:
    """Size in bytes, modification and change time in nanoseconds, inode and device: one differs if the content does.

    Args:
        file: Path or open descriptor.

    Raises:
        OSError: If there is no such file.
    """
    found = os.stat(file)  # noqa: PTH116 (a descriptor is no path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def recall(path: Path, stamp: list[int], cache_dir: str | Path | None = None) -> str | None:
    """The remembered sha256 of a file that still has this stamp, or None."""
    try:
        record = read_record(_record(path, cache_dir))
    except WeightError:  # no cache folder
        return None
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
    except (OSError, WeightError):
        return


def _record(path: Path, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "hashes" / f"{key(str(path.absolute()))}.json"
