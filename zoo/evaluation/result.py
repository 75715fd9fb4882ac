"""One measurement of a network on a data set."""

from dataclasses import InitVar, dataclass, field
from typing import Any

from .guesses import Guesses


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        name: ``arch.tag``, or what the caller called the network.
        dataset: Data set name.
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
        n: Number of images that were measured.
        correct: Number of images whose first guess is right.
        interval: 95 % Wilson interval of ``top1``, in percent.
        images_per_second: Speed of the whole loop.
        versions: Of this package and what it runs on.
        sha256: Of the weight's file; empty if there is none.
        data_sha256: Of ``images`` and ``labels`` as :func:`zoo.data.known.digests` computes them; empty for ImageNet.
        left_out: Files in the folder that are not measured: hidden, or without an ending of an image.
        warning: Empty, or in one line why the figures do not compare: the content is not the published one, only a part
            of it was measured, or files were left out, the first of which are named.
        of: Number of images there are; more than ``n`` if only the first ones were measured.
        split: ``test``, or ``train`` of the small sets.
        nll: Negative log-likelihood, natural logarithm, mean over the images; None if a score is not finite.
        ece: Expected calibration error in percent, 15 bins (:func:`.guesses.calibration_error`); None likewise.
        per_class: ``label``, ``class``, ``n``, ``correct`` and ``top1`` in percent of each class that has an image.
        corruption: Of the images, if they were corrupted: ``name``, ``severity``, ``seed``, and how it was ``made``.
        precision: ``float32``, or what autocast computed in, which ``name`` then says too.
        channels_last: Whether network and images were laid out so.
        device: Where it was computed.
        processes: How many shared the images.
        guesses: What the network said of each image; no figure, so it is not among the fields that are written.
    """

    name: str
    dataset: str
    top1: float
    top5: float
    n: int
    correct: int
    interval: tuple[float, float]
    images_per_second: float
    versions: dict[str, str]
    sha256: str = ""
    data_sha256: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    warning: str = ""
    of: int = 0
    split: str = "test"
    nll: float | None = None
    ece: float | None = None
    per_class: list[dict[str, Any]] = field(default_factory=list)
    corruption: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    channels_last: bool = False
    device: str = ""
    processes: int = 1
    guesses: InitVar[Guesses | None] = None

    def __post_init__(self, guesses: Guesses | None) -> None:
        object.__setattr__(self, "guesses", guesses)

    def beside_top1(self) -> dict[str, float | None]:
        """Likelihood and calibration error under the names that the manifest has for them."""
        return {"nll": self.nll, "calibration_error": self.ece}
