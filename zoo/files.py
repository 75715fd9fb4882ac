"""Files: only plain ones are opened, and what is written is never seen half; folders for downloads."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import WeightError, ZooError
from .errors import printable as printable  # where paths are printed it is wanted without the errors

FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}
"""Forms of exported networks, with the endings of their files."""

LARGEST_TEXT = 16 << 20
"""Bytes of a configuration, recipe or record of anybody's."""

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def is_file(path: Path) -> bool:
    """Whether a file is there and may be looked at; False too where a folder on the way may not be entered."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading. What is no regular file (a pipe would block, a device never ends) is refused.

    Args:
        path: A file, or a link to one.

    Raises:
        OSError: If it cannot be opened, or is no regular file.
    """
    # does not wait for a pipe's other end
    file = open(path, "rb", opener=lambda name, _: os.open(name, _OPEN))  # noqa: SIM115 (the caller's)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_file(path: str | Path, largest: int) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        largest: More bytes than that are not read.

    Raises:
        OSError: If it cannot be read, is no regular file, or is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(largest + 1) if size <= largest else b""
        if max(size, len(content)) > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest} bytes", str(path))
        return content


def writable_folder(folder: Path) -> Path:
    """Create a folder for downloads.

    Raises:
        WeightError: If that is not possible or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightError(f"{folder}: cannot be created ({error.strerror}). Set ZOO_CACHE to another folder.") from None
    if not os.access(folder, os.W_OK):
        raise WeightError(f"{folder}: the cache is read-only. Set ZOO_CACHE to a folder that can be written.")
    return folder


def write_atomically(content: bytes | Callable[[BinaryIO], object], path: Path, private: bool = False) -> None:
    """Write a file beside its final name, flush it to the disk and move it there.

    If anything fails, an existing file keeps its content and no temporary one is left.

    Args:
        content: The bytes, or a function that writes them to an open binary file.
        path: Final name; its folder is created.
        private: Nobody else may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # a new one, never a link that lies there
    try:
        with os.fdopen(os.open(temporary, _CREATE, 0o600 if private else 0o666), "wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def place_of_result(
    folder: Path, producer: str, facts: str, written: Callable[[dict[str, Any]], Iterable[str]]
) -> Path:
    """The folder for a command's result, if nothing is there, or nothing that the same command did not write.

    Args:
        folder: Where it is to be.
        producer: Ends with the command: ``repara-zoo deploy``.
        facts: Name of the JSON file that says under ``producer`` who wrote the folder.
        written: The names of all files, from what that file holds.

    Raises:
        ZooError: If anything else is there.
    """
    command = f"zoo {producer.rpartition(' ')[2]}"
    if folder.name in ("", ".", ".."):
        raise ZooError(f"{folder}: name a new folder for the result.")
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ZooError(f"{folder} is there already and is no folder of {command}: give another name.")
        if folder.is_dir() and any(folder.iterdir()):
            known = json.loads((folder / facts).read_text(encoding="utf-8"))
            if known["producer"] != producer or {path.name for path in folder.iterdir()} != {*written(known), facts}:
                raise ValueError("other files")
    except (OSError, ValueError, KeyError, TypeError):
        raise ZooError(f"{folder} holds files that {command} did not write: give another name.") from None
    return folder


@contextlib.contextmanager
def folder_in_making(folder: Path) -> Iterator[Path]:
    """A new folder to write a command's result into: it takes its place when all is written, or nothing has changed.

    Args:
        folder: Where the result is to be, as :func:`place_of_result` allowed it.

    Raises:
        ZooError: If it cannot be written.
    """
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        replace_folder(part, folder)
    except OSError as error:
        raise ZooError(f"{error.filename or folder}: cannot be written ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(part: Path, folder: Path) -> None:
    """Give a finished folder its name; the one that has it stays until then, and if that fails.

    Args:
        part: The new folder, on the same disk.
        folder: Its place.

    Raises:
        OSError: If it cannot be put there.
    """
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
