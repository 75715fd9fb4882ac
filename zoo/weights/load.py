"""From timm's pretrained configuration to a verified state dict."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WeightError
from .fetch import fetch
from .manifest import weights
from .paths import shipped_hub
from .verify import read_verified


def load_state_dict(cfg: dict[str, Any], cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of the weight that a resolved timm configuration stands for.

    A file or folder the user named (``pretrained_cfg_overlay=dict(file=...)``, ``local-dir:``) must be that weight, to
    the byte; weights of one's own are loaded with timm's ``checkpoint_path`` or ``load_checkpoint`` instead.

    Args:
        cfg: ``architecture``, ``tag`` and, if the user gave one, ``file``.
        cache_dir: Where downloads are kept.

    Raises:
        HashMismatchError: If the bytes are not the manifest's.
        WeightError: If the configuration stands for no weight of the manifest, or it cannot be had.
    """
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part)
    if cfg.get("state_dict"):
        return cfg["state_dict"]
    if name not in weights():
        arch = cfg.get("architecture", "this architecture")
        known = [n for n in weights() if n.split(".", 1)[0] == arch]
        listed = f"it has {', '.join(known)}" if known else "it has none; see: zoo list --pretrained"
        raise WeightError(f"{arch} has no pretrained weight {cfg.get('tag') or ''}".rstrip() + f": {listed}.")
    given = cfg.get("file")
    if given and not Path(given).is_relative_to(shipped_hub()):
        path = Path(given)
        return read_verified(path / "model.safetensors" if path.is_dir() else path, weights()[name]["sha256"])
    return read_verified(fetch(name, cache_dir).path, weights()[name]["sha256"])
