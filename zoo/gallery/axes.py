"""The figures that a plot may have along its axes."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """A figure of a weight.

    Attributes:
        key: Its name in addresses.
        title: What it is.
        better: ``less`` or ``more``.
        log: Whether its axis is logarithmic.
        places: Where it stands in a record of :func:`zoo.gallery.facts.all_facts`.
        published: The figure of other zoos in ``published_cifar10.json`` that is the same of their plain networks.
    """

    key: str
    title: str
    better: str
    log: bool
    places: tuple[str, ...]
    published: str = ""


AXES = (
    Axis("nonzero", "parameters that are not zero", "less", True, ("params", "nonzero"), "parameters"),
    Axis("stored", "parameters stored", "less", True, ("params", "stored"), "parameters"),
    Axis("inference", "parameters at inference", "less", True, ("params", "inference"), "parameters"),
    Axis("bytes", "bytes of the file", "less", True, ("bytes", "stored")),
    Axis("packed", "bytes of the file, packed where it can be", "less", True, ("bytes", "smallest")),
    Axis("collapsed", "bytes of the collapsed file", "less", True, ("bytes", "collapsed")),
    Axis("macs", "multiply-adds of an image, as stored", "less", True, ("macs", "stored"), "macs"),
    Axis("torch", "time of one image in PyTorch, over ResNet-18's", "less", True, ("latency", "PyTorch", "1", "0")),
    Axis("onnx", "time of one image in ONNX Runtime", "less", True, ("latency", "ONNX Runtime", "1", "0")),
    Axis("openvino", "time of one image in OpenVINO", "less", True, ("latency", "OpenVINO", "1", "0")),
    Axis("top1", "top-1 accuracy, %", "more", False, ("accuracy", "top1"), "top1"),
    Axis("nll", "negative log-likelihood", "less", False, ("nll",)),
    Axis("ece", "calibration error, %", "less", False, ("calibration_error",)),
    Axis("corrupted", "top-1 on corrupted images, %", "more", False, ("corruptions", "mean")),
)


def value_of(record: dict[str, Any], axis: Axis) -> float | None:
    """A weight's figure; None where nobody measured it."""
    value: Any = record
    for place in axis.places:
        if value is None:
            return None
        value = value[int(place)] if isinstance(value, list) else value.get(place)
    return value


def plotted(records: list[dict[str, Any]], published: dict[str, Any]) -> dict[str, Any]:
    """What the plot's script draws: ``axes``, ``weights`` and the ``published`` figures of other zoos."""
    return {
        "axes": [{k: v for k, v in asdict(axis).items() if k != "places"} for axis in AXES],
        "weights": [
            {
                **{key: record[key] for key in ("name", "family", "dataset", "trained_by")},
                "interval": record["accuracy"]["interval95"] if record["accuracy"] else None,
                "values": {axis.key: value_of(record, axis) for axis in AXES},
            }
            for record in records
        ],
        "published": [
            {
                "name": figure["name"],
                "dataset": "cifar10",
                "source": published["sources"][figure["source"]]["title"],
                "values": {axis.key: figure[axis.published] for axis in AXES if axis.published},
            }
            for figure in published.get("figures", [])
        ],
    }
