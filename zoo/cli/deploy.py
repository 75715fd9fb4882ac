"""``zoo deploy``."""

import argparse
import json
import sys

from ..data.catalog import DATASETS
from ..deploy.engines import AUTO, ENGINES, PRECISIONS
from .evaluate import CHECKPOINT, NETWORK, TRANSFORM, named


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("deploy", help="make a folder that runs a network alone, in one engine, measured")
    parser.description = (
        "Collapse a network, fold its batch norms, write it for an engine, run the file, and measure it beside the "
        "network: scores, speed and, with --accuracy, the test set image by image. The folder holds the file, run.py "
        "(which needs the engine, numpy and Pillow only), network.json and a card."
    )
    parser.add_argument("name", help=NETWORK)
    parser.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    parser.add_argument("--transform", default="", metavar="SPEC", help=TRANSFORM)
    parser.add_argument("--engine", choices=[*ENGINES, AUTO], required=True, help="auto: the fastest for one image")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--accuracy", action="store_true", help="measure the test set too; needs --data")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set")
    parser.add_argument("--dataset", choices=list(DATASETS), help="default: what the network was trained on")
    parser.add_argument("-o", "--output", metavar="DIR", help="the folder; default: NAME-ENGINE-PRECISION")
    parser.add_argument("--json", action="store_true", help="print what network.json holds")
    parser.set_defaults(run=_deploy)


def _deploy(options: argparse.Namespace) -> None:
    from ..deploy.card import figures
    from ..deploy.deploy import deploy
    from ..deploy.engines import usable_engines

    usable_engines(options.engine, options.precision)
    found = named(options)
    folder = options.output or f"{found.name}-{options.engine}-{options.precision}"
    about = {"data": options.data, "dataset": options.dataset or "", "accuracy": options.accuracy}
    facts = deploy(found, folder, options.engine, options.precision, **about)
    print(json.dumps(facts, indent=2) if options.json else figures(facts))
    print(f"zoo: {folder} runs alone: python {folder}/run.py IMAGE", file=sys.stderr)
