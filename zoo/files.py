"""Files: whether one is there, a folder that can be written, and writing so that no reader ever sees half of one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import WeightError


def is_file(path: Path) -> bool:
    """Whether a file is there and may be looked at; False too where a folder on the way may not be entered."""
    try:
        return path.is_file()
    except OSError:
        return False


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


def write_atomically(content: bytes | Callable[[BinaryIO], object], path: Path) -> None:
    """Write a file beside its final name, flush it to the disk and move it there.

    If anything fails, an existing file keeps its content and no temporary one is left.

    Args:
        content: The bytes, or a function that writes them to an open binary file.
        path: Final name; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def printable(text: object) -> str:
    """A path or message with everything escaped that a terminal cannot print: control characters, undecodable bytes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))
