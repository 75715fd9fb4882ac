"""Perplexity of a language model on a text, and of the best model that a training run has kept."""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..device import choose_device
from ..errors import ZooError
from ..evaluation.validate import versions
from ..reparam import reparameterize
from ..weights.verify import sha256_of
from .data import EOS, PADDING, as_columns, get_text_dataset, load_split
from .network import SymmRNNLanguageModel
from .recipe import LanguageRecipe, language_recipe


@dataclass(frozen=True)
class Perplexity:
    """One measurement.

    Attributes:
        perplexity: exp(``loss``); infinite above a loss of 700.
        loss: Mean negative log likelihood of a word, in nats.
        n: Number of words, each ``<eos>`` counted as one.
        words_per_second: Speed of the whole loop.
    """

    perplexity: float
    loss: float
    n: int
    words_per_second: float


@torch.inference_mode()
def perplexity(
    model: nn.Module, tokens: Tensor, first: int, *, columns: int = 10, steps: int = 35, name: str = ""
) -> Perplexity:
    """Measure a language model on a text, every word counted once, in eval mode and the model's own precision.

    The state is carried through each column, which starts from zeros.

    Args:
        model: ``model(words, state) -> (scores, state)`` with words (time, columns) and scores (time, columns,
            vocabulary), such as :class:`zoo.language.SymmRNNLanguageModel`; it is left in eval mode.
        tokens: The text as word numbers, (words,), int64, on the model's device.
        first: Number of ``<eos>``, the input before the first word.
        columns: Pieces the text is cut into, read side by side; the paper's is 10.
        steps: Words per call and column; decides memory, not the result.
        name: Label of the progress bar.
    """
    model.eval()
    inputs, targets = as_columns(tokens, columns, first)
    total, state, started = 0.0, None, time.perf_counter()
    pieces = list(zip(inputs.split(steps), targets.split(steps), strict=True))
    for words, wanted in tqdm(pieces, desc=name, disable=None, file=sys.stderr, delay=2, unit="step", leave=False):
        scores, state = model(words, state)
        total += F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=PADDING, reduction="sum").item()
    loss = total / len(tokens)
    return Perplexity(
        perplexity=math.exp(loss) if loss < 700 else math.inf if loss >= 700 else math.nan,
        loss=loss,
        n=len(tokens),
        words_per_second=round(len(tokens) / (time.perf_counter() - started), 1),
    )


def load_best_model(folder: str | Path) -> tuple[SymmRNNLanguageModel, tuple[str, ...], LanguageRecipe]:
    """The model of a run with the best validation loss, in eval mode on the CPU, with its vocabulary and recipe.

    Args:
        folder: Folder of a language run of ``zoo train``.

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


def measure_run(
    run: str | Path,
    data: str | Path,
    *,
    dataset: str = "",
    split: str = "test",
    columns: int = 0,
    collapse: bool = False,
    device: str = "",
) -> dict[str, Any]:
    """Perplexity of the best model of a run.

    Args:
        run: Folder of the run, or the ``model.safetensors`` in it.
        data: Folder of the text.
        dataset: The text data set it must have been trained on; empty for any.
        split: ``train``, ``valid`` or ``test``.
        columns: Pieces the text is cut into, read side by side; 0 for the recipe's.
        collapse: Measure the plain ``nn.LSTM`` or ``nn.GRU`` it collapses into.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Returns:
        Plain values: the run, its data set and split, the measurement, whether the text has the size of that data set
        (``whole``), the sha256 of the model and the versions.

    Raises:
        ZooError: If there is no such run, it is of another data set, or the text does not fit it.
    """
    folder = Path(run).parent if Path(run).name == "model.safetensors" else Path(run)
    model, words, recipe = load_best_model(folder)
    info = get_text_dataset(recipe.dataset)
    if dataset and get_text_dataset(dataset) != info:
        raise ZooError(f"{run} was trained on {info.name}: measure it with --dataset {info.name}, not {dataset}.")
    tokens = load_split(data, split, words)
    whole = info.check_size({split: tokens})
    if collapse:
        model = reparameterize(model)
    place = choose_device(device)
    columns = columns or recipe.eval_columns
    result = perplexity(model.to(place), tokens.to(place), words.index(EOS), columns=columns, name=split)
    return {
        "name": str(run),
        "dataset": info.name,
        "split": split,
        "whole": whole,
        "columns": columns,
        "collapsed": collapse,
        **asdict(result),
        "sha256": sha256_of(folder / "model.safetensors"),
        "versions": versions(),
    }
