"""What the gallery says of a weight: one record of plain values each, from the manifest and measured files alone.

A figure that nobody measured is None; nothing is estimated. A measured file may speak of another file under the same
name, such as one that was trained again since: its figures count only where it says that they are of these bytes.
"""

import json
from typing import Any

from ..overview import model_costs
from ..weights.fetch import staged_file
from ..weights.manifest import paper_of, paper_url, trained_by, weights
from .measured import read_measured

ENGINES = {"collapsed": "PyTorch", "collapsed, onnxruntime": "ONNX Runtime", "collapsed, openvino": "OpenVINO"}
"""Runs of a collapsed network in ``benchmarks.json``, with the titles of their engines."""

REFERENCE = "resnet18"
"""Times are over those of timm's network of this name, for images of the same size in the same round."""


def all_facts(names: list[str]) -> list[dict[str, Any]]:
    """The records of some weights, in their order.

    Args:
        names: ``arch.tag`` of each.

    Raises:
        ZooError: If a measured file is damaged.
    """
    benchmarks = {row["name"]: row for row in read_measured("benchmarks.json").get("weights", [])}
    int8 = read_measured("deploy.json").get("int8", {})
    corruptions = read_measured("corruptions.csv")
    return [_facts(name, benchmarks.get(name), int8.get(name, {}), corruptions) for name in names]


def _facts(
    name: str, benchmark: dict[str, Any] | None, int8: dict[str, Any], corruptions: list[dict[str, str]]
) -> dict[str, Any]:
    entry, (arch, _, tag) = weights()[name], name.partition(".")
    result = next(iter(entry["results"]), None)
    collapsed = entry.get("collapsed") or {}
    if benchmark and benchmark["bytes"]["stored"] != entry["size"]:
        benchmark = None
    paper = entry.get("paper_result")
    against = round(result["top1"] - paper["top1"], 2) if result and paper else None
    costs = model_costs(name)
    return {
        "name": name,
        "architecture": arch,
        "tag": tag,
        "family": entry["family"],
        "dataset": entry["dataset"],
        "description": entry["description"],
        "remark": entry.get("remark"),
        "input": entry["preprocessing"]["input_size"],
        "preprocessing": entry["preprocessing"],
        "classes": entry["num_classes"],
        "params": entry["params"],
        "bytes": {
            "stored": entry["size"],
            "packed": (entry.get("packed") or {}).get("size"),
            "smallest": (entry.get("packed") or entry)["size"],
            "collapsed": collapsed.get("size"),
        },
        "dtype": (entry.get("storage") or {}).get("dtype", "float32"),
        "collapsed": collapsed or None,
        "macs": {
            "stored": costs["macs"],
            "inference": benchmark["macs"]["collapsed"] if benchmark else None,
        },
        "density": costs.get("density"),
        "latency": _latency(benchmark),
        "accuracy": result,
        "paper": paper,
        "against_paper": against,
        "nll": result.get("nll") if result else None,
        "calibration_error": result.get("calibration_error") if result else None,
        "corruptions": _corruptions(entry, corruptions),
        "int8": _int8(result, int8),
        "seeds": entry.get("seeds"),
        "twins": [twin for twin in entry.get("twins", []) if twin in weights()],
        "epochs": entry.get("epochs"),
        "recipe": entry["recipe"],
        "licence": entry["licence"],
        "licence_source": entry["licence_source"],
        "trained_by": trained_by(entry),
        "origin_url": _address(entry["origin_url"]),
        "published_paper": {"title": paper_of(entry)["title"], "url": paper_url(entry)},
        "sources": [_source(source) for source in entry["sources"]],
        "here": bool(staged_file(name, entry) or ("packed" in entry and staged_file(name, entry, "packed"))),
        "sha256": entry["sha256"],
    }


def _latency(benchmark: dict[str, Any] | None) -> dict[str, dict[str, list[float]]] | None:
    """By engine and by images at once the median, lowest and highest time over that of :data:`REFERENCE`."""
    if not benchmark:
        return None
    runs = {str(times["batch"]): times[f"over {REFERENCE}"] for times in benchmark["times"]}
    return {
        title: {batch: found[run] for batch, found in runs.items() if run in found}
        for run, title in ENGINES.items()
        if any(run in found for found in runs.values())
    }


def _corruptions(entry: dict[str, Any], rows: list[dict[str, str]]) -> dict[str, Any] | None:
    """Accuracy on corrupted images of the weight, or else of its collapsed form: of each corruption, and their mean."""
    rows = [row for row in rows if row["dataset"] == entry["dataset"]]
    own = [row for row in rows if row["sha256"] == entry["sha256"]]
    own = own or [row for row in rows if row["sha256"] == (entry.get("collapsed") or {}).get("sha256")]
    corrupted = [(json.loads(row["corruption"]), row) for row in own if row["corruption"] not in ("", "{}")]
    if not corrupted:
        return None
    clean = next((float(row["top1"]) for row in own if row["corruption"] in ("", "{}")), None)
    kind, first = corrupted[0]
    return {
        "mean": round(sum(float(row["top1"]) for _, row in corrupted) / len(corrupted), 2),
        "clean": clean,
        "n": int(first["n"]),
        "of": int(first["of"]),
        "made": kind["made"],
        "by": [{"name": k["name"], "severity": k["severity"], "top1": float(row["top1"])} for k, row in corrupted],
    }


def _int8(result: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """What quantizing to 8 bits makes of it, by engine, if it was measured against this weight's own predictions."""
    if not result:
        return {}
    return {
        {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(engine, engine): row
        for engine, row in found.items()
        if (row["both"] + row["only_first"], row["n"]) == (result["correct"], result["n"])
    }


def _address(url: str | None) -> str | None:
    """An address that a page may link to: no script."""
    return url if url and url.lower().startswith(("https://", "http://")) else None


def _source(source: dict[str, Any]) -> dict[str, Any]:
    """Where the weight is had from, in words and as an address."""
    if source["kind"] == "hub":
        page = f"https://huggingface.co/{source['repo']}"
        return {"kind": "hub", "title": f"Hub, {source['repo']}", "url": page}
    if source["kind"] == "release":
        return {"kind": "release", "title": "the authors' release", "url": _address(source["url"])}
    return {"kind": "staged", "title": "in the package" if source.get("embedded") else "staged", "url": None}
