"""Where things lie: facts shipped with the package, staged weights, and the cache of what was downloaded."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def manifest_file() -> Path:
    """The manifest: inside an installed package, or at the root of a checkout."""
    packaged = PACKAGE / "weights_manifest.json"
    return packaged if packaged.is_file() else PACKAGE.parent / "weights_manifest.json"


def shipped_hub() -> Path:
    """The folder of staged weights that came with this copy: ``zoo/hub`` in a wheel, ``hub`` in a checkout."""
    packaged = PACKAGE / "hub"
    return packaged if packaged.is_dir() else PACKAGE.parent / "hub"


def hub_folder() -> Path:
    """The folder of staged weights in use: the environment variable ``ZOO_HUB``, else the shipped one."""
    return Path(os.environ["ZOO_HUB"]).expanduser() if os.environ.get("ZOO_HUB") else shipped_hub()


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder for converted downloads: the argument, ``ZOO_CACHE``, or ``repara-zoo`` in the user's cache."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repara-zoo"
