"""``zoo predict`` and ``zoo validate``."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from ..data.catalog import DATASETS, get_dataset
from ..data.text import TEXT_DATASETS
from ..errors import ZooError
from ..evaluation.predict import class_names, predict
from ..evaluation.results import table, write_results
from ..evaluation.validate import validate
from ..registry import check_name, create_model
from ..reparam import load_collapsed, reparameterize
from ..weights.manifest import collapsed_facts, facts, full_name, warm_starts
from ..weights.verify import sha256_of
from .convert import load_converted
from .language import validate_runs


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("predict", help="classify image files")
    parser.add_argument("name", help="arch.tag, or an architecture for its first weight")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=3, help="classes per image (3)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_predict)
    parser = commands.add_parser("validate", help="measure accuracy on images, or perplexity on a text")
    parser.add_argument("--dataset", choices=[*DATASETS, *TEXT_DATASETS], required=True)
    _add_validate_arguments(parser)
    parser.set_defaults(run=_validate)


def validate_script(description: str, *datasets: str) -> int:
    """The whole of a script in ``eval/``.

    Args:
        description: Shown by ``--help``.
        datasets: Data sets it can measure on; the first is the default.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    _add_validate_arguments(parser)
    options = parser.parse_args()
    try:
        _validate(options)
    except ZooError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _add_validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="+", help="arch.tag, or an architecture for its first weight; for a text the folder of a run"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--batch-size", type=int, help="images per step (256); columns of a text (its recipe's)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--collapsed", action="store_true", help="measure the networks' collapsed forms")
    parser.add_argument("--checkpoint", metavar="FILE", help="a file made by zoo import, of the one architecture named")
    parser.add_argument("--results", metavar="FILE", help="also write the figures to FILE.json or FILE.csv")


def _validate(options: argparse.Namespace) -> None:
    if options.batch_size is not None and options.batch_size < 1:
        raise ZooError(f"--batch-size {options.batch_size}: at least one image or column per batch is needed.")
    if options.dataset in TEXT_DATASETS:
        if options.checkpoint:
            raise ZooError("--checkpoint belongs to networks for images; of a text name the folder of a run.")
        if options.collapsed:
            raise ZooError("--collapsed belongs to the weights of images; zoo perplexity --collapse does it for a run.")
        validate_runs(options)
        return
    if options.results and not options.results.endswith((".json", ".csv")):
        raise ZooError(f"{options.results}: results are written as .json or .csv; give the file one of these endings.")
    results = []
    for model, name, sha256 in _networks(options):
        results.append(
            validate(
                model,
                options.dataset,
                options.data,
                name=f"{name} (collapsed)" if options.collapsed else name,
                sha256=sha256,
                batch_size=options.batch_size or 256,
                device=options.device,
            )
        )
    cells = [
        [
            r.name,
            r.dataset,
            f"{r.top1:.2f}",
            f"{r.top5:.2f}",
            r.n,
            "{:.2f}-{:.2f}".format(*r.interval),
            r.images_per_second,
        ]
        for r in results
    ]
    print(table(cells, ["name", "data set", "top-1 %", "top-5 %", "n", "95 % interval", "images/s"]))
    if options.results:
        write_results(results, options.results)


def _networks(options: argparse.Namespace) -> Iterator[tuple[nn.Module, str, str]]:
    """Networks to measure, one after the other, with their names and the sha256 of their files."""
    if options.checkpoint:
        arch, path = options.name[0], Path(options.checkpoint)
        if len(options.name) > 1 or "." in check_name(arch):
            raise ZooError(
                f"{' '.join(options.name)}: with --checkpoint name one architecture, without a tag (zoo list)."
            )
        model = load_converted(path, arch, get_dataset(options.dataset))
        yield reparameterize(model) if options.collapsed else model, f"{arch} from {path.name}", sha256_of(path)
        return
    for name in options.name:
        if check_name(name) in warm_starts():
            model = create_model(name, pretrained=True).eval()
            yield reparameterize(model) if options.collapsed else model, name, ""
            continue
        name = full_name(name)
        model = load_collapsed(name) if options.collapsed else create_model(name, pretrained=True)
        yield model, name, (collapsed_facts(name) if options.collapsed else facts(name))["sha256"]


def _predict(options: argparse.Namespace) -> None:
    name = full_name(check_name(options.name))
    names = class_names(get_dataset(facts(name)["dataset"]).name)
    if options.top < 1:
        raise ZooError(f"--top {options.top}: at least one class is needed.")
    guesses = predict(create_model(name, pretrained=True), options.images, options.top)
    if options.json:
        rows = [
            {"image": path, "guesses": [{"label": k, "class": names[k], "probability": round(p, 6)} for k, p in best]}
            for path, best in zip(options.images, guesses, strict=True)
        ]
        print(json.dumps(rows, indent=2))
        return
    for path, best in zip(options.images, guesses, strict=True):
        print(f"{path}: " + ", ".join(f"{names[k]} {100 * p:.1f} %" for k, p in best))
