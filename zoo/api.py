"""What ``import zoo`` offers; importing this registers every architecture with timm."""
# ruff: noqa: F401

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
from .transforms import plan, transform
