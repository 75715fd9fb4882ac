"""``zoo bom``: a bill of materials for weights."""

import argparse
import json
from pathlib import Path

from ..errors import ZooError
from ..files import write_atomically
from ..weights.bom import bill_of_materials
from ..weights.chosen import choose
from ..weights.manifest import weights


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser(
        "bom", help="bill of materials of weights: licences, sha256, data, recipes (CycloneDX)"
    )
    parser.add_argument("name", nargs="*", help="arch.tag, an architecture, or a shell pattern such as 'lrunet*' (all)")
    parser.add_argument("-o", "--output", metavar="FILE", help="such as weights.cdx.json; by default standard output")
    parser.set_defaults(run=_bom)


def _bom(options: argparse.Namespace) -> None:
    names = choose(options.name) if options.name else list(weights())
    text = json.dumps(bill_of_materials(names), indent=2) + "\n"
    if not options.output:
        print(text, end="")
        return
    path = Path(options.output)
    try:
        write_atomically(text.encode(), path)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror or error}).") from None
    print(f"{path}: CycloneDX 1.6, {len(names)} weights")
