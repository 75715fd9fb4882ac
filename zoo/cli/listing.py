"""``zoo list`` and ``zoo info``."""

import argparse
import json
import sys
from typing import Any

from tqdm import tqdm

from ..errors import UnknownNameError
from ..evaluation.results import table
from ..named import own_folder
from ..overview import model_costs, model_overview, own_overview
from ..registry import list_models
from ..suggest import did_you_mean
from ..weights.manifest import facts, problems, weights
from .evaluate import CHECKPOINT


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    listing = commands.add_parser("list", help="list architectures or weights")
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern over the names, such as 'lrunet*'")
    listing.add_argument("--pretrained", action="store_true", help="one line per weight (arch.tag)")
    listing.add_argument("--json", action="store_true", help="a list of objects on standard output")
    listing.set_defaults(run=_list)
    info = commands.add_parser("info", help="all that is known of an architecture or weight")
    info.add_argument("name", help="an architecture, a weight, or a folder as zoo validate takes it")
    info.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    info.add_argument("--json", action="store_true", help="one object on standard output")
    info.set_defaults(run=_info)


def _list(options: argparse.Namespace) -> None:
    names = list_models(options.pattern, options.pretrained)
    if not names:
        what, where = ("weight", "zoo list --pretrained") if options.pretrained else ("architecture", "zoo list")
        hint = did_you_mean(options.pattern, list_models(pretrained=options.pretrained), f"See: {where}")
        raise UnknownNameError(f"No {what} matches {options.pattern!r}. {hint}")
    rows = [model_overview(name) for name in tqdm(names, delay=2, disable=None, leave=False, file=sys.stderr)]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.pretrained:
        keys = ("name", "family", "params", "params_nonzero", "dataset", "top1", "licence")
        cells = [[_percent(r[key]) if key == "top1" else _number(r[key]) for key in keys] for r in rows]
        print(table(cells, ["name", "family", "params", "not zero", "data set", "top-1 %", "licence"]))
    else:
        cells = [[r["name"], r["family"], f"{r['params']:,}", _pretrained(r)] for r in rows]
        print(table(cells, ["name", "family", "params", "pretrained"]))
    for problem in problems().values():
        print(f"zoo: {problem}", file=sys.stderr)


def _pretrained(row: dict[str, Any]) -> str:
    return "yes" if row["pretrained"] else "warm start" if row["warm_starts"] else ""


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _info(options: argparse.Namespace) -> None:
    name = options.name
    if options.checkpoint or own_folder(name):
        row = own_overview(name, options.checkpoint)
    else:
        row = model_overview(name) | model_costs(name)
        if "." in name:
            del row["warm_starts"]
        else:
            row["weights"] = [n for n in weights() if n.split(".", 1)[0] == name]
        if name in weights():
            row["facts"] = facts(name)
    if options.json:
        print(json.dumps(row, indent=2))
        return
    for key, value in row.items():
        if isinstance(value, dict):
            print(json.dumps(value, indent=2))
        else:
            print(f"{key:18} {', '.join(value) if isinstance(value, list) else _number(value)}")
