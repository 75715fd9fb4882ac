"""A model zoo of CNNs whose convolution weights are made from fewer or more tensors than they use.

``import zoo`` registers every architecture with timm; ``timm.create_model(name, pretrained=True)`` then works, with
each weight's sha256 checked against the manifest.
"""

# ruff: noqa: F403, F405
import sys
from typing import Any

from .version import __version__

__all__ = [
    "DataError",
    "EquivalenceRecord",
    "Expansion",
    "HashMismatchError",
    "UnknownNameError",
    "WeightError",
    "ZooError",
    "__version__",
    "approximate_static",
    "count_parameters",
    "create_model",
    "create_reference",
    "density_report",
    "describe_entry",
    "equivalence_record",
    "expand",
    "language",
    "list_models",
    "load_collapsed",
    "load_reference",
    "plan",
    "reparameterize",
    "to_stock",
    "transform",
]


def _is_the_command() -> bool:
    """Whether this process is the command ``zoo``, which itself imports what a verb needs: most need torch, some not.

    It is if it began in ``zoo_command`` or as ``python -m zoo`` (while Python looks for that module, it says ``-m``).
    """
    words = len(sys.argv) - 1
    module = sys.orig_argv[-1 - words :][:1] if sys.argv[:1] == ["-m"] else []
    return module in (["zoo"], ["-mzoo"]) or getattr(sys.modules.get("zoo_command"), "running", False)


if _is_the_command():

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import api

        return getattr(api, name)
else:
    from .api import *
