"""Remembered sha256s, so that a large file is hashed once and not at every load.

A sha256 is remembered by path, size, modification and change time, inode and device, all of the one open file that was
hashed, and forgotten as soon as one of these differs. Writing through the file system moves the change time, which no
program can set back, so a flipped bit is seen even if the modification time was restored. A clock may stand still for a
while, so a file must have been left alone for two seconds before its hashing began. What cannot be seen: bits that rot
on the disk below the file system, what is written through a memory map on file systems that keep no times for that
(tmpfs), and somebody who can write the zoo's cache folder. ``ZOO_VERIFY=always`` and ``zoo verify`` never use this
cache, and small files are hashed every time, which takes no longer than looking them up.

Each record is a small file of its own in the cache folder, written atomically: processes cannot lose one another's, and
a damaged one counts as none. Without a cache folder that can be written, files are hashed every time.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import BinaryIO

from ..errors import WeightError
from ..files import open_file, write_atomically
from .paths import cache_folder
from .trusted import SHA256, key, read_record
from .verify import other_size, sha256_of

_GRAIN_NS = 2_000_000_000  # coarsest clock of a file system in use; a younger file could change again unseen
_SMALL = 8 << 20  # bytes; hashed in some milliseconds


def known_sha256(path: Path, cache_dir: str | Path | None = None, size: int | None = None) -> str:
    """The sha256 of a file, computed only if it is not remembered.

    Args:
        path: The file.
        cache_dir: As :func:`.paths.cache_folder`; the records lie in its ``hashes``.
        size: What it should have in bytes, if that is known.

    Returns:
        64 hexadecimal digits; for a file of another size, which is not read, words that say so.

    Raises:
        WeightError: If the file cannot be read.
    """
    try:
        with open_file(path) as file:
            found = other_size(file, size) or recall(path, file_stamp(file), cache_dir)
            return found or hash_and_remember(path, file, cache_dir)
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error})") from None


def hash_and_remember(path: Path, file: BinaryIO, cache_dir: str | Path | None = None) -> str:
    """Hash an open file and remember its sha256, if it was left alone before and meanwhile.

    Args:
        path: Its name.
        file: The file, at its beginning.
        cache_dir: As :func:`.paths.cache_folder`.

    Raises:
        OSError: If it cannot be read.
    """
    if file_stamp(file)[0] <= _SMALL or _always():
        return sha256_of(file)
    with contextlib.suppress(OSError):
        os.fsync(file.fileno())  # what is written through a memory map from now on moves the change time again
    before, began = file_stamp(file), time.time_ns()
    found = sha256_of(file)
    if began - max(before[1:3]) >= _GRAIN_NS and file_stamp(file) == before:
        record = {"path": str(path.absolute()), "stamp": before, "sha256": found}
        with contextlib.suppress(OSError, WeightError):  # where nothing can be written, it is hashed again next time
            write_atomically(json.dumps(record).encode(), _record(path, cache_dir))
    return found


def file_stamp(file: BinaryIO | Path | int) -> list[int]:
    """Size in bytes, modification and change time in nanoseconds, inode and device: one differs if the content does.

    Args:
        file: Open file, path or descriptor.

    Raises:
        OSError: If there is no such file.
    """
    found = os.stat(file if isinstance(file, Path | int) else file.fileno())  # noqa: PTH116 (may be no path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def recall(path: Path, stamp: list[int], cache_dir: str | Path | None = None) -> str | None:
    """The remembered sha256 of a file that still has this stamp, or None.

    Raises:
        WeightError: If ``ZOO_VERIFY`` is set to another word than ``always``.
    """
    if _always() or stamp[0] <= _SMALL:
        return None
    try:
        record = read_record(_record(path, cache_dir))
    except WeightError:  # no cache folder
        return None
    sha256 = record.get("sha256")
    known = record.get("stamp") == stamp and isinstance(sha256, str) and SHA256.fullmatch(sha256)
    return sha256 if known else None


def _always() -> bool:
    word = os.environ.get("ZOO_VERIFY", "")
    if word not in ("", "always"):
        raise WeightError(f"ZOO_VERIFY is {word!r}. Set it to 'always' to have every file hashed at every load.")
    return word == "always"


def _record(path: Path, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "hashes" / f"{key(str(path.absolute()))}.json"
