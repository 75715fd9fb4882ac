"""What a collapsed network says of itself, so that a folder it is saved to (``save_for_hf``) can be loaded again.

timm writes a network's ``pretrained_cfg`` and the arguments it was created with into ``config.json``. A collapsed
network is either an architecture of plain layers that has a name (an SWRN is a ``wrn``, a sparse ResNet-50 timm's
``resnet50``), and then gets that name; or it keeps its own, with the argument ``collapsed``, the options of the pass,
which this zoo's builder applies before it loads the tensors.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import timm
import torch
from timm.models import ResNet, is_model, model_entrypoint
from torch import nn

from ..errors import ZooError
from ..models._plain_resnet import ResNetForm, resnet_form
from ..models._same_function import first_difference
from ..models._wide_resnet import WideResNet
from ..weights.load import SOURCES

_KEPT = ("in_chans", "drop_rate", "drop_path_rate", "global_pool")
_METHODS = ("forward", "forward_features", "forward_head")


def describe(plain: nn.Module, model: nn.Module, batch_norm: str, reuse: str) -> None:
    """Let a collapsed network of this zoo say what it is; any other one is left as it is.

    Args:
        plain: What the pass made of ``model``; its configuration and arguments are replaced.
        model: The network before the pass.
        batch_norm: Option of the pass.
        reuse: Option of the pass.
    """
    arch = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if (
        not arch
        or not hasattr(model, "_model_args")
        or not is_model(arch)
        or not model_entrypoint(arch).__module__.startswith("zoo.")
    ):
        return
    if _shapes(plain) == _shapes(model):
        return
    before = plain._model_args.get("collapsed") or {}
    form = {
        "batch_norm": "fold" if "fold" in (batch_norm, before.get("batch_norm")) else "keep",
        "reuse": "unroll" if "unroll" in (reuse, before.get("reuse")) else "shared",
    }
    named = None if before or batch_norm == "fold" else _name_of(plain)
    architecture, arguments = named or (arch, {**plain._model_args, "collapsed": form})
    name_it(plain, plain.pretrained_cfg, architecture, arguments, f"batch norms {_PAST[form['batch_norm']]}")


_NOTE = re.compile(r"collapsed from (\S+): ")
_PAST = {"keep": "kept", "fold": "folded"}


def name_it(model: nn.Module, cfg: dict[str, Any], architecture: str, arguments: dict[str, Any], how: str) -> None:
    """Give a network a configuration that names its architecture and arguments, and where it comes from.

    Args:
        model: The network.
        cfg: Configuration of the network it comes from.
        architecture: Registered name.
        arguments: What it is created with beside the number of classes.
        how: Goes into the notes.
    """
    origin = origin_of(cfg)
    notes = [note for note in cfg.get("notes") or () if not _NOTE.match(note)]
    cfg = {key: value for key, value in cfg.items() if key not in (*SOURCES, "tag")}
    cfg |= {"architecture": architecture, "notes": (*notes, f"collapsed from {origin}: plain layers, {how}")}
    model.pretrained_cfg = model.default_cfg = cfg
    model._model_args = arguments


def origin_of(cfg: Mapping[str, Any]) -> str:
    """``arch.tag`` of a configuration, of a collapsed network's that of the network before; the tag if there is one."""
    found = next(filter(None, map(_NOTE.match, cfg.get("notes") or ())), None)
    return found[1] if found else ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part)


def said_of(model: nn.Module) -> dict[str, str]:
    """Metadata of a safetensors file of a network of this zoo, as ``zoo import`` reads it; empty for any other one."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if not cfg.get("architecture"):
        return {}
    preparation = {key: cfg[key] for key in ("mean", "std", "crop_pct", "interpolation") if cfg.get(key)}
    return {
        "architecture": cfg["architecture"],
        "model_args": json.dumps(getattr(model, "_model_args", {})),
        "preparation": json.dumps(preparation),
    }


def plain_resnet(form: ResNetForm) -> tuple[str, dict[str, Any]]:
    """Registered name of a plain ResNet, timm's or ours, and the arguments it needs beside classes and channels."""
    if form.stock_name:
        return form.stock_name, {}
    known = {(18, 1, True): "resnet18_cifar", (18, 0.5, True): "resnet18_half_cifar"}
    if name := known.get((form.depth, form.width, form.small_images)):
        return name, {}
    return "resnet18_cifar", {key: asdict(form)[key] for key in ("depth", "width", "small_images")}


def _name_of(plain: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """The architecture that a network of plain layers is, and its arguments; None if none has a name."""
    kept = {key: value for key, value in plain._model_args.items() if key in _KEPT}
    for name, arguments in _candidates(plain):
        arguments = {**kept, **arguments}
        try:
            with torch.device("meta"):
                other = timm.create_model(name, num_classes=plain.num_classes, **arguments)
        except (ZooError, TypeError, ValueError, RuntimeError):  # no such network, or with no such argument
            continue
        if _is_same(plain, other, name):
            return name, arguments
    return None


def _candidates(plain: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    if base := plain._model_args.get("base"):  # of one that was transformed
        own = ("base", "base_args", "transform", "collapsed", "num_classes")
        others = {key: value for key, value in plain._model_args.items() if key not in own}
        yield base, {**plain._model_args.get("base_args", {}), **others}
        return
    if isinstance(plain, WideResNet):
        depth, width = 6 * len(plain.stages[0]) + 4, plain.num_features / 64
        if width.is_integer():
            name = f"wrn_{depth}_{int(width)}"
            yield (name, {}) if is_model(name) else ("wrn", {"depth": depth, "width": int(width)})
    elif isinstance(plain, ResNet):
        try:
            yield plain_resnet(resnet_form(plain))
        except ZooError:
            return
        yield "wide_resnet50_2", {}


def _is_same(plain: nn.Module, other: nn.Module, name: str) -> bool:
    """Whether two networks have the same tensors, layers and ways through them."""
    parts, others = (dict(network.named_modules()) for network in (plain, other))
    return (
        _shapes(plain) == _shapes(other)
        and all(getattr(type(plain), m, None) is getattr(type(other), m, None) for m in _METHODS)
        and all(type(parts[key]) is type(others[key]) for key in parts.keys() & others.keys() if key)
        and not first_difference(plain, other, name)
        and not first_difference(other, plain, name)
    )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}
