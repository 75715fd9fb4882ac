"""What the zoo says of an architecture or weight: facts from the manifest, counts as shipped or from the network."""

import json
from typing import TYPE_CHECKING, Any

from . import counted
from .files import is_file
from .names import check_name, family_of
from .own_folders import run_progress, run_recipe
from .weights.manifest import SAME_FUNCTION, hub_source, trained_by, warm_start_cfg, warm_starts, weights

if TYPE_CHECKING:
    from torch import nn


def model_overview(name: str) -> dict[str, Any]:
    """What is known of an architecture or weight without running it.

    Args:
        name: Architecture, or ``arch.tag``.

    Returns:
        ``name``, ``family``, ``params`` (what is stored), ``pretrained`` and ``warm_starts``; of a weight also its
        data set, accuracy, licence and file, and of a warm start what it begins with.

    Raises:
        UnknownNameError: If there is no such name.
    """
    arch = check_name(name).split(".", 1)[0]
    row: dict[str, Any] = {
        "name": name,
        "family": family_of(arch),
        "params": _stored(name),
        "pretrained": any(n.split(".", 1)[0] == arch for n in weights()),
        "warm_starts": [n for n in warm_starts() if n.split(".", 1)[0] == arch],
    }
    if name in warm_starts():
        row |= _describe_start(name)
    if name in weights():
        entry = weights()[name]
        measured = entry.get("results") or [{}]
        row |= {
            "params_nonzero": entry["params"]["nonzero"],
            "dataset": entry["dataset"],
            "top1": measured[0].get("top1"),
            "n": measured[0].get("n"),
            "nll": measured[0].get("nll"),
            "calibration_error": measured[0].get("calibration_error"),
            "paper_top1": (entry.get("paper_result") or {}).get("top1"),
            "trained_by": trained_by(entry),
            "licence": entry["licence"],
            "sha256": entry["sha256"],
            "size": entry["size"],
        }
    return row


def _stored(name: str) -> int:
    """How many parameters a network stores."""
    if name in weights():
        return weights()[name]["params"]["stored"]
    if name not in warm_starts() and (known := counted.network(name)):
        return known["params"]
    return built_params(name)


def built_params(name: str) -> int:
    """How many parameters a network stores, found by building it without memory."""
    import torch

    from .registry import create_model

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(name).parameters())


def _describe_start(name: str) -> dict[str, Any]:
    from .weights.warm_start import pin

    base = warm_starts()[name]["base"]
    known = pin(base)
    return {
        "starts_from": f"timm's {base}, {SAME_FUNCTION}",
        "licence": warm_start_cfg(name)["license"],
        "hub": hub_source(base, "main")["repo"],
        "revision": known and known.revision,
        "sha256": known and known.sha256,
        "fetch": f"zoo fetch {name}",
    }


def model_costs(name: str) -> dict[str, Any]:
    """What a network takes and costs, as it was counted, or found by running it once with random weights.

    Args:
        name: As :func:`model_overview`.

    Returns:
        ``input`` (channels x height x width), ``classes``, ``macs`` (multiply-adds of one image), ``params_inference``
        (parameters when collapsed); of a sparse network ``active`` weights, ``density`` and ``nominal_sparsity``.

    Raises:
        UnknownNameError: If there is no such name.
    """
    if name in weights():
        known = counted.weight_costs(name, weights()[name])
    else:
        known = None if name in warm_starts() else counted.network(check_name(name))
    if known:
        return {key: known[key] for key in COSTS if key in known}
    return built_costs(name)


COSTS = ("input", "classes", "macs", "params_inference", "active", "density", "nominal_sparsity")
"""What :func:`model_costs` tells."""


def built_costs(name: str) -> dict[str, Any]:
    """:func:`model_costs` of the network itself."""
    from .registry import create_model

    return _costs(create_model(name).eval())


def own_overview(word: str, checkpoint: str | None = None) -> dict[str, Any]:
    """What is known of a network in a folder of the user's own, or in a file.

    Args:
        word: As :func:`zoo.named.load_named`, like the next.
        checkpoint: A file with the weights.

    Returns:
        ``name``, ``architecture``, ``params`` and ``params_nonzero``, what :func:`model_costs` gives, ``dataset`` and
        ``sha256``; of a run also ``epochs`` (finished, of how many), its ``recipe`` and the log's last line, ``last``.

    Raises:
        ZooError: As :func:`zoo.named.load_named`.
    """
    from .named import load_named
    from .reparam import count_parameters

    found = load_named(word, checkpoint)
    row: dict[str, Any] = {"name": checkpoint or word, "architecture": found.name.split(".", 1)[0]}
    counts = count_parameters(found.model)
    row |= {"params": counts["stored"], "params_nonzero": counts["nonzero"], **_costs(found.model)}
    row |= {"dataset": found.dataset or "not said", "sha256": found.sha256}
    row |= {"notes": list(found.notes)} if found.notes else {}
    if found.folder and is_file(found.folder / "checkpoint.pt"):
        done, epochs = run_progress(found.folder)
        log = (found.folder / "log.jsonl").read_text(encoding="utf-8").splitlines() if done else []
        row |= {"epochs": f"{done} of {epochs}", "last": json.loads(log[-1]) if log else None}
        row["recipe"] = run_recipe(found.folder)
    return row


def _costs(model: "nn.Module") -> dict[str, Any]:
    from .reparam import count_parameters, density_report
    from .reparam.counts import count_macs

    size = tuple(model.pretrained_cfg["input_size"])
    row = {"input": "x".join(map(str, size)), "classes": model.num_classes, "macs": count_macs(model, size)}
    row["params_inference"] = count_parameters(model)["inference"]
    if hasattr(model, "sparse_layers") and model.sparse_layers():
        report = density_report(model)
        row |= {"active": report.active, "density": round(report.density, 4)}
        row |= {"nominal_sparsity": report.nominal_sparsity}
    return row
