"""Where a weight's bytes come from. Sources are tried in order; whichever answers, the sha256 decides.

Order: staged folder, cache, Hub, authors' release. A staged file that does not match ends the search with an error, and
is never deleted; a download that does not match is deleted, and the next source is tried.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..errors import HashMismatchError, WeightError
from ..files import write_atomically
from .convert import safetensors_bytes
from .manifest import facts, full_name, source
from .paths import cache_folder, hub_folder, shipped_hub
from .verify import load_release, mismatch, sha256_of, writable_folder

_TIMEOUT = (10, 30)  # seconds to connect, and between two packets


@dataclass(frozen=True)
class Located:
    """A verified file.

    Attributes:
        path: The safetensors file.
        kind: Where it was found: ``staged``, ``cache``, ``hub`` or ``release``.
    """

    path: Path
    kind: str


def fetch(name: str, cache_dir: str | Path | None = None) -> Located:
    """Find a weight's file, downloading it if need be, and verify it.

    Args:
        name: ``arch.tag``, or an architecture for its first weight.
        cache_dir: Where downloads are kept; by default the Hub's own cache and :func:`.paths.cache_folder`.

    Raises:
        HashMismatchError: If the staged file is not the manifest's.
        WeightError: If no source gave it; the message names each and why.
    """
    name = full_name(name)
    entry = facts(name)
    failures = []
    for kind, find in (("staged", _staged), ("cache", _cached), ("hub", _from_hub), ("release", _from_release)):
        try:
            path = find(name, entry, cache_dir)
        except HashMismatchError as error:
            if kind == "staged":
                raise
            failures.append(str(error))
        except WeightError as error:
            failures.append(str(error))
        else:
            if path is not None:
                return Located(path, kind)
    tried = "; ".join(failures) or "it is neither staged nor cached, not on the Hub, and has no authors' release"
    raise WeightError(
        f"{name} could not be had: {tried}. Put its file at {hub_folder() / name / 'model.safetensors'} "
        "(sha256 {}) or connect to the network.".format(entry["sha256"])
    )


def cached_file(name: str, entry: dict[str, Any], cache_dir: str | Path | None = None) -> Path:
    """Where the converted download of a weight is kept."""
    return cache_folder(cache_dir) / "weights" / name / f"{entry['sha256']}.safetensors"


def _staged(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    staged = source(entry, "staged")
    relative = staged["path"] if staged else f"{name}/model.safetensors"
    for folder in dict.fromkeys((hub_folder(), shipped_hub())):
        path = folder / relative
        if path.is_file():
            return _check(path, entry["sha256"])
    return None


def _cached(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    path = cached_file(name, entry, cache_dir)
    return _check_download(path, entry["sha256"]) if path.is_file() else None


def _from_hub(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    hub = source(entry, "hub")
    if hub is None:
        return None
    link = download_from_hub(hub["repo"], hub["file"], hub["revision"], cache_dir)
    try:
        return _check(link, entry["sha256"])
    except HashMismatchError:
        blob = link.resolve()
        link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise


def download_from_hub(repo: str, file: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """A file of a Hub repository, from the Hub's cache or downloaded into it.

    Raises:
        WeightError: If it cannot be had, in one line.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, revision=revision, cache_dir=cache_dir))
    except LocalEntryNotFoundError as error:
        raise WeightError(f"Hub {repo}: cannot be reached ({_first_line(error)})") from None
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise WeightError(f"Hub {repo}: {_first_line(error)}") from None


def _from_release(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    release = source(entry, "release")
    if release is None:
        return None
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise WeightError(f"release {release['url']}: HF_HUB_OFFLINE is set, so no request was made")
    target = cached_file(name, entry, cache_dir)
    folder = writable_folder(target.parent)
    try:
        with FileLock(folder / ".lock", timeout=600):
            if target.is_file():  # another process has just brought it
                return _check_download(target, entry["sha256"])
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".download-") as file:
                _download(release["url"], file, limit=2 * entry["size"] + (1 << 20))
                file.flush()
                found = sha256_of(Path(file.name))
                if found != release["sha256"]:
                    raise mismatch(release["url"], release["sha256"], found)
                tensors = load_release(Path(file.name))
            write_atomically(safetensors_bytes(tensors, release["metadata"]), target)
    except Timeout:
        raise WeightError(f"{folder}: another process has held the lock for ten minutes") from None
    except OSError as error:
        raise WeightError(f"{target}: cannot be written ({error.strerror or error})") from None
    return _check_download(target, entry["sha256"])


def _download(url: str, file: Any, limit: int) -> None:
    """Stream a file, with a progress bar; no more than ``limit`` bytes are accepted."""
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            size = int(answer.headers.get("Content-Length", 0)) or None
            with _bar(url.rsplit("/", 1)[-1], size) as advance:
                received = 0
                for block in answer.iter_content(1 << 16):
                    received += len(block)
                    if received > limit:
                        raise WeightError(f"release {url}: sent more than {limit} bytes, which cannot be the original")
                    file.write(block)
                    advance(len(block))
    except requests.ConnectionError as error:
        reason = "the connection broke off" if "IncompleteRead" in str(error) else "no connection"
        raise WeightError(f"release {url}: {reason}") from None
    except (requests.RequestException, ValueError) as error:
        raise WeightError(f"release {url}: {_first_line(error)}") from None


@contextlib.contextmanager
def _bar(label: str, size: int | None) -> Iterator[Callable[[int], object]]:
    with tqdm(total=size, unit="B", unit_scale=True, desc=label, disable=None, file=sys.stderr, delay=2) as bar:
        yield bar.update


def _check(path: Path, sha256: str) -> Path:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error})") from None
    if found != sha256:
        raise mismatch(path, sha256, found)
    return path


def _check_download(path: Path, sha256: str) -> Path:
    """As ``_check``, for a file the zoo itself wrote: one that does not match is deleted."""
    try:
        return _check(path, sha256)
    except HashMismatchError:
        path.unlink(missing_ok=True)
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
