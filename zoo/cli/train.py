"""``zoo train`` and ``zoo stage``."""

import argparse
import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..files import is_file
from ..own_folders import run_progress
from ..settings import parse_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("train", help="train a weight by a recipe")
    parser.add_argument("recipe", nargs="?", help="name of a recipe that ships with the package, or a YAML file")
    parser.add_argument(
        "--data",
        default=[],
        action="append",
        metavar="DIR",
        help="folder of the data set",
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a value of the recipe; may be repeated, one KEY=VALUE each",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: go on although the code or versions have changed since; the log notes it",
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        default=0,
        metavar="TIME",
        help="stop after 90 (seconds), 90s, 9m or 2h, to be resumed; starting Python is not counted",
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="how far the run is, as one object on standard output")
    parser.set_defaults(run=_train)
    parser = commands.add_parser("stage", help="turn a finished run into a staged weight with its manifest entry")
    parser.add_argument("folder", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--recipe", default="", help="the recipe it must have been made with as it is (default: whichever its own is)"
    )
    parser.add_argument("--as", dest="name", default="", metavar="ARCH.TAG", help="its name (default: its recipe's)")
    parser.add_argument("--trained-by", default="", metavar="WHO", help="for entry and card; nobody is named otherwise")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set; its test split is read")
    parser.add_argument(
        "--seeds", nargs="*", default=[], metavar="RUN", help="finished runs with other seeds: their spread is recorded"
    )
    parser.add_argument("--embedded", action="store_true", help="the package itself will contain the file")
    parser.set_defaults(run=_stage)


def seconds(word: str) -> float:
    """A time such as ``90``, ``90s``, ``9m`` or ``1.5h`` in seconds.

    Raises:
        argparse.ArgumentTypeError: If the word has another form, or is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", word)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{word!r} is no time: write 90 or 90s (seconds), 9m (minutes) or 2h (hours)")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _train(options: argparse.Namespace) -> int:
    from ..training.recipe import load_recipe, task_of

    if not options.recipe:
        raise ZooError("zoo train needs the name of a recipe (zoo recipes lists them).")
    if not options.data or not options.output:
        raise ZooError(f"zoo train {options.recipe} needs --data DIR, the data set, and --output DIR, for the run.")
    if len(options.data) > 1:
        raise ZooError("Name one --data.")
    if options.force and not options.resume:
        raise ZooError("--force belongs to --resume: it goes on with a run although code or versions have changed.")
    settings, (data,) = parse_settings(options.set), options.data
    if task_of(options.recipe) == "language":
        from ..language.recipe import load_language_recipe
        from ..language.train import train_language as train

        recipe = load_language_recipe(options.recipe, settings)
    else:
        from ..training.loop import train

        recipe = load_recipe(options.recipe, settings)
    before = _epochs(options, recipe)
    state, code = "", 0
    try:
        train(recipe, data, options.output, options.resume, options.device, options.budget, options.force)
    except KeyboardInterrupt as told:
        state, code = str(told) or "interrupted", 128 + getattr(told, "signal", signal.SIGINT)
    done = _epochs(options, recipe)
    if done == recipe.epochs:
        state, code = "finished already" if before == done else "finished", 0
    elif not state:
        state = "stopped by --budget"  # as asked for: no failure
    if os.environ.get("RANK", "0") == "0":
        _report(options, state, done, recipe)
    return code


def _epochs(options: argparse.Namespace, recipe: Any) -> int:
    """Finished epochs of the run in the output folder."""
    output = Path(options.output)
    return min(run_progress(output)[0], recipe.epochs) if is_file(output / "recipe.json") else 0


def _report(options: argparse.Namespace, state: str, done: int, recipe: Any) -> None:
    """Say how far a run is, and the command that comes next."""
    if done == recipe.epochs:
        words = ["zoo", "validate", options.output, "--dataset", recipe.dataset]
        what = "measure it"
    else:
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        words = ["zoo"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, "-m", "zoo"]
        words += ["train", options.recipe, "--output", options.output, "--resume"]
        words += [word for setting in options.set for word in ("--set", setting)]
        words += ["--device", options.device] if options.device else []
        words += ["--budget", f"{options.budget:g}"] if options.budget else []
        what = "go on"
    data = "DIR" if done == recipe.epochs else options.data[0]
    command = shlex.join([*words, "--data", data])
    if options.json:
        row = {"output": options.output, "state": state, "finished": done == recipe.epochs}
        print(json.dumps({**row, "epoch": done, "epochs": recipe.epochs, "next": command}))
        return
    print(f"{options.output}\n{state}: {done} of {recipe.epochs} epochs\n{what}: {command}")


def _stage(options: argparse.Namespace) -> None:
    from ..training.stage import stage
    from ..weights.paths import hub_folder, manifest_file

    hub = hub_folder()
    entry = stage(
        options.folder,
        options.data,
        hub,
        manifest_file(),
        options.recipe,
        options.embedded,
        options.seeds,
        options.name,
        options.trained_by,
    )
    print(json.dumps(entry["results"], indent=2))
    print(hub / Path(entry["sources"][0]["path"]).parent)
