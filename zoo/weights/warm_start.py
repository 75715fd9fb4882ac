"""Warm starts: timm's own ImageNet weights, fetched and verified to be brought into a network's train form.

The manifest says which network starts from which of timm's weights (the base); repository, preprocessing and licence
are what timm itself knows. Which bytes the base has is a commit on the Hub and a sha256: the manifest's, or those that
a user has given once and that are recorded as an address's sha256 is (:mod:`.memory`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightError
from .cached import locked
from .fetch import Located, find_verified
from .manifest import SAME_FUNCTION, hub_source, warm_start_cfg, warm_starts
from .memory import COMMIT, SHA256, forget_trust_hint, hexadecimal, trust, trusted_revision
from .paths import cache_folder
from .verify import mismatch

_LARGEST = 1 << 30  # bytes; the largest base, a ResNet-152, has 0.24 of it


@dataclass(frozen=True)
class Pin:
    """Which bytes a base has.

    Attributes:
        revision: Commit of its repository on the Hub.
        sha256: Of its file.
        known_from: ``manifest``, ``record`` or, if neither has it yet, ``user``.
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
    """The commit and sha256 of a base, from the manifest or as the user recorded them; None if nobody has.

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

    A revision and sha256 given here are recorded once the file is verified; every later call needs neither and refuses
    other bytes. All warm starts of one base share them.

    Args:
        name: ``arch.tag`` of the warm start.
        revision: Commit of the base's repository on the Hub, 40 hexadecimal digits.
        sha256: Of the base's file, 64 hexadecimal digits.
        cache_dir: As :func:`.fetch.fetch`.

    Raises:
        HashMismatchError: If ``sha256`` is not the one known already, or a staged file is another.
        WeightError: If revision and sha256 are not known, one of them is no such number or another than the known one,
            or no source gave the file.
    """
    base = warm_starts()[name]["base"]
    revision = hexadecimal(base, "revision is a commit, which", revision, COMMIT)
    sha256 = hexadecimal(base, "sha256", sha256, SHA256)
    known = pin(base, cache_dir)
    if known is None and revision and sha256:
        known = Pin(revision, sha256, "user")
    if known is None:
        raise WeightError(f"{name} is timm's {base} in train form ({SAME_FUNCTION}). {_how_to_pin(name)}")
    _agree(base, known, revision, sha256, cache_dir)
    entry = {"sha256": known.sha256, "size": _LARGEST, "sources": [hub_source(base, known.revision)]}
    found = find_verified(base, entry, cache_dir)
    if known.known_from == "user":
        with locked(cache_folder(cache_dir) / "trusted"):
            recorded = pin(base, cache_dir)  # perhaps by another process, meanwhile
            if recorded is None:
                trust(_address(base), known.sha256, "given", cache_dir, known.revision)
            else:
                _agree(base, recorded, known.revision, known.sha256, cache_dir)
    return found


def _how_to_pin(name: str) -> str:
    """What a user does about a warm start whose base's commit and sha256 nobody has given yet."""
    hub = hub_source(warm_starts()[name]["base"], "main")
    page = f"https://huggingface.co/{hub['repo']}"
    return (
        "No commit and sha256 of its file are recorded yet, so nothing was downloaded. Look them up on the Hub, the "
        f"commit (40 hexadecimal digits) at {page}/commits/main and the SHA256 (64) at "
        f"{page}/blob/main/{hub['file']}, and give them once: zoo fetch {name} --revision COMMIT --sha256 HEX"
    )


def _agree(base: str, known: Pin, revision: str | None, sha256: str | None, cache_dir: str | Path | None) -> None:
    """Refuse what contradicts what is known."""
    if known.known_from == "manifest":
        hint = "The manifest has both, so leave --revision and --sha256 out."
    else:
        hint = forget_trust_hint(_address(base), cache_dir)
    if sha256 not in (None, known.sha256):
        raise mismatch(f"{base} (from the {known.known_from})", known.sha256, sha256, hint)
    if revision not in (None, known.revision):
        raise WeightError(f"{base} (from the {known.known_from}): its revision is {known.revision}. {hint}")


def _address(base: str) -> str:
    """What the record of a base is kept under: its file, whichever endpoint and commit it comes from."""
    hub = hub_source(base, "main")
    return f"hf://{hub['repo']}/{hub['file']}"
