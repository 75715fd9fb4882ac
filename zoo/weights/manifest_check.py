"""Checks of the manifest: its schema in full where it is written and by ``zoo verify``, the necessary where it is read.

Reading must be fast and one damaged entry must not take the others along, so each entry is only looked through for what
every use of it relies on: fields, types, sha256s, and paths that stay inside their folder.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.catalog import DATASETS
from ..errors import WeightError
from ..extras import require
from .trusted import COMMIT, SHA256

_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_INSIDE = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[^\\\0]+")  # a relative path that does not lead out of its folder
_TEXT_OR_NONE = (str, type(None))
_ENTRY = {
    **dict.fromkeys(("family", "description", "keys", "licence", "licence_source", "origin"), str),
    "dataset": re.compile("|".join(DATASETS)),
    **dict.fromkeys(("origin_url", "recipe", "training_log"), _TEXT_OR_NONE),
    "num_classes": int,
    "preprocessing": {"input_size": [int], "mean": [float], "std": [float], "interpolation": str, "crop_pct": float},
    "sha256": SHA256,
    "size": int,
    "sources": [dict],
    "results": [
        {
            **dict.fromkeys(("dataset", "split", "date"), str),
            **dict.fromkeys(("n", "correct"), int),
            **dict.fromkeys(("top1", "top5"), float),
            "interval95": [float],
            "versions": dict,
        }
    ],
    "paper_result": (dict, type(None)),
    "params": dict.fromkeys(("stored", "unique", "nonzero", "inference"), int),
}
_FILE = {"path": _INSIDE, "sha256": SHA256, "size": int}
_OPTIONAL = {
    "packed": _FILE,
    "predictions": _FILE,
    "model_args": dict,
    "collapsed": {"path": (str, type(None))},
    "seeds": {"runs": [{"seed": int, "top1": float, "correct": int}], "mean": float, "std": float},
    "storage": {"dtype": str, "correct": dict},
    "paper_result": {"dataset": str, "top1": float, "note": str},
}
_SOURCES = {
    "staged": {"path": _INSIDE},
    "hub": {"repo": re.compile(r"[^/]+/[^/]+"), "revision": COMMIT, "file": _INSIDE},
    "release": {"url": str, "sha256": SHA256, "metadata": dict},
}


def check_manifest(content: Any, path: str | Path) -> None:
    """Check a manifest against ``manifest.schema.json``.

    Args:
        content: What its JSON holds.
        path: What the error calls it.

    Raises:
        WeightError: If it does not follow the schema; the message names the first place that is wrong.
        ZooError: If the package ``jsonschema`` is not installed.
    """
    jsonschema = require("jsonschema", "train")
    schema = json.loads(Path(__file__).with_name("manifest.schema.json").read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if error:
        raise WeightError(f"{path}: {error.json_path}: {' '.join(error.message.split())[-300:]}")


def problem_of_entry(name: str, entry: Any, papers: dict[str, Any], family_of: Mapping[str, str] | None = None) -> str:
    """What makes a weight's entry useless, in words; empty if nothing does.

    Args:
        name: ``arch.tag``.
        entry: Its value in the manifest's ``weights``.
        papers: The manifest's ``papers``.
        family_of: Family of every architecture there is; empty while they are being registered, or not to be checked.
    """
    if not _NAME.fullmatch(name):
        return "its name is not arch.tag"
    if problem := shape_problem(entry, _ENTRY, "it"):
        return problem
    arch, family = name.split(".")[0], entry["family"]
    if family_of and arch not in family_of:
        return f"no family here has a network {arch} (bring the module of its family {family!r} back, or take it out)"
    if family_of and family_of[arch] != family:
        return f"{arch} is of the family {family_of[arch]!r}, not {family!r}"
    paper = papers.get(family)
    if shape_problem(paper, {"title": str, "arxiv": _TEXT_OR_NONE}, "") or not (paper["arxiv"] or paper.get("doi")):
        return f"papers lacks its family {family!r}, or title, arxiv or doi of that"
    for key in _OPTIONAL.keys() & {key for key, value in entry.items() if key != "paper_result" or value}:
        if problem := shape_problem(entry[key], _OPTIONAL[key], key):
            return problem
    if "collapsed" in entry:
        shape = {"reason": str} if entry["collapsed"]["path"] is None else {**_FILE, "parameters": int}
        if problem := shape_problem(entry["collapsed"], shape, "collapsed"):
            return problem
    if any(len(result["interval95"]) != 2 for result in entry["results"]):
        return "interval95 has two ends"
    for result in entry["results"]:
        if problem := shape_problem(
            result, {key: float for key in ("nll", "calibration_error") if key in result}, "result"
        ):
            return problem
    for source in entry["sources"]:
        kind = source.get("kind")
        if not isinstance(kind, str) or kind not in _SOURCES:
            return f"a source has the unknown kind {str(kind)[:40]!r}"
        if problem := shape_problem(source, _SOURCES[kind], f"its {kind} source"):
            return problem
    return ""


def is_base(entry: Any) -> bool:
    """Whether an entry of the manifest's ``warm_starts`` has what its use relies on."""
    shape = {"revision": _TEXT_OR_NONE, "sha256": _TEXT_OR_NONE, "networks": dict}
    if shape_problem(entry, shape, "") or (entry["revision"] is None) != (entry["sha256"] is None):
        return False
    if entry["revision"] and not (COMMIT.fullmatch(entry["revision"]) and SHA256.fullmatch(entry["sha256"])):
        return False
    return all(not shape_problem(network, {"family": str, "kind": str}, "") for network in entry["networks"].values())


def shape_problem(value: Any, shape: Any, place: str) -> str:
    """Where a value has not the shape: a type, types, a pattern, a list of one shape, or a dict of shapes by key."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{place} is not an object"
        missing = next((key for key in shape if key not in value), None)
        if missing:
            return f"{place} lacks {missing!r}"
        return next(filter(None, (shape_problem(value[key], inner, key) for key, inner in shape.items())), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is not a list"
        return next(filter(None, (shape_problem(item, shape[0], place) for item in value)), "")
    if isinstance(shape, re.Pattern):
        fits = isinstance(value, str) and shape.fullmatch(value)
    else:
        kinds = (int, float) if shape is float else shape
        fits = isinstance(value, kinds) and not isinstance(value, bool)
    return "" if fits else f"{place} cannot be {str(value)[:60]!r}"


def problem_of_preparation(cfg: Mapping[str, Any]) -> str:
    """What is wrong with classes and preprocessing in a configuration that somebody wrote, in words; empty if nothing.

    Args:
        cfg: Some of timm's entries.
    """
    size, classes, crop = cfg.get("input_size", (3, 1, 1)), cfg.get("num_classes", 0), cfg.get("crop_pct", 1.0)
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(_whole(n) and 0 < n <= 1 << 16 for n in size)):
        return f"input_size cannot be {str(size)[:60]}"
    if not (_whole(classes) and 0 <= classes <= 1 << 24):
        return f"num_classes cannot be {str(classes)[:60]}"
    if not (_real(crop) and 0 < crop <= 2):
        return f"crop_pct cannot be {str(crop)[:60]}"
    for key in ("mean", "std"):
        values = cfg.get(key, ())
        if not (isinstance(values, list | tuple) and all(_real(v) and (key == "mean" or v > 0) for v in values)):
            return f"{key} cannot be {str(values)[:60]}"
    for key in ("interpolation", "crop_mode", "first_conv", "classifier", "tag"):
        if not isinstance(cfg.get(key, ""), str):
            return f"{key} cannot be {str(cfg[key])[:60]}"
    return ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))
