"""Where things lie: facts shipped with the package, staged weights, and the cache of what was downloaded."""

import os
from pathlib import Path

from ..errors import WeightError
from ..files import is_file

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
    """The folder of staged weights in use: the environment variable ``ZOO_HUB``, in place of the shipped one.

    Raises:
        WeightError: If the variable names a file, or the home of a user who does not exist.
    """
    return _expanded(os.environ["ZOO_HUB"], "ZOO_HUB") if os.environ.get("ZOO_HUB") else shipped_hub()


def hub_problem() -> str:
    """Why nothing is found in the folder that ``ZOO_HUB`` names, in words; empty if it is there, or none is named."""
    folder = hub_folder()
    if not os.environ.get("ZOO_HUB") or folder.is_dir():
        return ""
    return f"ZOO_HUB is {folder}, and there is no such folder"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder for downloads: the argument, ``ZOO_CACHE``, or ``repara-zoo`` in the user's cache.

    It need not exist.

    Raises:
        WeightError: If there is no home directory to put it in and none is named, one of a user who does not exist, or
            a file.
    """
    if cache_dir is not None:
        return _expanded(cache_dir, "the cache folder")
    if os.environ.get("ZOO_CACHE"):
        return _expanded(os.environ["ZOO_CACHE"], "ZOO_CACHE")
    if os.environ.get("XDG_CACHE_HOME"):
        return _expanded(os.environ["XDG_CACHE_HOME"], "XDG_CACHE_HOME") / "repara-zoo"
    try:
        return Path.home() / ".cache" / "repara-zoo"
    except RuntimeError:  # no HOME, and a user id without a name
        raise WeightError("There is no home directory for a cache. Set ZOO_CACHE to a folder.") from None


def _expanded(folder: str | Path, what: str) -> Path:
    try:
        path = Path(folder).expanduser()
    except RuntimeError:
        raise WeightError(f"{what} is {folder}, and there is no such user. Name another folder.") from None
    if is_file(path):
        raise WeightError(f"{what} is {folder}, which is a file. Name a folder.")
    return path


def waiting_folder(folder: Path) -> Path:
    """Where the next content of a staged weight's folder waits until the manifest has it."""
    return folder.with_name(f".{folder.name}.new")
