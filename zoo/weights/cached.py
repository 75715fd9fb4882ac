"""Bringing a file into the zoo's cache: one process downloads, the others wait; only a verified file gets its name.

Everything in the cache folder was put there by the zoo, so it is the only place where files are deleted.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import WeightError
from ..files import is_file, writable_folder
from .download import Address, discard, download, forget
from .hash_cache import known_sha256
from .trusted import key
from .verify import mismatch, sha256_of

_WAIT = 3600  # seconds for another process's download


def obtain(
    address: Address,
    target: Path,
    sha256: str | None,
    limit: int,
    finish: Callable[[Path, str], object] = lambda part, found: None,
) -> None:
    """Download a file to ``target`` unless another process has done so meanwhile.

    Bytes with another sha256 are deleted and asked for once more, from the beginning.

    Args:
        address: Where from.
        target: Final name in the cache.
        sha256: Of the download, or None to take what comes.
        limit: No more than so many bytes are accepted.
        finish: Called with the verified download, which it may replace, and its sha256.

    Raises:
        HashMismatchError: If both times other bytes came.
        WeightError: If it cannot be had or written.
    """
    with locked(target.parent):
        if is_file(target):  # another process has just brought it
            return
        _sweep(target.parent)
        part = target.parent / f".{key(address.url)}.part"
        for final in (False, True):
            download(address, part, limit, need_length=sha256 is None)
            try:
                found = sha256_of(part)
            except OSError as error:
                raise WeightError(f"{part}: cannot be read ({error.strerror or error})") from None
            if sha256 in (None, found):
                break
            discard(part)
            if final:
                raise mismatch(address.label, sha256, found, "The download was deleted.")
        try:
            forget(part)  # the file gets its name last, when nothing else is left
            finish(part, found)
            part.replace(target)
            for other in target.parent.glob(".*.part*"):  # of a source that was tried before and failed
                other.unlink(missing_ok=True)
        except OSError as error:
            raise WeightError(f"{target}: cannot be written ({error.strerror or error})") from None
        finally:
            discard(part)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a cache folder alone; it is created.

    Raises:
        WeightError: If it cannot be written, or another process holds it for an hour.
    """
    path = writable_folder(folder) / ".lock"
    if (path.exists() and not is_file(path)) or path.is_symlink():
        raise WeightError(f"{path}: is a link, or no file, and is not used as a lock. Remove it.")
    lock = FileLock(path, timeout=_WAIT)
    try:
        lock.acquire()
    except Timeout:
        raise WeightError(f"{folder}: another process has held the lock for an hour") from None
    except OSError as error:
        raise WeightError(f"{folder}: cannot be locked ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def check_cached(path: Path, sha256: str, cache_dir: str | Path | None = None, size: int | None = None) -> bool:
    """Whether a cached file is there and right, in size (if that is known) and sha256; a wrong one is deleted.

    Raises:
        HashMismatchError: If it was wrong.
        WeightError: If it cannot be read.
    """
    if not is_file(path):
        return False
    found = known_sha256(path, cache_dir, size)
    if found == sha256:
        return True
    hint = "Remove it."
    if os.access(path.parent, os.W_OK):
        hint = "It was deleted."
        with locked(path.parent):  # another process may have replaced it meanwhile
            if is_file(path) and known_sha256(path, cache_dir, size) != sha256:
                path.unlink()
    raise mismatch(path, sha256, found, hint)


def check_foreign(path: Path, sha256: str, cache_dir: str | Path | None = None, size: int | None = None) -> Path:
    """Return a file that is not the zoo's own, if size and sha256 are right; it is never deleted.

    Raises:
        HashMismatchError: If its sha256 differs.
        WeightError: If it cannot be read.
    """
    found = known_sha256(path, cache_dir, size)
    if found != sha256:
        raise mismatch(path, sha256, found)
    return path


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; the lock is held, so none of it is in use."""
    for leftover in folder.glob("..*.part"):
        leftover.unlink(missing_ok=True)
