"""``reparameterize``: from what is learned to plain layers.

What collapses into what:

- a made weight (shared, symmetric, masked, tied, low-rank, or by torch's own parametrizations) into an ordinary
  parameter of an ordinary layer;
- a template bank into nothing;
- parallel branches with a batch norm each (PD-A, AC) into one convolution with bias;
- PD-B's branches into stacked kernels mixed per sample by its gate, which depends on the data and stays;
- a reuse block (LruNet) stays as it is, its layers being plain already, or is unrolled into one convolution per use.

Every layer that collapses has ``fuse()``, which returns a new module; timm's ``reparameterize_model`` calls the same.
A layer whose form depends on an option of the pass takes it as a keyword argument of ``fuse``.
"""

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ZooError
from ..precision import full_precision
from .described import describe
from .record import EquivalenceRecord, equivalence_record
from .walk import plain_copy

Network = TypeVar("Network", bound=nn.Module)

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)  # whose own training flag has no effect


@full_precision()
def reparameterize(
    model: Network,
    *,
    batch_norm: str = "keep",
    reuse: str = "shared",
    return_record: bool = False,
    input_size: tuple[int, int, int] | None = None,
    example: Tensor | None = None,
) -> Network | tuple[Network, EquivalenceRecord]:
    """Return a new network of plain layers that computes the same function in eval mode.

    What it is saved to (``save_for_hf``) says what it is, and ``timm.create_model("local-dir:...")`` loads it again.

    Autocast and inference mode around the call have no effect. Data types, devices, ``requires_grad`` and the
    channels-last format are kept; every tensor is contiguous and has a storage of its own, so that it can be saved.
    Kernels that torch's pruning or weight normalisation compute are taken at their current values. Forward hooks stay
    on the layers that take the place of hooked ones.

    Args:
        model: Any network, also one that contains a network of this zoo; in eval mode. It is not changed, and shares no
            tensor with the result.
        batch_norm: ``keep`` batch norms where a plain network has them, or ``fold`` every one that directly follows a
            convolution into it (in float64).
        reuse: What becomes of a block that LruNet runs several times: ``shared`` keeps its kernels once (folded batch
            norms are then one scale and bias per use), ``unroll`` gives every use its own.
        return_record: Also return the :func:`equivalence_record` of the two.
        input_size: For the record: (channels, height, width) of its random images, if the network's configuration does
            not say it.
        example: For the record: inputs to compare on in place of random images.

    Raises:
        ZooError: If a part of the model is in training mode, compiled, quantized or not initialised, if an unknown hook
            computes a weight, or an option does not exist.
    """
    if batch_norm not in ("keep", "fold") or reuse not in ("shared", "unroll"):
        raise ZooError(
            f"reparameterize: batch_norm is 'keep' or 'fold' (not {batch_norm!r}), reuse is 'shared' or 'unroll' (not "
            f"{reuse!r})."
        )
    training = [(name, m) for name, m in model.named_modules() if m.training and type(m) not in _CONTAINERS]
    if training:
        norms = [name for name, module in training if isinstance(module, _BatchNorm)]
        raise ZooError(
            f"{(norms or [training[0][0]])[0] or 'The model'} is in training mode, where batch norms and branches do "
            "not collapse: call eval() first."
        )
    plain = plain_copy(model, batch_norm, reuse)
    describe(plain, model, batch_norm, reuse)
    if return_record:
        return plain, equivalence_record(model, plain, input_size=input_size, example=example)
    return plain
