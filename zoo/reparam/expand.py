"""``expand``, the way back: start one of the zoo's networks from an ordinary network's weights."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import UnknownNameError, ZooError
from ..models._sparse import sparse_from_plain
from ..models._symmetric import symmetric_from_plain
from ..models.paradise import ParadiseResNet, expand_plain
from ..models.swrn import swrn_from_plain
from .stock import resnet_form

KINDS = ("pd_a", "pd_b", "ac", "swrn", "symmetric", "sparse")


@dataclass(frozen=True)
class Expansion:
    """A network started from another's weights.

    Attributes:
        model: The new network, in the mode of the old.
        exact: It computes the same function in eval mode, up to rounding.
        kernel_error: Relative error of the kernels (Frobenius norm): 0 if exact; for ``symmetric`` the largest of one
            kernel, for ``sparse`` that of all together.
    """

    model: nn.Module
    exact: bool
    kernel_error: float


def expand(source: nn.Module, kind: str, **options: Any) -> Expansion:
    """Start a network of the zoo from an ordinary one.

    Args:
        source: Ordinary network: a ResNet of timm, torchvision or this zoo for ``pd_a``, ``pd_b`` and ``ac``; this
            zoo's plain ``wrn`` for ``swrn``; either for ``symmetric`` and ``sparse``. It is not changed.
        kind: ``pd_a``, ``pd_b`` or ``ac`` (identical in eval and in train mode), ``swrn`` (a bank of as many templates
            as layers share it: identical), ``symmetric`` (nearest kernels), ``sparse`` (largest magnitudes kept).
        **options: ``branches`` for PD-A and PD-B, ``reduction`` for PD-B; ``symm_type`` and ``scope`` for
            ``symmetric``; ``sparsity`` and what :func:`zoo.models._sparse.sparse_from_plain` takes for ``sparse``.

    Raises:
        UnknownNameError: If the kind does not exist.
        ZooError: If the source has another form than the kind needs, or an option is wrong.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"Unknown kind {kind!r}: choose one of {', '.join(KINDS)}.")
    try:
        if kind == "swrn":
            return Expansion(swrn_from_plain(source, **options), True, 0.0)
        if kind == "symmetric":
            model, error = symmetric_from_plain(source, **options)
            return Expansion(model, error < 1e-6, error)
        if kind == "sparse":
            model, error = sparse_from_plain(source, **options)
            return Expansion(model, error == 0, error)
        return Expansion(_paradise(source, kind, options), True, 0.0)
    except TypeError as error:
        raise ZooError(f"expand to {kind}: {error}.") from None


def _paradise(source: nn.Module, kind: str, options: dict[str, Any]) -> ParadiseResNet:
    if kind == "ac":
        kind, options = "pd_a", {"branches": ("standard1", "skeleton"), **options}
    state = source.state_dict()
    if isinstance(source, ParadiseResNet):
        convs = next(iter(source.pd_convs().values()), None)
        if convs is None:
            raise ZooError("This PD network is folded already: expand a plain ResNet, or a PD-A before folding.")
        options = {"branches": convs.branches, **options}
        plain = {key: value for key, value in state.items() if ".branches." not in key and ".gate." not in key}
        form = resnet_form({**plain, **{f"{name}.weight": torch.empty(0) for name in source.pd_convs()}})
    else:
        form = resnet_form(state)
    if form is None:
        raise ZooError(f"{type(source).__name__} is not an ordinary ResNet-18, 34, 50, 101 or 152.")
    model = ParadiseResNet(
        form["depth"],
        kind,
        width=form["width"],
        small_images=form["small_images"],
        num_classes=form["num_classes"],
        in_chans=form["in_chans"],
        **options,
    ).to(state["conv1.weight"])
    expand_plain(model, source)
    if cfg := getattr(source, "pretrained_cfg", None):
        model.pretrained_cfg = model.default_cfg = copy.deepcopy(cfg)
    return model.train(source.training)
