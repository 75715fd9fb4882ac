"""Tables of what scripts and benchmarks measured, from the JSON files in docs/."""

import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from weight_tables import ROOT, over_seeds, table

from zoo.names import family_of, list_models
from zoo.training.comparison import published_of
from zoo.training.recipe import load_recipe
from zoo.weights.manifest import manifest

DOCS = ROOT / "docs"
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
DEPLOY_GOALS = {("resnet18", 1): (0.80, 0.21), ("resnet18", 32): (0.65, 0.12), ("resnet50", 1): (0.87, 0.22)}
"""Of PyTorch's file in float32 and bfloat16, over timm's eager mode, by network and batch."""


def read(name: str) -> Any:
    """The content of a JSON file in docs/, or the rows of one with a line for each."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def cell(ratio: Iterable[float]) -> str:
    """Median (lowest-highest)."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*ratio)


def paired(found: dict[str, Any]) -> str:
    """A difference with its interval."""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(found["difference"], *found["interval"])


def grid(rows: list[dict], first: list[str]) -> str:
    """A table of rows with ``ratios``: the given columns, then one for each ratio that is not 1 by definition."""
    names = list(dict.fromkeys(name for row in rows for name in list(row["ratios"])[1:]))
    cells = ([cell(row["ratios"][name]) if name in row["ratios"] else "" for name in names] for row in rows)
    lines = [[str(row[key]) for key in first] + more for row, more in zip(rows, cells, strict=True)]
    return table([*first, *names], "l" * len(first + names), lines)


def machine(name: str) -> str:
    """A line about the machine that a file's figures belong to."""
    about = read(name)["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    features, left = ", ".join(about["features"]), ", ".join(about.get("left out", []))
    text = f"{about['cpu']} ({features}), {about['threads']} thread, peak {about['peak']}; {versions}; {about['date']}."
    return text + (f" Not installed and left out: {left}." if left else "") + "\n\n"


# ---- speed ----


def goals() -> str:
    """Every goal beside what was measured, and a line for each that is missed."""
    found, rows = read("goals.json")["goals"], []
    for row in found:
        (median, low, _), goal = row["ratio"], row["goal"]
        reached = "" if goal is None else "yes" if median <= goal else "within the range" if low <= goal else "no"
        limit, load = f"{row['limit']:.2f}" if "limit" in row else "", str(row.get("load", ""))
        rows.append([row["what"], cell(row["ratio"]), f"{goal:g}" if goal else "", reached, limit, load])
    lines = [machine("goals.json") + table(["row", "measured", "goal", "reached", "limit", "load"], "llllll", rows)]
    missed = [row for row in found if row["goal"] is not None and row["ratio"][0] > row["goal"]]
    lines += ["Missed, and what was measured of it:\n"] * bool(missed)
    lines += [f"- {row['what']}: {row['ratio'][0]:.2f} for {row['goal']:g}; {_reason(row, found)}." for row in missed]
    return "\n".join(lines) + "\n" * bool(missed)


def _reason(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What stands in the way of a goal, as far as it was measured."""
    measured = {other["what"]: other["ratio"][0] for other in rows}
    least = {f"{r['network']} as trained": r["ratios"].get("least") for r in read("forms_speed.json")["forms"]}
    bare = [value for what, value in measured.items() if what.endswith("without values, over timm's way")]
    (_, low, high), network = row["ratio"], row["what"].split(" over ")[0]
    if low <= row["goal"]:
        return f"the rounds spread from {low:.2f} to {high:.2f}, so this run does not decide it"
    if "bf16" in row["what"]:
        half = measured.get("a bf16 matrix product over an fp32 one", 1.0)
        there = "the goal is from a processor with AMX, which this one lacks"
        return f"a bf16 matrix product takes {half:.2f} of an fp32 one here; {there}"
    if row["part"] == "deploy":
        arithmetic = f"{row['limit']:.2f} of eager's time is what its arithmetic takes as a matrix product"
        return f"{arithmetic}, which leaves an engine that much"
    if least.get(network):
        return f"copying each kernel once, which any maker must, takes {least[network][0]:.2f}"
    if row["part"] == "load" and bare:
        return f"constructing its modules alone, without a value, takes {bare[0]:.2f}"
    return f"every round was above it, {low:.2f} or more"


def every_weight() -> str:
    """Staged weights over their twins."""
    forms = {"stored": "stored", "collapsed": "collapsed"}
    forms |= {f"collapsed, {key}": title for key, title in ENGINES.items()} | {"resnet18": "timm's resnet18"}
    rows = []
    for row in read("benchmarks.json")["weights"]:
        one, many = (times["over twin"] for times in row["times"])
        sizes = [row["bytes"][kind] / 1e6 for kind in ("stored", "collapsed", "packed") if kind in row["bytes"]]
        cells = [f"`{row['name']}`", f"`{row['twin']}`"]
        cells += ["{:.1f} / {:.1f}".format(*(row["macs"][form] / 1e6 for form in ("stored", "twin")))]
        cells += [" / ".join(f"{value:.2f}" for value in sizes)]
        cells += [f"{one[form][0]:.2f} / {many[form][0]:.2f}" if form in one else "" for form in forms]
        cells += [" / ".join(f"{times['limit']:.2f}" for times in row["times"])]
        rows.append([*cells, " / ".join(f"{row['memory'][form] / 1e6:.0f}" for form in ("stored", "collapsed"))])
    header = ["weight", "twin", "multiply-adds, M: stored / twin", "MB", *forms.values(), "limit"]
    header.append("memory, MB: stored / collapsed")
    return machine("benchmarks.json") + table(header, "l" * len(header), rows)


def forms() -> str:
    """Networks of this zoo, as trained and collapsed, over plain ones."""
    return machine("forms_speed.json") + grid(read("forms_speed.json")["forms"], ["network", "over"])


def zeros() -> str:
    """Forms of sparse networks and layers."""
    rows = []
    for row in read("sparse_speed.json")["layers"]:
        exact = {name: ratio for name, ratio in row["ratios"].items() if name != "BSR"}
        best = min(exact, key=lambda name: exact[name][0])
        rows.append(row | {"fastest": f"{best}, {exact[best][0]:.2f}"})
    networks = grid(read("sparse_speed.json")["networks"], ["network", "density"])
    return f"{machine('sparse_speed.json')}{networks}\n{grid(rows, ['network', 'layer', 'density', 'fastest'])}"


def reuse() -> str:
    """LruNet, shared and unrolled, and forms of its depthwise step."""
    found, rows = read("reuse_speed.json"), []
    for row in found["networks"]:
        counts = [f"{row['bytes']:,}", f"{row['grows']:,}" if row["grows"] else ""]
        rows.append([row["network"], row["engine"], *counts, cell(row["warm"]), cell(row["cold"])])
    networks = table(["network", "engine", "bytes", "grows", "warm", "cold"], "llllll", rows)
    return f"{machine('reuse_speed.json')}{networks}\n{grid(found['steps'], ['step', 'engine'])}"


# ---- deployed files ----


def int8() -> str:
    """What each weight loses in 8 bits, by engine, and in words which lose more than the goal."""
    found, rows, over = read("deploy.json")["int8"], [], []
    for name in sorted(found):
        for engine, row in found[name].items():
            if row["difference"] < -0.3:
                over.append(f"`{name}` in {ENGINES[engine]} ({row['difference']:+.2f})")
            sizes = f"{row['bytes'] / 1e6:.2f} of {row['bytes_fp32'] / 1e6:.2f}"
            cells = [f"`{name}`", ENGINES[engine], paired(row), f"{row['same_guess']:,} of {row['n']:,}", sizes]
            rows.append([*cells, row["quantized"]["setting"]])
    waiting = [f"`{f.name}`" for f in sorted((ROOT / "hub").iterdir()) if len(found.get(f.name, ())) < len(ENGINES)]
    text = f"More than 0.3 points lose: {', '.join(over) or 'none'}, of {len(rows)} files."
    text += f" Not measured yet with both engines: {', '.join(waiting)}." if waiting else ""
    header = ["weight", "engine", "points (paired 95 %)", "same guess", "MB, of float32", "setting"]
    return text + "\n\n" + table(header, "llrrrl", rows)


def equalized() -> str:
    """Whether equal ranges of kernels on both sides of a ReLU help int8."""
    rows = []
    for name, row in read("deploy.json")["equalized"].items():
        for engine, title in ENGINES.items():
            for setting, plain in row[engine]["plain"].items():
                cells = [f"{plain:.2g}", f"{row[engine]['equalized'][setting]:.2g}"]
                rows.append([f"`{name}`", title, setting, *cells, str(row["pairs"]), f"{row['gap']:.0e}"])
    header = ["weight", "engine", "setting", "as it is", "equalized", "pairs", "gap in float64"]
    return table(header, "lllrrrr", rows) if rows else "Not measured yet: `scripts/measure_deployed.py equalized`.\n"


def deployed_speed() -> str:
    """Every engine over timm's eager mode, by network, and PyTorch's file beside its goals."""
    parts = []
    for name, rows in read("deploy.json")["speed"].items():
        count = rows[0]["threads"]
        lines = [f"**{name}**, {count} thread{'s' * (count > 1)}\n"]
        cells = [[title, *(cell(row["ratios"][title][key] for key in ("median", "low", "high")) for row in rows)]
                 for title in rows[0]["ratios"]]  # fmt: skip
        cells.append(["limit", *(f"{row['limit']:.2f}" for row in rows)])
        header = [f"{row['batch']} image{'s' * (row['batch'] > 1)}" for row in rows]
        lines.append(table(["engine", *header], "l" + "r" * len(rows), cells))
        for row in rows:
            for precision, goal in zip(("fp32", "bf16"), DEPLOY_GOALS.get((name, row["batch"]), ()), strict=False):
                value = row["ratios"][f"PyTorch {precision}"]["median"]
                reached = "reached" if value <= goal else f"missed by {value - goal:.2f}"
                what = f"PyTorch's file in {precision}, {row['batch']} at once"
                lines.append(f"- {what}: {value:.2f}, goal {goal:.2f}, {reached}.")
        parts.append("\n".join(lines))
    text = "Not measured yet: `scripts/measure_deployed.py speed`. Each card has its own times."
    return "\n\n".join(parts or [text]) + "\n"


# ---- transformations and the protocol ----


def transforms() -> str:
    """Each kind on timm's networks: how many pass, why not, and by family."""
    last = {(row["arch"], row["kind"]): row for row in read("transforms.jsonl")}
    rows, marks = list(last.values()), {"pass": "+", "not applicable": "-", "fail": "**fail**"}
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    count = Counter((row["kind"], row["status"]) for row in rows)
    lines = [f"{len({arch for arch, _ in last})} architectures of {len({row['family'] for row in rows})} families:\n"]
    header = ["kind", "pass", "not applicable", "fail"]
    lines.append(table(header, "lrrr", ([f"`{k}`", *(str(count[k, status]) for status in marks)] for k in kinds)))
    reasons = Counter((row["why"], row["kind"]) for row in rows if row["status"] == "not applicable")
    lines.append("Not applicable means that no layer qualified; the most frequent reasons:\n")
    lines += [f"- `{kind}`: {why} ({n} networks)" for (why, kind), n in reasons.most_common(12)]
    lines.append("\nBy timm's families, + pass, - not applicable:\n")
    cells = []
    for family in sorted({row["family"] for row in rows}):
        own = [row for row in rows if row["family"] == family]
        status = {k: Counter(marks[row["status"]] for row in own if row["kind"] == k) for k in kinds}
        told = (" ".join(f"{n}{mark}" for mark, n in sorted(status[k].items())) for k in kinds)
        cells.append([family, str(len({row["arch"] for row in own})), *told])
    return "\n".join([*lines, table(["family", "architectures", *kinds], "lr" + "l" * len(kinds), cells)])


def transform_proof() -> str:
    """A trained network transformed and fine-tuned, beside itself fine-tuned alike."""
    found = read("transform_proof.json")
    rows, n = found["networks"], found["networks"][0]["uncollapsed"]["n"]
    header = ["network", "stored", "not switched off", "collapsed", "kernel error at the start", "top-1 % at the start"]
    header += ["fine-tuned", "against the untouched", "only untouched, only this right"]
    cells = []
    for row in rows:
        other, same = row["against_untouched"], row is rows[0]
        counts = [f"{row[key]:,}" for key in ("stored", "on", "collapsed")]
        figures = [f"{row['kernel_error']:.3f}", *(f"{100 * row[key] / row['n']:.2f}" for key in ("before", "after"))]
        gap = ["-", "-"] if same else [paired(other), f"{other['only_first']:,}, {other['only_second']:,}"]
        cells.append([row["transform"] if same else f"`{row['transform']}`", *counts, *figures, *gap])
    lines = [table(header, "lrrrrrrll", cells)]
    both = rows[1]["transform"]
    lines += [f"- `{both}` against `{half['first']}` alone: {paired(half)} points." for half in found["combination"]]
    differ = [str(row["uncollapsed"]["guesses_that_differ"]) for row in rows]
    lines.append(f"- Guesses on the first {n:,} test images that collapsing changes, by network: {', '.join(differ)}.")
    return "\n".join(lines) + "\n"


def protocol() -> str:
    """How many architectures of each family pass the whole protocol, and what did not apply or failed."""
    rows = {row["name"]: row for row in read("protocol.jsonl")}
    by_family, notes = defaultdict(list), defaultdict(list)
    for name in list_models():
        by_family[family_of(name)].append(name)
        for check, outcome in rows.get(name, {"checks": {"not run yet": ""}})["checks"].items():
            if outcome != "ok":
                notes[f"{check}, {outcome}" if outcome else check].append(name)
    failed = re.compile(r"[A-Z]\w*: ")  # the name of an error; what does not apply is a sentence
    passed = {name for name, row in rows.items() if not any(map(failed.match, row["checks"].values()))}
    cells = [[family, str(len(names)), str(len(passed & {*names}))] for family, names in sorted(by_family.items())]
    lines = [f"- {note}: {', '.join(f'`{name}`' for name in names)}" for note, names in sorted(notes.items())]
    return "\n".join([table(["family", "architectures", "pass"], "lrr", cells), *lines]) + "\n"


# ---- small runs ----


def sharing() -> str:
    """Folding similar layers into loops, and fewer templates, without training."""
    rows = read("sharing.json")["rows"]
    cells = []
    for row in rows:
        loops = ", ".join(f"{blocks[0]} to {blocks[-1].rsplit('.', 1)[-1]}" for blocks in row["loops"]) or "-"
        kernels, n = ", ".join(map(str, row["kernels"])) if row["kernels"] else "-", row["n"]
        figures = [f"{row['correct']:,} of {n:,}", f"{100 * (row['correct'] - rows[0]['correct']) / n:+.2f}"]
        cells.append([row["what"], f"{row['stored']:,}", kernels, loops, *figures])
    header = ["network", "stored parameters", "kernels per stage", "loops", "right", "change in points"]
    return table(header, "lrllrr", cells)


def short_runs() -> str:
    """One short run per family, killed and resumed."""
    cells = []
    for row in (row for row in read("short_runs.jsonl") if "weight" in row):
        resume, right = row["resume"], row["correct"]
        cells.append(
            [
                f"`{row['weight'].split('.')[0]}`",
                f"{row['dataset']}, {row['images']:,} x {row['epochs']}, {row['batch_size']}",
                ", ".join(f"{loss:.3f}" for loss in row["losses"]),
                f"{right[0]:,} and {right[1]:,} of {row['n']:,}; {row['other_guesses']} guesses differ",
                f"{row['largest_difference']:.0e} / {row['largest_difference_float64']:.0e}",
                f"{resume['equal']} of {resume['compared']} values",
            ]
        )
    header = ["network", "data, images x epochs, batch", "training loss", "right before, after collapsing"]
    return table([*header, "difference, float32 / float64", "resumed = not interrupted"], "llllll", cells)


def sparse_methods() -> str:
    """The sparse methods side by side, three seeds each, and what their reallocations kept."""
    runs = defaultdict(dict)
    for row in read("short_runs.jsonl"):
        if row["piece"].startswith("order"):
            runs[row["sparsity"], row["method"]][row["seed"]] = row
    cells, above = [], []
    for (sparsity, method), seeds in sorted(runs.items()):
        top1 = {seed: row["held_out_top1"][-1] for seed, row in sorted(seeds.items())}
        first = seeds[min(seeds)]
        moves = [row["moves"] for row in seeds.values() if "moves" in row]
        other = sum(a != b for m in moves for a, b in zip(m["before"], m["after"], strict=True))
        kept = f"{other} of {sum(len(move['moved']) for move in moves)}" if moves else "-"
        on = [f"{sum(first['active'].values()):,}", ", ".join(f"{count:,}" for count in first["active"].values())]
        values = [f"{statistics.mean(top1.values()):.2f}", f"{max(top1.values()) - min(top1.values()):.2f}"]
        cells.append([str(sparsity), method, *on, ", ".join(f"{v:.2f}" for v in top1.values()), *values, kept])
        if method.startswith("static") and (moving := runs.get((sparsity, "dynamic"))):
            gap = over_seeds({seed: row["held_out_top1"][-1] for seed, row in moving.items()}, top1)
            above.append(f"- At {sparsity}, dynamic over {method}: {gap}.")
    header = ["nominal sparsity", "method", "weights not 0", "by layer", "held-out top-1 %, by seed", "mean", "spread"]
    text = table([*header, "reallocations that changed their number"], "rlrllrrl", cells)
    return "\n".join([text, *above]) + "\n"


def branches() -> str:
    """The branch ablation of ParaDise on a small budget."""
    runs = defaultdict(dict)
    for row in read("small_comparisons.jsonl"):
        if row["study"] == "branches":
            runs[row["name"]][row["seed"]] = row
    cells = []
    for name, seeds in runs.items():
        some = seeds[min(seeds)]
        macs = "{:.1f} M, {:.1f} M".format(*(count / 1e6 for count in some["macs"]))
        right = "; ".join("{:,}, {:,}".format(*row["correct"]) for row in seeds.values())
        gained = gain(seeds, runs["resnet18"]) if name != "resnet18" else "-"
        figures = [f"{statistics.mean(map(_top1, seeds.values())):.2f}", gained, papers_gain(some["recipe"])]
        cells.append([f"`{name}`", "{:,}, {:,}".format(*some["parameters"]), macs, right, *figures])
    header = ["network", "parameters, collapsed", "multiply-adds, collapsed", "right of 10,000, before and after"]
    return table([*header, "top-1 %", "over plain", "paper's gain"], "llllrlr", cells)


def language() -> str:
    """The symmetric language model beside the plain one."""
    cells = []
    for row in (row for row in read("small_comparisons.jsonl") if row["study"] == "language"):
        test = [f"{value:.2f}" for value in row["perplexity"]]
        paper = f"{published_of(row['recipe'].replace('_small', ''))['perplexity']:.2f}"
        valid = ", ".join(f"{value:.1f}" for value in row["valid_perplexities"])
        cells.append([f"`{row['recipe']}`", "{:,}, {:,}".format(*row["parameters"]), valid, *test, paper])
    header = ["recipe", "parameters, collapsed", "validation by epoch", "test", "test, collapsed", "paper's test"]
    return table(header, "lllrrr", cells)


def _top1(row: dict[str, Any]) -> float:
    return 100 * row["correct"][0] / row["n"]


def gain(seeds: dict[int, dict[str, Any]], plain: dict[int, dict[str, Any]]) -> str:
    """Points over the plain network, on the seeds that both have; of one seed with twice the binomial error."""
    several = over_seeds(*({seed: _top1(row) for seed, row in runs.items()} for runs in (seeds, plain)))
    if several:
        return several
    one, other = next((seeds[seed], plain[seed]) for seed in seeds if seed in plain)
    variance = sum(_top1(row) * (100 - _top1(row)) / row["n"] for row in (one, other))
    return f"{_top1(one) - _top1(other):+.2f} ± {2 * math.sqrt(variance):.2f}"


def papers_gain(recipe: str) -> str:
    """The paper's points over ResNet-18 on ImageNet, of the release with these branches."""
    found = load_recipe(recipe)
    wanted = found.weight.split(".")[0].removesuffix("_cifar"), frozenset(found.model_args.get("branches", ()))
    figures = {(entry["architecture"], frozenset(entry["model_args"].get("branches", ()))): entry["published"]["top1"]
               for entry in manifest()["releases"]}  # fmt: skip
    own = figures.get(wanted)
    return "-" if own is None or wanted[0] == "resnet18" else f"{own - figures['resnet18', frozenset()]:+.2f}"
