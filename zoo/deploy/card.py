"""The card of a deployed folder, from what was measured."""

from typing import Any

from .engines import ENGINES


def card(facts: dict[str, Any]) -> str:
    """The ``README.md``.

    Args:
        facts: What ``network.json`` holds.
    """
    engine = ENGINES[facts["engine"]]
    channels, height, width = facts["input_size"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"# {facts['name']} for {engine.title}, {facts['precision']}",
        "",
        "```bash",
        f"pip install {engine.runs_with} numpy pillow",
        "python run.py IMAGE ...",
        "```",
        "",
        f"- `{facts['file']}`: collapsed to plain layers, batch norms folded; {facts['bytes']:,} bytes",
        f"- `network.json`: {len(facts['classes'])} classes, how images are prepared ("
        f"{channels} x {height} x {width}), and all figures below",
        f"- From a file with sha256 `{facts['sha256'] or 'unknown'}`; licence of the weight: "
        f"{facts.get('licence', 'not known')}",
        f"- Made by repara-zoo {facts['version']} with {versions}",
        "",
        "## Measured when it was made",
        "",
        figures(facts),
    ]
    return "\n".join(lines) + "\n"


def figures(facts: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    scores = facts["scores"]
    lines = [
        f"Scores of {scores['images']} images differ from the network's by {scores['max_absolute']:.1e} at most, "
        f"{scores['max_relative']:.1e} of the largest.",
        "",
        *_quantized_lines(facts.get("quantized")),
        *_accuracy_lines(facts.get("accuracy")),
        "",
        *_speed_lines(facts["speed"]),
    ]
    if "left_out" in facts:
        others = [
            f"{ENGINES[name].title} was not tried ({why.rstrip('.')})." for name, why in facts["left_out"].items()
        ]
        chosen = f"`--engine auto` took {ENGINES[facts['engine']].title}: its median is the lowest for one image."
        lines += ["", " ".join([chosen, *others])]
    return "\n".join(lines)


def _quantized_lines(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    tried = "; ".join(
        f"{name}: divergence {row['divergence']:.2g}, {row['same_guess']} with the same guess"
        for name, row in found["tried"].items()
    )
    return [
        f"Quantized to int8, kernels by channel, with {found['setting']}, calibrated on {found['calibration']} "
        f"training images; no test image was used. Tried, on {found['apart']} other training images: {tried}. The CPU "
        "needs sums of int8 products (VNNI, AMX or Arm's dot), else they may overflow.",
        "",
    ]


def _accuracy_lines(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return ["Accuracy was not measured (`--accuracy --data DIR`)."]
    n, low, high = found["n"], *found["interval"]
    before, after = (f"{found[key]:,} ({100 * found[key] / n:.2f} %)" for key in ("before", "after"))
    text = (
        f"Of the {n:,} test images of {found['dataset']} the file gets {after} right, the network itself {before}: "
        f"{found['difference']:+.2f} points (paired 95 % interval {low:+.2f} to {high:+.2f}). {found['same_guess']:,} "
        f"images get the same guess; {found['only_first']:,} are right in the network only, "
        f"{found['only_second']:,} in the file only."
    )
    return [text, *(["", f"Warning: {found['warning']}"] if found["warning"] else [])]


def _speed_lines(found: list[dict[str, Any]]) -> list[str]:
    threads = found[0]["threads"]
    lines = [
        f"Times over those of the plain network (as timm runs it: eager, float32), {threads} "
        f"{'threads' if threads > 1 else 'thread'}, in turn in each round; median (lowest to highest). The last column "
        "is what its arithmetic would take at the speed of the fastest float32 matrix product of the run.",
        "",
    ]
    names = list(found[0]["ratios"])
    lines += [f"| images | {' | '.join(names)} | arithmetic |", f"|---:|{'---:|' * (len(names) + 1)}"]
    for row in found:
        cells = [f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in row["ratios"].values()]
        lines.append(f"| {row['batch']} | {' | '.join(cells)} | {row['limit']:.2f} |")
    return lines
