"""Where a weight's bytes come from. Sources are tried in order; whichever answers, the sha256 decides.

Order: staged folder, the zoo's cache, the Hub's cache, the Hub, the authors' release. A staged file that does not match
ends the search with an error; only files in the zoo's own cache are ever deleted.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import HashMismatchError, WeightError
from ..extras import DISTRIBUTION
from ..files import write_atomically
from ..version import __version__
from .cached import check_cached, check_foreign, obtain
from .convert import safetensors_bytes
from .download import Address, shown
from .importers import read_checkpoint
from .manifest import collapsed_facts, facts, full_name, source
from .memory import SHA256, forget_trust_hint, hexadecimal, key, trust, trusted_sha256
from .paths import cache_folder, hub_folder, shipped_hub
from .verify import mismatch

_LARGEST = 16 << 30  # bytes of a file whose size the manifest does not have


@dataclass(frozen=True)
class Located:
    """A verified file.

    Attributes:
        path: The file; safetensors if it is a weight's.
        kind: Where it was found: ``staged``, ``cache``, ``hub``, ``release`` or ``address``.
        sha256: Of the file.
    """

    path: Path
    kind: str
    sha256: str

    @property
    def write_once(self) -> bool:
        """Whether the file lies in a cache, where files are only ever replaced as a whole."""
        return self.kind != "staged"


def fetch(name: str, cache_dir: str | Path | None = None, collapsed: bool = False) -> Located:
    """Find a weight's file, downloading it if need be, and verify it.

    Args:
        name: ``arch.tag``, or an architecture for its first weight.
        cache_dir: Where downloads are kept; by default :func:`.paths.cache_folder`, and the Hub's own cache is looked
            into as well.
        collapsed: The file of its collapsed form.

    Raises:
        HashMismatchError: If the staged file is not the manifest's.
        WeightError: If no source gave it; the message names each and why.
    """
    name = full_name(name)
    return find_verified(name, collapsed_facts(name) if collapsed else facts(name), cache_dir)


def find_verified(name: str, entry: dict[str, Any], cache_dir: str | Path | None = None) -> Located:
    """:func:`fetch` for a file's facts, its ``sha256``, ``size`` and ``sources``, wherever they come from."""
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
                return Located(path, kind, entry["sha256"])
    tried = "; ".join(failures) or "it is neither staged nor cached, not on the Hub, and has no authors' release"
    raise WeightError(
        f"{name} could not be had: {tried}. Put its file at {hub_folder() / _staged_path(name, entry)} "
        "(sha256 {}) or connect to the network.".format(entry["sha256"])
    )


def fetch_from_repository(name: str, repo: str, revision: str | None, cache_dir: str | Path | None = None) -> Located:
    """Find a weight's file in a Hub repository that the user names; it must be that weight, to the byte.

    Args:
        name: ``arch.tag``.
        repo: ``owner/name``; its file ``model.safetensors`` is meant.
        revision: Commit, tag or branch, or None for ``main``.
        cache_dir: As :func:`fetch`.

    Raises:
        WeightError: If it cannot be had, or is not that weight.
    """
    entry = dict(facts(name))
    hub = {"kind": "hub", "repo": repo, "revision": revision or "main", "file": "model.safetensors"}
    path = _cached(name, entry, cache_dir) or _from_hub(name, {**entry, "sources": [hub]}, cache_dir)
    return Located(path, "hub", entry["sha256"])


def fetch_address(
    url: str, sha256: str | None = None, trust_first_use: bool = False, cache_dir: str | Path | None = None
) -> Located:
    """Bring a file from an address that the manifest does not have, and verify it.

    The sha256 given, or on first use the one found, is recorded; every later call needs neither argument and refuses
    other bytes. A file that is here already and right is not asked for again.

    Args:
        url: ``http://`` or ``https://``.
        sha256: 64 hexadecimal digits, from somewhere the user trusts.
        trust_first_use: Accept what comes this first time.
        cache_dir: Where it is kept.

    Raises:
        HashMismatchError: If the bytes, or ``sha256``, are not those first accepted.
        WeightError: If nothing is known about the file, or it cannot be had.
    """
    label = f"address {shown(url)}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise WeightError(f"{label}: not an http:// or https:// address")
    sha256 = hexadecimal(label, "sha256", sha256, SHA256)
    known = trusted_sha256(url, cache_dir)
    if known and sha256 not in (None, known):
        raise mismatch(f"{label} (first accepted earlier)", known, sha256, forget_trust_hint(url, cache_dir))
    if not (known or sha256 or trust_first_use):
        raise WeightError(
            f"{label}: its sha256 is not known, so nothing was downloaded. Give it with --sha256 HEX, or accept what "
            "comes this once and nothing else afterwards with --trust-first-use (zoo fetch)."
        )
    expected = known or sha256
    name = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(url).path.rsplit("/", 1)[-1]).lstrip(".") or "file"
    target = cache_folder(cache_dir) / "addresses" / key(url) / name[-100:]
    if known:
        try:
            if check_cached(target, known, cache_dir):
                return Located(target, "cache", known)
        except HashMismatchError:
            pass  # it has been deleted, and is asked for again

    def finish(part: Path, found: str) -> None:
        known = trusted_sha256(url, cache_dir)  # perhaps another process's, meanwhile
        if known is None:
            trust(url, found, "given" if sha256 else "first use", cache_dir)
        elif known != found:
            raise mismatch(label, known, found, forget_trust_hint(url, cache_dir))

    _refuse_offline(label)
    if not known and target.exists():
        target.unlink()  # of unknown origin: its record is gone
    try:
        obtain(Address(url, label, {}), target, expected, _LARGEST, finish)
    except HashMismatchError as error:
        raise HashMismatchError(f"{error} {forget_trust_hint(url, cache_dir)}" if known else str(error)) from None
    found = trusted_sha256(url, cache_dir)
    check_cached(target, found, cache_dir)
    return Located(target, "address", found)


def cached_file(name: str, entry: dict[str, Any], cache_dir: str | Path | None = None) -> Path:
    """Where the download of a weight is kept, an authors' release converted."""
    return cache_folder(cache_dir) / "weights" / name / f"{entry['sha256']}.safetensors"


def staged_file(name: str, entry: dict[str, Any]) -> Path | None:
    """A weight's file in the staged folder in use, or the one that came with this copy; None if there is none."""
    paths = [folder / _staged_path(name, entry) for folder in (hub_folder(), shipped_hub())]
    return next((path for path in paths if path.is_file()), None)


def hub_cached_file(entry: dict[str, Any], cache_dir: str | Path | None = None) -> Path | None:
    """A weight's file in the Hub's own cache, which other programs share; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    hub = source(entry, "hub")
    if hub is None:
        return None
    try:
        found = try_to_load_from_cache(hub["repo"], hub["file"], cache_dir=cache_dir, revision=hub["revision"])
    except ValueError as error:
        raise WeightError(f"Hub {hub['repo']}: {_first_line(error)}") from None
    return Path(found) if isinstance(found, str) else None


def _staged_path(name: str, entry: dict[str, Any]) -> str:
    staged = source(entry, "staged")
    return staged["path"] if staged else f"{name}/model.safetensors"


def _staged(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    path = staged_file(name, entry)
    return path and check_foreign(path, entry["sha256"], cache_dir)


def _cached(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    path = cached_file(name, entry, cache_dir)
    return path if check_cached(path, entry["sha256"], cache_dir) else None


def _from_hub(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """From the Hub's cache, else downloaded: address and token are huggingface_hub's, the bytes come resumable."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    hub = source(entry, "hub")
    if hub is None:
        return None
    label = f"Hub {hub['repo']}"
    problem = ""
    try:
        path = hub_cached_file(entry, cache_dir)
        if path is not None:
            return check_foreign(path, entry["sha256"], cache_dir)
    except WeightError as error:  # another program's file: left alone, and ours is kept apart
        problem = f"{error} "
    try:
        _refuse_offline(label)
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        url = hf_hub_url(hub["repo"], hub["file"], revision=hub["revision"], endpoint=endpoint)
        target = cached_file(name, entry, cache_dir)
        headers = build_hf_headers(library_name=DISTRIBUTION, library_version=__version__)
        obtain(Address(url, label, headers), target, entry["sha256"], entry["size"])
        return target if check_cached(target, entry["sha256"], cache_dir) else None
    except WeightError as error:
        raise type(error)(f"{problem}{error}") from None


def _from_release(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    release = source(entry, "release")
    if release is None:
        return None
    label = f"release {shown(release['url'])}"
    _refuse_offline(label)
    target = cached_file(name, entry, cache_dir)

    def convert(part: Path, found: str) -> None:
        write_atomically(safetensors_bytes(read_checkpoint(part), release["metadata"]), part)

    obtain(Address(release["url"], label, {}), target, release["sha256"], 2 * entry["size"] + (1 << 20), convert)
    return target if check_cached(target, entry["sha256"], cache_dir) else None


def _refuse_offline(label: str) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # as huggingface_hub does
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise WeightError(f"{label}: {variable} is set, so no request was made")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
