"""Training of word language models with symmetric recurrent layers.

Setting: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027, with the authors' code (section 8 of our notes on it):
plain gradient descent, truncated backpropagation, a learning rate that falls when validation does not improve.
"""

import contextlib
import hashlib
import io
import json
import math
import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.text import EOS, PADDING, Text, as_columns, get_text_dataset, load_text
from ..errors import ZooError
from ..evaluation.perplexity import perplexity
from ..files import write_atomically
from ..models.symm_rnn import SymmRNNLanguageModel
from ..version import __version__
from ..weights.convert import safetensors_bytes
from .recipe import read_recipe, unknown_key

_CODE = (
    "training/language.py",
    "models/symm_rnn.py",
    "makers/symmetric.py",
    "data/text.py",
    "evaluation/perplexity.py",
)


@dataclass
class LanguageRecipe:
    """One training run of a language model; the defaults are the paper's hidden-side setting.

    Attributes:
        task: Always ``language``; tells these recipes from those of image networks.
        dataset: Name of the text data set.
        cell: ``lstm`` or ``gru``.
        embedding_size: Width of the embedding.
        hidden_size: Width of the hidden state.
        num_layers: Recurrent layers.
        dropout: After the embedding, between the recurrent layers and after them.
        tied: Use the embedding as the decoder's matrix.
        symm_type: Symmetry type of the gates, see :class:`zoo.models.symm_rnn.SymmLSTM`.
        symm_hh: Which gates are symmetric on the hidden side, one 0 or 1 each; empty for all.
        symm_ih: The same for the input side; empty for none.
        epochs: Passes over the training text.
        columns: Pieces of the training text read side by side (the batch size).
        eval_columns: The same for validation.
        steps: Words per column through which is backpropagated.
        lr: First learning rate of plain gradient descent.
        lr_divisor: Divides the rate after every epoch that does not improve the validation loss.
        clip: Largest norm of the gradient.
        seed: Seed of initialisation and dropout.
    """

    task: str = "language"
    dataset: str = "wikitext-2"
    cell: str = "lstm"
    embedding_size: int = 650
    hidden_size: int = 650
    num_layers: int = 2
    dropout: float = 0.5
    tied: bool = False
    symm_type: str = "wwt"
    symm_hh: str = ""
    symm_ih: str = ""
    epochs: int = 50
    columns: int = 20
    eval_columns: int = 10
    steps: int = 35
    lr: float = 20.0
    lr_divisor: float = 4.0
    clip: float = 0.25
    seed: int = 1111

    def __post_init__(self):
        for entry in fields(self):
            value, wanted = getattr(self, entry.name), type(entry.default)
            if wanted is float and type(value) in (int, str):
                with contextlib.suppress(ValueError):  # YAML reads 1e-3 as a word; another word is refused below
                    value = float(value)
                    setattr(self, entry.name, value)
            if type(value) is not wanted:
                hint = f" Quote it: --set \"{entry.name}='0110'\"." if entry.name.startswith("symm_") else ""
                raise ZooError(f"Recipe key {entry.name} takes a value of type {wanted.__name__}, not {value!r}.{hint}")
        if self.task != "language":
            raise ZooError(f"This is a recipe for the task {self.task!r}, not for a language model: use zoo train.")
        get_text_dataset(self.dataset)
        for name in ("epochs", "columns", "eval_columns", "steps", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ZooError(f"Recipe key {name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1 or not self.lr_divisor >= 1:
            raise ZooError(
                f"dropout must be in [0, 1) and lr_divisor at least 1, not {self.dropout} and {self.lr_divisor}."
            )

    def build(self, vocabulary: int) -> SymmRNNLanguageModel:
        """The network for so many words, freshly initialised."""
        return SymmRNNLanguageModel(
            vocabulary,
            self.embedding_size,
            self.hidden_size,
            self.num_layers,
            self.cell,
            self.dropout,
            self.tied,
            self.symm_type,
            self.symm_hh or None,
            self.symm_ih or None,
        )


def load_language_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> LanguageRecipe:
    """Read a language recipe that ships with the package (by name) or any YAML file (by path).

    Args:
        name: Recipe name such as ``symm_lstm_wikitext2``, or a path ending in ``.yaml``.
        overrides: Values that replace the file's.

    Raises:
        UnknownNameError: If the recipe or a key does not exist; the message names close matches.
        ZooError: If the file is not a mapping, is for another task, or a value does not fit.
    """
    path, values = read_recipe(name, "language")
    if values.get("task") != "language":
        raise ZooError(f"{path}: not a language recipe (it lacks task: language); train it with zoo train.")
    values |= overrides or {}
    known = [entry.name for entry in fields(LanguageRecipe)]
    for key in values:
        if key not in known:
            raise unknown_key(key, known)
    return LanguageRecipe(**values)


def train_language(
    recipe: LanguageRecipe, data: str | Path, output: str | Path, resume: bool = False, device: str = ""
) -> nn.Module:
    """Train a language model.

    The folder then holds ``model.safetensors`` (the model with the best validation loss), ``vocabulary.txt`` (a word
    per line, its number the line's), ``checkpoint.pt``, ``log.jsonl`` and ``recipe.json``. The checkpoint is replaced
    atomically after every epoch, so that ``resume`` goes on from the last finished one. Dropout of an epoch depends on
    seed and epoch alone, so on the CPU a resumed run equals an uninterrupted one bit for bit; cuDNN's dropout between
    layers keeps a state of its own that nothing can save.

    Args:
        recipe: What to train and how.
        data: Folder of the text.
        output: Folder of the run.
        resume: Continue the run that lies there; without it an existing run is not overwritten.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Returns:
        The model with the best validation loss, in eval mode.

    Raises:
        ZooError: If the folder holds a run with another recipe, text, device or code, the loss is no longer finite, or
            a file cannot be written.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    output = Path(output)
    if (output / "checkpoint.pt").exists() and not resume:
        raise ZooError(f"{output} already holds a run: pass --resume to go on with it, or another folder.")
    text = load_text(data)
    first = text.words.index(EOS)
    valid = text.splits["valid"].to(place)
    torch.manual_seed(recipe.seed)
    model = recipe.build(len(text.words)).to(place)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    about = _identity(recipe, text, place)
    log: list[dict[str, Any]] = []
    if (output / "checkpoint.pt").exists():
        state = _read_checkpoint(output / "checkpoint.pt", place)
        _check_same(state["about"], about, output)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log = state["log"]
    try:
        write_atomically((json.dumps(asdict(recipe), indent=2) + "\n").encode(), output / "recipe.json")
        write_atomically("".join(f"{word}\n" for word in text.words).encode(), output / "vocabulary.txt")
        _write_log(log, output)
        for epoch in range(len(log), recipe.epochs):
            started = time.perf_counter()
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            loss = _epoch(model, optimizer, recipe, text.splits["train"].to(place), first, epoch)
            measured = perplexity(model, valid, first, columns=recipe.eval_columns, steps=recipe.steps, name="valid")
            if not math.isfinite(measured.perplexity):
                raise ZooError(
                    f"The validation loss is {measured.loss} after epoch {epoch + 1}: lower --set lr=... (now "
                    f"{recipe.lr}) or --set clip=..."
                )
            better = all(measured.loss < line["valid_loss"] for line in log)
            line = {
                "epoch": epoch + 1,
                "loss": loss,
                "valid_loss": measured.loss,
                "valid_perplexity": round(measured.perplexity, 3),
                "best": better,
                "lr": optimizer.param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - started, 1),
            }
            log.append(line)
            if better:
                # before the checkpoint: if the process dies in between, the epoch is repeated and gives the same model
                tensors = {key: tensor.cpu().contiguous() for key, tensor in model.state_dict().items()}
                write_atomically(safetensors_bytes(tensors, {"format": "pt"}), output / "model.safetensors")
            else:
                optimizer.param_groups[0]["lr"] /= recipe.lr_divisor
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log, "about": about}
            buffer = io.BytesIO()  # torch.save on a full disk raises something else than OSError
            torch.save(state, buffer)
            write_atomically(buffer.getvalue(), output / "checkpoint.pt")
            _write_log(log, output)
            print(json.dumps(line), file=sys.stderr)
    except OSError as error:
        raise ZooError(
            f"{output}: cannot be written ({error.strerror or error}); the last finished epoch is kept, go on with "
            "--resume."
        ) from None
    return load_run(output)[0]


def load_run(folder: str | Path) -> tuple[SymmRNNLanguageModel, tuple[str, ...], LanguageRecipe]:
    """The best model of a run, in eval mode on the CPU, with its vocabulary and recipe.

    Raises:
        ZooError: If the folder holds no such run, or no finished epoch.
    """
    folder = Path(folder)
    for name in ("recipe.json", "vocabulary.txt", "model.safetensors"):
        if not (folder / name).is_file():
            raise ZooError(f"{folder} has no {name}: pass the folder of a run of zoo train-language.")
    values = json.loads((folder / "recipe.json").read_text())
    if values.get("task") != "language":
        raise ZooError(f"{folder} is not the run of a language model: pass that of zoo train-language.")
    recipe = LanguageRecipe(**values)
    words = tuple((folder / "vocabulary.txt").read_bytes().decode().removesuffix("\n").split("\n"))
    model = recipe.build(len(words))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), words, recipe


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: LanguageRecipe, tokens: Tensor, first: int, epoch: int
) -> float:
    """One pass over the training text; returns the mean loss of a word in nats."""
    model.train()
    inputs, targets = as_columns(tokens, recipe.columns, first)
    pieces = list(zip(inputs.split(recipe.steps), targets.split(recipe.steps), strict=True))
    total, state = torch.zeros((), dtype=torch.float64), None
    bar = tqdm(pieces, desc=f"epoch {epoch + 1}/{recipe.epochs}", disable=None, file=sys.stderr)
    for step, (words, wanted) in enumerate(bar):
        scores, state = model(words, state)
        state = state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)
        loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=PADDING)
        if not torch.isfinite(loss):
            raise ZooError(
                f"The loss is {loss.item()} at epoch {epoch + 1}, step {step + 1}: lower --set lr=... (now "
                f"{recipe.lr}) or --set clip=..."
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        total += loss.item() * (wanted != PADDING).sum().item()
    return total.item() / len(tokens)


def _identity(recipe: LanguageRecipe, text: Text, place: torch.device) -> dict[str, Any]:
    """All that decides a run and must be the same when it goes on."""
    digest = hashlib.sha256("\n".join(text.words).encode())
    for split in ("train", "valid"):
        digest.update(text.splits[split].numpy().tobytes())
    package = Path(__file__).resolve().parent.parent
    return {
        "recipe": asdict(recipe),
        "text": digest.hexdigest(),
        "device": place.type,
        "zoo version": __version__,
        "torch version": str(torch.__version__),
        **{f"code of {name}": hashlib.sha256((package / name).read_bytes()).hexdigest()[:12] for name in _CODE},
    }


def _read_checkpoint(path: Path, place: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=place, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ZooError(f"{path} is damaged ({str(error).splitlines()[0]}): choose another folder.") from None
    if not isinstance(state, dict) or set(state) != {"model", "optimizer", "log", "about"}:
        raise ZooError(f"{path} is not the checkpoint of a language model: choose another folder.")
    return state


def _check_same(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    old, new = ({**about["recipe"], **{key: about[key] for key in about if key != "recipe"}} for about in (before, now))
    different = [
        "the text in --data is another one" if key == "text" else f"{key} was {old.get(key)!r}, is {new[key]!r}"
        for key in new
        if old.get(key) != new[key]
    ]
    if different:
        raise ZooError(f"{output} cannot be resumed: {'; '.join(different)}. Undo that or choose another folder.")


def _write_log(log: list[dict[str, Any]], output: Path) -> None:
    write_atomically("".join(json.dumps(line) + "\n" for line in log).encode(), output / "log.jsonl")
