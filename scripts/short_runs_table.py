"""The table of ``short_runs.py``: docs/short_runs.md from docs/short_runs.jsonl."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sparse_order import section

LEARNS = {"cifar10": 25.0, "fashion-mnist": 60.0}
"""Top-1 on test images, in percent, above which a run has learned if its training loss fell too."""

INTRODUCTION = """Made by `python scripts/short_runs.py`, which says how; data in `short_runs.jsonl`. Small networks, a
part of the training data, minutes on one shared CPU core. These runs show that the machinery works from the first step
to the collapsed network. They show nothing about what the networks reach when trained in full, and nothing was
tuned."""

READING = f"""Asked for, before the runs: the training loss falls; top-1 on test images, read only after the last
epoch, is above {LEARNS["cifar10"]:.0f} % (CIFAR-10) or {LEARNS["fashion-mnist"]:.0f} % (Fashion-MNIST) where guessing
gives 10 %; the collapsed network is right as often, to the image; and a run killed with SIGKILL in the middle of an
epoch and resumed equals, bit for bit, one that was never interrupted (weights, optimizer, masks, the state of torch's
and NumPy's random generators). The last is compared at the first checkpoint after the resumption. Differences are
relative to the largest score: float32 on the test images, float64 on eight random ones. Where the table says fewer
than 10,000, the test images are the first ones of the split."""


COMMANDS = """As they were run at commit 7e67917 (the symmetry run with one fault repaired that it had found: a staged
symmetric weight could not be loaded), each without `--output RUN`; after the kill the same with `--resume`. Since then
`swrn_28_10_2_c10_cutout` has become `swrn_28_10_2_cutout_published_c10`, and `symm_wrn_bottleneck_16_4_tri_c10`
`symm_wrn_bottleneck_16_4_tri_published_c10`; run again, the script writes the whole recipe of each run into a file."""


def write_table(found: dict[str, dict[str, Any]], names: list[str], target: Path) -> None:
    """Write the table from the results.

    Args:
        found: Results by piece.
        names: Of all pieces, families first.
        target: The Markdown file; the plot goes beside it.
    """
    families = [found[name] for name in names if name in found and "weight" in found[name]]
    missing = [name for name in names if name not in found]
    lines = ["# Short runs on real data", "", INTRODUCTION, "", "## One run per family", ""]
    lines += [
        "| family | network | data | images x epochs, batch | training loss by epoch | right before, after collapsing "
        "| top-1 % | largest difference, float32 / float64 | parameters before, after | resumed = not interrupted |",
        "|---|---|---|---|---|---|---:|---|---|---|",
    ]
    for row in families:
        arch, right = row["weight"].split(".")[0], row["correct"]
        lines.append(
            f"| {row['piece']} | `{arch}` | {row['dataset']} "
            f"| {row['images']:,} x {row['epochs']}, {row['batch_size']} "
            f"| {', '.join(f'{loss:.3f}' for loss in row['losses'])} "
            f"| {right[0]:,} and {right[1]:,} of {row['n']:,}; {row['other_guesses']} guesses differ "
            f"| {100 * right[0] / row['n']:.2f} "
            f"| {row['largest_difference']:.0e} / {row['largest_difference_float64']:.0e} "
            f"| {row['parameters'][0]:,} and {row['parameters'][1]:,} | {resumed(row['resume'])} |"
        )
    lines += ["", READING, ""]
    failed = [row["piece"] for row in families if not learned(row) or row["correct"][0] != row["correct"][1]]
    failed += [row["piece"] for row in families if row["resume"]["equal"] != row["resume"]["compared"]]
    verdict = f"not by {', '.join(sorted(set(failed)))}" if failed else f"by all {len(families)} runs above"
    lines += [f"All of this is met {verdict}.", ""]
    if "language" in found:
        lines += language_section(found["language"])
    lines += section(found, target.parent)
    lines += ["## Commands", "", COMMANDS, "", "```bash"]
    lines += list(dict.fromkeys(found[name]["command"] for name in names if "command" in found.get(name, {}))) + [
        "```",
        "",
    ]
    recipes = {row["weight"]: row["recipe"] for row in families if row["recipe"]}
    lines += [f"`RECIPE.yaml` of `{name}`: `{json.dumps(recipe)}`" + "\n" for name, recipe in recipes.items()]
    if missing:
        groups = Counter(" ".join(name.split()[:3]) if name.startswith("order") else name for name in missing)
        lines += ["Not run: " + ", ".join(f"{name} ({n} seeds)" if n > 1 else name for name, n in groups.items()) + "."]
    target.write_text("\n".join(lines).rstrip() + "\n")


def learned(row: dict[str, Any]) -> bool:
    """Whether a run meets the criterion."""
    return row["losses"][-1] < row["losses"][0] and 100 * row["correct"][0] / row["n"] > LEARNS[row["dataset"]]


def resumed(resume: dict[str, Any]) -> str:
    places = [f"epoch {epoch + 1} step {step}" for epoch, step in (resume["killed_at"], resume["compared_at"])]
    return f"{resume['equal']} of {resume['compared']} values, at {places[1]} (killed after {places[0]})"


def language_section(row: dict[str, Any]) -> list[str]:
    before, after = row["test"]
    return [
        "## A language model",
        "",
        f"SymmLSTM (100 units, one layer, hidden side symmetric) on the first {row['tokens']['train']:,} words of "
        f"WikiText-2, {row['vocabulary']:,} different ones. Perplexity on {row['tokens']['valid']:,} words of its "
        f"validation text after each epoch: {', '.join(f'{p:.1f}' for p in row['valid_perplexity'])}. On "
        f"{before['n']:,} words of the test text, read after the last epoch: {before['perplexity']:.2f}, "
        f"and {after['perplexity']:.2f} after collapsing into `nn.LSTM` (losses {before['loss']:.7f} and "
        f"{after['loss']:.7f}). The words' frequencies alone, without any order, give {row['unigram']:.1f}: it has "
        f"{'learned' if before['perplexity'] < row['unigram'] else 'not learned'} if less is asked for. Language runs "
        "save at the end of an epoch; killed in the second epoch and resumed, the run equalled one that was not killed "
        f"at the end of that epoch in {row['resume']['equal']} of {row['resume']['compared']} values.",
        "",
    ]
