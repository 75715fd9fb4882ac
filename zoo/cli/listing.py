"""``zoo list`` and ``zoo info``."""

import argparse
import json
import re
import sys
from typing import Any

from .. import plugins
from ..data.catalog import get_dataset
from ..errors import UnknownNameError, ZooError
from ..names import architectures, describe_entry, list_models
from ..overview import model_costs, model_overview, own_overview
from ..own_folders import own_folder
from ..suggest import did_you_mean
from ..tables import table
from ..weights.manifest import facts, problems, weights
from .evaluate import CHECKPOINT

SORTS = ("name", "family", "params", "macs", "dataset", "top1", "bytes")
"""What ``zoo list --sort`` takes; the last three are facts of weights."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    listing = commands.add_parser("list", help="list architectures or weights")
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern over the names, such as 'lrunet*'")
    listing.add_argument("--pretrained", action="store_true", help="one line per weight (arch.tag)")
    listing.add_argument("--family", metavar="NAME", help="of this family only")
    listing.add_argument("--dataset", metavar="NAME", help="weights trained on this data set only")
    listing.add_argument(
        "--max-params", metavar="N", help="that store at most so many parameters (zeros too), such as 500k"
    )
    listing.add_argument("--min-top1", metavar="PERCENT", help="weights that were measured at this or better only")
    listing.add_argument(
        "--sort",
        metavar="KEY",
        default="name",
        help=f"{', '.join(SORTS)}: top1 from the best, all others from the smallest; the last three list weights",
    )
    listing.add_argument("--json", action="store_true", help="a list of objects on standard output")
    listing.set_defaults(run=_list)
    info = commands.add_parser("info", help="all that is known of an architecture or weight")
    info.add_argument("name", help="an architecture, a weight, or a folder as zoo validate takes it")
    info.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    info.add_argument("--json", action="store_true", help="one object on standard output")
    info.set_defaults(run=_info)


def _list(options: argparse.Namespace) -> None:
    if options.sort not in SORTS:
        raise UnknownNameError(f"--sort {options.sort}: sort by {', '.join(SORTS)}.")
    families = sorted({*architectures().values()})
    if options.family is not None and options.family not in families:
        raise UnknownNameError(f"--family {options.family}: there are {', '.join(families)}.")
    dataset = None if options.dataset is None else get_dataset(options.dataset).name
    most, least = _number_of("--max-params", options.max_params), _number_of("--min-top1", options.min_top1)
    # what only weights have lists weights
    pretrained = options.pretrained or dataset or least is not None or options.sort in SORTS[-3:]
    names = list_models(options.pattern, pretrained)
    if not names:
        what, where = ("weight", "zoo list --pretrained") if pretrained else ("architecture", "zoo list")
        hint = did_you_mean(options.pattern, list_models(pretrained=pretrained), f"See: {where}")
        raise UnknownNameError(f"No {what} matches {options.pattern!r}. {hint}")
    rows = [
        row
        for row in map(model_overview, names)
        if (options.family in (None, row["family"]) and dataset in (None, row.get("dataset")))
        and (most is None or row["params"] <= most)
        and (least is None or (row["top1"] is not None and row["top1"] >= least))
    ]
    rows.sort(key=lambda row: _place(row, options.sort))
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print(f"zoo: none of {len(names)} {'weights' if pretrained else 'architectures'} is like that", file=sys.stderr)
    elif pretrained:
        keys = ("name", "family", "params", "params_nonzero", "dataset", "top1", "licence")
        cells = [[_percent(r[key]) if key == "top1" else _number(r[key]) for key in keys] for r in rows]
        print(table(cells, ["name", "family", "params", "not zero", "data set", "top-1 %", "licence"]))
    else:
        cells = [[r["name"], r["family"], f"{r['params']:,}", _pretrained(r)] for r in rows]
        print(table(cells, ["name", "family", "params", "pretrained"]))
    for problem in problems().values():
        print(f"zoo: {problem}", file=sys.stderr)
    if plugins.found(plugins.TRANSFORMS):
        from ..transforms import kinds

        kinds()  # says which cannot be loaded


def _place(row: dict[str, Any], key: str) -> tuple[Any, ...]:
    """Where a row stands: by its value, the unknown ones last, then by name."""
    value = model_costs(row["name"])["macs"] if key == "macs" else row["size" if key == "bytes" else key]
    return value is None, (-value if key == "top1" else value) if value is not None else 0, row["name"]


def _number_of(option: str, word: str | None) -> float | None:
    """The number in a word such as ``90.5``, ``250_000``, ``500k`` or ``1.5M``."""
    match = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([kKmMgGbB]?)", word or "")
    if word is not None and not match:
        raise ZooError(f"{option} {word}: a number is needed, such as 90.5, 500k (thousand), 1.5M or 1G.")
    return None if word is None else float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}.get(match[2].lower(), 1e9)


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
        row = model_overview(name) | model_costs(name) | {"description": describe_entry(name)}
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
