"""The picture of a run: curves over its epochs, and the learning rate."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import headless_pyplot
from . import checkpoint


def plot_curve(
    curves: Mapping[str, Sequence[float]], lr: Sequence[float], target: Path, title: str, label: str, log: bool = False
) -> None:
    """Draw curves over the epochs of a run, which count from 1, and its learning rate on an axis of its own.

    Args:
        curves: Values, one per epoch, by what they are.
        lr: Learning rate, one per epoch.
        target: The PNG file.
        title: Of the picture.
        label: Of the curves' axis.
        log: Whether that axis is logarithmic.

    Raises:
        ZooError: If matplotlib is not installed, or the file cannot be written.
    """
    pyplot = headless_pyplot()
    epochs = range(1, len(lr) + 1)
    figure, left = pyplot.subplots(figsize=(6, 3.5))
    for name, values in curves.items():
        left.plot(epochs, values, marker=".", label=name)
    left.set(xlabel="epoch", ylabel=label, title=title, yscale="log" if log else "linear")
    right = left.twinx()
    right.plot(epochs, lr, color="tab:gray", linestyle=":", label="learning rate")
    right.set_ylabel("learning rate")
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.87))
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)
    checkpoint.write(buffer.getbuffer(), target)


def plot_loss(log: Sequence[Mapping[str, Any]], target: Path, title: str) -> None:
    """Draw the training loss of an image network's log; errors as :func:`plot_curve`."""
    curves = {"training loss": [line["loss"] for line in log]}
    plot_curve(curves, [line["lr"] for line in log], target, title, "training loss")
