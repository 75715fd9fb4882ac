"""The sha256s that a user accepted for files the manifest does not have: recorded once, required ever after.

Each record is a small file in ``trusted`` in the cache folder, named by the address it belongs to.
"""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from ..errors import WeightError, without_secrets
from ..files import read_file, writable_folder, write_atomically
from .paths import cache_folder

SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGITS = {SHA256: 64, COMMIT: 40}


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


def trusted_sha256(url: str, cache_dir: str | Path | None = None) -> str | None:
    """The sha256 that an address was first accepted with, or None.

    Raises:
        WeightError: If the record is there but damaged: it must not be taken for "never seen".
    """
    path = _record(url, cache_dir)
    return _entry(path, "sha256", SHA256) if _exists(path) else None


def trusted_revision(url: str, cache_dir: str | Path | None = None) -> tuple[str, str] | None:
    """Commit and sha256 that a repository's file was accepted with, or None; errors as :func:`trusted_sha256`."""
    path = _record(url, cache_dir)
    return (_entry(path, "revision", COMMIT), _entry(path, "sha256", SHA256)) if _exists(path) else None


def trust(url: str, sha256: str, how: str, cache_dir: str | Path | None = None, revision: str | None = None) -> None:
    """Record the sha256 of an address for every later load.

    Args:
        url: The address.
        sha256: Of its file.
        how: ``given`` by the user, ``first use`` of whatever came, or ``announced`` by the Hub.
        cache_dir: As :func:`.paths.cache_folder`.
        revision: The commit, if the address is that of a repository's file.

    Raises:
        WeightError: If it cannot be written.
    """
    path = _record(url, cache_dir)
    writable_folder(path.parent)
    record = {"url": without_secrets(url), "sha256": sha256, "how": how, "date": time.strftime("%Y-%m-%d")}
    record |= {"revision": revision} if revision else {}
    try:
        write_atomically(json.dumps(record, indent=1).encode(), path, private=True)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error})") from None


def how_to_accept_a_change(url: str, cache_dir: str | Path | None = None) -> str:
    """The sentence of an error message that says how to accept other bytes than the recorded ones."""
    return f"If the change is wanted, delete {_record(url, cache_dir)} and fetch again."


def key(text: str) -> str:
    """A file name for any text: the first 32 hexadecimal digits of its sha256."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def read_record(path: Path) -> dict[str, Any]:
    """A record's content; empty if there is none or it is damaged."""
    try:
        content = json.loads(read_file(path, 1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _record(url: str, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "trusted" / f"{key(url)}.json"


def _exists(path: Path) -> bool:
    """Whether there is a record; one that cannot be looked at must not be taken for "never seen" either."""
    try:
        path.lstat()
    except FileNotFoundError:
        if not path.parent.is_symlink() or path.parent.is_dir():  # a link that leads nowhere hides what was there
            return False
        raise WeightError(f"{path.parent}: this link leads nowhere, and what was accepted is not known.") from None
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error})") from None
    return True


def _entry(path: Path, name: str, form: re.Pattern) -> str:
    value = read_record(path).get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise WeightError(f"{path}: this record of a trusted sha256 is damaged. Delete it to decide anew.")
    return value
