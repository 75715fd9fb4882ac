"""Training of word language models with symmetric recurrent layers, by the recipes of ``language_recipe``."""

import importlib.util
import io
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from ..data.text import EOS, as_columns, get_text_dataset, load_text
from ..device import choose_device
from ..errors import ZooError
from ..extras import headless_pyplot
from ..models.symm_rnn import SymmRNNLanguageModel
from . import checkpoint
from .language_recipe import LanguageRecipe, language_recipe, load_language_recipe
from .language_run import CODE, Run

__all__ = ["LanguageRecipe", "load_language_recipe", "load_run", "train_language"]


def train_language(
    recipe: LanguageRecipe,
    data: str | Path,
    output: str | Path,
    resume: bool = False,
    device: str = "",
    budget: float = 0,
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

    Returns:
        The model with the best validation loss, in eval mode on the CPU; before the end of the first epoch the model as
        it is.

    Raises:
        ZooError: If the folder holds a run with another recipe, text, device or code, the loss is no longer finite, or
            a file cannot be written.
    """
    started = time.monotonic()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ZooError("A language model is trained by one process: start zoo train without torchrun.")
    place = choose_device(device)
    output = Path(output)
    file = output / "checkpoint.pt"
    if file.exists() and not resume:
        raise ZooError(f"{output} already holds a run: pass --resume to go on with it, or another folder.")
    text = load_text(data)
    get_text_dataset(recipe.dataset).check_size(text.splits)
    first, valid = text.words.index(EOS), text.splits["valid"].to(place)
    inputs, targets = as_columns(text.splits["train"].to(place), recipe.columns, first)
    pieces = list(zip(inputs.split(recipe.steps), targets.split(recipe.steps), strict=True))
    torch.manual_seed(recipe.seed)
    model = recipe.build(len(text.words)).to(place)
    identity = checkpoint.identity(recipe, text.sha256("train", "valid"), place, code=CODE)
    run = Run(recipe, model, pieces, file, identity)
    if file.exists():
        run.restore(checkpoint.load(file), place)
    checkpoint.remove_leftovers(output)
    checkpoint.write_lines([json.dumps(recipe.to_dict(), indent=2)], output / "recipe.json")
    checkpoint.write_lines(text.words, output / "vocabulary.txt")
    checkpoint.write_lines(map(json.dumps, run.position.log), output / "log.jsonl")
    total, done = recipe.epochs * len(pieces), run.position.epoch * len(pieces) + run.position.step
    end = started + budget if budget else math.inf
    with tqdm(total=total, initial=done, desc=output.name, disable=None, file=sys.stderr) as bar:
        while run.position.epoch < recipe.epochs and run.train_epoch(end, bar):
            run.end_epoch(valid, first)
            checkpoint.write_lines(map(json.dumps, run.position.log), output / "log.jsonl")
            tqdm.write(json.dumps(run.position.log[-1]), file=sys.stderr)
            if time.monotonic() > end:
                break
    log = run.position.log
    if not log:
        return model.cpu().eval()
    if importlib.util.find_spec("matplotlib"):
        plot_curve(log, output / "curve.png", f"{recipe.dataset}, {recipe.cell}")
    return load_run(output)[0]


def load_run(folder: str | Path) -> tuple[SymmRNNLanguageModel, tuple[str, ...], LanguageRecipe]:
    """The best model of a run, in eval mode on the CPU, with its vocabulary and recipe.

    Raises:
        ZooError: If the folder holds no such run, no finished epoch, or a damaged file.
    """
    folder = Path(folder)
    for name in ("recipe.json", "vocabulary.txt", "model.safetensors"):
        if not (folder / name).is_file():
            raise ZooError(
                f"{folder} has no {name}: pass the folder of a language run of zoo train, one epoch or more."
            )
    try:
        values = json.loads((folder / "recipe.json").read_bytes())
        words = tuple((folder / "vocabulary.txt").read_bytes().decode().removesuffix("\n").split("\n"))
        if not isinstance(values, dict) or values.get("task") != "language":
            raise ZooError(f"{folder} is not the run of a language model: pass one of zoo train with such a recipe.")
        recipe = language_recipe(values)
        model = recipe.build(len(words))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (ValueError, SafetensorError) as error:  # JSON and UTF-8 errors are values' errors
        raise ZooError(f"{folder}: a file of the run is damaged ({str(error).splitlines()[0]}).") from None
    except RuntimeError as error:  # torch's message lists every key
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"{folder}: model.safetensors is not of the network that recipe.json describes.") from None
    return model.eval(), words, recipe


def plot_curve(log: list[dict[str, Any]], target: Path, title: str) -> None:
    """Draw training and validation perplexity and the learning rate over the epochs of a log."""
    pyplot = headless_pyplot()
    epochs = [line["epoch"] for line in log]
    figure, left = pyplot.subplots(figsize=(6, 3.5))
    left.plot(epochs, [math.exp(min(line["loss"], 100)) for line in log], marker=".", label="training, with dropout")
    left.plot(epochs, [line["valid_perplexity"] for line in log], marker=".", label="validation")
    left.set(xlabel="epoch", ylabel="perplexity", yscale="log", title=title)
    right = left.twinx()
    right.plot(epochs, [line["lr"] for line in log], color="tab:gray", linestyle=":", label="learning rate")
    right.set_ylabel("learning rate")
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.87))
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)
    checkpoint.write(buffer.getbuffer(), target)
