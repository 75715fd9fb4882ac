"""From a registered name to a network, through timm's own builder and the zoo's verified weights."""

import contextlib
import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from timm.models import build_model_with_cfg, get_pretrained_cfg, load_pretrained, resolve_pretrained_cfg
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UnknownNameError, WeightError, ZooError
from ..makers.values import loaded_later
from ..weights.load import SOURCES, is_own_source, known_repository, load_state_dict, without_other_sources
from ..weights.manifest import weights
from ..weights.warm_start import is_warm_start
from ._bounded import try_out
from ._reference import differences, rename_from_reference


def build_model(
    cls: Callable[..., nn.Module],
    variant: str,
    pretrained: bool = False,
    *,
    levels: int,
    base_cfg: Mapping[str, Any],
    fixed: Mapping[str, Any],
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    room: int = 0,
    **kwargs: Any,
) -> nn.Module:
    """Build a registered network as ``timm.create_model`` asks for it.

    timm resolves configuration, default arguments, feature extraction and adaption to other channels and classes; only
    where the bytes of a pretrained weight come from is decided here, so that none of ours is loaded unverified.

    Args:
        cls: Network class, or a function that makes the network.
        variant: Registered name.
        pretrained: Load the weight that the configuration stands for.
        levels: Number of feature levels, the default of ``out_indices``.
        base_cfg: The architecture's configuration where no weight is asked for.
        fixed: The architecture's arguments of the network.
        pretrained_cfg: Tag, or configuration read by timm from a Hub repository or folder.
        pretrained_cfg_overlay: Entries that replace the configuration's; a source among them replaces every source.
        cache_dir: Where downloads are kept.
        device: Where the network is built.
        dtype: Type of its floating-point parameters and buffers.
        room: So many values may be built for a small file of somebody's own, as they may for one an eighth as large.
        **kwargs: Other arguments of the network; ``collapsed``, a dict of :func:`zoo.reparameterize`'s options, makes
            it the network of plain layers that the pass makes of it, whose tensors are then the file's.

    Raises:
        UnknownNameError: If the network takes no such argument; the message names close ones.
        ZooError: If features are asked for of a network without maps.
        WeightError: If the weight cannot be had, is not what the manifest says, or does not fit the network.
    """
    if kwargs.get("features_only") and not levels:
        raise ZooError(f"{variant} has no feature maps: features_only is for convolutional networks.")
    overlay = dict(pretrained_cfg_overlay or {})
    if any(overlay.get(key) for key in SOURCES):
        overlay = dict.fromkeys(SOURCES) | overlay
    if pretrained_cfg is None and not pretrained:  # what an architecture is does not depend on the weights there are
        pretrained_cfg = dict(base_cfg)
    foreign = kwargs.get("pretrained_model_args") or {}  # what a config.json said, for timm has merged it with kwargs
    if odd := {*foreign} & _TIMMS:
        raise WeightError(f"{variant}: model_args are arguments of a network, and {', '.join(sorted(odd))} is timm's.")
    pretrained_cfg = without_other_sources(pretrained_cfg, variant)
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay).to_dict()
    if known := known_repository(cfg):  # the manifest says what it is, whatever its config.json does
        if known.split(".")[0] != variant:
            raise WeightError(f"{cfg['hf_hub_id']}: has the name of {known}, and its config.json says {variant}.")
        kwargs = {key: value for key, value in kwargs.items() if key not in foreign or foreign[key] != value}
        kwargs.pop("pretrained_model_args", None)
        pretrained_cfg = get_pretrained_cfg(known).to_dict(remove_source=True)
        overlay = {**overlay, "hf_hub_id": cfg["hf_hub_id"]}
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay).to_dict()
    tag_arguments, tensors = {}, None
    if cfg.get("tag") and (known or not is_own_source(cfg)):
        tag_arguments = weights().get(f"{variant}.{cfg.get('tag')}", {}).get("model_args", {})
    given = {**tag_arguments, **kwargs}
    kwargs = {**fixed, **given}
    collapsed = kwargs.pop("collapsed", None)
    if pretrained:
        tensors = load_state_dict(cfg, cache_dir)
        if pretrained_cfg is None and overlay.get("file"):
            pretrained_cfg, found = _configuration_of(variant, tensors, base_cfg)
            overlay = found | overlay
            cfg = resolve_pretrained_cfg(
                variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay
            ).to_dict()
    warm = pretrained and is_warm_start(cfg)
    sizes = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0]}
    adapted = any(kwargs.get(key, value) != value for key, value in sizes.items())
    whole = not adapted and not kwargs.get("features_only")
    as_it_is = tensors is not None and whole and not warm

    def create(**arguments: Any) -> nn.Module:
        _check_arguments(cls, variant, arguments)
        for key, least in (("num_classes", 0), ("in_chans", 1)):
            value = arguments.get(key, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ZooError(f"{variant}: {key} is {str(value)[:60]!r}; it is a whole number from {least}.")
        wanted = {key: value for key, value in arguments.items() if key in given and value != fixed.get(key)}
        wanted = {key: value for key, value in wanted.items() if key not in _USUAL or value > _USUAL[key]}
        own = pretrained and is_own_source(cfg) and not known
        if (wanted or own) and torch.get_default_device().type != "meta" and str(device) != "meta":
            elements = sum(tensor.numel() for tensor in tensors.values()) if own else 0
            try_out(variant, wanted, lambda: cls(**arguments), max(8 * elements + (1 << 20), room) if own else 0)
        with contextlib.ExitStack() as stack:
            if as_it_is:  # every parameter will be the file's
                stack.enter_context(torch.random.fork_rng(devices=()))
                stack.enter_context(_WithoutDrawing())
                stack.enter_context(loaded_later())
            if device is not None:
                stack.enter_context(torch.device(device))
            model = cls(**arguments)
        model = model if collapsed is None else _collapsed(model, collapsed)
        model = model if dtype is None else model.to(dtype)
        if as_it_is:
            own = model.state_dict()
            state = prepare(tensors, model)
            model.load_state_dict({key: tensor.to(own[key]) for key, tensor in state.items()}, assign=True)
        elif tensors is not None:
            source = {**cfg, "state_dict": tensors, "source": ""}
            classes = 0 if kwargs.get("features_only") else model.num_classes
            load_pretrained(model, source, classes, arguments["in_chans"], prepare)
        return model

    def prepare(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        own, names = is_own_source(cfg), {*state}
        try:
            state = model.warm_start(state) if warm else rename_from_reference(model, state)
        except WeightError as error:
            raise WeightError((own and collapsed is None and _form_of(variant, model, names)) or str(error)) from None
        free = () if whole else (cfg.get("classifier"), cfg.get("first_conv"), *getattr(model, "classifier_parts", ()))
        expected, names = model.state_dict(), {*state}
        for key in expected.keys() - names:
            if key.endswith(".num_batches_tracked"):  # files of old versions of torch lack it
                state[key] = torch.tensor(0)
        if any(tensor.is_complex() for tensor in state.values()):  # torch drops imaginary parts
            raise WeightError(f"{variant}: the file has complex tensors, which no network here has.")
        problems = differences(
            {key: tensor for key, tensor in expected.items() if not _is_part(key, free)},
            {key: tensor for key, tensor in state.items() if not _is_part(key, free)},
        )
        if problems:
            form = _form_of(variant, model, names) if collapsed is None and own else ""
            hint = ""
            if own:
                hint = " If the network was changed, save what zoo.to_stock makes of it, or a state dict of your own."
            raise WeightError(form or f"{variant}: the file's tensors are not this network's: {problems}.{hint}")
        return state

    model = build_model_with_cfg(
        create,
        variant,
        pretrained and tensors is None,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=prepare,
        feature_cfg={"out_indices": tuple(range(levels)), "feature_cls": "getter"},
        cache_dir=cache_dir,
        **kwargs,
    )
    for network in (model, getattr(model, "model", None)):
        if network is not None:
            network.pretrained_cfg.pop("state_dict", None)
            # What timm writes into config.json, with the caller's arguments.
            network._model_args = {"in_chans": kwargs.get("in_chans", sizes["in_chans"]), **tag_arguments}
    return model


def _collapsed(model: nn.Module, options: Mapping[str, str]) -> nn.Module:
    from ..reparam import reparameterize  # the only need of the pass here, which itself needs the networks

    if not isinstance(options, Mapping) or options.keys() - {"batch_norm", "reuse"}:
        raise ZooError(f"collapsed holds options of zoo.reparameterize, batch_norm and reuse, not {options!r}.")
    return reparameterize(model.eval(), **options).train()


def _form_of(variant: str, model: nn.Module, names: set[str]) -> str:
    """What to do about a file that does not fit, if it is one of a collapsed network that does not say so."""
    for options in ({"batch_norm": "keep"}, {"batch_norm": "fold"}, {"batch_norm": "fold", "reuse": "unroll"}):
        if _collapsed(copy.deepcopy(model), options).state_dict().keys() == names:
            return f"The file is of a collapsed {variant} and does not say so: add the argument collapsed={options}."
    return ""


class _WithoutDrawing(TorchFunctionMode):
    """Networks built in this context have memory without values where others have random ones.

    Everything else, such as buffers that no file has, is as always.
    """

    _fills = frozenset(
        vars(nn.init)[f"{name}_"]
        for name in ("kaiming_normal", "kaiming_uniform", "normal", "orthogonal", "trunc_normal", "uniform")
    ) | {torch.Tensor.normal_, torch.Tensor.uniform_}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self._fills:
            return args[0] if args else kwargs["tensor"]
        if func is torch.randperm:
            return torch.arange(*args, **kwargs)
        if func is torch.linalg.eigh:  # refuses what such memory may hold
            args = (torch.zeros_like(args[0]), *args[1:])
        return func(*args, **kwargs)


def _configuration_of(
    variant: str, state: Mapping[str, Tensor], base_cfg: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Configuration of a file of the user's own: the first weight's or the architecture's, by channels."""
    cfg, sizes = resolve_pretrained_cfg(variant).to_dict(), {}
    stem, rows = (
        next((state[f"{layer}.{end}"].shape for end in _WEIGHTS if f"{layer}.{end}" in state), None)
        for layer in (cfg["first_conv"], cfg["classifier"])
    )
    if rows:
        sizes["num_classes"] = rows[0]
    if stem and len(stem) == 4 and stem[1] != cfg["input_size"][0]:
        cfg = dict(base_cfg)
        if stem[1] != cfg["input_size"][0]:
            sizes["input_size"] = (stem[1], *cfg["input_size"][1:])
    return {key: value for key, value in cfg.items() if key not in SOURCES}, sizes


_USUAL = {"num_classes": 1 << 16, "in_chans": 256}
"""Values up to which these arguments make no network too large."""

_TIMMS = {*inspect.signature(build_model_with_cfg).parameters} - {"kwargs"} | {
    "device",
    "dtype",
    "fixed",
    "levels",
    "room",
}
"""Arguments that are timm's or ours and not a network's."""

_WEIGHTS = ("weight", "parametrizations.weight.original")


def _is_part(name: str, layers: Iterable[str | None]) -> bool:
    return any(layer and name.startswith(f"{layer}.") for layer in layers)


def _check_arguments(cls: Callable[..., nn.Module], variant: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that no constructor of the class takes; one that is a function says so itself."""
    if not isinstance(cls, type):
        return
    known: list[str] = []
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            known += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][1:]
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, 3) or sorted(set(known))
            raise UnknownNameError(f"{variant} takes no argument {name!r}. Did you mean {', '.join(close)}?")
