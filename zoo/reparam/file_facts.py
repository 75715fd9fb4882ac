"""What an exported file says of its network: how images are prepared, its classes, and whose weight it has."""

import json
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from ..data.catalog import get_dataset
from ..errors import ZooError
from ..extras import DISTRIBUTION
from ..version import __version__
from ..weights.audit import audit
from ..weights.manifest import weights
from .collapsed import load_collapsed
from .described import origin_of


def file_facts(model: nn.Module, inputs: Tensor, name: str = "", dataset: str = "", sha256: str = "") -> dict[str, str]:
    """Facts for a file's metadata; what is not known of a network is left out.

    Licence and sha256 are told only of a network that has a published weight's very tensors: one that was trained on
    keeps the configuration of the weight it began with, but is another. So are class names that come from there.

    Args:
        model: The network before it is collapsed; its ``pretrained_cfg``, if it has one, says how images are prepared.
        inputs: What the file is made with, (batch, channels, height, width).
        name: What it is called; ``arch.tag`` of a weight only counts if it has that weight.
        dataset: What it was trained on, if that is known; it gives the class names.
        sha256: Of the file that its tensors were read from, if it is the user's own.

    Returns:
        ``producer``, ``name``, ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``class_names``,
        ``weight``, ``weight_sha256``, ``licence`` and ``source_sha256``, as far as they are known; lists as JSON.
    """
    cfg, weight = _cfg(model), weight_of(model, name)
    facts: dict[str, Any] = {"producer": f"{DISTRIBUTION} {__version__}", "input_size": list(inputs.shape[1:])}
    facts |= {"name": name} if name and not (weight != name and name in weights()) else {}
    if inputs.dim() == 4 and len(cfg.get("mean") or ()) == inputs.shape[1]:
        known = {key: cfg.get(key) for key in ("mean", "std", "interpolation", "crop_pct")}
        facts |= {key: list(value) if isinstance(value, tuple) else value for key, value in known.items() if value}
    facts |= {"class_names": names} if (names := _class_names(model, cfg, weight, dataset)) else {}
    if weight:
        entry = weights()[weight]
        facts |= {"weight": weight, "weight_sha256": entry["sha256"], "licence": entry["licence"]}
    elif sha256:
        facts["source_sha256"] = sha256
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def weight_of(model: nn.Module, name: str = "") -> str:
    """``arch.tag`` of the published weight whose tensors a network has, all of them; empty if it has none's.

    It is compared with verified files that are here, or their collapsed forms; nothing is downloaded.

    Args:
        model: The network.
        name: A weight that it may have, beside the one that its configuration names.
    """
    cfg = _cfg(model)
    for candidate in dict.fromkeys((name, origin_of(cfg))):
        for copy in audit([candidate]) if candidate in weights() else ():
            forms = ({"batch_norm": "fold"}, {"batch_norm": "keep"}) if copy.where.endswith("collapsed") else ({},)
            try:
                load = load_collapsed if copy.where.endswith("collapsed") else _load
                networks = (load(candidate, **form) for form in forms if not copy.problem)
                if any(_same(model.state_dict(), network.state_dict()) for network in networks):
                    return candidate
            except ZooError:  # the file that would be loaded is not the one that was found
                continue
    return ""


def _load(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=True)


def _cfg(model: nn.Module) -> dict[str, Any]:
    cfg = getattr(model, "pretrained_cfg", None)
    return dict(cfg) if isinstance(cfg, Mapping) else {}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    shapes = [{key: tensor.shape for key, tensor in state.items()} for state in (one, other)]
    return shapes[0] == shapes[1] and all(torch.equal(one[key].cpu().double(), other[key].double()) for key in one)


def _class_names(model: nn.Module, cfg: dict[str, Any], weight: str, dataset: str) -> list[str]:
    """In label order: of the data set, or what the user's own configuration says; empty if it is not known."""
    names = list(cfg.get("label_names") or ())
    if dataset := weights()[weight]["dataset"] if weight else dataset:
        names = list(get_dataset(dataset).classes)
    else:
        registered = get_arch_pretrained_cfgs(cfg.get("architecture") or "")
        if any(names == list(known.label_names or ()) for known in registered.values()):
            names = []
    return names if len(names) == getattr(model, "num_classes", None) else []
