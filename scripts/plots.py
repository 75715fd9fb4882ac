"""What the pictures of the pages share: points with intervals, labels that keep clear of each other, the file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.evaluation.validate import wilson
from zoo.extras import headless_pyplot
from zoo.files import write_atomically

MARKERS = "osD^v<>ph"
"""Nine, and ten colours: ninety families that look different."""

LINE = {"arrowstyle": "-", "lw": 0.5, "color": "gray", "shrinkA": 0, "shrinkB": 3}
"""From a label to its point."""


def styles(kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each kind, in the order of their first appearance."""
    return {
        kind: {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)]}
        for i, kind in enumerate(dict.fromkeys(kinds))
    }


def points(
    panel: Any, places: Sequence[float], correct: Sequence[int], n: int, across: bool = False, **style: Any
) -> None:
    """Accuracies in percent, each with its 95 % interval (Wilson) from the number of images.

    Args:
        panel: matplotlib's axes.
        places: Of the points, on the other axis.
        correct: Right images of each.
        n: Images.
        across: Accuracy along x.
        **style: As matplotlib's ``errorbar``.
    """
    values = [100 * hits / n for hits in correct]
    bounds = [wilson(hits, n) for hits in correct]
    error = [[abs(v - b[side]) for v, b in zip(values, bounds, strict=True)] for side in (0, 1)]
    where = {"x": values, "y": places, "xerr": error} if across else {"x": places, "y": values, "yerr": error}
    panel.errorbar(**where, linestyle="none", **{"marker": "o", "lw": 1, "ms": 5, **style})


def beside(place: float, count: int, step: float) -> list[float]:
    """Places for several points of one thing, side by side around its own."""
    return [place + step * (k - (count - 1) / 2) for k in range(count)]


def key(**style: Any) -> Any:
    """An entry of a legend."""
    return headless_pyplot().Line2D([], [], **{"linestyle": "none", "marker": "o", "color": "black", **style})


def label_points(labels: Mapping[Any, Sequence[tuple[float, float, str]]], fontsize: float = 7) -> None:
    """Write beside each point what it is, where there is no other label, marker, interval, legend or line yet.

    It is to be called last: it takes limits and layout as they are. A figure without enough room is made larger.

    Args:
        labels: (x, y, text) of each point, by matplotlib's axes; all of one figure. A point without text is kept clear.
        fontsize: In points.
    """
    while not all(_labelled(panel, found, fontsize) for panel, found in labels.items()):
        figure = next(iter(labels)).figure
        if max(figure.get_size_inches()) > 50:
            raise ValueError(f"No room for {max(map(len, labels.values()))} labels in a panel.")
        figure.set_size_inches(1.25 * figure.get_size_inches())
        for note in [note for panel in labels for note in panel.texts]:
            note.remove()


def _labelled(panel: Any, labels: Sequence[tuple[float, float, str]], fontsize: float) -> bool:
    """Whether there was room for all."""
    from matplotlib.path import Path as Line
    from matplotlib.transforms import Bbox

    panel.figure.canvas.draw()
    frame, pixel = panel.get_window_extent(), 72 / panel.figure.dpi
    centres = [panel.transData.transform((x, y)) for x, y, _ in labels]
    boxes = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    boxes += [panel.get_legend().get_window_extent()] if panel.get_legend() else []
    known = len(boxes)
    lines = [Line(panel.transData.transform(part)) for bars in panel.collections for part in bars.get_segments()]
    rays = [sign * k * math.pi / 12 for k in range(13) for sign in (1, -1)]
    tries = [(reach * math.cos(ray), reach * math.sin(ray)) for reach in (10, *range(16, 260, 12)) for ray in rays]
    for (x, y, text), centre in zip(labels, centres, strict=True):
        if not text:
            continue
        measured = panel.text(x, y, text, fontsize=fontsize)
        size = measured.get_window_extent().padded(2)
        measured.remove()
        for dx, dy in tries:
            left, bottom = centre + (dx, dy) - (size.width * (dx < 0), size.height / 2)
            box, leader = Bbox.from_bounds(left, bottom, size.width, size.height), Line([centre, centre + (dx, dy)])
            if (
                frame.contains(box.x0, box.y0)
                and frame.contains(box.x1, box.y1)
                and not any(box.overlaps(other) for other in boxes)
                and not any(line.intersects_bbox(box, filled=False) for line in lines)
                and not any(leader.intersects_bbox(other, filled=False) for other in boxes[known:])
            ):
                break
        else:
            return False
        boxes.append(box)
        lines.append(leader)
        where = {"xytext": (dx * pixel, dy * pixel), "textcoords": "offset points", "va": "center"}
        where["ha"] = "left" if dx >= 0 else "right"
        panel.annotate(text, (x, y), **where, fontsize=fontsize, arrowprops=LINE)
    return True


def save(figure: Any, target: Path) -> None:
    """Write a figure, the same bytes each time, and forget it."""
    write_atomically(lambda file: figure.savefig(file, format="png", dpi="figure", metadata={"Software": None}), target)
    headless_pyplot().close(figure)
