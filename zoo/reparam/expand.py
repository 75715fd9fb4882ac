"""``expand``, the way back: start one of the zoo's networks from an ordinary network's weights."""

import copy
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ..errors import UnknownNameError, ZooError
from ..layers.paradise import AC_BRANCHES
from ..makers.hooks import check_values, copy_of
from ..models._plain_resnet import PlainResNet, resnet_form
from ..models._same_function import check_same_function, check_same_outputs
from ..models._sparse import sparse_from_plain
from ..models._symmetric import symmetric_from_plain
from ..models.paradise import ParadiseResNet, expand_plain
from ..models.swrn import swrn_from_plain
from ..precision import full_precision
from .record import input_size_of, random_images

KINDS = {
    "pd_a": "branches",
    "pd_b": "branches, reduction",
    "ac": "none",
    "swrn": "none",
    "symmetric": "symm_type, scope, rank",
    "sparse": "sparsity, sparse_unit, reparam, fc_sparsity, density",
}
"""What an ordinary network can become, and the options of each."""


@dataclass(frozen=True)
class Expansion:
    """A network started from another's weights.

    Attributes:
        model: The new network, in the mode of the old.
        exact: It computes the same function in eval mode, up to rounding; both have been run and compared.
        kernel_error: Relative error of the kernels (Frobenius norm): 0 if exact; for ``symmetric`` the largest of one
            kernel, for ``sparse`` that of all together.
    """

    model: nn.Module
    exact: bool
    kernel_error: float


@full_precision()
def expand(source: nn.Module, kind: str, **options: Any) -> Expansion:
    """Start a network of the zoo from an ordinary one; for any other network the verb is :func:`zoo.transform`.

    Args:
        source: Ordinary network: a ResNet of timm, torchvision or this zoo for ``pd_a``, ``pd_b`` and ``ac``; this
            zoo's plain ``wrn`` for ``swrn``; either for ``symmetric`` and ``sparse``. It is not changed.
        kind: ``pd_a``, ``pd_b`` or ``ac`` (identical in eval and in train mode), ``swrn`` (a bank of as many templates
            as layers share it: identical), ``symmetric`` (nearest kernels), ``sparse`` (largest magnitudes kept).
        **options: ``branches`` for PD-A and PD-B, ``reduction`` for PD-B; ``symm_type`` and ``scope`` for
            ``symmetric``; ``sparsity`` and what :func:`zoo.models._sparse.sparse_from_plain` takes for ``sparse``.

    Raises:
        UnknownNameError: If the kind does not exist.
        ZooError: If the source has another form than the kind needs or computes another function than the ordinary
            network with its tensors (the message names what differs), or an option is wrong.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"Unknown kind {kind!r}: choose one of {', '.join(KINDS)}.")
    check_values(source)
    training, source = source.training, copy_of(source)
    try:
        if kind == "swrn":
            model, error = swrn_from_plain(source, **options), 0.0
        elif kind == "symmetric":
            model, error = symmetric_from_plain(source, **options)
        elif kind == "sparse":
            model, error = sparse_from_plain(source, **options)
        else:
            model, error = _paradise(source, kind, options), 0.0
    except TypeError as error:
        if missing := re.search(r"missing .* argument: '(\w+)'", str(error)):
            raise ZooError(f"expand to {kind} needs the option {missing[1]}.") from None
        if unknown := re.search(r"(?:unexpected keyword|keyword) argument '(\w+)'", str(error)):
            raise UnknownNameError(f"expand to {kind} has no option {unknown[1]!r} (it has: {KINDS[kind]}).") from None
        raise ZooError(f"expand to {kind}: an option has a wrong type ({error}).") from None
    exact = error <= 10 * torch.finfo(next(source.parameters()).dtype).eps
    if exact:
        check_same_outputs(source, model, _images_for(source))
    return Expansion(model.train(training), exact, error)


def _images_for(source: nn.Module) -> Tensor:
    """Two images, of at most 64 pixels a side where the network says its own size."""
    channels, *sides = input_size_of(source) if getattr(source, "pretrained_cfg", None) else (None, 64, 64)
    channels = channels or next((m.in_channels for m in source.modules() if isinstance(m, nn.Conv2d)), 3)
    return random_images(source, 2, input_size=(channels, *(min(side, 64) for side in sides)))


def _paradise(source: nn.Module, kind: str, options: dict[str, Any]) -> ParadiseResNet:
    if kind == "ac":
        kind, options = "pd_a", {"branches": AC_BRANCHES, **options}
    if made := [name for name, module in source.named_modules() if is_parametrized(module)]:
        raise ZooError(f"{made[0]} does not have an ordinary kernel: reparameterize the network first.")
    if isinstance(source, ParadiseResNet):
        convs = source.pd_convs()
        if not convs:
            raise ZooError("This PD network is folded already: expand a plain ResNet, or a PD-A before folding.")
        options = {"branches": next(iter(convs.values())).branches, **options}
        form = resnet_form(source, lambda key: ".branches." in key or ".gate." in key)
        like, label = ParadiseResNet(branches=options["branches"], **asdict(form)), f"pd_a_resnet{form.depth}"
    else:
        form = resnet_form(source)
        like, label = PlainResNet(**asdict(form)), form.label
    check_same_function(source, like, label, form.in_chans)
    model = ParadiseResNet(kind=kind, drop_rate=getattr(source, "drop_rate", 0.0), **asdict(form), **options)
    model = expand_plain(model.to(next(source.parameters())), source)
    _keep_training(model, source)
    if cfg := getattr(source, "pretrained_cfg", None):
        model.pretrained_cfg = model.default_cfg = copy.deepcopy(cfg)
    return model


def _keep_training(model: ParadiseResNet, source: nn.Module) -> None:
    """Take over what only matters in training: stochastic depth of the blocks, and the momentum of batch norms."""
    blocks = [block for i in (1, 2, 3, 4) for block in getattr(source, f"layer{i}")]
    for block, other in zip(model.residual_blocks(), blocks, strict=True):
        for name in ("drop_path", "drop_block"):
            if getattr(other, name, None) is not None:
                setattr(block, name, copy.deepcopy(getattr(other, name)))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = getattr(source.bn1, "momentum", module.momentum)
