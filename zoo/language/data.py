"""Word-level text folders for language models, such as WikiText-2 and the Penn Treebank.

A folder holds one file per split, ``train.txt``, ``valid.txt`` and ``test.txt``; the usual names of the two data sets
(``wiki.train.tokens``, ``ptb.train.txt``) are read too. Words are what white space separates, and every line, an empty
one as well, ends with one ``<eos>``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.texts import SPLITS
from ..data.texts import TEXT_DATASETS as TEXT_DATASETS
from ..data.texts import TextDataset as TextDataset
from ..data.texts import get_text_dataset as get_text_dataset
from ..errors import DataError

EOS = "<eos>"
PADDING = -100  # what torch's cross entropy ignores
_NAMES = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens")


@dataclass(frozen=True)
class Text:
    """The three splits as word numbers.

    Attributes:
        words: The vocabulary: every word of train, validation and test, in order of appearance.
        splits: ``train``, ``valid`` and ``test``, each int64 of shape (words in the split,).
    """

    words: tuple[str, ...]
    splits: dict[str, Tensor]

    def sha256(self, *names: str) -> str:
        """Hash of the vocabulary and of some splits' word numbers."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for name in names:
            digest.update(self.splits[name].numpy().tobytes())
        return digest.hexdigest()


def load_text(folder: str | Path) -> Text:
    """Read all three splits and collect their vocabulary.

    Args:
        folder: Where the files of the module docstring lie.

    Raises:
        DataError: If a file is missing, has no word, or is not UTF-8 text.
    """
    numbers: dict[str, int] = {}
    splits = {}
    for split in SPLITS:
        words = _read(_find(folder, split))
        splits[split] = torch.tensor([numbers.setdefault(word, len(numbers)) for word in words])
    return Text(tuple(numbers), splits)


def load_split(folder: str | Path, split: str, words: tuple[str, ...]) -> Tensor:
    """Read one split with a given vocabulary, such as that of a trained model.

    Args:
        folder: Where the split's file lies.
        split: ``train``, ``valid`` or ``test``.
        words: The vocabulary; a word's position is its number.

    Returns:
        Word numbers, int64 of shape (words in the split,).

    Raises:
        DataError: If the file is missing or damaged, or has words outside the vocabulary; the message names one.
    """
    path = _find(folder, split)
    numbers = {word: number for number, word in enumerate(words)}
    found = _read(path)
    unknown = sorted({word for word in found if word not in numbers})
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of its words, such as {unknown[0]!r}, are not in the vocabulary of {len(words)} "
            "words: pass the folder of the text the model was trained on."
        )
    return torch.tensor([numbers[word] for word in found])


def as_columns(tokens: Tensor, count: int, first: int) -> tuple[Tensor, Tensor]:
    """Cut a text into columns that are read side by side, so that every token is a target exactly once.

    The input before a column's first token is the last one of the column before; before the text it is ``first``. (The
    paper's script drops the tokens that do not fill a row, and the first of every column.)

    Args:
        tokens: (tokens,), int64.
        count: Number of columns.
        first: Number of ``<eos>``, as if a line had ended before the text.

    Returns:
        Inputs and targets, both (ceil(tokens / count), count); targets past the end are ``PADDING``.
    """
    length = -(-len(tokens) // count)
    inputs, targets = (tokens.new_full((length * count,), value) for value in (first, PADDING))
    inputs[1 : len(tokens)] = tokens[:-1]
    targets[: len(tokens)] = tokens
    return inputs.view(count, length).t().contiguous(), targets.view(count, length).t().contiguous()


def _find(folder: str | Path, split: str) -> Path:
    if split not in SPLITS:
        raise DataError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"No such folder: {folder}. Pass the folder that holds train.txt, valid.txt and test.txt.")
    names = [name.format(split) for name in _NAMES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"No {split} split in {folder}: one of the files {', '.join(names)} must be there.")


def _read(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8") as lines:
            words = [word for line in lines for word in (*line.split(), EOS)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}). Fetch the file again.") from None
    if all(word == EOS for word in words):
        raise DataError(f"{path}: the file is empty. Fetch it again.")
    return words
