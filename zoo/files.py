"""Writing files so that no reader ever sees half of one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


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
