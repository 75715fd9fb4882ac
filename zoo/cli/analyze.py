"""``zoo analyze``."""

import argparse
import sys

from ..data.catalog import DATASETS
from ..errors import ZooError
from .evaluate import CHECKPOINT, NETWORK, TRANSFORM, named


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("analyze", help="draw what there is to see in a network, as PNG, SVG and JSON")
    parser.description = (
        "Draw what applies: similarity of layers that share templates and the loops it implies, the symmetry of "
        "kernels, density by layer and how it moved in training, norms of branches, histograms of gates (with --data), "
        "singular values. analysis.json holds the numbers."
    )
    parser.add_argument("name", help=NETWORK)
    parser.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    parser.add_argument("--transform", default="", metavar="SPEC", help=TRANSFORM)
    parser.add_argument("--dataset", choices=list(DATASETS), help="that gates are seen on; default: what it trained on")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set")
    parser.add_argument("--limit", type=int, metavar="N", help="see the gates on the first N images only")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder of the result")
    parser.set_defaults(run=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise ZooError(f"--limit {options.limit}: at least one image is needed.")
    if options.dataset and not options.data:
        raise ZooError("--dataset is of --data: add the folder of the data set.")
    from ..extras import headless_pyplot

    headless_pyplot()  # before anything is loaded
    from ..analysis.analyze import analyze

    about = {"dataset": options.dataset or "", "data": options.data, "limit": options.limit or 0}
    facts = analyze(named(options), options.output, **about)
    for file in facts["files"]:
        if file.endswith(".png"):
            print(f"{options.output}/{file}")
    for subject, why in facts["left_out"].items():
        print(f"not drawn: {subject}: {why}", file=sys.stderr)
    if not facts["made"]:
        print("zoo: no kernel of this network is made: only its singular values were drawn", file=sys.stderr)
