"""``zoo perplexity``, and what ``zoo validate`` does with a text data set."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..files import write_atomically
from ..tables import table


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
    from ..language.perplexity import measure_run

    if options.results and not options.results.endswith(".json"):
        raise ZooError(f"{options.results}: perplexities are written as .json; give the file this ending.")
    rows = [
        measure_run(run, options.data, dataset=options.dataset, columns=options.batch_size or 0, device=options.device)
        for run in options.name
    ]
    print(_table(rows))
    if options.results:
        try:
            write_atomically((json.dumps(rows, indent=2) + "\n").encode(), Path(options.results))
        except OSError as error:
            raise ZooError(f"{options.results}: cannot be written ({error.strerror}).") from None


def _perplexity(options: argparse.Namespace) -> None:
    from ..language.perplexity import measure_run

    row = measure_run(
        options.folder, options.data, split=options.split, collapse=options.collapse, device=options.device
    )
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
