"""``zoo train`` and ``zoo stage``."""

import argparse
import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..files import is_file
from ..own_folders import run_progress
from ..settings import parse_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("train", help="train a weight by a recipe")
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help="name of a recipe that ships with the package, or a YAML file; several are trained at once on a GPU, one "
        "after the other on a CPU",
    )
    parser.add_argument("--seeds", default="", metavar="0,1,2", help="train each recipe once with each of these seeds")
    parser.add_argument(
        "--data",
        default=[],
        action="append",
        metavar="DIR",
        help="folder of the data set; recipes of several data sets need each as NAME=DIR",
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the run; of several, each has one of its own there")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a value of the recipe; may be repeated, one KEY=VALUE each",
    )
    parser.add_argument(
        "--transform", default="", metavar="SPEC", help="transform the recipe's network first; the same as --set"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what was begun in --output")
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
        help="stop after 90 (seconds), 90s, 9m or 2h, to be resumed; starting Python is not counted; several runs get "
        "as many epochs as fit",
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument(
        "--json", action="store_true", help="how far the run is, as one object on standard output; of several, a list"
    )
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
    if not options.recipes:
        raise ZooError("zoo train needs the name of a recipe (zoo recipes lists them).")
    if not options.data or not options.output:
        raise ZooError(f"zoo train {shlex.join(options.recipes)} needs --data DIR, the data set, and --output DIR, for "
                       "the run.")  # fmt: skip
    if options.force and not options.resume:
        raise ZooError("--force belongs to --resume: it goes on with a run although code or versions have changed.")
    if options.transform:
        options.set.append(f"transform={options.transform}")
    seeds = _seeds(options)
    loaded = [_load(name, {**parse_settings(options.set), **seed}) for name in options.recipes for seed in seeds]
    folders = _data_folders(options.data, [recipe.dataset for recipe, _ in loaded])
    if len(loaded) > 1:
        return _train_several(options, loaded, seeds, folders)
    ((recipe, train),) = loaded
    before = _epochs(options.output, recipe)
    state, code = "", 0
    try:
        data = folders[recipe.dataset]
        train(recipe, data, options.output, options.resume, options.device, options.budget, options.force)
    except KeyboardInterrupt as told:
        state, code = str(told) or "interrupted", 128 + getattr(told, "signal", signal.SIGINT)
    done = _epochs(options.output, recipe)
    if done == recipe.epochs:
        state, code = "finished already" if before == done else "finished", 0
    elif not state:
        state = "stopped by --budget"  # as asked for: no failure
    if os.environ.get("RANK", "0") == "0":
        row = _row(options, options.output, state, done, recipe)
        what = "measure it" if row["finished"] else "go on"
        text = f"{options.output}\n{state}: {done} of {recipe.epochs} epochs\n{what}: {row['next']}"
        print(json.dumps(row) if options.json else text)
    return code


def _train_several(
    options: argparse.Namespace,
    loaded: list[tuple[Any, Callable]],
    seeds: list[dict[str, int]],
    folders: dict[str, str],
) -> int:
    from ..training.checkpoint import occupied
    from ..training.several import Run, train_several

    if is_file(Path(options.output) / "checkpoint.pt"):
        raise occupied(Path(options.output))
    names = [
        Path(name).stem + "".join(f"-seed{s}" for s in seed.values()) for name in options.recipes for seed in seeds
    ]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ZooError(f"Two of these runs would have the folder {twice[0]}: name each recipe once.")
    runs = [
        Run(recipe, Path(folders[recipe.dataset]), Path(options.output) / name, train)
        for name, (recipe, train) in zip(names, loaded, strict=True)
    ]
    told = train_several(runs, options.resume, options.device, options.budget, options.force)
    rows = [_row(options, str(r.output), r.state, _epochs(r.output, r.recipe), r.recipe) for r in runs]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for name, row in zip(names, rows, strict=True):
            print(f"{name}: {row['state']}: {row['epoch']} of {row['epochs']} epochs")
        left = [row for row in rows if not row["finished"]]
        print(f"go on: {left[0]['next']}" if left else f"measure them: {rows[0]['next']}")
    failed = [f"{name} ({run.state})" for name, run in zip(names, runs, strict=True) if run.failed]
    if failed and not told:
        raise ZooError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
    return 128 + told if told else 0


def _seeds(options: argparse.Namespace) -> list[dict[str, int]]:
    """The settings that each recipe is trained with in turn."""
    if not options.seeds:
        return [{}]
    if any(setting.startswith("seed=") for setting in options.set):
        raise ZooError("--seeds and --set seed=... say the same thing: leave one out.")
    words = options.seeds.split(",")
    if not all(re.fullmatch(r"\d+", word) for word in words) or len(set(map(int, words))) < len(words):
        raise ZooError(f"--seeds {options.seeds}: write different whole numbers with commas, such as --seeds 0,1,2.")
    return [{"seed": int(word)} for word in words]


def _load(name: str, settings: dict[str, Any]) -> tuple[Any, Callable]:
    """A recipe, and what trains it."""
    from ..training.recipe import load_recipe, task_of

    if task_of(name) == "language":
        from ..language.recipe import load_language_recipe
        from ..language.train import train_language

        return load_language_recipe(name, settings), train_language
    from ..training.loop import train

    return load_recipe(name, settings), train


def _data_folders(words: list[str], datasets: list[str]) -> dict[str, str]:
    """The folder of each data set: from ``NAME=DIR`` words, or one ``DIR`` where there is one data set only."""
    from ..data import DATASETS
    from ..language.data import TEXT_DATASETS

    known = [info for sets in (DATASETS, TEXT_DATASETS) for info in sets.values()]
    names = {name: info.name for info in known for name in (info.name, info.suffix)}
    wanted, found = sorted({names.get(name, name) for name in datasets}), {}
    for word in words:
        name, equals, folder = word.partition("=")
        if equals and name in names:
            found[names[name]] = folder
        elif len(words) == 1 and len(wanted) == 1:
            found[wanted[0]] = word
        else:
            advice = f"say which data set it is, such as --data {wanted[0]}={folder or word}"
            raise ZooError(f"--data {word}: {advice}; these recipes are of {' and '.join(wanted)}.")
    if missing := [name for name in wanted if name not in found]:
        raise ZooError(f"The data of {missing[0]} is missing: --data {missing[0]}=DIR.")
    return {name: found[names.get(name, name)] for name in datasets}


def _epochs(folder: str | Path, recipe: Any) -> int:
    """Finished epochs of the run in a folder."""
    folder = Path(folder)
    return min(run_progress(folder)[0], recipe.epochs) if is_file(folder / "recipe.json") else 0


def _row(options: argparse.Namespace, folder: str, state: str, done: int, recipe: Any) -> dict[str, Any]:
    """How far a run is, and the command that comes next."""
    data = ["DIR"]
    if done == recipe.epochs:
        words = ["zoo", "validate", folder, "--dataset", recipe.dataset]
    else:
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        words = ["zoo"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, "-m", "zoo"]
        words += ["train", *options.recipes, "--output", options.output, "--resume"]
        words += [word for setting in options.set for word in ("--set", setting)]
        words += ["--seeds", options.seeds] if options.seeds else []
        words += ["--device", options.device] if options.device else []
        words += ["--budget", f"{options.budget:g}"] if options.budget else []
        data = options.data
    command = shlex.join([*words, *(word for folder in data for word in ("--data", folder))])
    row = {"output": folder, "state": state, "finished": done == recipe.epochs}
    return {**row, "epoch": done, "epochs": recipe.epochs, "next": command}


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
