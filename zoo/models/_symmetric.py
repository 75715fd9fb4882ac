"""Putting symmetric makers on the convolutions of a residual network."""

import torch
from timm.models.resnet import ResNet
from torch import nn

from ..errors import ZooError
from ..makers.base import is_made, maker_of, set_learned
from ..makers.hooks import copy_of
from ..makers.symmetric import check_type, make_symmetric
from ..precision import full_precision

SCOPES = ("second", "square", "all")


def block_convs(model: nn.Module, scope: str, symm_type: str) -> dict[str, nn.Conv2d]:
    """The 3x3 convolutions of the residual blocks that a scope means, by name, in order of execution.

    Args:
        model: Wide residual network of this zoo, or timm's ResNet.
        scope: ``second`` for the second convolution of every block (of a bottleneck its only 3x3 one), ``square`` for
            every one with as many input as output channels, ``all`` for every one, whatever its channels.
        symm_type: The symmetry; only ``spa`` fits convolutions that are not square.

    Raises:
        ZooError: If the scope does not exist or does not fit the type, or the network has no such convolution.
    """
    check_type(symm_type)
    if scope not in SCOPES:
        raise ZooError(f"Unknown scope {scope!r}: choose one of {', '.join(SCOPES)}.")
    if scope == "all" and symm_type != "spa":
        raise ZooError(f"scope 'all' has convolutions that are not square, so only 'spa' fits, not {symm_type!r}.")
    if isinstance(model, ResNet):
        convs = {
            name: layer
            for name, layer in model.named_modules()
            if name.startswith("layer") and isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        }
    else:
        convs = model.block_convs() if hasattr(model, "block_convs") else {}
    if scope == "second":
        convs = {name: conv for name, conv in convs.items() if name.endswith(".conv2")}
    elif scope == "square":
        convs = {name: conv for name, conv in convs.items() if conv.weight.shape[0] == conv.weight.shape[1]}
    if not convs:
        raise ZooError(f"{type(model).__name__} has no 3x3 block convolution: take a WideResNet or a timm ResNet.")
    return convs


def put_makers(
    model: nn.Module, symm_type: str, scope: str, odd_centre: str, rank: int | str | None, project: bool = False
) -> None:
    """Make the chosen convolutions symmetric, in place; see :func:`block_convs` and ``make_symmetric``."""
    for conv in block_convs(model, scope, symm_type).values():
        make_symmetric(conv, symm_type, odd_centre, rank, project)


@torch.no_grad()
def redraw_made(model: nn.Module, mode: str) -> None:
    """Draw made kernels anew, Kaiming normal; an initialiser of a whole network cannot reach what they are made from.

    Args:
        model: Network with symmetric makers.
        mode: ``fan_in`` or ``fan_out``.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and is_made(layer):
            kernel = nn.init.kaiming_normal_(torch.empty_like(layer.weight), mode=mode, nonlinearity="relu")
            set_learned(layer, maker_of(layer).select(kernel))


@full_precision()
def symmetric_from_plain(
    model: nn.Module, symm_type: str = "tri", scope: str = "second", rank: int | str | None = None
) -> tuple[nn.Module, float]:
    """Turn an ordinary network into a symmetric one with the nearest kernels, to fine-tune it from there.

    Args:
        model: Wide residual network of this zoo, or timm's ResNet (any weights); it stays as it is.
        symm_type: One of ``zoo.makers.symmetric.TYPES``.
        scope: Which convolutions, see :func:`block_convs`.
        rank: Rank of ``pdpt``.

    Returns:
        A copy whose chosen convolutions are made by symmetry, and the largest relative error of a kernel,
        ||projected - kernel|| / ||kernel|| (Frobenius norms), over those convolutions. The copy's state dict fits the
        symmetric network of the same depth, width, type and scope.

    Raises:
        ZooError: If the network has no such convolution, a type does not fit, or a kernel is already made.
    """
    model = copy_of(model)
    convs = block_convs(model, scope, symm_type)
    if made := [name for name, conv in convs.items() if is_made(conv)]:
        raise ZooError(f"{made[0]} is made already; call zoo.reparameterize on the network first.")
    kernels = {name: conv.weight.detach().clone().double() for name, conv in convs.items()}
    put_makers(model, symm_type, scope, "single", rank, project=True)
    errors = [
        (convs[name].weight - kernel).norm() / kernel.norm().clamp_min(torch.finfo(torch.float64).tiny)
        for name, kernel in kernels.items()
    ]
    return model, max(float(error) for error in errors)
