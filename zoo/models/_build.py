"""From a registered name to a network, through timm's own builder and the zoo's verified weights."""

from typing import Any

from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from ..errors import WeightError
from ..weights.assign import is_filled, is_worth_it, take_over, unfilled
from ..weights.load import load_state_dict
from ..weights.manifest import weights
from ..weights.warm_start import is_warm_start
from ._reference import rename_from_reference


def build_model(
    cls: type[nn.Module],
    variant: str,
    pretrained: bool = False,
    *,
    levels: int,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a registered network as ``timm.create_model`` asks for it.

    timm resolves configuration, default arguments, feature extraction and adaption to other channels and classes;
    only where the bytes of a pretrained weight come from is decided here, so that none is loaded unverified.

    Args:
        cls: Network class.
        variant: Registered name.
        pretrained: Load the weight that the configuration stands for.
        levels: Number of feature levels, the default of ``out_indices``.
        pretrained_cfg: Tag, or configuration read by timm from a Hub repository or folder.
        pretrained_cfg_overlay: Entries that replace the configuration's.
        cache_dir: Where downloads are kept.
        **kwargs: Arguments of the network.

    Raises:
        WeightError: If the weight cannot be had, or its sha256 is not the manifest's.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained or isinstance(pretrained_cfg, str):  # a weight's own arguments; those the caller gives come first
        tag = resolve_pretrained_cfg(variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay).tag
        kwargs = {**weights().get(f"{variant}.{tag}", {}).get("model_args", {}), **kwargs}
    filter_fn = None
    creators: tuple = (cls,)
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay).to_dict()
        verified = load_state_dict(cfg, cache_dir)

        start = is_warm_start(cfg)  # what was read is a plain network's, and the rest is to be drawn at random
        own = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0]}
        unadapted = all(kwargs.get(argument, value) == value for argument, value in own.items())
        if unadapted and not start and is_worth_it(verified):
            creators = (unfilled(cls), cls)  # the second if a tensor is left that the file does not have

        def filter_fn(read: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            if start:
                return model.warm_start(verified)
            state = rename_from_reference(model, read if verified is None else verified)
            return take_over(model, state) if next(model.parameters()).is_meta else state

        if verified is not None:
            # timm takes a given state dict before any other source; the filter above puts the verified one in its
            # place, which spares the copy that timm makes of every configuration.
            overlay.update(state_dict={"verified": True}, source=None)
    model = None
    for create in creators:
        try:
            model = build_model_with_cfg(
                create,
                variant,
                pretrained,
                pretrained_cfg=pretrained_cfg,
                pretrained_cfg_overlay=overlay,
                pretrained_filter_fn=filter_fn,
                feature_cfg={"out_indices": tuple(range(levels)), "feature_cls": "getter"},
                **kwargs,
            )
        except RuntimeError as error:
            if "in loading state_dict" not in str(error):
                raise
            reasons = " ".join(str(error).split())[:300]
            raise WeightError(f"{variant}: the file's tensors are not this network's: {reasons}") from None
        if all(is_filled(network) for network in (model, getattr(model, "model", None)) if network is not None):
            break
    for network in (model, getattr(model, "model", None)):
        if network is not None:
            network.pretrained_cfg.pop("state_dict", None)
    return model
