"""``zoo fetch``."""

import argparse

from ..weights.fetch import fetch
from ..weights.manifest import facts, full_name


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("fetch", help="get a weight, verify its sha256 and print where it lies")
    parser.add_argument("name", nargs="+", help="arch.tag, or an architecture for its first weight")
    parser.add_argument("--cache-dir", help="where downloads are kept")
    parser.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> None:
    for name in options.name:
        found = fetch(name, options.cache_dir)
        print(f"{full_name(name)}  {found.kind}  sha256 {facts(name)['sha256']}  {found.path}")
