"""The pictures of README.md and docs/: accuracy against parameters, ours beside others'."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weight_tables import front, our_figures, published

from zoo.evaluation.validate import wilson
from zoo.extras import headless_pyplot
from zoo.files import write_atomically

FLOOR = 86
"""Top-1 in percent below which nothing is shown."""


def front_figure() -> Any:
    """CIFAR-10: ours beside what other zoos state."""
    theirs = [row | {"source": f"stated by {row['source']}"} for row in published()[1] if row["parameters"]]
    return figure("CIFAR-10: ours beside what other zoos state", our_figures("cifar10"), theirs)


def results_figure() -> Any:
    """Fashion-MNIST: ours beside the LruNet authors', all measured here."""
    theirs = [row | {"source": "the authors', measured here"} for row in our_figures("fashion-mnist", authors=True)]
    return figure("Fashion-MNIST: ours beside the authors'", our_figures("fashion-mnist"), theirs)


def figure(title: str, mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Any:
    """Top-1 against parameters that are not zero; ours with intervals and, on their own front, names; the front of all.

    Args:
        title: What is compared.
        mine: Our figures, as :func:`weight_tables.our_figures` has them.
        theirs: The others', with ``source`` as the legend is to say it.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    mine, theirs = ([row for row in rows if row["top1"] >= FLOOR] for rows in (mine, theirs))
    drawn, panel = headless_pyplot().subplots(figsize=(9, 5))
    for place, name in enumerate(dict.fromkeys(row["source"] for row in theirs)):
        x, y = zip(*((row["parameters"], row["top1"]) for row in theirs if row["source"] == name), strict=True)
        panel.plot(x, y, "osD^v<>"[place % 7], color=f"C{place}", mfc="none", ms=6, ls="none", label=name)
    bounds = [wilson(row["correct"], row["n"]) for row in mine]
    error = [[abs(row["top1"] - bound[side]) for row, bound in zip(mine, bounds, strict=True)] for side in (0, 1)]
    x, y = [row["parameters"] for row in mine], [row["top1"] for row in mine]
    panel.errorbar(x, y, yerr=error, fmt="*", color="black", ms=10, lw=1, label="ours, measured (95 %)")
    best = front(mine + theirs)
    x, y = [row["parameters"] for row in best], [row["top1"] for row in best]
    panel.hlines(y[:-1], x[:-1], x[1:], color="gray", lw=0.8, label="best of all")
    panel.vlines(x[1:], y[:-1], y[1:], color="gray", lw=0.8)
    panel.set(xscale="log", xlabel="parameters that are not zero", ylabel="top-1 % on the test set", title=title)
    panel.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(alpha=0.3)
    drawn.legend(loc="lower center", ncols=4, fontsize=8)
    drawn.tight_layout(rect=(0, 0.09, 1, 1))
    names = ((row, *row["name"].split(".")) for row in front(mine))
    words = [(row, " ".join([arch, *tag.split("_")[1:-1]])) for row, arch, tag in names]
    label_points(panel, [(row["parameters"], row["top1"], text) for row, text in words])
    return drawn


def label_points(panel: Any, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write beside each point what it is, at the nearest place where nothing else is.

    Args:
        panel: matplotlib's axes, with limits and layout as they will be.
        labels: (x, y, text) of each point.
    """
    from matplotlib.path import Path as Line
    from matplotlib.transforms import Bbox

    panel.figure.canvas.draw()
    frame, scale = panel.get_window_extent(), 72 / panel.figure.dpi
    points: list[Bbox] = []
    for line in panel.lines:
        if line.get_linestyle() == "None":  # points
            ends = panel.transData.transform(line.get_xydata())
            points += [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in ends]
    taken = [*points]
    for lines in panel.collections:  # intervals and the front, along the axes
        ends = (panel.transData.transform(segment) for segment in lines.get_segments())
        taken += [Bbox([part.min(0), part.max(0)]).padded(1) for part in ends]
    rays = [k * math.pi / 8 for k in range(16)]
    tries = [(reach * math.cos(ray), reach * math.sin(ray)) for reach in range(12, 160, 8) for ray in rays]
    for x, y, text in labels:
        centre = panel.transData.transform((x, y))
        note = panel.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=8, va="center",
                              arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "gray"})  # fmt: skip
        size = super(type(note), note).get_window_extent()  # without the line to the point
        for dx, dy in tries:
            left, bottom = centre + (dx, dy) - (size.width * (dx < 0), size.height / 2)
            box = Bbox.from_bounds(left, bottom, size.width, size.height)
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            way = Line([centre, centre + (dx, dy)])  # the line to the point, which meets no other
            crossed = (p for p in points if not p.contains(*centre) and way.intersects_bbox(p, filled=True))
            if inside and not any(box.padded(2).overlaps(other) for other in taken) and not any(crossed):
                break
        taken.append(box)
        note.set(position=(dx * scale, dy * scale), ha="left" if dx >= 0 else "right")


def save(figure: Any, target: Path) -> None:
    """Write a figure, the same bytes each time, and forget it."""
    write_atomically(lambda file: figure.savefig(file, format="png", dpi="figure", metadata={"Software": None}), target)
    headless_pyplot().close(figure)
