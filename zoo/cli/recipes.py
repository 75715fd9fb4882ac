"""``zoo recipes``."""

import argparse
import fnmatch
import json
from typing import Any

from ..errors import UnknownNameError
from ..evaluation.results import table
from ..extras import require

HEADER = ["recipe", "data set", "epochs", "method", "paper, top-1 % or perplexity"]


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("recipes", help="list the recipes that ship with the package, or show one")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern over the names, such as 'swrn*_c10'")
    parser.add_argument("--show", action="store_true", help="print the recipes whole, with what their bases give")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_recipes)


def describe(name: str) -> dict[str, Any]:
    """Name, values as a run gets them, and what the paper says of this setting."""
    from ..training.comparison import published_of
    from ..training.recipe import read_recipe

    return {"name": name, "recipe": read_recipe(name)[1], "published": published_of(name) or None}


def row(entry: dict[str, Any]) -> list[str]:
    """The cells of one line of the table."""
    values, published = entry["recipe"], entry["published"]
    figure = ""
    if published:
        measured = next((published[key] for key in ("top1", "perplexity") if key in published), None)
        figure = "published setting" if measured is None else f"{measured:.2f}"
        if "std" in published:
            figure += f" ± {published['std']}"
    method = values.get("task") or values.get("method", "")
    return [entry["name"], values["dataset"], str(values.get("epochs", "")), method, figure]


def _recipes(options: argparse.Namespace) -> None:
    from ..training.recipe import recipe_names

    names = fnmatch.filter(recipe_names(), options.pattern)
    if not names:
        raise UnknownNameError(f"No recipe matches {options.pattern!r}. See: zoo recipes")
    entries = [describe(name) for name in names]
    if options.json:
        print(json.dumps(entries, indent=2))
    elif options.show:
        yaml = require("yaml", "train")
        for entry in entries:
            print(f"# {entry['name']}\n{yaml.safe_dump(entry['recipe'], sort_keys=False, width=110)}")
    else:
        print(table([row(entry) for entry in entries], HEADER))
