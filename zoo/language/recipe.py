"""Recipes of language models: small YAML files with ``task: language``.

Setting: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027, with the authors' code: plain gradient descent,
truncated backpropagation, a learning rate that falls when validation does not improve.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..training.recipe import read_recipe, unknown_key
from ..training.values import check_ranges, typed
from .data import get_text_dataset
from .network import SymmRNNLanguageModel

_SCHEDULES = ("plateau", "cosine")
_RANGES = {
    **dict.fromkeys(("embedding_size", "hidden_size", "num_layers"), (1, math.inf)),
    **dict.fromkeys(("epochs", "columns", "eval_columns", "steps", "lr_divisor"), (1, math.inf)),
    **dict.fromkeys(("lr", "clip", "checkpoint_every"), (0, math.inf)),
    "dropout": (0, 1),
    "seed": (0, 2**32),
}


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
        symm_type: Symmetry type of the gates, see :class:`zoo.language.network.SymmLSTM`.
        symm_hh: Which gates are symmetric on the hidden side, one 0 or 1 each; empty for all.
        symm_ih: The same for the input side; empty for none.
        epochs: Passes over the training text.
        columns: Pieces of the training text read side by side (the batch size).
        eval_columns: The same for validation.
        steps: Words per column through which is backpropagated.
        lr: First learning rate of plain gradient descent.
        sched: ``plateau`` (the paper's: see ``lr_divisor``), or ``cosine`` from the first rate to zero, step by step.
        lr_divisor: Of ``plateau``: divides the rate after every epoch that does not improve the validation loss.
        clip: Largest norm of the gradient.
        seed: Seed of initialisation and dropout.
        checkpoint_every: Steps between checkpoints beside the one after each epoch; 0 for only that.
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
    sched: str = "plateau"
    lr_divisor: float = 4.0
    clip: float = 0.25
    seed: int = 1111
    checkpoint_every: int = 0

    def __post_init__(self):
        """Check types and ranges.

        Raises:
            ZooError: If a value does not fit; the message says what is meant.
        """
        for entry in fields(self):
            setattr(self, entry.name, typed(entry.name, entry.type, getattr(self, entry.name)))
        check_ranges(self, _RANGES)
        if self.task != "language":
            raise ZooError(f"Recipe key task is {self.task!r}; a language model's is 'language'.")
        get_text_dataset(self.dataset)
        if self.sched not in _SCHEDULES:
            raise ZooError(f"Recipe key sched is one of {', '.join(_SCHEDULES)}, not {self.sched!r}.")
        for key in ("lr", "clip"):
            if not getattr(self, key):
                raise ZooError(f"Recipe key {key} must be above 0.")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return asdict(self)

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
        name: Recipe name such as ``symm_lstm_hh_wikitext2``, or a path ending in ``.yaml``.
        overrides: Values that replace the file's.

    Raises:
        UnknownNameError: If the recipe or a key does not exist; the message names close matches.
        ZooError: If the file is not a mapping, is for another task, or a value does not fit.
    """
    path, values = read_recipe(name, "language")
    if values.get("task") != "language":
        raise ZooError(f"{path}: not the recipe of a language model, for it lacks task: language.")
    return language_recipe(values | dict(overrides or {}))


def language_recipe(values: Mapping[str, Any]) -> LanguageRecipe:
    """A recipe from plain values.

    Raises:
        UnknownNameError: If a key does not exist; the message names close ones.
        ZooError: If a value does not fit.
    """
    known = [entry.name for entry in fields(LanguageRecipe)]
    for key in values:
        if key not in known:
            raise unknown_key(key, known)
    return LanguageRecipe(**values)
