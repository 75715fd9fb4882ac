"""What sharing found in a trained network: similar layers, loops, and smaller networks without any training.

    python scripts/sharing_found.py swrn_28_1_2.zoo_c10 --dataset cifar10 --data DIR

writes docs/sharing.json, and from it docs/sharing.md and docs/sharing.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from plots import points, save
from tqdm import tqdm

import zoo
from zoo.analysis import compress_banks, fold_layers, layer_clusters, recurrent_runs
from zoo.analysis.draw import short_name, similarity_panel
from zoo.analysis.sharing import THRESHOLDS, sharing_facts
from zoo.evaluation.validate import validate
from zoo.extras import headless_pyplot
from zoo.files import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"

INTRO = """# What sharing found

Made by `{command}`; figures in
`sharing.json`. Nothing is trained here and nothing is chosen by these figures: the network is the staged one, and every
row is measured on the whole test set. Paper: P. Savarese and M. Maire, Learning Implicitly Recurrent CNNs Through
Parameter Sharing, https://arxiv.org/abs/1902.09701. The functions are those of `zoo.analysis`;
`zoo analyze NAME|FOLDER -o DIR` draws matrices and singular values of any network.

![similarity of the layers; accuracy against parameters](sharing.png)

## Similar layers

|cosine| of the coefficients with which two layers mix the templates of their bank; 1 is the same kernel up to a factor.
"""

FOLDING = """## Folding into loops, and fewer templates, without training

`fold_layers` ties layers that are at least so similar: fewer different kernels per stage, and fewer parameters once
these are fewer than the templates. `compress_banks` keeps the leading templates of each bank. A loop is a run of blocks
with the same kernels up to factors.
"""


def study(name: str, dataset: str, data: str) -> dict[str, Any]:
    """Similarities, and accuracy on the whole test set of the network as it is, folded, and of lower rank.

    Args:
        name: ``arch.tag`` of a weight with template banks.
        dataset: Name of its data set.
        data: Folder of the data set.
    """
    model = zoo.create_model(name, pretrained=True).eval()
    shared = sharing_facts(model)
    templates = max(map(len, shared["spectrum"].values()))
    made = [("as trained", 1.0, model)]
    made += [(f"folded at {threshold}", threshold, fold_layers(model, threshold)) for threshold in THRESHOLDS]
    made += [(f"rank {rank}", 1.0, compress_banks(model, rank)) for rank in range(templates, 0, -1)]
    rows, done = [], {}
    for what, threshold, network in tqdm(made, desc="measuring"):
        clusters = layer_clusters(model, threshold)
        key = json.dumps(clusters) if what.startswith("folded") else what
        if key not in done:  # a threshold that ties the same layers gives the same network
            done[key] = validate(network, dataset, data, name=what, device="cpu")
        rows.append(
            {
                "what": what,
                "stored": zoo.count_parameters(network)["stored"],
                "kernels": [len(found) for found in clusters.values()] if what.startswith("folded") else None,
                "loops": [list(run.blocks) for run in recurrent_runs(network, 1.0)],
                "correct": done[key].correct,
                "n": done[key].n,
            }
        )
    return {
        "name": name,
        "dataset": dataset,
        **{key: shared[key] for key in ("layers", "similarity", "spectrum")},
        "rows": rows,
    }


def page(found: dict[str, Any]) -> str:
    """docs/sharing.md."""
    first = found["rows"][0]
    command = f"python scripts/sharing_found.py {found['name']} --dataset {found['dataset']} --data DIR"
    lines = [INTRO.format(command=command)]
    for bank, layers in found["layers"].items():
        spectrum = ", ".join(f"{value:.3f}" for value in found["spectrum"][bank])
        lines += [f"`{bank}`, singular values of its coefficients: {spectrum}.", ""]
        lines += [
            "| | " + " | ".join(f"`{short_name(name)}`" for name in layers) + " |",
            "|---|" + "---:|" * len(layers),
        ]
        for name, row in zip(layers, found["similarity"][bank], strict=True):
            lines.append(f"| `{short_name(name)}` | " + " | ".join(f"{value:.3f}" for value in row) + " |")
        lines.append("")
    header = [
        "network",
        "stored parameters",
        "kernels per stage",
        "loops",
        f"right of {first['n']:,}",
        "top-1 %",
        "change",
    ]
    lines += [FOLDING, "| " + " | ".join(header) + " |", "|---|---:|---|---|---:|---:|---:|"]
    for row in found["rows"]:
        loops = ", ".join(f"{blocks[0]} to {blocks[-1].rsplit('.', 1)[-1]}" for blocks in row["loops"])
        kernels = ", ".join(map(str, row["kernels"])) if row["kernels"] else "-"
        top1 = 100 * row["correct"] / row["n"]
        change = 100 * (row["correct"] - first["correct"]) / row["n"]
        lines.append(
            f"| {row['what']} | {row['stored']:,} | {kernels} | {loops or '-'} | {row['correct']:,} | {top1:.2f} | "
            f"{change:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], target: Path) -> None:
    """The similarity matrices, and accuracy against stored parameters."""
    banks = found["layers"]
    figure, panels = headless_pyplot().subplots(1, len(banks) + 1, figsize=(3.2 * len(banks) + 4.6, 4))
    for panel, (bank, layers) in zip(panels, banks.items(), strict=False):
        similarity_panel(panel, bank, layers, found["similarity"][bank])
    first, last = found["rows"][0], panels[-1]
    words = {"folded": "similar layers folded, at falling similarity", "rank": "templates of lower rank"}
    for (kind, word), marker in zip({"as trained": "as trained", **words}.items(), "*os", strict=True):
        rows = [row for row in found["rows"] if row["what"].startswith(kind)]
        style = {
            "marker": marker,
            "label": word,
            "ms": 12 if kind == "as trained" else 6,
            "zorder": 2 + (marker == "*"),
        }
        points(last, [row["stored"] for row in rows], [row["correct"] for row in rows], first["n"], **style, capsize=3)
    last.set(xlabel="stored parameters", ylabel="top-1 %, with 95 % interval", title="smaller without training")
    last.locator_params(axis="x", nbins=4)
    last.xaxis.set_major_formatter("{x:,.0f}")
    last.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize=8)
    last.grid(alpha=0.3)
    figure.suptitle(f"{found['name']}: what its layers share", fontsize=10)
    figure.tight_layout()
    save(figure, target)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="arch.tag of a weight with template banks")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="DIR")
    options = parser.parse_args()
    found = study(options.name, options.dataset, options.data)
    write_atomically((json.dumps(found, indent=1) + "\n").encode(), DOCS / "sharing.json")
    write_atomically(page(found).encode(), DOCS / "sharing.md")
    draw(found, DOCS / "sharing.png")


if __name__ == "__main__":
    main()
