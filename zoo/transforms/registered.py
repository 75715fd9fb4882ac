"""The architecture ``transformed``: any network of timm's or this zoo, transformed, by name and from saved folders.

``config.json`` of a saved one says ``"architecture": "transformed"`` and names the network and the transformation among
``model_args``; ``import zoo`` is all that ``timm.create_model("local-dir:...")`` needs.
"""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import generate_default_cfgs, is_model, register_model
from timm.models._features import FeatureGetterNet
from torch import nn

from ..errors import UnknownNameError, ZooError
from ..models._bounded import try_out
from ..models._build import build_model
from ..suggest import close_names
from ..weights.load import SOURCES
from .spec import read_spec
from .transform import ARCHITECTURE, apply_steps, network_of, transform

__all__ = []  # filled by timm
default_cfgs = generate_default_cfgs({ARCHITECTURE: {"classifier": "", "first_conv": ""}})
_ROOM = 32
"""Times the values of a network, which are registered until it is transformed, measured and collapsed."""

_FEATURES = ("out_indices", "output_fmt", "norm", "return_dict")


@register_model
def transformed(
    pretrained: bool = False,
    base: str = "resnet18",
    transform: str = "pd_a",
    base_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Any network, transformed: ``base`` names it, ``transform`` says how, such as ``"share:templates=2"``."""
    if not isinstance(base, str) or not is_model(base.split(".")[0]):
        close = close_names(str(base), timm.list_models())
        raise UnknownNameError(
            f"base={base!r} is no architecture. {f'Did you mean {close[0]}?' if close else ''}".strip()
        )
    if base_args is not None and not isinstance(base_args, Mapping):
        raise ZooError(f"base_args holds arguments of {base} by name, not {base_args!r}.")
    base_args = dict(base_args or {})
    if base == ARCHITECTURE and ("collapsed" not in base_args or base_args.get("base") == ARCHITECTURE):
        raise ZooError(f"base={base!r}: a network that was transformed and then collapsed is transformed again, once.")
    if odd := {"pretrained", "pretrained_cfg", "checkpoint_path", "features_only", "cache_dir"} & base_args.keys():
        raise ZooError(f"base_args are arguments of a network, and {sorted(odd)[0]} is timm's.")
    cfg, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}
    own = any(overlay.get(key) for key in SOURCES) or (
        isinstance(cfg, Mapping) and any(cfg.get(key) for key in SOURCES)
    )
    if pretrained and not own:
        return _from_pretrained(base, transform, {**base_args, **kwargs})
    return _build(base, transform, base_args, pretrained, kwargs)


def _from_pretrained(base: str, spec: str, kwargs: dict[str, Any]) -> nn.Module:
    features = kwargs.pop("features_only", False)
    chosen = {key: kwargs.pop(key) for key in _FEATURES if key in kwargs}
    for key in ("feature_cls", "pretrained_model_args"):
        kwargs.pop(key, None)
    model = transform(network_of(base, True, **kwargs), spec)
    if not features:
        return model
    _check_features(base, model)
    return FeatureGetterNet(model, **{"out_indices": tuple(range(len(model.feature_info))), **chosen})


def _build(base: str, spec: str, base_args: dict[str, Any], pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    steps = read_spec(spec)
    sample = try_out(base, base_args, lambda: timm.create_model(base, **base_args))
    cfg = {key: value for key, value in sample.pretrained_cfg.items() if key not in (*SOURCES, "tag")}
    if kwargs.get("features_only"):
        _check_features(base, sample)

    def make(**arguments: Any) -> nn.Module:
        model = network_of(base, **{**base_args, **arguments})
        return apply_steps(model, steps, fresh=True)

    if kwargs.get("pretrained_cfg") is None:
        kwargs["pretrained_cfg"] = {**cfg, "architecture": ARCHITECTURE}
    model = build_model(
        make,
        ARCHITECTURE,
        pretrained,
        levels=len(getattr(sample, "feature_info", ())),
        base_cfg=cfg,
        fixed={},
        room=_ROOM * _size_of(base, base_args) if pretrained else 0,
        **kwargs,
    )
    for network in (model, getattr(model, "model", None)):
        if network is not None and hasattr(network, "pretrained_cfg"):
            network._model_args |= {"base": base, "base_args": base_args, "transform": spec}
    return model


def _size_of(base: str, base_args: Mapping[str, Any]) -> int:
    """Values of the architecture as it is registered: a file may have a small part of them."""
    plain = base_args["base"] if base == ARCHITECTURE else base
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in timm.create_model(plain).state_dict().values())


def _check_features(base: str, model: nn.Module) -> None:
    if not getattr(model, "feature_info", None) or not hasattr(model, "forward_intermediates"):
        raise ZooError(f"{base} gives no feature maps by timm's forward_intermediates: take features_only of another.")
