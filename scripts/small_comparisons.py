"""Small comparisons that two CPU cores can make: ParaDise's branch ablation, and the symmetric language model.

    python scripts/small_comparisons.py branches --data DIR --runs RUNS            the ablation, one seed
    python scripts/small_comparisons.py 'branches pd_a*' --seeds 1 2 --data DIR --runs RUNS
    python scripts/small_comparisons.py language --data DIR --runs RUNS            plain and symmetric LSTM

Runs resume where they stopped. Each finished one is measured once on the whole test set, before and after collapsing,
and is a line of docs/small_comparisons.jsonl; scripts/update_docs.py makes tables of them.
"""

import argparse
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import zoo  # noqa: E402
from zoo.evaluation.validate import validate  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.language.perplexity import measure_run  # noqa: E402
from zoo.language.recipe import load_language_recipe  # noqa: E402
from zoo.language.train import train_language  # noqa: E402
from zoo.training import loop  # noqa: E402
from zoo.training.recipe import load_recipe  # noqa: E402
from zoo.training.stage import network_of, read_run  # noqa: E402

RESULTS = ROOT / "docs" / "small_comparisons.jsonl"
EPOCHS = {"branches": 4, "language": 2}
WIDTH = 0.125
BRANCHES = {
    "resnet18": "resnet18_cifar_c10",
    **{
        f"pd_{kind}{row}": f"pd_{kind}_resnet18_cifar{row}_c10"
        for kind in "ab"
        for row in ("", "_skeleton", "_standard2", "_group", "_group_skeleton")
    },
    "pd_a_skeleton": "ac_resnet18_cifar_c10",  # one network under two names
    "se": "se_resnet18_cifar_c10",
    "ge": "ge_resnet18_cifar_c10",
}
LANGUAGE = {"lstm": "lstm_small_wikitext2", "symm_lstm": "symm_lstm_hh_small_wikitext2"}


def branches(name: str, seed: int, data: str, run: Path) -> dict[str, Any]:
    """Train and measure one network of the ablation.

    Args:
        name: Key of :data:`BRANCHES`.
        seed: Of the run.
        data: Folder of CIFAR-10.
        run: Folder of the run; one that is there is gone on with.
    """
    changes = {"epochs": EPOCHS["branches"], "model_args.width": WIDTH, "seed": seed}
    recipe = load_recipe(BRANCHES[name], changes)
    loop.train(recipe, data, run, resume=True, device="cpu")
    recipe, state = read_run(run, recipe)
    model = network_of(recipe, state)
    plain = zoo.reparameterize(model)
    result, after = (validate(network, recipe.dataset, data, device="cpu") for network in (model, plain))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    record = zoo.equivalence_record(model, plain)
    return {
        "recipe": BRANCHES[name],
        "set": changes,
        "losses": [line["loss"] for line in log],
        "seconds": [line["seconds"] for line in log],
        "n": result.n,
        "correct": [result.correct, after.correct],
        "parameters": [record.before.parameters, record.after.parameters],
        "macs": [record.before.macs, record.after.macs],
        "versions": result.versions,
    }


def language(name: str, seed: int, data: str, run: Path) -> dict[str, Any]:
    """Train and measure one language model.

    Args:
        name: Key of :data:`LANGUAGE`.
        seed: Of the run; 0 for the recipe's.
        data: Folder of WikiText-2.
        run: Folder of the run; one that is there is gone on with.
    """
    changes = {"epochs": EPOCHS["language"]} | ({"seed": seed} if seed else {})
    model = train_language(load_language_recipe(LANGUAGE[name], changes), data, run, resume=True, device="cpu")
    found = [measure_run(run, data, collapse=collapse, device="cpu") for collapse in (False, True)]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "recipe": LANGUAGE[name],
        "set": changes,
        "losses": [line["loss"] for line in log],
        "valid_perplexities": [line["valid_perplexity"] for line in log],
        "seconds": [line["seconds"] for line in log],
        "perplexity": [row["perplexity"] for row in found],
        "n": found[0]["n"],
        "words": len((run / "vocabulary.txt").read_text(encoding="utf-8").splitlines()),
        "parameters": [sum(p.numel() for p in net.parameters()) for net in (model, zoo.reparameterize(model))],
        "versions": found[0]["versions"],
    }


STUDIES = {"branches": (branches, BRANCHES), "language": (language, LANGUAGE)}


def main() -> None:
    """Make the chosen runs that the results lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", help="a study, or a pattern of 'STUDY NAME'")
    parser.add_argument("--data", required=True, metavar="DIR", help="of CIFAR-10, or of WikiText-2")
    parser.add_argument("--runs", required=True, type=Path, metavar="DIR", help="the runs' folders lie in it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="by default 0")
    options = parser.parse_args()
    chosen = [
        (study, name, seed)
        for study, (_, names) in STUDIES.items()
        for seed in options.seeds
        for name in names
        if fnmatch.fnmatch(f"{study} {name}", options.pattern) or options.pattern == study
    ]
    if not chosen:
        parser.error(
            f"nothing is called {options.pattern!r}: choose branches, language, or a pattern such as 'branches pd_a*'"
        )
    for study, name, seed in chosen:
        if not any((row["study"], row["name"], row["seed"]) == (study, name, seed) for row in results()):
            row = STUDIES[study][0](name, seed, options.data, options.runs / f"{study}_{name}_seed{seed}")
            keep({"study": study, "name": name, "seed": seed, **row})


def results() -> list[dict[str, Any]]:
    """The lines there are."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def keep(row: dict[str, Any]) -> None:
    """Add a line, in the order of the studies."""
    place = {(study, name): i for i, (study, name) in enumerate((s, n) for s in STUDIES for n in STUDIES[s][1])}
    rows = sorted([*results(), row], key=lambda row: (place[row["study"], row["name"]], row["seed"]))
    write_atomically("".join(json.dumps(row) + "\n" for row in rows).encode(), RESULTS)


if __name__ == "__main__":
    try:
        main()
    except zoo.ZooError as error:
        sys.exit(str(error))
