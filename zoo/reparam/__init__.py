"""The inference-time pass: every family becomes a network of plain layers that computes the same function."""

from .collapse import reparameterize
from .collapsed import load_collapsed
from .counts import count_parameters, density_report
from .expand import Expansion, expand
from .record import EquivalenceRecord, equivalence_record
from .stock import to_stock

__all__ = [
    "EquivalenceRecord",
    "Expansion",
    "count_parameters",
    "density_report",
    "equivalence_record",
    "expand",
    "load_collapsed",
    "reparameterize",
    "to_stock",
]
