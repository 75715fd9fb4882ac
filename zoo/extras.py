"""Packages beyond the core ones: imported when needed, with a message that says what to install."""

import importlib
from types import ModuleType

from .errors import ZooError

DISTRIBUTION = "repara-zoo"


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``.

    Args:
        module: Import name.
        extra: The extra of this package that brings it.

    Raises:
        ZooError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ZooError(
            f"This needs the package {module} ({error}). Install it with: pip install '{DISTRIBUTION}[{extra}]'"
        ) from None


def headless_pyplot() -> ModuleType:
    """``matplotlib.pyplot`` for drawing into files, on a machine without a screen too.

    Raises:
        ZooError: If matplotlib is not installed.
    """
    require("matplotlib", "plot").use("Agg")
    return require("matplotlib.pyplot", "plot")
