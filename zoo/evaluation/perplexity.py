"""Perplexity of a word language model."""

import math
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.text import PADDING, as_columns


@dataclass(frozen=True)
class Perplexity:
    """One measurement.

    Attributes:
        perplexity: exp(``loss``); infinite where that is no number.
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
            vocabulary), such as ``zoo.models.symm_rnn.SymmRNNLanguageModel``; set to eval mode.
        tokens: The text as word numbers, (words,), int64, on the model's device.
        first: Number of ``<eos>``, the input before the first word.
        columns: Pieces the text is cut into, read side by side; the paper's is 10.
        steps: Words per call and column; decides memory, not the result.
        name: Shown by the progress bar.
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
