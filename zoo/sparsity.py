"""Moving sparsity for your own training loop: methods by name, and masks of one run for another.

The layers are made sparse with ``zoo.layers.make_sparse``; ``docs/own_networks.md`` has a complete example.
"""

from .training.sparsity import METHODS, Method, make_method, transfer_masks

__all__ = ["METHODS", "Method", "make_method", "transfer_masks"]
