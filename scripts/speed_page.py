"""docs/speed.md, from the results of the scripts in benchmarks/: a section for each file, in the order of SECTIONS.

python scripts/speed_page.py
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"

INTRO = """# Speed

Made by `python scripts/speed_page.py` from JSON files beside this page, each written by a script of `benchmarks/` that
anyone can run again. Figures are ratios of processor times, measured in turn in each round of one run: the median, and
the lowest and highest where there is room. Below 1 is faster. They belong to the machine that a section names; other
work ran beside it, which widens the ranges. The peak is the fastest float32 product of two 1024 x 1024 matrices in the
same run, in 10^9 multiply-adds a second.
"""


def table(rows: Iterable[list[str]], header: list[str]) -> str:
    """As Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def cell(ratio: Iterable[float]) -> str:
    """Median (lowest-highest)."""
    median, low, high = ratio
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def grid(rows: list[dict], first: list[str]) -> str:
    """A table of rows with ``ratios``: the given columns, then one for each ratio that is not 1 by definition."""
    names = list(dict.fromkeys(name for row in rows for name in list(row["ratios"])[1:]))
    cells = [
        [str(row[key]) for key in first]
        + [cell(row["ratios"][name]) if name in row["ratios"] else "" for name in names]
        for row in rows
    ]
    return table(cells, [*first, *names])


def machine(found: dict[str, Any]) -> str:
    """A line about the machine."""
    about = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['cpu']} ({', '.join(about['features'])}), {about['threads']} thread, peak {about['peak']}; "
        f"{versions}; {about['date']}.\n"
    )


def goals(found: dict[str, Any]) -> str:
    """Every goal beside what was measured."""
    text = """## Goals (`benchmarks/goals.py`)

One thread, each row over what it says, both in turn; a part of the script that is run alone replaces its own rows.
Commands, loading, data and engines by time that passes, the rest by processor time. "limit": what as much arithmetic
takes at the speed of the fp32 matrix product. "reached" goes by the median; "within the range" says that the rounds
were on both sides of the goal. "load" is how many processes wanted this machine's two cores, where it was noted.
"""
    rows = []
    for row in found["goals"]:
        median, low, _ = row["ratio"]
        goal = row["goal"]
        reached = "" if goal is None else "yes" if median <= goal else "within the range" if low <= goal else "no"
        cells = [
            f"{goal:g}" if goal else "",
            reached,
            f"{row['limit']:.2f}" if "limit" in row else "",
            str(row.get("load", "")),
        ]
        rows.append([row["what"], cell(row["ratio"]), *cells])
    tables = table(rows, ["row", "measured", "goal", "reached", "limit", "load"])
    return "\n".join([text, machine(found), tables, *why(found["goals"])])


def why(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row that misses its goal."""
    measured = {row["what"]: row["ratio"] for row in rows}
    half = measured.get("a bf16 matrix product over an fp32 one", [1.0])[0]
    there = DOCS / "forms_speed.json"
    uncollapsed = json.loads(there.read_text())["forms"] if there.exists() else []
    least = {
        f"{row['network']} as trained": row["ratios"]["least"][0] for row in uncollapsed if "least" in row["ratios"]
    }
    bare = next((row["ratio"][0] for row in rows if row["what"].endswith("without values, over timm's way")), None)
    lines = []
    for row in rows:
        median, low, high = row["ratio"]
        if row["goal"] is None or median <= row["goal"]:
            continue
        if low <= row["goal"]:
            reason = f"the rounds spread from {low:.2f} to {high:.2f}, so this run does not decide it"
        elif "bf16" in row["what"]:
            reason = (
                f"a bf16 matrix product takes {half:.2f} of an fp32 one here; the goal is from a processor with AMX, "
                "which this one lacks"
            )
        elif row["part"] == "deploy":
            reason = (
                f"{row['limit']:.2f} of eager's time is what its arithmetic takes as a matrix product, which leaves an "
                "engine that much"
            )
        elif row["what"].split(" over ")[0] in least:
            reason = (
                f"copying each kernel once, which any maker must, takes {least[row['what'].split(' over ')[0]]:.2f}"
            )
        elif row["part"] == "load" and bare:
            reason = f"constructing its modules alone, without a value, takes {bare:.2f}"
        else:
            reason = f"every round was above it, {low:.2f} or more"
        lines.append(f"- {row['what']}: {median:.2f} for {row['goal']:g}; {reason}.")
    return ["Missed, and what was measured of it:\n", *lines] if lines else []


def every_weight(found: dict[str, Any]) -> str:
    """Staged weights and their twins."""
    text = """## Every staged weight (`benchmarks/every_weight.py`)

Over the plain twin in eager mode, one image / 32 (throughput is the inverse), medians; the ranges, the same over timm's
resnet18 for images of that size, and the twin in each engine are in `benchmarks.json`. "stored" is the weight as it is,
"collapsed" has batch norms folded where they follow a convolution. Memory: growth at its peak of a fresh process that
reads the network and scores 32 images, MB. Bytes of the stored, collapsed and, where there is one, packed file, MB.
Top-1 is the manifest's.
"""
    forms = {"stored": "stored", "collapsed": "collapsed"}
    forms |= {f"collapsed, {key}": title for key, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"))}
    forms |= {"resnet18": "timm's resnet18"}
    rows = []
    for row in found["weights"]:
        one, many = (times["over twin"] for times in row["times"])
        sizes = [row["bytes"][kind] for kind in ("stored", "collapsed", "packed") if kind in row["bytes"]]
        rows.append(
            [f"`{row['name']}`", f"`{row['twin']}`", f"{row['accuracy']['top1']:.2f}" if row["accuracy"] else ""]
            + ["{:.1f} / {:.1f}".format(*(row["macs"][form] / 1e6 for form in ("stored", "twin")))]
            + [" / ".join(f"{value / 1e6:.2f}" for value in sizes)]
            + [f"{one[form][0]:.2f} / {many[form][0]:.2f}" if form in one else "" for form in forms]
            + [" / ".join(f"{times['limit']:.2f}" for times in row["times"])]
            + [" / ".join(f"{row['memory'][form] / 1e6:.0f}" for form in ("stored", "collapsed"))]
        )
    header = ["weight", "twin", "top-1", "multiply-adds, M: stored / twin", "bytes", *forms.values(), "limit"]
    missing = found["machine"].get("left out")
    note = f"Not installed and left out: {', '.join(missing)}.\n" if missing else ""
    return "\n".join([text, machine(found) + note, table(rows, [*header, "memory: stored / collapsed"])])


def forms(found: dict[str, Any]) -> str:
    """Networks of this zoo over plain ones."""
    text = """## Uncollapsed and collapsed, over the plain network (`benchmarks/forms.py`)

Batch 1, over timm's eager mode of the plain network. "least" is the limit of the first column: each kernel copied (of
shared ones, two templates added), which reads and writes what any maker must, and torch's own calls around it. Nothing
is cached. Goals were 1.15 (SWRN), 1.2 (symmetric) and 1.1 (sparse). What it took: masks multiply as 8-bit whole
numbers (a product with bool takes three times as long), the taps of a symmetric kernel are laid out by a faster loop,
and torch's calls between a layer and its maker are left out where they do nothing. A shared kernel is one matrix
product, as fast as any other way that was tried; all of a bank's at once would have to be kept.

A process that has freed no large block yet gives each kernel's memory back to the system and pays page faults for the
next: SymmWRN-28-10 was seen at 1.7 so. Freeing any block of 32 MB once, or `MALLOC_TRIM_THRESHOLD_` and
`MALLOC_MMAP_THRESHOLD_` of glibc, end that; these figures are without it.
"""
    return "\n".join([text, machine(found), grid(found["forms"], ["network", "over"])])


def sparse(found: dict[str, Any]) -> str:
    """Forms of sparse layers and networks."""
    text = """## Zeros (`benchmarks/sparse.py`)

Batch 1, fp32 unless named. Layers: over torch's dense convolution in eager mode; the last two columns of the first
table name the fastest form and its ratio, CSR only among unstructured forms (BSR is another, coarser mask).

- On this processor a compressed product (torch's CSR, by MKL) beats every dense engine at 10 % density in the 1x1
  layers of ResNet-50, and at 5 % in its 3x3 layers with small maps, patches included; it loses in large maps, in the
  narrow layers of WRN-28-2, and from 20 % on. Blocks of 16 x 16 win earlier only for wide layers.
- Whole networks: CSR in the 1x1 layers makes eager ResNet-50 a quarter faster, and does nothing for WRN-28-2, which has
  hardly any; a dense engine gains more in both. So the open path for a network with 90 % zeros is a dense engine.
- OpenVINO's sparse decompression of weights (`CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE`) changes nothing here, in fp32 or
  int8: it is made for matrix products of 8 bits on AMX, which this processor lacks. No setting for `zoo deploy`.
- DeepSparse (ended 2025) had 0.44 of timm's eager mode at 90 % zeros in fp32. Dense fp32 engines come to it for
  WRN-28-2 and not for ResNet-50; bf16 and int8 of OpenVINO are below it in both (int8 with random calibration: its
  speed only). `zoo deploy --engine auto` measures fp32 and bf16 engines and takes the fastest.
"""
    rows = []
    for row in found["layers"]:
        exact = {name: ratio for name, ratio in row["ratios"].items() if name != "BSR"}
        best = min(exact, key=lambda name: exact[name][0])
        rows.append(row | {"fastest": f"{best}, {exact[best][0]:.2f}"})
    networks = grid(found["networks"], ["network", "density"])
    layers = grid(rows, ["network", "layer", "density", "fastest"])
    return "\n".join([text, machine(found), networks, "", layers])


def reuse(found: dict[str, Any]) -> str:
    """LruNet, shared and unrolled."""
    text = """## Reuse: 14-LruNet, shared and unrolled (`benchmarks/reuse.py`)

Reuse buys bytes, a quarter to an eighth of them, and some memory, and no time: unrolled, with every run's batch norms
folded into kernels of its own, ONNX Runtime takes as long and OpenVINO less, whose unrolled file also has the step in
another form (below). Caches were not seen to matter: all 6.7 MB fit in this processor's third level, and after other
data (64 MB) were written before each pass ("cold") the ratios are those of warm caches within their ranges. In 8 bits
nothing changes in this; untrained, all runs' kernels are equal, and the int8 file of the unrolled network holds them
once.

Batch 1, over the shared network in eager mode, as trained; in files batch norms are folded. Bytes are those of the file
(eager: of the tensors; int8: OpenVINO's weights), "grows" is by how much a fresh process grows that loads and runs the
file. The step: seven in a row, over the form that PyTorch runs best (a map with repeated channels), in the same engine.
Files for other engines hold the step "split": the first and the second outputs of all channels as two plain depthwise
convolutions, each with its part of the 1x1 kernel.
"""
    rows = [
        [row["network"], row["engine"], f"{row['bytes']:,}", f"{row['grows'] or 0:,}" if row["grows"] else ""]
        + [cell(row[way]) for way in ("warm", "cold")]
        for row in found["networks"]
    ]
    networks = table(rows, ["network", "engine", "bytes", "grows", "warm", "cold"])
    return "\n".join([text, machine(found), networks, "", grid(found["steps"], ["step", "engine"])])


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "goals.json": goals,
    "benchmarks.json": every_weight,
    "forms_speed.json": forms,
    "sparse_speed.json": sparse,
    "reuse_speed.json": reuse,
}
"""What makes the section of a file."""


def page() -> str:
    """The page, of the files that are there."""
    there = [(make, DOCS / name) for name, make in SECTIONS.items() if (DOCS / name).exists()]
    return "\n".join([INTRO, *(make(json.loads(file.read_text())) + "\n" for make, file in there)])


if __name__ == "__main__":
    (DOCS / "speed.md").write_text(page())
