"""A bill of materials for weights, in CycloneDX 1.6: what each one is, whose, under which licence and made from what.

All of it follows from the manifest, so the same weights and the same package give the same bytes, on any machine.
"""

import json
import uuid
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from ..data.catalog import get_dataset
from ..extras import DISTRIBUTION
from ..version import __version__
from .manifest import facts, full_name, paper_of, paper_url, source, trained_by

SPDX = ("Apache-2.0", "MIT")
"""The licences of the manifest and the catalogue that SPDX has under this very name; others are given in words."""

_PREFIX = f"{DISTRIBUTION}:"


def bill_of_materials(names: Iterable[str]) -> dict[str, Any]:
    """The bill of materials of some weights, as CycloneDX writes it in JSON.

    Args:
        names: ``arch.tag`` of each.

    Raises:
        UnknownNameError: If there is no such weight.
    """
    names = sorted({full_name(name) for name in names})
    datasets = sorted({facts(name)["dataset"] for name in names})
    bom: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": DISTRIBUTION, "version": __version__}]},
            "component": {"type": "data", "bom-ref": "weights", "name": f"Weights of {DISTRIBUTION}"},
        },
        "components": [*map(_weight, names), *map(_dataset, datasets)],
        "dependencies": [
            {"ref": "weights", "dependsOn": names},
            *({"ref": name, "dependsOn": [_data_ref(facts(name)["dataset"])]} for name in names),
            *({"ref": _data_ref(name)} for name in datasets),
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))  # of the content: equal bills, one number
    return {**bom, "serialNumber": f"urn:uuid:{number}"}


def _weight(name: str) -> dict[str, Any]:
    entry, arch = facts(name), name.split(".", 1)[0]
    hub, release = source(entry, "hub"), source(entry, "release")
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": name,
        "authors": [{"name": trained_by(entry)}],
        "name": name,
        "version": entry["sha256"][:16],
        "description": entry["description"],
        "hashes": _hashes(entry["sha256"]),
        "licenses": _licences(entry["licence"]),
        "externalReferences": _references(entry, hub, release),
        "components": [
            _file(f"{name}/{form['path']}", form)
            for form in (
                {**entry, "path": "model.safetensors"},
                *map(entry.get, ("collapsed", "packed", "predictions")),
            )
            if form and form["path"]
        ],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image-classification",
                "architectureFamily": f"convolutional neural network, {entry['family']}",
                "modelArchitecture": arch,
                "datasets": [{"ref": _data_ref(entry["dataset"])}],
                "inputs": [{"format": f"image {'x'.join(map(str, entry['preprocessing']['input_size']))}"}],
                "outputs": [{"format": f"scores of {entry['num_classes']} classes"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [m for r in entry["results"] for m in _metrics(r)]},
        },
        "properties": _properties(
            {
                "licence-source": entry["licence_source"],
                "recipe": entry["recipe"],
                "recipe-command": f"zoo train {entry['recipe']}" if entry["recipe"] else None,
                "epochs": entry.get("epochs"),
                "training-log": entry["training_log"],
                "published-top1": (entry["paper_result"] or {}).get("top1"),
                "remark": entry.get("remark"),
                "storage": (entry.get("storage") or {}).get("dtype"),
                **{f"parameters-{kind}": count for kind, count in entry["params"].items()},
            }
        ),
    }
    if release:
        component["pedigree"] = {
            "ancestors": [_released(release)],
            "notes": "converted to safetensors, tensor by tensor",
        }
    if hub:
        component["purl"] = f"pkg:huggingface/{quote(hub['repo'])}@{hub['revision']}"
    return component


def _references(
    entry: dict[str, Any], hub: dict[str, Any] | None, release: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Where a weight is had, its paper, and whose it is."""
    found = [{"type": "documentation", "url": paper_url(entry), "comment": paper_of(entry)["title"]}]
    if hub:
        url = f"https://huggingface.co/{quote(hub['repo'])}/resolve/{hub['revision']}/{quote(hub['file'])}"
        found.append({"type": "distribution", "url": url, "hashes": _hashes(entry["sha256"])})
    if release:
        found.append({"type": "source-distribution", "url": release["url"], "hashes": _hashes(release["sha256"])})
    if entry["origin_url"]:
        found.append({"type": "website", "url": entry["origin_url"], "comment": "its authors"})
    return found


def _released(release: dict[str, Any]) -> dict[str, Any]:
    """The authors' file that a weight is converted from."""
    name = PurePosixPath(urlsplit(release["url"]).path).name or release["format"]
    return {"type": "file", "name": name, "hashes": _hashes(release["sha256"])}


def _metrics(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured on a test set."""
    slice_ = f"{result['dataset']} {result['split']}, {result['n']} images, {result['date']}"
    low, high = map(str, result["interval95"])
    first = {"type": "top-1 accuracy, %", "value": str(result["top1"]), "slice": slice_}
    first["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    others = {
        "top-5 accuracy, %": "top5",
        "negative log-likelihood": "nll",
        "calibration error, %": "calibration_error",
    }
    rest = [{"type": t, "value": str(result[k]), "slice": slice_} for t, k in others.items() if k in result]
    return [first, *rest]


def _file(ref: str, form: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": ref,
        "name": PurePosixPath(ref).name,
        "hashes": _hashes(form["sha256"]),
        "properties": _properties({"bytes": form["size"]}),
    }


def _dataset(name: str) -> dict[str, Any]:
    data = get_dataset(name)
    return {
        "type": "data",
        "bom-ref": _data_ref(name),
        "name": name,
        "licenses": _licences(data.licence),
        "data": [{"type": "dataset", "name": name}],
    }


def _data_ref(name: str) -> str:
    return f"data:{name}"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _licences(licence: str) -> list[dict[str, Any]]:
    return [{"license": {"id" if licence in SPDX else "name": licence}}]


def _properties(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"name": _PREFIX + key, "value": str(value)} for key, value in values.items() if value is not None]
