"""What a network says of each image of a test set, and the figures that follow from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017, On Calibration of Modern Neural Networks."""


Part = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of a batch, as in :class:`Guesses`: true classes, likeliest ones, their probabilities, log-likelihood."""


def best_guesses(scores: Tensor, target: Tensor) -> Part:
    """What a network says of a batch.

    Args:
        scores: Its outputs, (batch, classes).
        target: The true classes, (batch,).
    """
    scores, target = scores.detach().float().cpu(), target.cpu()
    likelihoods = scores.double().log_softmax(1)
    best = scores.topk(min(5, scores.shape[1]), 1).indices
    own = likelihoods.gather(1, target[:, None])[:, 0]
    return target, best, likelihoods.gather(1, best).exp().float(), own


@dataclass(frozen=True, eq=False)
class Guesses:
    """A network's best guesses, image by image, in the order of the test set.

    Attributes:
        target: True classes, (n,), int64.
        classes: The likeliest five classes of each image, likeliest first, (n, 5) or fewer, int64.
        probabilities: Theirs, from 0 to 1, of the same shape, float32.
        log_likelihood: Natural logarithm of the probability of the true class, (n,), float64.
        set_sha256: Of the ``images`` and ``labels`` of the whole set they are from.
    """

    target: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    log_likelihood: np.ndarray
    set_sha256: dict[str, str]

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], set_sha256: dict[str, str], count: int) -> "Guesses":
        """Collect the guesses of some batches.

        Args:
            batches: The network's outputs, (batch, classes), and the true classes, (batch,).
            set_sha256: See above.
            count: No more images than that are taken.
        """
        return cls.joined((best_guesses(scores, target) for scores, target in batches), set_sha256, count)

    @classmethod
    def joined(cls, parts: Iterable[Part], set_sha256: dict[str, str], count: int) -> "Guesses":
        """Put the guesses of batches together, as :meth:`of` does.

        Args:
            parts: What :func:`best_guesses` gives of each batch, in the order of the test set.
            set_sha256: See above.
            count: No more images than that are taken.
        """
        return cls(*(torch.cat(part)[:count].numpy() for part in zip(*parts, strict=True)), set_sha256)

    @property
    def right(self) -> np.ndarray:
        """Whether the first guess is the true class, (n,), bool."""
        return self.classes[:, 0] == self.target

    @property
    def right_of_five(self) -> np.ndarray:
        """Whether one of the five guesses is the true class, (n,), bool."""
        return (self.classes == self.target[:, None]).any(1)

    def negative_log_likelihood(self) -> float | None:
        """Mean over the images, natural logarithm; None if a score is not finite."""
        mean = -float(self.log_likelihood.mean())
        return mean if np.isfinite(mean) else None

    def calibration_error(self) -> float | None:
        """See :func:`calibration_error`; None if a score is not finite."""
        best = self.probabilities[:, 0]
        return calibration_error(best, self.right) if np.isfinite(best).all() else None

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Accuracy by true class.

        Args:
            names: Of the classes, in label order.

        Returns:
            ``label``, ``class``, ``n``, ``correct`` and ``top1`` in percent of every class that has an image.
        """
        count = np.bincount(self.target, minlength=len(names))
        right = np.bincount(self.target[self.right], minlength=len(names))
        return [
            {"label": k, "class": names[k], "n": int(n), "correct": int(r), "top1": round(100 * int(r) / int(n), 4)}
            for k, (n, r) in enumerate(zip(count, right, strict=True))
            if n
        ]


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: by how much a network's confidence misses its accuracy.

    Images are put into bins of equal width by their confidence, a bin holding its lower end (what is exactly 1 is a bin
    of its own, as torchmetrics has it); the error is the mean over the images of the gap between accuracy and mean
    confidence of their bin.

    Args:
        confidence: Probability of the first guess, from 0 to 1, (n,).
        right: Whether the first guess is right, (n,).
        bins: How many.

    Returns:
        From 0 to 1.
    """
    ends = np.linspace(0, 1, bins + 1, dtype=np.float32)
    place = np.searchsorted(ends, confidence.astype(np.float32), side="right")
    gap = np.bincount(place, weights=right.astype(np.float64) - confidence.astype(np.float64))
    return float(np.abs(gap).sum() / len(right))
