"""``zoo train``, ``zoo queue`` and ``zoo stage``."""

import argparse
import json
import os
import re
import shlex
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..files import is_file
from ..named import run_progress
from ..settings import parse_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("train", help="train a weight by a recipe, or the queue of wanted weights")
    parser.add_argument("recipe", nargs="?", help="name of a recipe that ships with the package, or a YAML file")
    parser.add_argument(
        "--data",
        default=[],
        action="append",
        metavar="DIR",
        help="folder of the data set; with --queue as NAME=DIR, once for each data set that is there",
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the run; with --queue of the runs (default: runs)")
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
        "--queue",
        nargs="?",
        const="",
        metavar="FILE",
        help="train what zoo queue lists, in its order, and go on with what was begun (FILE: a queue of your own)",
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        default=0,
        metavar="TIME",
        help="stop after 90 (seconds), 90s, 9m or 2h, to be resumed; starting Python is not counted",
    )
    parser.add_argument(
        "--longest",
        type=seconds,
        default=0,
        metavar="TIME",
        help="with --queue: pass over what is expected to take longer",
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="how far the run is, as one object on standard output")
    parser.set_defaults(run=_train)
    parser = commands.add_parser("queue", help="list the weights that are wanted, and how far their runs are")
    parser.add_argument("--output", metavar="DIR", help="folder of the runs of zoo train --queue")
    parser.add_argument("--queue", default="", metavar="FILE", help="a queue of your own")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_queue)
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
    if options.queue is not None:
        _train_queue(options)
        return 0
    from ..training.recipe import load_recipe, task_of

    if not options.recipe:
        raise ZooError("zoo train needs the name of a recipe (zoo recipes lists them), or --queue.")
    if not options.data or not options.output:
        raise ZooError(f"zoo train {options.recipe} needs --data DIR, the data set, and --output DIR, for the run.")
    if len(options.data) > 1 or options.longest:
        raise ZooError("More than one --data, and --longest, belong to --queue.")
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


def _train_queue(options: argparse.Namespace) -> None:
    from ..training.queue import QUEUE, load_queue
    from ..training.queue_run import data_folders, run_queue

    if options.recipe or options.set or options.resume or options.force:
        raise ZooError("--queue takes recipes and values from its file and always goes on: leave the others out.")
    if not options.data:
        raise ZooError("--queue needs the data sets that are there, each by its name: --data cifar10=DIR.")
    failed = run_queue(
        load_queue(options.queue or QUEUE),
        data_folders(options.data),
        options.output or "runs",
        options.budget,
        options.longest,
        options.device,
    )
    if failed:
        raise ZooError(f"{len(failed)} of the queue's entries failed: {', '.join(failed)}.")


def _queue(options: argparse.Namespace) -> None:
    from ..evaluation.results import table
    from ..training.queue import QUEUE, load_queue, progress

    runs = Path(options.output) if options.output else None
    if runs and not runs.is_dir():
        raise ZooError(f"No such folder: {runs}. Pass that of zoo train --queue, or leave --output out.")
    entries = load_queue(options.queue or QUEUE)
    found = [progress(entry, runs) for entry in entries]
    if options.json:
        rows = [{"name": e.name, **asdict(e), **asdict(p)} for e, p in zip(entries, found, strict=True)]
        print(json.dumps(rows, indent=2))
        return
    cells, left = [], {"gpu": 0.0, "cpu": 0.0}
    for entry, state in zip(entries, found, strict=True):
        for key in left:
            left[key] += getattr(entry, key) * (1 - state.epoch / state.epochs)
        minutes = [f"{'' if key in entry.measured else '~'}{getattr(entry, key):g}" for key in left]
        cells.append([entry.name, entry.load(runs or Path()).dataset, state.epochs, *minutes, str(state)])
    print(table(cells, ["name", "data set", "epochs", "GPU min", "2 cores min", "state"]))
    unfinished = sum(state.epoch < state.epochs for state in found)
    print(f"{unfinished} of {len(entries)} remain: about {left['gpu']:.0f} minutes on an H200-class GPU, or "
          f"{left['cpu']:.0f} on two CPU cores (~: estimated)")  # fmt: skip


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
