"""Tables of weights and recipes: from weights_manifest.json, the records in hub/ and docs/published_cifar10.json."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from zoo.evaluation.compare import compare
from zoo.evaluation.predictions import read_predictions
from zoo.publishing.repository import PREDICTIONS
from zoo.training.comparison import RECIPE_COLUMNS, recipe_cells, recipe_overview
from zoo.training.recipe import recipe_names
from zoo.weights.manifest import manifest, trained_by, weights

ROOT = Path(__file__).resolve().parent.parent
LIMITS = (100_000, 500_000, 1_500_000, 3_000_000)
"""Parameters that are not zero, of which the best weight of CIFAR-10 is worth choosing."""


def table(header: list[str], sides: str, rows: Iterable[list[str]]) -> str:
    """A Markdown table; ``sides`` has a letter for each column, ``r`` for one that is aligned right."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [header, rule, *rows])


def ours() -> dict[str, dict]:
    """The weights of this project that were measured."""
    return {name: entry for name, entry in weights().items() if entry["origin"] == "zoo" and entry["results"]}


def worth_choosing(entries: dict[str, dict]) -> list[str]:
    """The most accurate weight of CIFAR-10 within each of :data:`LIMITS`, and the smallest of Fashion-MNIST."""
    cost = {n: (e["params"]["nonzero"], -e["results"][0]["top1"]) for n, e in entries.items()}
    small = [name for name, entry in entries.items() if entry["dataset"] == "cifar10"]
    fits = ([name for name in small if cost[name][0] <= limit] for limit in LIMITS)
    best = [min(names, key=lambda name: cost[name][::-1]) for names in fits if names]
    grey = [name for name, entry in entries.items() if entry["dataset"] == "fashion-mnist"]
    return [*dict.fromkeys([*best, *([min(grey, key=cost.__getitem__)] if grey else [])])]


def weight_table(names: Iterable[str]) -> str:
    """What a reader chooses by, the most accurate of each data set first, those that nobody measured last."""
    header = ["weight", "data set", "top-1 %, measured here (95 %)", "parameters, not zero", "parameters, collapsed"]
    header += ["file, collapsed", "published", "trained by"]

    def place(name: str) -> tuple[str, float]:
        results = weights()[name]["results"]
        return weights()[name]["dataset"], -results[0]["top1"] if results else 0

    def cells(name: str, entry: dict) -> list[str]:
        form, count, paper = entry.get("collapsed") or {}, entry["params"]["inference"], entry["paper_result"]
        half = f" ({form['size'] / 1e6:.1f} in float16)" if form.get("dtype") == "float16" else ""
        measured = [f"{r['top1']:.2f} ({r['interval95'][0]}-{r['interval95'][1]})" for r in entry["results"][:1]]
        figures = [*(measured or ["not measured"]), f"{entry['params']['nonzero']:,}", f"{count:,}"]
        figures += [f"{4 * count / 1e6:.1f} MB{half}", f"{paper['top1']:.2f}" if paper else "-"]
        return [f"`{name}`", entry["dataset"], *figures, "the authors" if entry["origin_url"] else trained_by(entry)]

    return table(header, "llrrrrrl", (cells(name, weights()[name]) for name in sorted(names, key=place)))


def readme_section() -> str:
    """The five weights at the head of the README."""
    return weight_table(worth_choosing(ours()))


def papers_table() -> str:
    """Ours against the papers, with seeds and what was measured beside top-1."""
    header = ["weight", "epochs", "top-1 %", "seeds", "paper", "difference", "nll", "calibration error %", "why"]
    rows = []
    for name, entry in ours().items():
        result, paper, seeds = entry["results"][0], entry["paper_result"], entry.get("seeds")
        told = f"{seeds['mean']:.2f} ± {seeds['std']:.2f} ({len(seeds['runs'])})" if seeds else "one"
        against = [f"{paper['top1']:.2f}", f"{result['top1'] - paper['top1']:+.2f}"] if paper else ["-", "-"]
        beside = [f"{result[key]:.{digits}f}" if key in result else "-"
                  for key, digits in (("nll", 4), ("calibration_error", 2))]  # fmt: skip
        figures = [str(entry["epochs"]), f"{result['top1']:.2f}", told, *against, *beside]
        rows.append([f"`{name}`", *figures, why(entry, weights())])
    return table(header, "lrrlrrrrl", rows)


def why(entry: dict, known: dict[str, dict]) -> str:
    """The entry's remark, which sends to the twins where the paper has no figure and there are twins."""
    remark, twins = entry.get("remark"), [twin for twin in entry.get("twins", []) if twin in known]
    if not remark or not twins or entry["paper_result"] or "twin" in remark:
        return remark or "-"
    return f"{remark.rstrip('.')}; compare with the twin{'s' * (len(twins) > 1)}."


def twins_table() -> str:
    """Every weight of ours beside its twins."""
    header = ["weight", "twin", "parameters, not zero", "twin's", "top-1 %", "twin's", "difference (95 %)"]
    header.append("over seeds")
    rows = [against_a_twin(name, twin, weights()) for name, entry in ours().items() for twin in entry.get("twins", [])]
    return table(header, "llrrrrll", rows)


def against_a_twin(name: str, twin: str, known: dict[str, dict]) -> list[str]:
    """One line: the difference with its paired interval, and that of the seeds both have."""
    entry, other = known[name], known.get(twin)
    cells, result = [f"`{name}`", f"`{twin}`", f"{entry['params']['nonzero']:,}"], entry["results"][0]
    if not other:
        return [*cells, "-", f"{result['top1']:.2f}", "-", "the twin is not trained yet", "-"]
    theirs = other["results"][0]
    if all("predictions" in known[weight] for weight in (name, twin)):
        found = compare(*(read_predictions(ROOT / "hub" / weight / PREDICTIONS) for weight in (twin, name)))
        alone = f"alone right: {found.only_second:,}, {found.only_first:,}"
        gap = "{:+.2f} ({:+.2f} to {:+.2f}); {}".format(found.difference, *found.interval, alone)
    else:  # as if independent
        variance = sum(r["correct"] * (r["n"] - r["correct"]) / r["n"] ** 3 for r in (result, theirs))
        gap = f"{result['top1'] - theirs['top1']:+.2f} ± {1.96 * 100 * math.sqrt(variance):.2f}"
    seeds = [{run["seed"]: run["top1"] for run in e.get("seeds", {}).get("runs", [])} for e in (entry, other)]
    figures = [f"{other['params']['nonzero']:,}", f"{result['top1']:.2f}", f"{theirs['top1']:.2f}", gap]
    return [*cells, *figures, over_seeds(*seeds) or "one seed"]


def over_seeds(mine: dict[int, float], yours: dict[int, float]) -> str:
    """Mean and standard deviation of the differences on the seeds that both have; empty if these are fewer than two."""
    gaps = [mine[seed] - yours[seed] for seed in sorted(mine.keys() & yours.keys())]
    return f"{mean(gaps):+.2f} ± {stdev(gaps):.2f} ({len(gaps)} seeds)" if len(gaps) > 1 else ""


def collapsed_table() -> str:
    """The equivalence record of each staged weight's network of plain layers."""
    header = ["weight", "right before, after", "float64", "float32", "parameters", "multiply-adds", "file"]
    rows = []
    for name, entry in ours().items():
        if not (form := entry.get("collapsed") or {}).get("path"):
            continue
        record = json.loads((ROOT / "hub" / name / "equivalence.json").read_text())
        gap = {(d["input"], d["dtype"]): d["max_relative"] for d in record["differences"]}
        before, after = record["before"], record["after"]
        right = f"{record['correct_before']:,}, {record['correct'][form['dtype']]:,}"
        gaps = [f"{gap['random', 'float64']:.0e}", f"{gap['real', 'float32']:.0e}"]
        counts = [f"{before[key]:,}, {after[key]:,}" for key in ("parameters", "macs")]
        rows.append([f"`{name}`", right, *gaps, *counts, f"{form['size']:,} bytes, {form['dtype']}"])
    return table(header, "llllllr", rows)


def packed_table() -> str:
    """Bytes of the files without zeros and repetitions."""
    forms = ((name, entry["size"], entry["packed"]["size"]) for name, entry in ours().items() if "packed" in entry)
    rows = ([f"`{name}`", f"{size:,}", f"{packed:,}"] for name, size, packed in forms)
    return table(["weight", "plain, bytes", "packed"], "lrr", rows)


def published() -> tuple[dict[str, dict], list[dict[str, Any]]]:
    """Sources by name, and the figures of other zoos; in float32, bytes are four for each parameter."""
    content = json.loads((ROOT / "docs" / "published_cifar10.json").read_text())
    figures = [{**row, "bytes": row["parameters"] and 4 * row["parameters"]} for row in content["figures"]]
    return content["sources"], figures


def our_figures(dataset: str = "cifar10", authors: bool = False) -> list[dict[str, Any]]:
    """Our weights of a data set, or the authors', in the form of the published figures, the most accurate first."""
    rows = []
    theirs = {name: entry for name, entry in weights().items() if entry["origin_url"] and entry["results"]}
    for name, entry in (theirs if authors else ours()).items():
        if entry["dataset"] == dataset:
            record, result = ROOT / "hub" / name / "equivalence.json", entry["results"][0]
            macs = json.loads(record.read_text())["after"]["macs"] if record.is_file() else None
            size = min(entry["size"], entry.get("packed", entry)["size"])
            figures = {key: result[key] for key in ("top1", "correct", "n")} | {"macs": macs, "bytes": size}
            rows.append({"name": name, "source": "", "parameters": entry["params"]["nonzero"], **figures})
    return sorted(rows, key=lambda row: -row["top1"])


def better(row: dict[str, Any], others: list[dict[str, Any]], axis: str = "parameters") -> list[dict[str, Any]]:
    """Which figures are as accurate at a lower cost (``parameters``, ``bytes``, ``macs``), or better at no higher."""
    known = [o for o in others if o[axis] and (o[axis], o["top1"]) != (row[axis], row["top1"])]
    return [other for other in known if other[axis] <= row[axis] and other["top1"] >= row["top1"]]


def front(rows: list[dict[str, Any]], axis: str = "parameters") -> list[dict[str, Any]]:
    """Those that none is better than, the cheapest first."""
    return sorted((row for row in rows if row[axis] and not better(row, rows, axis)), key=lambda row: row[axis])


def standing() -> str:
    """Where ours are on the front of what is published and where behind, in words; and the sources."""
    (sources, theirs), mine = published(), our_figures()

    def called(row: dict[str, Any], axis: str = "parameters") -> str:
        size = f"{row[axis] / 1e6:.2f} M" if row[axis] >= 1e5 else f"{row[axis] / 1e3:.0f} k"
        name = f"{row['name']} ({row['source']})" if row["source"] else f"`{row['name']}`"
        return f"{name} {row['top1']:.2f} with {size}"

    def aimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if 100_000 <= row["parameters"] <= 3_000_000]

    within = aimed(front(mine + theirs))
    on = ", ".join(called(row) for row in within if not row["source"])
    lines = [f"**The aim is the front from 0.1 to 3 million parameters. {f'On it: {on}' if on else 'None is on it'}.**"]
    lines[0] += f" Its members: {', '.join(map(called, within))}."
    lines.append("")
    for axis, title in (("bytes", "bytes"), ("macs", "multiply-adds")):
        best = [called(row, axis) for row in front(mine + theirs, axis) if not row["source"]]
        lines.append(f"- By {title}, of ours on the front of all sizes: {', '.join(best) or 'none'}.")
    for source, about in sources.items():
        others, chosen = [r for r in theirs if r["source"] == source and r["parameters"]], front(aimed(mine))
        behind = [row for row in chosen if better(row, others)]
        ahead = [row for row in chosen if row not in behind and any(better(other, [row]) for other in others)]
        names = [", ".join(f"`{row['name']}`" for row in rows) for rows in (ahead, behind)]
        parts = [f"**ahead** of one that has more parameters, behind none: {names[0]}"] if ahead else []
        parts += [f"**behind** one that has no more: {names[1]}"] if behind else []
        rest = "; ".join(parts) or "none of ours is ahead of a larger one, or behind one that is no larger"
        read = "read there" if about["checked"] else "not checked at the source"
        rest = rest if others else "parameters are not stated"
        lines.append(f"- Beside [{about['title']}]({about['url']}): {rest}. ({about['note']}; {read}.)")
    return "\n".join(lines) + "\n"


def corruptions_table() -> str:
    """What was measured on corrupted images."""
    with (ROOT / "docs" / "corruptions.csv").open(newline="") as file:
        measured = [{**row, "corruption": json.loads(row["corruption"])} for row in csv.DictReader(file)]
    rows = []
    for clean in (row for row in measured if not row["corruption"]):
        own = [row for row in measured if row["corruption"] and row["name"] == clean["name"]]
        top1 = {row["corruption"]["name"]: float(row["top1"]) for row in own}
        worst = ", ".join(f"{kind} {top1[kind]:.1f}" for kind in sorted(top1, key=top1.__getitem__)[:3])
        name, severity = clean["name"].removesuffix(" (collapsed)"), own[0]["corruption"]["severity"]
        figures = [f"{float(clean['top1']):.1f}", f"{mean(top1.values()):.1f}", f"{len(top1)}, at {severity}", worst]
        rows.append([f"`{name}`", clean["dataset"], f"{int(clean['n']):,}", *figures])
    header = ["weight", "data set", "images", "clean", "mean over corruptions", "of how many", "worst three"]
    return table(header, "llrrrll", rows)


def releases_table() -> str:
    """The authors' releases that have no licence."""
    rows = []
    for entry in manifest()["releases"]:
        arguments = ", ".join(f"{key}={value}" for key, value in entry["model_args"].items())
        place = f"<{entry['url']}>" if entry["url"] else entry["note"]
        figures = "{top1:.4f} / {top5:.4f}".format(**entry["published"])
        rows.append([f"`{entry['architecture']}`", arguments, place, figures])
    return table(["architecture", "arguments", "file", "published top-1 / top-5 %"], "llll", rows)


def recipes_table() -> str:
    """One line per recipe."""
    cells = (recipe_cells(recipe_overview(name)) for name in recipe_names())
    return table([*RECIPE_COLUMNS], "llrlr", ([f"`{first}`", *rest] for first, *rest in cells))
