"""Where a weight's bytes come from. Sources are tried in order; whichever answers, the sha256 decides.

Order: staged folder, the zoo's cache, the Hub's cache, the Hub, the authors' release. A staged file that does not match
ends the search with an error; only files in the zoo's own cache are ever deleted.

A weight may have a packed form, a smaller file (:mod:`.packed`). Where there is no plain file, the packed one is taken,
and from the Hub it is what is downloaded; it is verified by its own sha256, unpacked, and the plain file is kept.
"""

import functools
import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import HashMismatchError, WeightError
from ..extras import DISTRIBUTION
from ..files import is_file, open_file, write_atomically
from ..version import __version__
from .cached import check_cached, check_foreign, locked, obtain
from .convert import safetensors_bytes
from .download import Address
from .importers import read_checkpoint
from .manifest import collapsed_facts, facts, full_name, source
from .network_settings import refuse_odd_token, refuse_offline, without_password
from .packed import unpack
from .paths import cache_folder, hub_folder, hub_problem, shipped_hub, waiting_folder
from .trusted import SHA256, hexadecimal, how_to_accept_a_change, key, trust, trusted_sha256
from .verify import mismatch, other_size, sha256_of

_LOGGER = logging.getLogger(__name__)
_LARGEST = 16 << 30  # bytes of a file whose size the manifest does not have


@dataclass(frozen=True)
class Located:
    """A verified file.

    Attributes:
        path: The file; plain safetensors if it is a weight's.
        kind: Where it was found: ``staged``, ``cache``, ``hub``, ``release`` or ``address``.
        sha256: Of the file.
        size: Of the file in bytes, if it was known beforehand.
    """

    path: Path
    kind: str
    sha256: str
    size: int | None = None

    @property
    def write_once(self) -> bool:
        """Whether the file lies in a cache, where files are only ever replaced as a whole."""
        return self.kind != "staged"


def fetch(name: str, cache_dir: str | Path | None = None, collapsed: bool = False) -> Located:
    """Find a weight's file, downloading and unpacking it if need be, and verify it.

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
    failures = [problem] if (problem := hub_problem()) else []
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
                if problem:
                    _LOGGER.warning(f"{problem}: {name} comes from {path}.")
                return Located(path, kind, entry["sha256"], entry.get("size"))
    if hub_folder() != shipped_hub() and is_file(shipped_hub() / _staged_path(name, entry)):
        failures.append(f"{shipped_hub()} has it, but ZOO_HUB names another folder of staged weights")
    tried = "; ".join(failures) or "it is neither staged nor cached, not on the Hub, and has no authors' release"
    elsewhere = any(place["kind"] != "staged" for place in entry["sources"])
    hint = " or connect to the network" if elsewhere else ", or set ZOO_HUB to the folder it was staged into"
    raise WeightError(
        f"{name} could not be had: {tried}. Put its file at {hub_folder() / _staged_path(name, entry)} "
        f"(sha256 {entry['sha256']}){hint}."
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
    return Located(path, "hub", entry["sha256"], entry["size"])


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
    label = f"address {without_password(url)}"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad IPv6 address or port
        sound = False
    if not sound:
        raise WeightError(f"{label}: not an http:// or https:// address")
    sha256 = hexadecimal(label, "sha256", sha256, SHA256)
    known = trusted_sha256(url, cache_dir)
    if known and sha256 not in (None, known):
        raise mismatch(f"{label} (first accepted earlier)", known, sha256, how_to_accept_a_change(url, cache_dir))
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
            raise mismatch(label, known, found, how_to_accept_a_change(url, cache_dir))

    refuse_offline(label)
    if not known and target.exists():
        target.unlink()  # of unknown origin: its record is gone
    try:
        obtain(Address(url, label, {}), target, expected, _LARGEST, finish)
    except HashMismatchError as error:
        raise HashMismatchError(f"{error} {how_to_accept_a_change(url, cache_dir)}" if known else str(error)) from None
    found = trusted_sha256(url, cache_dir)
    check_cached(target, found, cache_dir)
    return Located(target, "address", found)


def cached_file(name: str, entry: dict[str, Any], cache_dir: str | Path | None = None) -> Path:
    """Where the download of a weight is kept, an authors' release converted."""
    return cache_folder(cache_dir) / "weights" / name / f"{entry['sha256']}{entry.get('ending', '.safetensors')}"


def staged_file(name: str, entry: dict[str, Any], form: str = "") -> Path | None:
    """A weight's file in the staged folder in use; None if there is none.

    Args:
        name: ``arch.tag``.
        entry: Its facts.
        form: ``packed`` for that form's file.
    """
    place = Path(_staged_path(name, entry))
    if form:
        place = place.with_name(entry[form]["path"])
    path = hub_folder() / place
    waiting = waiting_folder(path.parent) / path.name
    if is_file(waiting) and sha256_of(waiting) == (entry[form] if form else entry)["sha256"]:
        return waiting  # its writer was interrupted, or is just about to give it its name
    return path if is_file(path) else None


def hub_cached_file(entry: dict[str, Any], cache_dir: str | Path | None = None, form: str = "") -> Path | None:
    """A weight's file in the Hub's own cache, which other programs share; None if there is none.

    Args:
        entry: The weight's facts.
        cache_dir: Of the Hub; by default ``HF_HUB_CACHE``.
        form: ``packed`` for that form's file.
    """
    from huggingface_hub import try_to_load_from_cache

    hub = source(entry, "hub")
    if hub is None:
        return None
    file = entry[form]["path"] if form else hub["file"]
    try:
        found = try_to_load_from_cache(hub["repo"], file, cache_dir=cache_dir, revision=hub["revision"])
    except ValueError as error:
        raise WeightError(f"Hub {hub['repo']}: {first_line(error)}") from None
    return Path(found) if isinstance(found, str) else None


def _staged_path(name: str, entry: dict[str, Any]) -> str:
    staged = source(entry, "staged")
    return staged["path"] if staged else f"{name}/model.safetensors"


def _staged(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    path = staged_file(name, entry)
    if path is not None:
        return check_foreign(path, entry["sha256"], cache_dir, entry["size"])
    return _unpacked(staged_file(name, entry, "packed"), name, entry, cache_dir) if "packed" in entry else None


def _cached(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    path = cached_file(name, entry, cache_dir)
    if check_cached(path, entry["sha256"], cache_dir, entry["size"]):
        return path
    return _unpacked(path.with_name(entry["packed"]["path"]), name, entry, cache_dir) if "packed" in entry else None


def _unpacked(path: Path | None, name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """The plain file of a packed one, in the cache or, where nothing can be written there, in a temporary folder."""
    if path is None or not is_file(path):
        return None
    try:
        target = cached_file(name, entry, cache_dir)
        if check_cached(target, entry["sha256"], cache_dir, entry["size"]):
            return target
    except WeightError:  # it was wrong and has been deleted, or there is no cache
        pass
    content = read_packed(path, entry)
    try:
        target = cached_file(name, entry, cache_dir)
        with locked(target.parent):
            write_atomically(content, target)
    except (OSError, WeightError):
        target = Path(_temporary_folder().name) / f"{entry['sha256']}.safetensors"
        write_atomically(content, target)
    return target


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    """A folder that is removed when the process ends."""
    try:
        return tempfile.TemporaryDirectory(prefix=f"{DISTRIBUTION}-")
    except OSError as error:
        raise WeightError(
            f"Neither the cache nor a temporary folder can be written ({error}). Set ZOO_CACHE to one that can."
        ) from None


def read_packed(path: Path, entry: dict[str, Any]) -> bytes:
    """The plain file in a weight's packed one; nothing is decoded before size and sha256 were compared.

    Args:
        path: The packed file.
        entry: The weight's facts.

    Returns:
        Bytes of the plain file, whose sha256 is the manifest's.

    Raises:
        HashMismatchError: If the packed file, or the plain one in it, is not the manifest's.
        WeightError: If it cannot be read.
    """
    expected = entry["packed"]
    try:
        with open_file(path) as file:
            found = other_size(file, expected["size"])
            content = b"" if found else file.read(expected["size"] + 1)
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error})") from None
    found = found or hashlib.sha256(content).hexdigest()
    if found != expected["sha256"]:
        raise mismatch(path, expected["sha256"], found)
    plain = unpack(content, path, entry["size"])
    found = hashlib.sha256(plain).hexdigest()
    if found != entry["sha256"]:
        raise mismatch(f"{path}, unpacked", entry["sha256"], found)
    return plain


def _from_hub(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """From the Hub's cache, else downloaded: the packed form, else the plain file."""
    hub = source(entry, "hub")
    if hub is None:
        return None
    problems = []
    try:
        path = hub_cached_file(entry, cache_dir)
        if path is not None:
            return check_foreign(path, entry["sha256"], cache_dir, entry["size"])
        if "packed" in entry:
            path = _unpacked(hub_cached_file(entry, cache_dir, "packed"), name, entry, cache_dir)
            if path is not None:
                return path
    except WeightError as error:  # another program's file: left alone, and ours is kept apart
        problems.append(str(error))
    plain = {"path": hub["file"], "sha256": entry["sha256"], "size": entry["size"]}
    for form in [entry["packed"], plain] if _packed_is_smaller(entry) else [plain]:
        try:
            return _download_from_hub(name, entry, hub, form, cache_dir)
        except WeightError as error:
            kind = type(error)
            problems.append(str(error) if form is plain else f"{form['path']}: {error}")
    raise kind(" ".join(dict.fromkeys(problems)))


def _packed_is_smaller(entry: dict[str, Any]) -> bool:
    return "packed" in entry and entry["packed"]["size"] < entry["size"]


def _download_from_hub(
    name: str, entry: dict[str, Any], hub: dict[str, Any], form: dict[str, Any], cache_dir: str | Path | None
) -> Path | None:
    """Download the plain file or the packed one."""
    address = hub_address({**hub, "file": form["path"]})
    target = cached_file(name, entry, cache_dir)

    def finish(part: Path, found: str) -> None:
        if found != entry["sha256"]:  # it is the packed file
            write_atomically(read_packed(part, entry), part)

    obtain(address, target, form["sha256"], form["size"] or entry["largest"], finish)
    return target if check_cached(target, entry["sha256"], cache_dir) else None


def hub_address(hub: dict[str, Any], url: str | None = None) -> Address:
    """Where a Hub file is, or another page of its repository: address and token are huggingface_hub's.

    Raises:
        WeightError: If requests are forbidden, or the token is none.
    """
    from huggingface_hub.utils import build_hf_headers

    label = f"Hub {hub['repo']}"
    refuse_offline(label)
    refuse_odd_token(label)
    headers = build_hf_headers(library_name=DISTRIBUTION, library_version=__version__)
    return Address(url or hub_url(hub), label, headers)


def hub_url(hub: dict[str, Any]) -> str:
    """The address of a Hub file, at the endpoint that ``HF_ENDPOINT`` names now."""
    from huggingface_hub import hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    return hf_hub_url(hub["repo"], hub["file"], revision=hub["revision"], endpoint=endpoint)


def _from_release(name: str, entry: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    release = source(entry, "release")
    if release is None:
        return None
    label = f"release {without_password(release['url'])}"
    refuse_offline(label)
    target = cached_file(name, entry, cache_dir)

    def convert(part: Path, found: str) -> None:
        write_atomically(safetensors_bytes(read_checkpoint(part), release["metadata"]), part)

    obtain(Address(release["url"], label, {}), target, release["sha256"], 2 * entry["size"] + (1 << 20), convert)
    return target if check_cached(target, entry["sha256"], cache_dir) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
