"""``zoo list`` and ``zoo info``."""

import argparse
import json
import sys
from typing import Any

import torch
from tqdm import tqdm

from ..counting import count_macs
from ..density import density_report
from ..evaluation.results import table
from ..registry import check_name, create_model, family_of, list_models
from ..reparam import count_parameters
from ..weights.manifest import SAME_FUNCTION, facts, hub_source, warm_start_cfg, warm_starts, weights
from ..weights.warm_start import pin


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    listing = commands.add_parser("list", help="list architectures or weights")
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern over the names, such as 'lrunet*'")
    listing.add_argument("--pretrained", action="store_true", help="one line per weight (arch.tag)")
    listing.add_argument("--json", action="store_true", help="a list of objects on standard output")
    listing.set_defaults(run=_list)
    info = commands.add_parser("info", help="all that is known of an architecture or weight")
    info.add_argument("name")
    info.add_argument("--json", action="store_true", help="one object on standard output")
    info.set_defaults(run=_info)


def describe(name: str) -> dict[str, Any]:
    """Name, family, parameters, whether there are weights; more of a weight, and what a warm start begins with."""
    arch = name.split(".", 1)[0]
    with torch.device("meta"):
        model = create_model(name)
    row: dict[str, Any] = {
        "name": name,
        "family": family_of(arch),
        "params": sum(p.numel() for p in model.parameters()),
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
            "paper_top1": (entry.get("paper_result") or {}).get("top1"),
            "licence": entry["licence"],
            "sha256": entry["sha256"],
            "size": entry["size"],
        }
    return row


def _describe_start(name: str) -> dict[str, Any]:
    base = warm_starts()[name]["base"]
    known = pin(base)
    return {
        "starts_from": f"timm's {base}, {SAME_FUNCTION}",
        "licence": warm_start_cfg(name)["license"],
        "hub": hub_source(base, "main")["repo"],
        "revision": known and known.revision,
        "sha256": known and known.sha256,
        "fetch": f"zoo fetch {name}" if known else f"zoo fetch {name} --revision COMMIT --sha256 HEX (needed once)",
    }


def structure(name: str) -> dict[str, Any]:
    """What a network takes and costs: input, multiply-adds, parameters when collapsed, true density if it is sparse."""
    model = create_model(name).eval()
    size = tuple(model.pretrained_cfg["input_size"])
    row = {"input": "x".join(map(str, size)), "classes": model.num_classes, "macs": count_macs(model, size)}
    row["params_inference"] = count_parameters(model)["inference"]
    if hasattr(model, "sparse_layers") and model.sparse_layers():
        report = density_report(model)
        row |= {"active": report.active, "density": round(report.density, 4)}
        row |= {"nominal_sparsity": report.nominal_sparsity}
    return row


def _list(options: argparse.Namespace) -> None:
    names = list_models(options.pattern, options.pretrained)
    rows = [describe(name) for name in tqdm(names, delay=2, disable=None, leave=False, file=sys.stderr)]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.pretrained:
        keys = ("name", "family", "params", "params_nonzero", "dataset", "top1", "licence")
        cells = [[_percent(r[key]) if key == "top1" else _number(r[key]) for key in keys] for r in rows]
        print(table(cells, ["name", "family", "params", "not zero", "data set", "top-1 %", "licence"]))
    else:
        cells = [[r["name"], r["family"], f"{r['params']:,}", _pretrained(r)] for r in rows]
        print(table(cells, ["name", "family", "params", "pretrained"]))


def _pretrained(row: dict[str, Any]) -> str:
    return "yes" if row["pretrained"] else "warm start" if row["warm_starts"] else ""


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _info(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    row = describe(name) | structure(name)
    if name == name.split(".", 1)[0]:
        row["weights"] = [n for n in weights() if n.split(".", 1)[0] == name]
    else:
        del row["warm_starts"]
    if name in weights():
        row["facts"] = facts(name)
    if options.json:
        print(json.dumps(row, indent=2))
        return
    for key, value in row.items():
        if key == "facts":
            print(json.dumps(value, indent=2))
        else:
            print(f"{key:18} {', '.join(value) if isinstance(value, list) else _number(value)}")
