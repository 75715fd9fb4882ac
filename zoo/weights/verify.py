"""Hashing and reading of weight files; nothing is parsed before its sha256 was compared."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import HashMismatchError, WeightError


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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


def load_release(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an authors' pickled checkpoint, under their own names less ``module.``.

    Only ``weights_only`` loading is used: nothing in the file is executed. The state dict is the mapping of tensors
    at the top or one level below (files of training scripts keep accuracy and epoch beside it).

    Raises:
        WeightError: If the file is not such a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightError(f"{path}: not a checkpoint that can be read safely ({reason}).") from None
    candidates = [content, *content.values()] if isinstance(content, dict) else []
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {name.removeprefix("module."): tensor.contiguous() for name, tensor in candidate.items()}
    raise WeightError(f"{path}: holds no mapping of names to tensors.")


def writable_folder(folder: Path) -> Path:
    """Create a folder.

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
