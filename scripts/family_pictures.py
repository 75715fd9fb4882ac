"""Write docs/families/FAMILY.png: steps of each family's moving picture (zoo gallery) one beside another.

python scripts/family_pictures.py
"""

from pathlib import Path
from typing import Any

from matplotlib.colors import LinearSegmentedColormap

from zoo.extras import headless_pyplot
from zoo.gallery.animations import PICTURES, animation

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "families"
STEPS = 4


def draw(found: dict[str, Any]) -> Any:
    """A figure of matplotlib's: a column for each of some steps, a row for each panel."""
    figure, frames = found["figure"], found["figure"]["frames"]
    chosen = [frames[round(k * (len(frames) - 1) / (STEPS - 1))] for k in range(STEPS)]
    titles = [note["text"] for note in figure["layout"].get("annotations", [])] or [""]
    height = 2.3 * len(titles) + 0.6 if titles[0] else 4.2
    drawn, panels = headless_pyplot().subplots(len(titles), STEPS, figsize=(9.6, height), squeeze=False)
    for column, frame in enumerate(chosen):
        panels[0, column].set_title(_folded(frame["name"]), fontsize=7.5)
        for row, values in enumerate(frame["data"]):
            panel, trace = panels[row, column], figure["data"][row]
            if trace["type"] == "heatmap":
                colours = LinearSegmentedColormap.from_list("signed", [tuple(stop) for stop in trace["colorscale"]])
                picture = [[float("nan") if v is None else v for v in line] for line in values["z"]]
                panel.imshow(picture, cmap=colours, vmin=trace["zmin"], vmax=trace["zmax"], interpolation="nearest")
                panel.set(xticks=[], yticks=[], frame_on=False, ylabel="" if column else titles[row])
            else:
                panel.barh(trace["y"], values["x"], color="#4f46c8")
                panel.set(xlim=figure["layout"]["xaxis"]["range"], xlabel="% on")
                panel.invert_yaxis()
                panel.tick_params(labelsize=5.5, labelleft=not column)
    drawn.suptitle(f"{found['title']}: {found['weight']}", fontsize=10)
    drawn.tight_layout()
    return drawn


def _folded(words: str) -> str:
    first, _, rest = words.partition(": ")
    return f"{first}\n{rest}"


def main() -> None:
    """Draw all families whose weights are here."""
    FOLDER.mkdir(exist_ok=True)
    for family in PICTURES:
        found = animation(family)
        if "reason" in found:
            raise SystemExit(found["reason"])
        draw(found).savefig(FOLDER / f"{family}.png", dpi=110, metadata={"Software": None})
        print(FOLDER / f"{family}.png")


if __name__ == "__main__":
    main()
