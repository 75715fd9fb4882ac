"""From timm's pretrained configuration to a verified state dict."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WeightError
from .fetch import download_from_hub, fetch
from .manifest import weights
from .paths import shipped_hub
from .verify import read_verified


def load_state_dict(cfg: dict[str, Any], cache_dir: str | Path | None = None) -> dict[str, Tensor] | None:
    """Return the tensors of the weight that a resolved timm configuration stands for.

    A file, folder or Hub repository the user named (``pretrained_cfg_overlay=dict(file=...)``, ``local-dir:``,
    ``hf-hub:``) under the name of one of our weights must be that weight, to the byte. Under any other name it is the
    user's own, and timm loads it.

    Args:
        cfg: ``architecture``, ``tag`` and, if the user gave one, ``file``, ``hf_hub_id`` or ``url``.
        cache_dir: Where downloads are kept.

    Returns:
        Tensors, or None for a source of the user's own.

    Raises:
        HashMismatchError: If the bytes are not the manifest's.
        WeightError: If the configuration stands for no weight and names no source, or the weight cannot be had.
    """
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part)
    if cfg.get("state_dict"):
        return cfg["state_dict"]
    if name not in weights():
        if any(cfg.get(source) for source in ("file", "hf_hub_id", "url")):
            return None
        arch = cfg.get("architecture", "this architecture")
        known = [n for n in weights() if n.split(".", 1)[0] == arch]
        listed = f"it has {', '.join(known)}" if known else "it has none; see: zoo list --pretrained"
        raise WeightError(f"{arch} has no pretrained weight {cfg.get('tag') or ''}".rstrip() + f": {listed}.")
    sha256 = weights()[name]["sha256"]
    given = cfg.get("file")
    if given and not Path(given).is_relative_to(shipped_hub()):
        path = Path(given)
        return read_verified(path / "model.safetensors" if path.is_dir() else path, sha256)
    if cfg.get("source") == "hf-hub":
        repo, _, revision = cfg["hf_hub_id"].partition("@")
        return read_verified(download_from_hub(repo, "model.safetensors", revision or None, cache_dir), sha256)
    return read_verified(fetch(name, cache_dir).path, sha256)
