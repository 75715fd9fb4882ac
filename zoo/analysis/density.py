"""How many weights of each sparse layer are on, now and over a training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ZooError
from ..files import LARGEST_TEXT, is_file, read_file
from ..makers.base import made_tensors
from ..makers.masked import MaskedWeight

_LOGS = ("log.jsonl", "training_log.jsonl")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log of a training, one per epoch, out of the folder of a run or a weight; none if it has none.

    Raises:
        ZooError: If the log is damaged.
    """
    file = next((folder / name for name in _LOGS if is_file(folder / name)), None)
    if file is None:
        return []
    try:
        lines = [json.loads(line) for line in read_file(file, LARGEST_TEXT).splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(f"{file}: cannot be read as the log of a run ({error}).") from None
    return [line for line in lines if isinstance(line, dict) and "epoch" in line]


def layer_densities(model: nn.Module) -> list[dict[str, Any]]:
    """The layers with a mask, in the network's order: ``layer``, ``active`` weights of ``entries``, and ``density``.

    Where the mask is on what a kernel is made from, such as the learned part of a symmetric one or the templates of a
    bank, its entries are counted, not the kernel's.
    """
    found = []
    for name, layer, tensor in made_tensors(model):
        for maker in layer.parametrizations[tensor]:
            if isinstance(maker, MaskedWeight):
                active, entries = maker.active, maker.mask.numel() * maker.weights_per_entry
                found.append({"layer": name, "active": active, "entries": entries, "density": active / entries})
    return found


def density_history(
    log: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[float]] | list[int]]:
    """How the density of each layer moved in training.

    Args:
        log: Lines of a run, one per epoch; those of moving sparsity have ``sparse.active``, weights by layer.
        layers: As :func:`layer_densities` gives them.

    Returns:
        ``epochs`` with a record, from 1; ``density`` of each layer at them; ``moved``, the weights that the record
        says were moved at its last step. All empty if the log has no record of these layers.
    """
    entries = {facts["layer"]: facts["entries"] for facts in layers}
    told = [(line["epoch"], line["sparse"]) for line in log if "active" in line.get("sparse", {})]
    told = [(epoch, record) for epoch, record in told if entries and entries.keys() <= record["active"].keys()]
    return {
        "epochs": [epoch for epoch, _ in told],
        "density": {name: [r["active"][name] / of for _, r in told] for name, of in entries.items()} if told else {},
        "moved": [record.get("moved", 0) for _, record in told],
    }
