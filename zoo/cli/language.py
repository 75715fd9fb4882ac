"""``zoo perplexity``, and what ``zoo validate`` does with a text data set."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.text import EOS, get_text_dataset, load_split
from ..device import choose_device
from ..errors import ZooError
from ..evaluation.perplexity import perplexity
from ..evaluation.results import table
from ..evaluation.validate import versions
from ..files import write_atomically
from ..reparam import reparameterize
from ..weights.verify import sha256_of


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("perplexity", help="measure the best model of a language run")
    parser.add_argument("folder", metavar="RUN", help="folder of the run")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test")
    parser.add_argument("--collapse", action="store_true", help="measure the plain LSTM or GRU it collapses into")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.set_defaults(run=_perplexity)


def validate_runs(options: argparse.Namespace) -> None:
    """``zoo validate RUN... --dataset wikitext-2 --data DIR``: perplexity on the test split.

    Args:
        options: Of that command; ``batch_size`` is the number of columns the text is read in, by default the recipe's.

    Raises:
        ZooError: If a name is not a run on this data set, or the results cannot be written.
    """
    if options.results and not options.results.endswith(".json"):
        raise ZooError(f"{options.results}: perplexities are written as .json; give the file this ending.")
    rows = [
        measure(run, options.data, dataset=options.dataset, columns=options.batch_size or 0, device=options.device)
        for run in options.name
    ]
    print(_table(rows))
    if options.results:
        try:
            write_atomically((json.dumps(rows, indent=2) + "\n").encode(), Path(options.results))
        except OSError as error:
            raise ZooError(f"{options.results}: cannot be written ({error.strerror}).") from None


def measure(
    run: str | Path,
    data: str | Path,
    *,
    dataset: str = "",
    split: str = "test",
    columns: int = 0,
    collapse: bool = False,
    device: str = "",
) -> dict[str, Any]:
    """Perplexity of the best model of a run.

    Args:
        run: Folder of the run, or the ``model.safetensors`` in it.
        data: Folder of the text.
        dataset: The text data set it must have been trained on; empty for any.
        split: ``train``, ``valid`` or ``test``.
        columns: Pieces the text is cut into, read side by side; 0 for the recipe's.
        collapse: Measure the plain ``nn.LSTM`` or ``nn.GRU`` it collapses into.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Returns:
        Plain values: the run, its data set and split, the measurement, whether the text has the size of that data set,
        the sha256 of the model and the versions.

    Raises:
        ZooError: If there is no such run, it is of another data set, or the text does not fit it.
    """
    from ..training.language import load_run

    folder = Path(run).parent if Path(run).name == "model.safetensors" else Path(run)
    model, words, recipe = load_run(folder)
    info = get_text_dataset(recipe.dataset)
    if dataset and get_text_dataset(dataset) != info:
        raise ZooError(f"{run} was trained on {info.name}: measure it with --dataset {info.name}, not {dataset}.")
    tokens = load_split(data, split, words)
    whole = info.check_size({split: tokens})
    if collapse:
        model = reparameterize(model)
    place = choose_device(device)
    columns = columns or recipe.eval_columns
    result = perplexity(model.to(place), tokens.to(place), words.index(EOS), columns=columns, name=split)
    about = {"name": str(run), "dataset": info.name, "split": split, "whole": whole, "columns": columns}
    return {
        **about,
        "collapsed": collapse,
        **asdict(result),
        "sha256": sha256_of(folder / "model.safetensors"),
        "versions": versions(),
    }


def _perplexity(options: argparse.Namespace) -> None:
    row = measure(options.folder, options.data, split=options.split, collapse=options.collapse, device=options.device)
    print(json.dumps(row) if options.json else _table([row]))


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["name", "data set", "split", "perplexity", "nats per word", "words", "words/s"]
    return table(
        [
            [
                row["name"],
                row["dataset"] if row["whole"] else f"part of {row['dataset']}",
                row["split"],
                f"{row['perplexity']:.2f}",
                f"{row['loss']:.4f}",
                row["n"],
                row["words_per_second"],
            ]
            for row in rows
        ],
        header,
    )
