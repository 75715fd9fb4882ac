"""What sharing found in a trained network: similar layers, loops, and smaller networks without any training.

    python scripts/sharing_found.py swrn_28_1_2.zoo_c10 --dataset cifar10 --data DIR

writes docs/sharing.json, of which scripts/update_docs.py makes a table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

import zoo
from zoo.analysis import compress_banks, fold_layers, layer_clusters, recurrent_runs
from zoo.analysis.sharing import THRESHOLDS, sharing_facts
from zoo.evaluation.validate import validate
from zoo.files import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"


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


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="arch.tag of a weight with template banks")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="DIR")
    options = parser.parse_args()
    found = study(options.name, options.dataset, options.data)
    write_atomically((json.dumps(found, indent=1) + "\n").encode(), DOCS / "sharing.json")


if __name__ == "__main__":
    main()
