"""Training of word language models with symmetric recurrent layers, by the recipes of ``recipe``."""

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..device import choose_device
from ..errors import ZooError
from ..training import checkpoint
from ..training.curve import plot_curve
from ..training.distributed import Processes
from ..training.interruption import Interruption
from ..training.used_code import used_code
from .data import EOS, as_columns, get_text_dataset, load_text
from .perplexity import load_best_model
from .recipe import LanguageRecipe
from .run import Run


def train_language(
    recipe: LanguageRecipe,
    data: str | Path,
    output: str | Path,
    resume: bool = False,
    device: str = "",
    budget: float = 0,
    force: bool = False,
) -> nn.Module:
    """Train a language model.

    The folder then holds ``model.safetensors`` (the model with the best validation loss), ``vocabulary.txt`` (a word
    per line, its number the line's), ``checkpoint.pt``, ``log.jsonl``, ``recipe.json`` and ``curve.png``. ``resume``
    goes on from the last checkpoint, on the CPU bit for bit as if nothing had happened, also in the middle of an epoch;
    cuDNN's dropout between layers keeps a state of its own that nothing can save.

    Args:
        recipe: What to train and how.
        data: Folder of the text.
        output: Folder of the run.
        resume: Continue the run that lies there, if any; without it an existing run is not overwritten.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        budget: Seconds after which to stop with a checkpoint, unfinished; 0 for no limit.
        force: Resume although versions or code have changed since; the log's next line then has ``forced``.

    Returns:
        The model with the best validation loss, in eval mode on the CPU; before the end of the first epoch the model as
        it is.

    Raises:
        ZooError: If the folder holds a run with another recipe, text, device or code, the loss is no longer finite, or
            a file cannot be written, or another process is at work in the folder.
        Interrupted: If SIGINT or SIGTERM came: the run has saved and stopped at the step it was at.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ZooError("A language model is trained by one process: start zoo train without torchrun.")
    place, output = choose_device(device), Path(output)
    with checkpoint.only_trainer(output, Processes(place)):
        return _train(recipe, data, output, resume, place, budget, force)


def _train(
    recipe: LanguageRecipe,
    data: str | Path,
    output: Path,
    resume: bool,
    place: torch.device,
    budget: float,
    force: bool,
) -> nn.Module:
    started = time.monotonic()
    file = output / "checkpoint.pt"
    if file.exists() and not resume:
        raise checkpoint.occupied(output)
    text = load_text(data)
    get_text_dataset(recipe.dataset).check_size(text.splits)
    first, valid = text.words.index(EOS), text.splits["valid"].to(place)
    inputs, targets = as_columns(text.splits["train"].to(place), recipe.columns, first)
    pieces = list(zip(inputs.split(recipe.steps), targets.split(recipe.steps), strict=True))
    torch.manual_seed(recipe.seed)
    model = recipe.build(len(text.words)).to(place)
    identity = checkpoint.identity(recipe, text.sha256("train", "valid"), place, 1, used_code(__name__, model))
    run = Run(recipe, model, pieces, file, identity)
    if file.exists():
        run.restore(checkpoint.load(file), place, force)
    checkpoint.remove_leftovers(output)
    checkpoint.write_lines([json.dumps(recipe.to_dict(), indent=2)], output / "recipe.json")
    checkpoint.write_lines(text.words, output / "vocabulary.txt")
    checkpoint.write_lines(map(json.dumps, run.position.log), output / "log.jsonl")
    total, done = recipe.epochs * len(pieces), run.position.epoch * len(pieces) + run.position.step
    end = started + budget if budget else math.inf
    with (
        tqdm(total=total, initial=done, desc=output.name, disable=None, file=sys.stderr) as bar,
        Interruption() as told,
    ):
        while run.position.epoch < recipe.epochs and run.train_epoch(end, bar, told):
            run.end_epoch(valid, first)
            checkpoint.write_lines(map(json.dumps, run.position.log), output / "log.jsonl")
            tqdm.write(json.dumps(run.position.log[-1]), file=sys.stderr)
            if time.monotonic() > end or told.signal:
                break
        if run.position.epoch < recipe.epochs:
            told.check(f"epoch {run.position.epoch + 1}, step {run.position.step}")
    log = run.position.log
    if not log:
        return model.cpu().eval()
    if importlib.util.find_spec("matplotlib"):
        curves = {
            "training, with dropout": [math.exp(min(line["loss"], 100)) for line in log],
            "validation": [line["valid_perplexity"] for line in log],
        }
        title = f"{recipe.dataset}, {recipe.cell}"
        plot_curve(curves, [line["lr"] for line in log], output / "curve.png", title, "perplexity", log=True)
    return load_best_model(output)[0]
