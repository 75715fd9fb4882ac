"""The sha256 of a file, the error where it is another than expected, and parsing once it was compared."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import HashMismatchError, WeightError
from ..files import open_file


def sha256_of(file: Path | BinaryIO) -> str:
    """The sha256 of a file, or of an open one from where it stands to its end, as 64 hexadecimal digits."""
    if isinstance(file, Path):
        with open_file(file) as opened:
            return sha256_of(opened)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def other_size(file: BinaryIO, size: int | None) -> str:
    """The size of an open file in words, if it is not the expected one; nothing of it has to be read then."""
    found = os.fstat(file.fileno()).st_size
    return "" if size in (None, found) else f"a file of {found} bytes instead of {size}"


def mismatch(path: str | Path, expected: str, found: str, hint: str = "") -> HashMismatchError:
    """The error for bytes that are not those that were expected.

    Args:
        path: What the message calls them.
        expected: The manifest's sha256, or the one first accepted.
        found: Theirs.
        hint: What to do next.
    """
    hint = hint or "Restore the file, or remove it so that another source is used."
    return HashMismatchError(f"{path}: sha256 mismatch: expected {expected}, found {found}. It was not loaded. {hint}")


def parse(content: bytes, path: str | Path) -> dict[str, Tensor]:
    """Parse safetensors bytes.

    Raises:
        WeightError: If they are not a safetensors file.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, OverflowError, RuntimeError) as error:
        raise WeightError(f"{path}: not a safetensors file ({error}).") from None
