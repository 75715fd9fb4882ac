"""Weight makers: small modules that turn what is learned into a kernel, and a kernel into what is learned.

A maker is what ``torch.nn.utils.parametrize`` expects: ``forward(learned) -> kernel`` and
``right_inverse(kernel) -> learned``. Put one on the weight of any layer, ours, timm's or yours, with
:func:`make_weight`; the learned tensor is then the parameter and the kernel is computed from it whenever it is used.
"""

from .base import is_made, learned_of, make_weight, maker_of, plain_layer, set_learned

__all__ = ["is_made", "learned_of", "make_weight", "maker_of", "plain_layer", "set_learned"]
