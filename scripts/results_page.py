"""docs/results.md and its picture, from weights_manifest.json and the equivalence records of the staged weights."""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from plots import beside, key, label_points, points, styles

from zoo.evaluation.compare import Comparison, compare
from zoo.evaluation.predictions import read_predictions
from zoo.extras import headless_pyplot
from zoo.publishing.repository import PREDICTIONS

ROOT = Path(__file__).resolve().parent.parent

INTRO = """# Results

Made by `python scripts/update_docs.py` from `weights_manifest.json` and the equivalence records in `hub/`.

Of every weight of this project: the last epoch of one run on the whole training set, with a recipe chosen on held-out
training images or not at all; the test set was read when the weight was staged. Intervals are 95 % (Wilson), from the
number of test images alone; what another seed would give is told by the seeds, where there are several. `zoo validate`
measures each figure again, to the image. What has 60 epochs or more was trained on a GPU; the rest on two CPU cores, in
far fewer epochs than the papers': real weights of their families, not what the families can reach.
"""

UNFINISHED = """\
- Not staged, for both are far from done: LruNet-10 on Fashion-MNIST reached 92.14 % in 26 epochs on a GPU (its authors:
  93.46 in 300), SWRN-28-10-1 on CIFAR-10 94.70 % in 21 (our recipe has 200).
"""

TWINS = """## Twins: the same recipe, data and seed, another network

Does a family cost or gain accuracy? Only networks trained in the same way tell. They are compared image by image
(`zoo compare TWIN WEIGHT`, from the predictions beside each weight): the difference with its paired 95 % interval, and
how many images one of the two alone gets right ([what the interval means](evidence.md)). Where a single ± stands, there
are no predictions of both, and the interval is that of independent measurements. None tells of the noise between seeds,
which the last column does where there are several: mean and standard deviation of the differences, seed by seed.
"""

SYMMETRY = """## Symmetry: accuracy against parameters

WRN-16-1 with each type of symmetry in the second convolution of every block, and with none; in numbers in the table
above. `tri` and `wwt` are one function from other initial values.

![accuracy of WRN-16-1 by type of symmetry](symmetry.png)
"""

COLLAPSED = """## Collapsed forms

Each staged weight has its network of plain layers beside it (`zoo.load_collapsed`, `zoo validate --collapsed`),
measured on the whole test set. Differences of the scores are relative to the largest score, in float64 on random images
and in float32 on the first 64 test images. Parameters are those of the file; batch norms that are still in it are
folded when `zoo.load_collapsed` reads it.
"""

AUTHORS = """## The authors' weights in our networks

Their figures, stored in the released files, are those of the best of all epochs on the test set. Ours are measured with
our own networks and readers on the same test set. Weights that nobody could measure here are in
[weights.md](weights.md).
"""


def results_page(weights: dict[str, dict]) -> str:
    """The page.

    Args:
        weights: The manifest's.
    """
    ours = {name: entry for name, entry in weights.items() if entry["origin"] == "zoo" and entry["results"]}
    theirs = {name: entry for name, entry in weights.items() if entry["origin_url"] and entry["results"]}
    sections = [
        INTRO,
        "![accuracy against stored parameters](results.png)\n",
        findings(weights),
        "## Ours against the papers\n",
        table(
            ["weight", "data set", "parameters, not zero", "epochs", "top-1 %", "seeds", "paper", "difference", "why"],
            "llrrlllrl",
            [_against_the_paper(name, entry, weights) for name, entry in ours.items()],
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


def findings(weights: dict[str, dict]) -> str:
    """What the figures say in words, as a list."""
    sparse, grown = (weights[f"sparse_wrn_28_2.zoo_{tag}_s90_c10"] for tag in ("dsr", "rigl_erk"))
    tri, plain = weights["symm_wrn_16_4_tri.zoo_c10"], weights["wrn_16_4.zoo_c10"]
    right = [f"{entry['results'][0]['correct']:,}" for entry in (tri, plain)]
    top1, epochs = sparse["results"][0]["top1"], sparse["epochs"]
    found = _compared(*(f"sparse_wrn_28_2.zoo_{tag}_s90_c10" for tag in ("dsr", "rigl_erk")))
    paired = "{:+.2f}, {:+.2f} to {:+.2f}".format(found.difference, *found.interval)
    clear = "clear" if found.is_clear else "not clear"
    below = "{:.2f} against {:.2f}".format(*(entry["results"][0]["top1"] for entry in (grown, sparse)))
    fewer = 1 - tri["params"]["stored"] / plain["params"]["stored"]
    return f"""\
- RigL with ERK densities is below the paper's own method, dynamic reallocation, in this run of WRN-28-2 at nominal
  sparsity 0.9: {below}; our guess that it would be ahead was wrong. The paired difference ({paired})
  is {clear} of the choice of images, and there is one seed of each.
- Dynamic reallocation itself has {top1:.2f} % in {epochs} epochs; the paper 93.59 ± 0.18 in 200, over five runs.
- Triangular symmetry costs WRN-16-4 nothing: {right[0]} right against {right[1]} of its plain twin, at
  {100 * fewer:.0f} % fewer parameters.
{UNFINISHED}"""


def table(header: list[str], sides: str, rows: list[list[str]]) -> str:
    """A Markdown table; ``sides`` has a letter for each column, ``r`` for one that is aligned right."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [header, rule, *rows])


def _against_the_paper(name: str, entry: dict, weights: dict[str, dict]) -> list[str]:
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
        _why(entry, weights),
    ]


def _why(entry: dict, weights: dict[str, dict]) -> str:
    """The entry's remark, which sends to the twins where the paper has no figure and there are twins."""
    remark, twins = entry.get("remark"), [twin for twin in entry.get("twins", []) if twin in weights]
    if not remark or not twins or entry["paper_result"] or "twin" in remark:
        return remark or "-"
    return f"{remark.rstrip('.')}; compare with the twin{'s' * (len(twins) > 1)}."


def _against_a_twin(name: str, twin: str, weights: dict[str, dict]) -> list[str]:
    entry, other = weights[name], weights.get(twin)
    cells = [f"`{name}`", f"`{twin}`", f"{entry['params']['nonzero']:,}"]
    ours = entry["results"][0]
    if not other:
        return [*cells, "-", f"{ours['top1']:.2f}", "-", "the twin is not trained yet", "-"]
    theirs = other["results"][0]
    figures = [f"{ours['top1']:.2f}", f"{theirs['top1']:.2f}", _difference(name, twin, weights)]
    return [*cells, f"{other['params']['nonzero']:,}", *figures, _over_seeds(entry, other)]


def _difference(name: str, twin: str, weights: dict[str, dict]) -> str:
    """With its paired interval, and who alone is right how often; without predictions of both, as if independent."""
    if all("predictions" in weights[weight] for weight in (name, twin)):
        found = _compared(twin, name)
        alone = f"alone right: {found.only_second:,}, {found.only_first:,}"
        return "{:+.2f} ({:+.2f} to {:+.2f}); {}".format(found.difference, *found.interval, alone)
    ours, theirs = (weights[weight]["results"][0] for weight in (name, twin))
    error = 1.96 * 100 * math.sqrt(sum(p * (1 - p) / r["n"] for r in (ours, theirs) for p in (r["correct"] / r["n"],)))
    return f"{ours['top1'] - theirs['top1']:+.2f} ± {error:.2f}"


def _compared(first: str, second: str) -> Comparison:
    return compare(*(read_predictions(ROOT / "hub" / weight / PREDICTIONS) for weight in (first, second)))


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
    ours, paper = entry["results"][0]["top1"], entry["paper_result"]
    figures = [f"{ours:.2f}", *([f"{paper['top1']:.2f}", f"{ours - paper['top1']:+.2f}"] if paper else ["-", "-"])]
    return [f"`{name}`", entry["dataset"], f"{entry['params']['stored']:,}", *figures]


def symmetry_figure(weights: dict[str, dict], plain: str = "wrn_16_1.zoo_c10") -> Any:
    """Accuracy against stored parameters of the types of symmetry and their plain twin, a circle for each seed."""
    chosen = {
        name: entry
        for name, entry in weights.items()
        if name == plain or (entry["family"] == "symmetry" and plain in entry.get("twins", []))
    }
    figure, panel = headless_pyplot().subplots(figsize=(7.5, 4.2))
    span = max((entry["params"]["stored"] for entry in chosen.values()), default=0)
    labels = []
    for name, entry in chosen.items():
        result = entry["results"][0]
        correct = [run["correct"] for run in entry.get("seeds", {}).get("runs", [result])]
        x = beside(entry["params"]["stored"], len(correct), 0.008 * span)
        points(panel, x, correct, result["n"], color="black" if name == plain else "C2", fillstyle="none")
        kind = "plain" if name == plain else entry.get("model_args", {}).get("symm_type", "tri")
        labels.append((x[-1], 100 * correct[-1] / result["n"], kind))
    panel.set(xlabel="stored parameters, seeds side by side", ylabel="top-1 % on CIFAR-10")
    panel.set(title="WRN-16-1: accuracy by type of symmetry")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.grid(alpha=0.3)
    panel.margins(x=0.1)
    handles = [key(color="C2", fillstyle="none"), key(fillstyle="none"), key(marker="|", ms=12)]
    panel.legend(handles, ["symmetric, a circle for each seed", "plain twin, the same", "95 % interval"], fontsize=8)
    figure.tight_layout()
    label_points({panel: labels}, fontsize=8)
    return figure


def results_figure(weights: dict[str, dict]) -> Any:
    """Accuracy against parameters that are not zero, with intervals, a panel for each data set that was measured.

    Ours are filled, the authors' own hollow; each family has a colour and a marker.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    measured = {name: entry for name, entry in weights.items() if entry["results"]}
    sets = sorted({entry["dataset"] for entry in measured.values()})
    look = styles(entry["family"] for entry in measured.values())
    figure, panels = headless_pyplot().subplots(
        1, max(1, len(sets)), figsize=(7.5 * max(1, len(sets)), 8), squeeze=False
    )
    labels = {}
    for panel, dataset in zip(panels[0], sets, strict=bool(sets)):
        for name, entry in measured.items():
            if entry["dataset"] != dataset:
                continue
            result, own = entry["results"][0], entry["origin"] == "zoo"
            x, style = entry["params"]["nonzero"], look[entry["family"]]
            face = style["color"] if own else "none"
            points(panel, [x], [result["correct"]], result["n"], **style, mfc=face)
            arch, tag = name.split(".")
            label = (x, result["top1"], " ".join([arch, *tag.split("_")[1:-1]]))
            labels.setdefault(panel, []).append(label)
        panel.set(xscale="log", title=dataset, xlabel="stored parameters that are not zero", ylabel="top-1 %")
        panel.grid(alpha=0.3)
        panel.margins(x=0.12)
        panel.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
    handles = [key(**style) for style in look.values()]
    handles += [key(), key(mfc="none"), key(marker="|", ms=12)]
    words = [*look, "filled: trained by this project", "hollow: the authors' own weights", "95 % interval"]
    figure.suptitle("Top-1 on the test set against parameters that are not zero")
    figure.legend(handles, words, loc="lower center", ncols=8, fontsize=8)
    figure.tight_layout(rect=(0, 0.02 + 0.025 * math.ceil(len(words) / 8), 1, 1))
    label_points(labels)
    return figure
