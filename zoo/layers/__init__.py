"""Our layers for your own network: everything that makes, shares, mirrors, thins or splits convolutions.

``docs/own_networks.md`` has a complete example. Sparse weights move in training with :mod:`zoo.sparsity`.
"""

from ..makers import is_made, learned_of, make_weight, maker_of
from ..makers.lowrank import LowRankSymmetric
from ..makers.masked import MaskedWeight
from ..makers.shared import SharedWeight
from ..makers.sparse import erk_counts, make_sparse, make_tied
from ..makers.symmetric import SymmetricWeight, make_symmetric
from ..makers.tied import TiedWeight
from .channels import interleave_halves, repeat_channels, require_map
from .decay import decay_groups
from .paradise import ACConv2d, PDAConv2d, PDBConv2d, approximate_static
from .sharing import SharedConv2d, TemplateBank, share_weights, sharing_groups

__all__ = [
    "ACConv2d",
    "LowRankSymmetric",
    "MaskedWeight",
    "PDAConv2d",
    "PDBConv2d",
    "SharedConv2d",
    "SharedWeight",
    "SymmetricWeight",
    "TemplateBank",
    "TiedWeight",
    "approximate_static",
    "decay_groups",
    "erk_counts",
    "interleave_halves",
    "is_made",
    "learned_of",
    "make_sparse",
    "make_symmetric",
    "make_tied",
    "make_weight",
    "maker_of",
    "repeat_channels",
    "require_map",
    "share_weights",
    "sharing_groups",
]
