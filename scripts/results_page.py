"""docs/results.md and its picture, from weights_manifest.json and the equivalence records of the staged weights."""

import json
import math
from pathlib import Path
from statistics import mean, stdev

from zoo.extras import headless_pyplot

ROOT = Path(__file__).resolve().parent.parent

INTRO = """# Results

Made by `python scripts/update_docs.py` from `weights_manifest.json` and the equivalence records in `hub/`.

Of every weight of this project: the last epoch of one run on the whole training set, with a recipe chosen on held-out
training images or not at all; the test set was read when the weight was staged. Intervals are 95 % (Wilson), from the
number of test images alone; what another seed would give is told by the seeds, where there are several. `zoo validate`
measures each figure again, to the image. Most of these networks were trained on two CPU cores, in far fewer epochs than
the papers': they are real weights of their families, not what the families can reach. `zoo queue` lists what is to be
trained with a GPU.
"""

TWINS = """## Twins: the same recipe, data and seed, another network

Does a family cost or gain accuracy? Only networks trained in the same way tell. The interval of a difference is 95 %,
from both numbers of test images as if they were independent; it leaves out the noise between seeds, which the last
column gives where there are several: mean and standard deviation of the differences, seed by seed.
"""

SYMMETRY = """## Symmetry: accuracy against parameters

WRN-16-1 with each type of symmetry in the second convolution of every block, and with none; in numbers in the table
above. `tri` and `wwt` are one function from other initial values.

![accuracy of WRN-16-1 by type of symmetry](symmetry.png)
"""

COLLAPSED = """## Collapsed forms

Each staged weight has its network of plain layers beside it (`zoo.load_collapsed`, `zoo validate --collapsed`),
measured on the whole test set. Differences of the scores are relative to the largest score, in float64 on random images
and in float32 on the first 64 test images.
"""

AUTHORS = """## The authors' weights in our networks

Their figures, stored in the released files, are those of the best of all epochs on the test set. Ours are measured with
our own networks and readers on the same test set. Weights that nobody could measure here are in
[weights.md](weights.md).
"""


LINE = {"arrowstyle": "-", "lw": 0.4, "color": "gray"}
"""From a label to its point."""


def results_page(weights: dict[str, dict]) -> str:
    """The page.

    Args:
        weights: The manifest's.
    """
    ours = {name: entry for name, entry in weights.items() if entry["origin"] == "zoo" and entry["results"]}
    theirs = {name: entry for name, entry in weights.items() if entry["origin"] != "zoo" and entry["results"]}
    sections = [
        INTRO,
        "![accuracy against stored parameters](results.png)\n",
        "## Ours against the papers\n",
        table(
            ["weight", "data set", "parameters, not zero", "epochs", "top-1 %", "seeds", "paper", "difference", "why"],
            "llrrlllrl",
            [_against_the_paper(name, entry) for name, entry in ours.items()],
        ),
        TWINS,
        table(
            [
                "weight",
                "twin",
                "parameters, not zero",
                "twin's",
                "top-1 %",
                "twin's",
                "difference (95 %)",
                "over seeds",
            ],
            "llrrrrll",
            [_against_a_twin(name, twin, weights) for name, entry in ours.items() for twin in entry.get("twins", [])],
        ),
        SYMMETRY,
        COLLAPSED,
        table(
            ["weight", "right before, after", "float64", "float32", "parameters", "multiply-adds", "file"],
            "llllllr",
            [_collapsed(name, entry) for name, entry in ours.items() if (entry.get("collapsed") or {}).get("path")],
        ),
        AUTHORS,
        table(
            ["weight", "data set", "stored parameters", "top-1 %", "published", "difference"],
            "llrrrr",
            [_authors(name, entry) for name, entry in theirs.items()],
        ),
    ]
    return "\n".join(sections)


def table(header: list[str], sides: str, rows: list[list[str]]) -> str:
    """A Markdown table; ``sides`` has a letter for each column, ``r`` for one that is aligned right."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [header, rule, *rows])


def _against_the_paper(name: str, entry: dict) -> list[str]:
    result, paper, seeds = entry["results"][0], entry["paper_result"], entry.get("seeds")
    return [
        f"`{name}`",
        entry["dataset"],
        f"{entry['params']['nonzero']:,}",
        str(entry["epochs"]),
        "{:.2f} ({} to {})".format(result["top1"], *result["interval95"]),
        f"{seeds['mean']:.2f} ± {seeds['std']:.2f} ({len(seeds['runs'])})" if seeds else "one",
        f"{paper['top1']:.2f}" if paper else "-",
        f"{result['top1'] - paper['top1']:+.2f}" if paper else "-",
        entry.get("remark", "-"),
    ]


def _against_a_twin(name: str, twin: str, weights: dict[str, dict]) -> list[str]:
    entry, other = weights[name], weights.get(twin)
    cells = [f"`{name}`", f"`{twin}`", f"{entry['params']['nonzero']:,}"]
    ours = entry["results"][0]
    if not other:
        return [*cells, "-", f"{ours['top1']:.2f}", "-", "the twin is not trained yet (`zoo queue`)", "-"]
    theirs = other["results"][0]
    error = 1.96 * 100 * math.sqrt(sum(p * (1 - p) / r["n"] for r in (ours, theirs) for p in (r["correct"] / r["n"],)))
    difference = f"{ours['top1'] - theirs['top1']:+.2f} ± {error:.2f}"
    figures = [f"{ours['top1']:.2f}", f"{theirs['top1']:.2f}", difference, _over_seeds(entry, other)]
    return [*cells, f"{other['params']['nonzero']:,}", *figures]


def _over_seeds(entry: dict, other: dict) -> str:
    mine, yours = ({run["seed"]: run["top1"] for run in e.get("seeds", {}).get("runs", [])} for e in (entry, other))
    return over_seeds(mine, yours) or "one seed"


def over_seeds(mine: dict[int, float], yours: dict[int, float]) -> str:
    """Mean and standard deviation of the differences on the seeds that both have; empty if these are fewer than two."""
    gaps = [mine[seed] - yours[seed] for seed in sorted(mine.keys() & yours.keys())]
    return f"{mean(gaps):+.2f} ± {stdev(gaps):.2f} ({len(gaps)} seeds)" if len(gaps) > 1 else ""


def _collapsed(name: str, entry: dict) -> list[str]:
    form = entry["collapsed"]
    record = json.loads((ROOT / "hub" / name / "equivalence.json").read_text())
    gap = {(d["input"], d["dtype"]): d["max_relative"] for d in record["differences"]}
    before, after = record["before"], record["after"]
    return [
        f"`{name}`",
        f"{record['correct_before']:,}, {record['correct'][form['dtype']]:,}",
        f"{gap['random', 'float64']:.0e}",
        f"{gap['real', 'float32']:.0e}",
        f"{before['parameters']:,}, {after['parameters']:,}",
        f"{before['macs']:,}, {after['macs']:,}",
        f"{form['size']:,} bytes, {form['dtype']}",
    ]


def _authors(name: str, entry: dict) -> list[str]:
    ours, published = entry["results"][0]["top1"], entry["paper_result"]["top1"]
    figures = [f"{ours:.2f}", f"{published:.2f}", f"{ours - published:+.2f}"]
    return [f"`{name}`", entry["dataset"], f"{entry['params']['stored']:,}", *figures]


def draw_symmetry(weights: dict[str, dict], target: Path, plain: str = "wrn_16_1.zoo_c10") -> None:
    """Draw accuracy against stored parameters of the types of symmetry and their plain twin, a circle for each seed."""
    pyplot = headless_pyplot()

    chosen = {
        name: entry
        for name, entry in weights.items()
        if name == plain or (entry["family"] == "symmetry" and plain in entry.get("twins", []))
    }
    figure, panel = pyplot.subplots(figsize=(7, 3.8))
    for name, entry in chosen.items():
        x, result = entry["params"]["stored"], entry["results"][0]
        runs = [run["top1"] for run in entry["seeds"]["runs"]] if "seeds" in entry else [result["top1"]]
        color = "black" if name == plain else "C2"
        low, high = result["interval95"]
        panel.vlines(x, low, high, color=color, lw=1, alpha=0.6)
        panel.plot([x] * len(runs), runs, "o", color=color, fillstyle="none")
        kind = "plain" if name == plain else entry.get("model_args", {}).get("symm_type", "tri")
        panel.annotate(kind, (x, runs[0]), xytext=(6, -3), textcoords="offset points", fontsize=8)
    panel.set(xlabel="stored parameters", ylabel="top-1 % on CIFAR-10")
    panel.set_title("a circle for each seed; lines: 95 % interval of the staged one, of its test images", fontsize=8)
    panel.grid(alpha=0.3)
    panel.margins(x=0.12)
    figure.tight_layout()
    figure.savefig(target, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def draw(weights: dict[str, dict], target: Path) -> None:
    """Draw accuracy against stored parameters: ours filled, with their intervals, the authors' weights hollow."""
    pyplot = headless_pyplot()
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    sets = {"cifar10": "CIFAR-10", "fashion-mnist": "Fashion-MNIST"}
    figure, panels = pyplot.subplots(1, len(sets), figsize=(12, 6))
    for panel, (dataset, title) in zip(panels, sets.items(), strict=True):
        labels = []
        for name, entry in weights.items():
            if entry["dataset"] != dataset or not entry["results"]:
                continue
            result, own = entry["results"][0], entry["origin"] == "zoo"
            x, y = entry["params"]["nonzero"], result["top1"]
            low, high = result["interval95"]
            color = {"lrunet": 0, "sharing": 1, "symmetry": 2, "sparse": 3, "paradise": 4}[entry["family"]]
            face = f"C{color}" if own else "none"
            panel.errorbar(
                x, y, [[y - low], [high - y]], fmt="o", color=f"C{color}", mfc=face, ms=5, lw=1, label=entry["family"]
            )
            if own:
                arch, tag = name.split(".")
                labels.append((y, x, " ".join([arch, *tag.split("_")[1:-1]])))
        place = -math.inf
        for y, x, label in sorted(labels):  # upwards, each far enough from the one below
            place = max(y, place + 0.026 * (panel.get_ylim()[1] - panel.get_ylim()[0]))
            where = {"xytext": (12, place), "textcoords": ("offset points", "data"), "va": "center"}
            panel.annotate(label, (x, y), **where, fontsize=6, arrowprops=LINE)
        panel.set(xscale="log", title=title, xlabel="stored parameters that are not zero", ylabel="top-1 %")
        panel.grid(alpha=0.3)
        panel.margins(x=0.35)
        panel.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter=EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
        once = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(once.values(), once.keys(), fontsize=7, loc="lower right")
    figure.suptitle("Top-1 against parameters: ours filled, the authors' own weights hollow", fontsize=10)
    figure.tight_layout()
    figure.savefig(target, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
