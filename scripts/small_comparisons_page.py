"""The page of ``small_comparisons.py``: docs/small_comparisons.md from docs/small_comparisons.jsonl."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plots import beside, key, points, save
from results_page import over_seeds, table

from zoo.extras import headless_pyplot
from zoo.language.recipe import load_language_recipe
from zoo.training.comparison import published_of
from zoo.training.recipe import load_recipe
from zoo.weights.manifest import manifest

INTRODUCTION = """# Small comparisons

Made by `python scripts/small_comparisons.py`, which says how; data in `small_comparisons.jsonl`. Networks and budgets
that a CPU core can afford: they tell how a network does beside its twin **at this size and in so few epochs**, and
nothing about what either reaches when trained in full. No weight comes from here and nothing was tuned; the test data
was read once for each run, after its last epoch.
"""

BRANCHES = """## The branches of ParaDise

ResNet-18 for 32x32 at an eighth of its width (8, 16, 32 and 64 channels), CIFAR-10, the recipes of the full width with
`--set {settings}`. The last column is the paper's gain on ImageNet, at full width and in 100 epochs. After ± stands
twice the binomial standard error of the difference of two accuracies on {n:,} images each, which leaves out the noise
between seeds; of several seeds, mean and standard deviation of the differences, seed by seed.
"""

LANGUAGE = """## A symmetric language model

Two layers of {hidden} units on WikiText-2, vocabulary {words:,}, embedding and decoder tied, {epochs} of the recipe's
{whole} epochs with the rate falling along a cosine over them; about {minutes:.0f} minutes a run on a busy CPU core, one
seed each. Of the symmetric one the hidden side of every gate is symmetric (`wwt`). Perplexities per word; the last
column, the paper's for 650 units and 50 epochs, tells how far away this is.
"""

PDB = "PD-B gates its branches by the input, so that the collapsed network holds a kernel for each branch."


def write_page(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write page and plot.

    Args:
        rows: The lines of the results.
        folder: Gets ``small_comparisons.md`` and, of the ablation, ``small_comparisons.png``.
    """
    (folder / "small_comparisons.md").write_text(page(rows))
    if networks := [row for row in rows if row["study"] == "branches"]:
        plot(networks, folder / "small_comparisons.png")


def page(rows: list[dict[str, Any]]) -> str:
    """docs/small_comparisons.md.

    Args:
        rows: The lines of the results.
    """
    lines = [INTRODUCTION]
    for study, section in (("branches", branches), ("language", language)):
        found = [row for row in rows if row["study"] == study]
        lines += section(found) if found else []
    return "\n".join(lines)


def branches(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown on the ablation."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row
    plain = by_name["resnet18"]
    first = next(iter(plain.values()))
    settings = " --set ".join(f"{key}={value}" for key, value in first["set"].items() if key != "seed")
    lines = [BRANCHES.format(settings=settings, n=first["n"]), "![top-1 by network](small_comparisons.png)", ""]
    header = ["network", "parameters, collapsed", "multiply-adds, collapsed", "minutes", "last training loss"]
    header += ["right of 10,000, before and after collapsing", "top-1 %", "over plain", "paper's gain"]
    cells = []
    for name, seeds in by_name.items():
        some = next(iter(seeds.values()))
        cells += [
            [
                title(name),
                "{:,}, {:,}".format(*some["parameters"]),
                "{:.1f} M, {:.1f} M".format(*(count / 1e6 for count in some["macs"])),
                f"{statistics.mean(sum(row['seconds']) for row in seeds.values()) / 60:.0f}",
                ", ".join(f"{row['losses'][-1]:.3f}" for row in seeds.values()),
                "; ".join("{:,}, {:,}".format(*row["correct"]) for row in seeds.values()),
                f"{statistics.mean(map(top1, seeds.values())):.2f}",
                gain(seeds, plain) if name != "resnet18" else "-",
                papers_gain(some["recipe"]),
            ]
        ]
    return [*lines, table(header, "lllrrlrlr", cells), PDB, "", _seeds(by_name), ""]


def language(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown on the language models."""
    first = rows[0]
    recipe = load_language_recipe(first["recipe"], {})
    words = first["words"]
    minutes = statistics.mean(sum(row["seconds"]) for row in rows) / 60
    known = {"hidden": recipe.hidden_size, "words": words, "epochs": first["set"]["epochs"], "whole": recipe.epochs}
    header = ["model", "parameters, collapsed", "validation by epoch", "test", "test, collapsed", "paper's test"]
    cells = []
    for row in rows:
        paper = published_of(row["recipe"].replace("_small", ""))["perplexity"]
        cells += [
            [
                "SymmLSTM" if row["name"].startswith("symm") else "LSTM",
                "{:,}, {:,}".format(*row["parameters"]),
                ", ".join(f"{value:.1f}" for value in row["valid_perplexities"]),
                *(f"{value:.2f}" for value in row["perplexity"]),
                f"{paper:.2f}",
            ]
        ]
    return [LANGUAGE.format(**known, minutes=minutes), table(header, "lllrrr", cells)]


def title(name: str) -> str:
    """What a network is called."""
    if name in ("se", "ge"):
        return f"{name.upper()}-ResNet-18"
    kind, _, parts = name.removeprefix("pd_").partition("_")
    if kind == "resnet18":
        return "ResNet-18"
    *most, last = ["standard1", *reversed(parts.split("_"))]
    rest = f"{', '.join(most)} and {last}" if parts else "all four branches"
    return f"PD-{kind.upper()}, {rest}" + (" (AC)" if name == "pd_a_skeleton" else "")


def top1(row: dict[str, Any]) -> float:
    """In percent."""
    return 100 * row["correct"][0] / row["n"]


def gain(seeds: dict[int, dict[str, Any]], plain: dict[int, dict[str, Any]]) -> str:
    """Points over the plain network, on the seeds that both have."""
    several = over_seeds(*({seed: top1(row) for seed, row in runs.items()} for runs in (seeds, plain)))
    if several:
        return several
    one, other = next((seeds[seed], plain[seed]) for seed in seeds if seed in plain)
    variance = sum(top1(row) * (100 - top1(row)) / row["n"] for row in (one, other))
    return f"{top1(one) - top1(other):+.2f} ± {2 * math.sqrt(variance):.2f}"


def papers_gain(recipe: str) -> str:
    """The paper's points over ResNet-18 on ImageNet, of the release with these branches."""
    found = load_recipe(recipe)
    wanted = found.weight.split(".")[0].removesuffix("_cifar"), frozenset(found.model_args.get("branches", ()))
    figures = {
        (entry["architecture"], frozenset(entry["model_args"].get("branches", ()))): entry["published"]["top1"]
        for entry in manifest()["releases"]
    }
    own = figures.get(wanted)
    return "-" if own is None or wanted[0] == "resnet18" else f"{own - figures['resnet18', frozenset()]:+.2f}"


def _seeds(by_name: dict[str, dict[int, dict[str, Any]]]) -> str:
    shown = [
        f"{title(name)} {', '.join(f'{top1(row):.2f}' for row in runs.values())}"
        for name, runs in by_name.items()
        if len(runs) > 1
    ]
    if len(shown) == len(by_name):
        return f"By seed: {'; '.join(shown)}."
    told = f"By seed: {'; '.join(shown)}. Of every other network" if shown else "Of each network"
    return f"{told} there is one run, compared by seed: a gain no larger than the gap between seeds says nothing."


def plot(rows: Iterable[dict[str, Any]], target: Path) -> None:
    """Top-1 of every run, a circle each, with its interval."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    figure, axis = headless_pyplot().subplots(figsize=(8, 1.6 + 0.4 * len(by_name)))
    for place, runs in enumerate(by_name.values()):
        correct, n = [row["correct"][0] for row in runs], runs[0]["n"]
        points(axis, beside(place, len(runs), 0.2), correct, n, across=True, color="C4", fillstyle="none")
    axis.axvline(statistics.mean(map(top1, by_name["resnet18"])), color="gray", lw=0.8)
    axis.set_yticks(range(len(by_name)), map(title, by_name))
    axis.invert_yaxis()
    axis.set(xlabel="top-1 % on CIFAR-10", title="The branches of ParaDise on a small budget")
    axis.grid(axis="x", alpha=0.3)
    handles = [key(color="C4", fillstyle="none"), key(color="C4", marker="_", ms=14)]
    handles += [key(color="gray", marker="|", ms=14)]
    words = ["a seed", "its 95 % interval, of the test images", "mean of ResNet-18"]
    figure.legend(handles, words, loc="lower center", ncols=3, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, target)
