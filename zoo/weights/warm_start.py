"""Warm starts: timm's own ImageNet weights, fetched and verified to be brought into a network's train form.

The manifest says which network starts from which of timm's weights (the base); repository, preprocessing and licence
are what timm itself knows. Which bytes the base has is a commit on the Hub and a sha256: the manifest's, or those that
the Hub announced, or a user gave, on first use and that were recorded then (:mod:`.trusted`).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightError
from ..extras import DISTRIBUTION
from ..version import __version__
from .cached import locked
from .fetch import Located, find_verified, hub_url, refuse_offline
from .manifest import hub_source, warm_start_cfg, warm_starts
from .network_settings import failed_hub_call, refuse_odd_token
from .paths import cache_folder
from .trusted import COMMIT, SHA256, hexadecimal, how_to_accept_a_change, trust, trusted_revision
from .verify import mismatch

_LARGEST = 1 << 30  # bytes; the largest base, a ResNet-152, has 0.24 of it


@dataclass(frozen=True)
class Pin:
    """Which bytes a base has.

    Attributes:
        revision: Commit of its repository on the Hub.
        sha256: Of its file.
        known_from: ``manifest``, ``record`` or, if neither has it yet, ``user`` or ``Hub``.
    """

    revision: str
    sha256: str
    known_from: str


def is_warm_start(cfg: dict[str, Any]) -> bool:
    """Whether a resolved timm configuration stands for a warm start.

    It does not if the user names a source: a fine-tuned network that was saved by timm keeps its tag and comes from a
    file, folder or repository of the user's own, in the train form.
    """
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    if name not in warm_starts() or any(cfg.get(key) for key in ("state_dict", "file", "url", "source")):
        return False
    return cfg.get("hf_hub_id") in (None, warm_start_cfg(name).get("hf_hub_id"))


def pin(base: str, cache_dir: str | Path | None = None) -> Pin | None:
    """The commit and sha256 of a base, from the manifest or as recorded on first use; None before.

    Raises:
        WeightError: If the record is damaged.
    """
    entry = next(entry for entry in warm_starts().values() if entry["base"] == base)
    if entry["revision"]:
        return Pin(entry["revision"], entry["sha256"], "manifest")
    recorded = trusted_revision(_address(base), cache_dir)
    return recorded and Pin(*recorded, "record")


def fetch_base(
    name: str, revision: str | None = None, sha256: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """Find the file that a warm start begins with, downloading it if need be, and verify it.

    What nobody has given or recorded yet, the Hub is asked for: the newest commit, and the sha256 it announces for the
    file in it. Both are recorded once the file is verified, which is logged in one line; every later call asks for
    nothing and refuses other bytes. All warm starts of one base share them.

    Args:
        name: ``arch.tag`` of the warm start.
        revision: Commit of the base's repository on the Hub, 40 hexadecimal digits.
        sha256: Of the base's file, 64 hexadecimal digits.
        cache_dir: As :func:`.fetch.fetch`.

    Raises:
        HashMismatchError: If ``sha256`` is not the one known or announced, or the file is another.
        WeightError: If a number is none or contradicts what is known, or the Hub or the file cannot be had.
    """
    base = warm_starts()[name]["base"]
    revision = hexadecimal(base, "revision is a commit, which", revision, COMMIT)
    sha256 = hexadecimal(base, "sha256", sha256, SHA256)
    known = pin(base, cache_dir)
    if known is None:
        known = Pin(revision, sha256, "user") if revision and sha256 else _announced(base, revision)
    _agree(base, known, revision, sha256, cache_dir)
    entry = {"sha256": known.sha256, "size": None, "largest": _LARGEST, "sources": [hub_source(base, known.revision)]}
    found = find_verified(base, entry, cache_dir)
    if known.known_from in ("user", "Hub"):
        _remember(base, known, cache_dir)
    return found


def _announced(base: str, revision: str | None) -> Pin:
    """Commit and sha256 of a base's file as the Hub announces them.

    Args:
        base: timm's name.
        revision: Commit, or None for the newest.
    """
    from huggingface_hub import get_hf_file_metadata

    hub = hub_source(base, revision or "main")
    url, label = hub_url(hub), f"Hub {hub['repo']}"
    hint = "Give --revision COMMIT --sha256 HEX to zoo fetch, or put it into the cache from a machine with network."
    try:
        refuse_offline(label)
        refuse_odd_token(label)
        found = get_hf_file_metadata(url, library_name=DISTRIBUTION, library_version=__version__)
    except WeightError as error:
        raise WeightError(f"{error}; which file {base} is has not been recorded here yet. {hint}") from None
    except Exception as error:  # its own, its HTTP client's, and those of variables that this client cannot read
        raise WeightError(f"{label}: {failed_hub_call(error, url)}") from None
    if not (COMMIT.fullmatch(found.commit_hash or "") and SHA256.fullmatch(found.etag or "")):
        raise WeightError(f"{label}: announces no commit and sha256 of {hub['file']}. {hint}")
    return Pin(found.commit_hash, found.etag, "Hub")


def _remember(base: str, known: Pin, cache_dir: str | Path | None) -> None:
    with locked(cache_folder(cache_dir) / "trusted"):
        recorded = pin(base, cache_dir)
        if recorded is not None:  # by another process, meanwhile
            return _agree(base, recorded, known.revision, known.sha256, cache_dir)
        how = "given" if known.known_from == "user" else "announced"
        trust(_address(base), known.sha256, how, cache_dir, known.revision)
    if how == "announced":
        said = "%s is commit %s with sha256 %s, as the Hub announces and as verified; recorded for every later load"
        logging.getLogger("zoo").warning(said, base, known.revision, known.sha256)
    return None


def _agree(base: str, known: Pin, revision: str | None, sha256: str | None, cache_dir: str | Path | None) -> None:
    """Refuse what contradicts what is known."""
    if known.known_from == "manifest":
        hint = "The manifest has both, so leave --revision and --sha256 out."
    elif known.known_from == "Hub":
        hint = "Nothing was downloaded: give the --revision too, or ask where the --sha256 is from."
    else:
        hint = how_to_accept_a_change(_address(base), cache_dir)
    if sha256 not in (None, known.sha256):
        raise mismatch(f"{base} (from the {known.known_from})", known.sha256, sha256, hint)
    if revision not in (None, known.revision):
        raise WeightError(f"{base} (from the {known.known_from}): its revision is {known.revision}. {hint}")


def _address(base: str) -> str:
    """What the record of a base is kept under: its file, whichever endpoint and commit it comes from."""
    hub = hub_source(base, "main")
    return f"hf://{hub['repo']}/{hub['file']}"
