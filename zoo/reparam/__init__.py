"""The inference-time pass: every family becomes a network of plain layers that computes the same function."""

from .collapse import reparameterize
from .expand import Expansion, expand
from .record import EquivalenceRecord, equivalence_record
from .stock import to_stock

__all__ = ["EquivalenceRecord", "Expansion", "equivalence_record", "expand", "reparameterize", "to_stock"]
