"""``zoo recipes``."""

import argparse
import fnmatch
import json

from ..errors import UnknownNameError
from ..extras import require
from ..suggest import did_you_mean
from ..tables import table


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("recipes", help="list the recipes that ship with the package, or show one")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern over the names, such as 'swrn*_c10'")
    parser.add_argument("--show", action="store_true", help="print the recipes whole, with what their bases give")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_recipes)


def _recipes(options: argparse.Namespace) -> None:
    from ..training.comparison import RECIPE_COLUMNS, recipe_cells, recipe_overview
    from ..training.recipe import recipe_names

    names = fnmatch.filter(recipe_names(), options.pattern)
    if not names:
        hint = did_you_mean(options.pattern, recipe_names(), "See: zoo recipes")
        raise UnknownNameError(f"No recipe matches {options.pattern!r}. {hint}")
    entries = [recipe_overview(name) for name in names]
    if options.json:
        print(json.dumps(entries, indent=2))
    elif options.show:
        yaml = require("yaml", "train")
        for entry in entries:
            print(f"# {entry['name']}\n{yaml.safe_dump(entry['recipe'], sort_keys=False, width=110)}")
    else:
        print(table([recipe_cells(entry) for entry in entries], RECIPE_COLUMNS))
