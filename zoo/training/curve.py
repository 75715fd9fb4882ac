"""The picture of a run: curves over its epochs, and the learning rate."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import headless_pyplot
from . import checkpoint


def plot_curve(
    curves: Mapping[str, Sequence[float]],
    lr: Sequence[float],
    target: Path,
    title: str,
    label: str,
    log: bool = False,
    accuracy: Mapping[str, Sequence[float | None]] | None = None,
) -> None:
    """Draw curves over the epochs of a run, which count from 1, and its learning rate on an axis of its own.

    Args:
        curves: Values, one per epoch, by what they are.
        lr: Learning rate, one per epoch.
        target: The PNG file.
        title: Of the picture.
        label: Of the curves' axis.
        log: Whether that axis is logarithmic.
        accuracy: Percent, one per epoch or None, by what they are; drawn in a panel below, where there are any.

    Raises:
        ZooError: If matplotlib is not installed, or the file cannot be written.
    """
    pyplot = headless_pyplot()
    epochs, panels = range(1, len(lr) + 1), 2 if accuracy else 1
    figure, axes = pyplot.subplots(panels, figsize=(6, 1.5 + 2.5 * panels), sharex=True, squeeze=False)
    first, last = axes[0, 0], axes[-1, 0]
    for name, values in curves.items():
        first.plot(epochs, values, marker=".", label=name)
    first.set(ylabel=label, title=title, yscale="log" if log else "linear")
    right = first.twinx()
    right.plot(epochs, lr, color="tab:gray", linestyle=":", label="learning rate")
    right.set_ylabel("learning rate")
    for name, values in (accuracy or {}).items():
        last.plot(epochs, [math.nan if value is None else value for value in values], "C2", marker=".", label=name)
        last.set(ylabel="top-1 %")
    last.set(xlabel="epoch")
    last.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)
    checkpoint.write(buffer.getbuffer(), target)


def plot_loss(log: Sequence[Mapping[str, Any]], target: Path, title: str, top1: float | None = None) -> None:
    """Draw an image network's log, the training loss and what accuracy there is; errors as :func:`plot_curve`.

    Args:
        log: A line for each epoch.
        target: The PNG file.
        title: Of the picture.
        top1: Of the finished network on the test set, in percent, if it was measured.
    """
    title += "" if top1 is None else f": {top1:.2f} % top-1 on the test set"
    curves = {"training loss": [line["loss"] for line in log]}
    held_out = [line.get("held_out_top1") for line in log]
    accuracy = {"held-out top-1": held_out} if any(value is not None for value in held_out) else None
    plot_curve(curves, [line["lr"] for line in log], target, title, "training loss", accuracy=accuracy)
