"""docs/evidence.md and its picture: our CIFAR-10 weights beside those of other zoos, and what our figures mean."""

import csv
import json
from pathlib import Path
from typing import Any

from plots import key, label_points, points, styles
from results_page import table

from zoo.extras import headless_pyplot

ROOT = Path(__file__).resolve().parent.parent

INTRO = """# Evidence

Made by `python scripts/update_docs.py` from `weights_manifest.json`, the records in `hub/`,
`docs/published_cifar10.json` and `docs/corruptions.csv`.

## Against the public

Ours are measured by this project, on the whole CIFAR-10 test set, to the image. The others' figures are what their
authors state; nothing of theirs was downloaded or run here. Nor are they alike: some state the best epoch on the test
set, ours are the last epoch of one run, most of far fewer epochs (the column says how many). Parameters are those that
are stored and not zero; bytes are those of our smallest file of the weight, and four for each parameter of theirs;
multiply-adds are those of one image, of ours collapsed (a zero counts as a weight there: plain convolutions skip none).
"""

MEANING = """## What the intervals mean

- **One accuracy** (`zoo validate`): the 95 % Wilson interval says how far the accuracy on all such images may be from
  that on these 10,000. With 94 % it is about half a point either way.
- **Two networks on the same images** (`zoo compare A B`): what one gets wrong the other mostly gets wrong too, so their
  difference is known better than each accuracy. Intervals of the two that overlap say nothing about it. What counts are
  the images that only one of them gets right. The paired interval is Newcombe's (1998, method 10: Wilson intervals
  joined with the correlation of the two); where it leaves out 0, the difference is more than the choice of images.
  McNemar's exact test asks the same question: its p is the chance of so uneven a count were the two equally good.
- **Another seed** is another network, and neither interval knows of it: a clear difference between two files may be the
  luck of a seed. So several seeds of both are stated beside it where there are any: mean and standard deviation of the
  differences, seed by seed. One seed tells of two files, not of two families.

```bash
zoo compare wrn_28_1.zoo_c10 swrn_28_1_2.zoo_c10              # from the predictions beside the weights, no data
zoo validate runs/mine --dataset cifar10 --data DIR --predictions mine.npz
zoo compare wrn_28_1.zoo_c10 mine.npz --json                  # one's own
zoo compare wrn_28_1.zoo_c10 runs/mine --data DIR             # measured now
```

`predictions.npz` holds class, probability (to a thousandth) and right or wrong of every test image, and the sha256 of
weight and test set ([its form](../zoo/evaluation/predictions.py)). `zoo verify --accuracy` measures again and compares
image by image. Two processors may round a tie either way: an image whose guess is another one is counted as a tie, and
not as a fault, where the network still gives the file's class a probability within 0.001 of its first guess's.

## Beside top-1

`zoo validate` states in the same pass, also in `--results`: the **negative log-likelihood** (natural logarithm, mean
over the images), the **calibration error** (by how much confidence misses accuracy, in percent: Guo et al. 2017, 15
bins of equal width; the arithmetic is tested against torchmetrics) and, with `--per-class`, the accuracy of each class.
The first two of our weights, on the whole test set in the pass that gave the accuracy; `zoo verify --accuracy` measures
them again (to 0.001, and to 0.05 %):
"""

CORRUPTIONS = """## Common corruptions

`zoo validate NAME --dataset cifar10 --data DIR --corruptions [NAMES] [--severity 1,3,5]` also measures on corrupted
images (extra `corruptions`). They are **made on the spot, not CIFAR-10-C**: by the package `imagecorruptions`, in the
strengths of ImageNet-C, from fixed seeds of which each image has its own. Figures measured on the files called
CIFAR-10-C do not compare with these. What the package cannot make with the libraries at hand is named and left out:
with numpy 2 and scikit-image 0.26 that is `glass_blur`, `fog` and `gaussian_blur`. Fashion-MNIST is padded to the 32
pixels that the package asks for, and the green channel of the result is taken.
"""

ROBUST = """Those of our weights at the head of the README that were measured so, collapsed: top-1 % on the first {n:,}
test images as they are, and with each of {count} corruptions at severity {severity} ({made}; seed {seed}): {names}.
This is not CIFAR-10-C, and with {n:,} images the interval of each figure reaches up to three points either way. Each
line is of the `--results` of
`zoo validate NAME --dataset SET --data DIR --collapsed --corruptions all --severity {severity} --limit {n}`
(`docs/corruptions.csv`).
"""


def published() -> tuple[dict[str, dict], list[dict[str, Any]]]:
    """Sources by name, and the figures of other zoos; in float32, bytes are four for each parameter."""
    content = json.loads((ROOT / "docs" / "published_cifar10.json").read_text())
    figures = [{**row, "bytes": row["parameters"] and 4 * row["parameters"]} for row in content["figures"]]
    return content["sources"], figures


def ours(weights: dict[str, dict]) -> list[dict[str, Any]]:
    """Our weights of CIFAR-10 in the form of the published figures, the most accurate first."""
    rows = []
    for name, entry in weights.items():
        if entry["dataset"] != "cifar10" or entry["origin"] != "zoo" or not entry["results"]:
            continue
        record, result = ROOT / "hub" / name / "equivalence.json", entry["results"][0]
        sizes = [entry["size"], *(entry[form]["size"] for form in ("packed",) if form in entry)]
        macs = json.loads(record.read_text())["after"]["macs"] if record.is_file() else None
        figures = {"top1": result["top1"], "parameters": entry["params"]["nonzero"], "macs": macs, "bytes": min(sizes)}
        rows.append({"name": name, "source": "", "epochs": entry["epochs"], "correct": result["correct"], **figures})
    return sorted(rows, key=lambda row: -row["top1"])


def better(row: dict[str, Any], others: list[dict[str, Any]], axis: str = "parameters") -> list[dict[str, Any]]:
    """Which of some figures are as accurate at a lower cost, or more accurate at no higher one.

    Args:
        row: A figure.
        others: The others.
        axis: The cost: ``parameters``, ``bytes`` or ``macs``.
    """
    place = (row[axis], row["top1"])
    known = [other for other in others if other[axis] and (other[axis], other["top1"]) != place]
    return [other for other in known if other[axis] <= row[axis] and other["top1"] >= row["top1"]]


def front(rows: list[dict[str, Any]], axis: str = "parameters") -> list[dict[str, Any]]:
    """Those that none is better than, the cheapest first."""
    return sorted((row for row in rows if row[axis] and not better(row, rows, axis)), key=lambda row: row[axis])


def standing(weights: dict[str, dict]) -> str:
    """Where ours are on the front and where behind, in words."""
    sources, theirs = published()
    mine = ours(weights)
    within = [row for row in front(mine + theirs) if 100_000 <= row["parameters"] <= 3_000_000]
    on = [row for row in within if not row["source"]]
    lines = [
        "**Where ours stand.** The aim is the front from 0.1 to 3 million parameters. "
        + (f"Of ours there are on it {', '.join(map(_called, on))}. " if on else "**None of ours is on it.** ")
        + f"Its members: {', '.join(map(_called, within))}.",
        "",
    ]
    for axis, title in (("bytes", "bytes"), ("macs", "multiply-adds")):
        best = [row for row in front(mine + theirs, axis) if not row["source"]]
        named = ", ".join(_called(row, axis) for row in best) or "none"
        lines.append(f"- By {title}, of ours on the front of all sizes: {named}.")
    lines.append(
        "- Beside one zoo at a time, of ours those from 0.1 to 3 million parameters that none of ours surpasses, and"
    )
    lines[-1] += " of theirs those whose parameters are stated:"
    for source, about in sources.items():
        others = [row for row in theirs if row["source"] == source and row["parameters"]]
        if not others:
            continue
        chosen = front([row for row in mine if 100_000 <= row["parameters"] <= 3_000_000])
        behind = [row for row in chosen if better(row, others)]
        ahead = [row for row in chosen if row not in behind and any(better(other, [row]) for other in others)]
        parts = [f"**ahead** of one that has more parameters, behind none: {_names(ahead)}"] if ahead else []
        parts += [f"**behind** one that has no more: {_names(behind)}"] if behind else []
        rest = "; ".join(parts) or "none of ours is ahead of a larger one, or behind one that is no larger"
        lines.append(f"  - {about['title'].split(',')[0]}: {rest}.")
    return "\n".join(lines) + "\n"


def _called(row: dict[str, Any], axis: str = "parameters") -> str:
    name = f"{row['name']} ({row['source']})" if row["source"] else f"`{row['name']}`"
    return f"{name} {row['top1']:.2f} with {_short(row[axis])}"


def _names(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"`{row['name']}`" for row in rows)


def _short(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count / 1e3:.0f} k"


def evidence_page(weights: dict[str, dict]) -> str:
    """The page."""
    sources, theirs = published()
    everything = sorted(ours(weights) + theirs, key=lambda row: -row["top1"])
    best = {(row["source"], row["name"]) for row in front(everything)}
    rows = [
        [
            f"**`{row['name']}`**" if not row["source"] else row["name"],
            f"{row['top1']:.2f}",
            "yes" if (row["source"], row["name"]) in best else "",
            _short(row["parameters"]),
            f"{row['bytes'] / 1e6:.2f}" if row["bytes"] else "-",
            _short(row["macs"]),
            f"measured here, {row['epochs']} epochs" if not row["source"] else _status(row["source"], sources),
        ]
        for row in everything
    ]
    header = ["weight", "top-1 %", "on the front", "parameters, not zero", "MB", "multiply-adds", "figure"]
    notes = [
        f"- *{name}*: [{about['title']}]({about['url']}); {about['note']}; "
        f"{'read there' if about['checked'] else 'not checked at the source'}."
        for name, about in sources.items()
    ]
    picture = "![CIFAR-10: accuracy against parameters, bytes and multiply-adds](front.png)\n"
    parts = [INTRO, picture, standing(weights), table(header, "lrlrrrl", rows), *notes, "", MEANING]
    return "\n".join([*parts, beside_top1(weights), CORRUPTIONS, robustness()])


def beside_top1(weights: dict[str, dict]) -> str:
    """Likelihood and calibration error of our weights, by data set and accuracy."""
    known = [(name, e["results"][0]) for name, e in weights.items() if e["results"] and "nll" in e["results"][0]]
    rows = [
        [f"`{name}`", r["dataset"], f"{r['top1']:.2f}", f"{r['nll']:.4f}", f"{r['calibration_error']:.2f}"]
        for name, r in sorted(known, key=lambda pair: (pair[1]["dataset"], -pair[1]["top1"]))
    ]
    return table(["weight", "data set", "top-1 %", "negative log-likelihood", "calibration error %"], "llrrr", rows)


def robustness() -> str:
    """What was measured on corrupted images, in words and as a table."""
    with (ROOT / "docs" / "corruptions.csv").open(newline="") as file:
        measured = [{**row, "corruption": json.loads(row["corruption"])} for row in csv.DictReader(file)]
    clean = {row["name"]: row for row in measured if not row["corruption"]}
    about = {(row["n"], *(row["corruption"][key] for key in ("severity", "seed", "made"))) for row in measured
             if row["corruption"]}  # fmt: skip
    ((n, severity, seed, made),) = about
    rows, names = [], set()
    for name, row in clean.items():
        own = {r["corruption"]["name"]: float(r["top1"]) for r in measured if r["corruption"] and r["name"] == name}
        names.add(tuple(sorted(own)))
        worst = ", ".join(f"{kind} {own[kind]:.1f}" for kind in sorted(own, key=own.__getitem__)[:3])
        top1 = [f"{value:.1f}" for value in (float(row["top1"]), sum(own.values()) / len(own))]
        rows.append([f"`{name.removesuffix(' (collapsed)')}`", row["dataset"], *top1, worst])
    ((*kinds,),) = names  # all were measured on the same ones
    words = {"n": int(n), "count": len(kinds), "severity": severity, "seed": seed, "names": ", ".join(kinds)}
    text = ROBUST.format(**words, made=made.partition(";")[0])
    return text + "\n" + table(["weight", "data set", "clean", "mean over corruptions", "worst three"], "llrrl", rows)


def _status(source: str, sources: dict[str, dict]) -> str:
    return f"stated by {source}" + ("" if sources[source]["checked"] else ", not checked")


def front_figure(weights: dict[str, dict]) -> Any:
    """Accuracy against parameters, bytes and multiply-adds; ours with intervals; a line along the front."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    _, theirs = published()
    mine = [row for row in ours(weights) if row["top1"] >= 88]
    look = styles(row["source"] for row in theirs if row["parameters"])
    figure, panels = headless_pyplot().subplots(3, 1, figsize=(10, 19))
    titles = {"parameters": "stored parameters that are not zero", "bytes": "bytes", "macs": "multiply-adds"}
    labels: dict[Any, list[tuple[float, float, str]]] = {}
    for panel, (axis, title) in zip(panels, titles.items(), strict=True):
        shown = [row for row in theirs if row[axis] and row["top1"] >= 88]
        for row in shown:
            panel.plot(row[axis], row["top1"], linestyle="none", ms=5, mfc="none", **look[row["source"]])
        for row in mine:
            if row[axis]:
                points(panel, [row[axis]], [row["correct"]], 10_000, color="black", marker="*", ms=9)
        ahead = front(shown + [row for row in mine if row[axis]], axis)
        x, y = ([row[which] for row in ahead] for which in (axis, "top1"))
        # lines, which labels keep clear of, in place of steps
        panel.hlines(y[:-1], x[:-1], x[1:], color="gray", lw=0.8)
        panel.vlines(x[1:], y[:-1], y[1:], color="gray", lw=0.8)
        known = ("ResNet-20", "ResNet-56", "MobileNetV2")
        named = {id(row) for row in shown if row in ahead or row["name"] in known}
        labels[panel] = [(row[axis], row["top1"], row["name"] if id(row) in named else "") for row in shown]
        for row in (row for row in mine if row[axis]):
            arch, tag = row["name"].split(".")
            labels[panel].append((row[axis], row["top1"], " ".join([arch, *tag.split("_")[1:-1]])))
        panel.set(xscale="log", xlabel=title, ylabel="top-1 % on CIFAR-10")
        panel.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
        panel.margins(x=0.08)
    handles = [key(marker="*", ms=9), *(key(**style, mfc="none") for style in look.values())]
    handles += [key(marker="_", color="gray", ms=12)]
    words = ["ours, measured, 95 % interval", *(f"stated by {name}" for name in look), "front"]
    figure.suptitle("CIFAR-10: ours beside what other zoos state")
    figure.legend(handles, words, loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 0.985))
    label_points(labels)
    return figure
