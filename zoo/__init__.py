"""A model zoo of CNNs whose convolution weights are made from fewer or more tensors than they use.

``import zoo`` registers every architecture with timm; ``timm.create_model(name, pretrained=True)`` then works, with
each weight's sha256 checked against the manifest.
"""

from . import language
from .errors import DataError, HashMismatchError, UnknownNameError, WeightError, ZooError
from .layers.paradise import approximate_static
from .models import create_reference, load_reference
from .registry import create_model, describe_entry, list_models
from .reparam import (
    EquivalenceRecord,
    Expansion,
    count_parameters,
    density_report,
    equivalence_record,
    expand,
    load_collapsed,
    reparameterize,
    to_stock,
)
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
    "reparameterize",
    "to_stock",
]
