"""``zoo train``."""

import argparse
import json

from ..errors import ZooError
from .convert import parse_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("train", help="train a weight by a recipe")
    parser.add_argument("recipe", help="name of a recipe that ships with the package, or a YAML file")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the run: checkpoint, log, recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--budget", type=float, default=0, metavar="SECONDS", help="stop after this time, to be resumed"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.set_defaults(run=_train)
    parser = commands.add_parser("stage", help="turn a finished run into a staged weight with its manifest entry")
    parser.add_argument("folder", metavar="RUN", help="folder of the run")
    parser.add_argument("--recipe", required=True, help="name of the recipe it was made with")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set; its test split is read")
    parser.add_argument("--embedded", action="store_true", help="the file also travels in the wheel")
    parser.set_defaults(run=_stage)


def _train(options: argparse.Namespace) -> None:
    from ..training.recipe import load_recipe, task_of

    settings = parse_settings(options.set)
    if task_of(options.recipe) == "language":
        from ..training.language import load_language_recipe, train_language

        if options.budget:
            raise ZooError("--budget is for image recipes; a language run continues after its last epoch by --resume.")
        recipe = load_language_recipe(options.recipe, settings)
        train_language(recipe, options.data, options.output, options.resume, options.device)
    else:
        from ..training.loop import train

        recipe = load_recipe(options.recipe, settings)
        train(recipe, options.data, options.output, options.resume, options.device, options.budget)
    print(options.output)


def _stage(options: argparse.Namespace) -> None:
    from ..training.stage import stage
    from ..weights.paths import hub_folder, manifest_file

    entry = stage(options.folder, options.data, hub_folder(), manifest_file(), options.recipe, options.embedded)
    print(json.dumps(entry["results"], indent=2))
