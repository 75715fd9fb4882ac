"""``zoo predict`` and ``zoo validate``."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ..data.catalog import DATASETS
from ..data.texts import TEXT_DATASETS
from ..errors import DataError, ZooError, printable
from .language import validate_runs

if TYPE_CHECKING:
    from ..distributed import Processes
    from ..evaluation.corruptions import Corruption
    from ..named import Named

NETWORK = "arch.tag, an architecture for its first weight, or a folder: a run's, or one that save_for_hf wrote"
CHECKPOINT = "take the weights of this file, a run's .pt or as zoo import takes it; the name is its architecture"

TRANSFORM = "transform the network first, as zoo transform does (share:templates=2); the name may be any of timm's"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("predict", help="classify image files")
    parser.add_argument("name", help=NETWORK)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    parser.add_argument("--top", type=int, default=3, help="classes per image (3)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_predict)
    parser = commands.add_parser("validate", help="measure accuracy on images, or perplexity on a text")
    parser.add_argument("--dataset", choices=[*DATASETS, *TEXT_DATASETS], required=True)
    parser.add_argument("name", nargs="+", help=f"{NETWORK}; for a text a run's")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--batch-size", type=int, help="images per step (64; 256 on a GPU); columns of a text (its recipe's)"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="autocast: faster, other figures, which then say so")
    parser.add_argument("--amp-dtype", choices=("bfloat16", "float16"), help="its data type (bfloat16)")
    parser.add_argument("--channels-last", action="store_true", help="lay images and networks out so")
    parser.add_argument("--collapsed", action="store_true", help="measure the networks' collapsed forms")
    parser.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    parser.add_argument("--transform", default="", metavar="SPEC", help=TRANSFORM)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images; the result says of how many")
    parser.add_argument("--results", metavar="FILE", help="also write the figures to FILE.json or FILE.csv")
    parser.add_argument("--predictions", metavar="FILE", help="also keep class and score of every image in FILE.npz")
    parser.add_argument("--per-class", action="store_true", help="also print the accuracy of every class")
    parser.add_argument(
        "--corruptions",
        nargs="?",
        const="all",
        metavar="NAMES",
        help="also measure on corrupted images, made here with fixed seeds: gaussian_noise,snow,... (all)",
    )
    parser.add_argument("--severity", metavar="S", help="of the corruptions, 1 to 5, with commas (1,2,3,4,5)")
    parser.set_defaults(run=_validate)
    parser = commands.add_parser(
        "compare", help="compare networks image by image: difference, paired interval, who gets what right"
    )
    parser.add_argument("first", help=f"a file of predictions (.npz), a weight, or with --data {NETWORK}")
    parser.add_argument("others", nargs="+", metavar="name", help="the same; each is compared with the first")
    parser.add_argument("--data", metavar="DIR", help="measure now, on the data set in this folder")
    parser.add_argument("--dataset", choices=DATASETS, default="", help="its name (what the first was trained on)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--batch-size", type=int, help="images per step (64; 256 on a GPU)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(run=_compare)


def named(options: argparse.Namespace) -> "Named":
    """The network of ``name`` and ``--checkpoint``; what was assumed of it goes to standard error."""
    from ..named import load_named

    found = load_named(options.name, options.checkpoint, transform=getattr(options, "transform", ""))
    for note in found.notes:
        print(f"zoo: {options.checkpoint or options.name}: {note}", file=sys.stderr)
    return found


def _validate(options: argparse.Namespace) -> None:
    from ..distributed import together

    with together(options.device) as processes:
        _validate_in(options, processes)


def _validate_in(options: argparse.Namespace, processes: "Processes") -> None:
    from ..evaluation.measure import accuracy_table, class_table, corruption_table, measure
    from ..evaluation.results import write_results
    from ..evaluation.validate import autocast_type

    amp = autocast_type(options.amp, options.amp_dtype)
    if options.batch_size is not None and options.batch_size < 1:
        raise ZooError(f"--batch-size {options.batch_size}: at least one image or column per batch is needed.")
    if options.limit is not None and options.limit < 1:
        raise ZooError(f"--limit {options.limit}: at least one image is needed.")
    if options.dataset in TEXT_DATASETS:
        if options.limit:
            raise ZooError("--limit belongs to images; a text is measured whole.")
        if options.checkpoint:
            raise ZooError("--checkpoint belongs to networks for images; of a text name the folder of a run.")
        if options.transform:
            raise ZooError("--transform belongs to networks for images.")
        if options.collapsed:
            raise ZooError("--collapsed belongs to the weights of images; zoo perplexity --collapse does it for a run.")
        if options.predictions or options.per_class or options.corruptions:
            raise ZooError("--predictions, --per-class and --corruptions belong to images.")
        if amp or options.channels_last:
            raise ZooError("--amp and --channels-last belong to images; a text is measured in float32.")
        if processes.world > 1:
            raise ZooError("A text is measured by one process: start zoo validate without torchrun.")
        validate_runs(options)
        return
    if options.results and not options.results.endswith((".json", ".csv")):
        raise ZooError(f"{options.results}: results are written as .json or .csv; give the file one of these endings.")
    corruptions, missing = _corruptions(options)
    results = measure(
        options.name,
        options.dataset,
        options.data,
        collapsed=options.collapsed,
        checkpoint=options.checkpoint,
        transform=options.transform,
        batch_size=options.batch_size,
        processes=processes,
        limit=options.limit or 0,
        predictions=options.predictions,
        corruptions=corruptions,
        amp=amp,
        channels_last=options.channels_last,
    )
    if not processes.first:
        return
    print(accuracy_table(results))
    if options.per_class:
        print(class_table(results))
    if corruptions:
        print(corruption_table(results))
    for problem in missing.values():
        print(f"not measured: {problem}")
    if options.results:
        write_results(results, options.results)


def _corruptions(options: argparse.Namespace) -> tuple[list["Corruption"], dict[str, str]]:
    """Those of the command line, and what cannot be made of them here."""
    from ..evaluation.corruptions import SEVERITIES, choose_corruptions

    if options.corruptions is None:
        if options.severity is not None:
            raise ZooError("--severity is of --corruptions: add that.")
        return [], {}
    if options.dataset == "imagenet":
        raise ZooError("--corruptions are made of the small data sets; for ImageNet there is ImageNet-C.")
    words = SEVERITIES if options.severity is None else options.severity.split(",")
    try:
        severities = [int(word) for word in words]
    except ValueError:
        raise ZooError(f"--severity {options.severity}: give numbers from 1 to 5 with commas.") from None
    return choose_corruptions(options.corruptions, severities)


def _compare(options: argparse.Namespace) -> None:
    from ..evaluation.compare import compare, comparison_text, known_seeds, load_predictions

    if options.limit is not None and options.limit < 1:
        raise ZooError(f"--limit {options.limit}: at least one image is needed.")
    first, *others = load_predictions(
        [options.first, *options.others],
        options.data,
        dataset=options.dataset,
        batch_size=options.batch_size,
        device=options.device,
        limit=options.limit or 0,
    )
    found = [compare(first, other, known_seeds(first, other)) for other in others]
    print(json.dumps([c.to_dict() for c in found], indent=2) if options.json else comparison_text(found))


def _predict(options: argparse.Namespace) -> int:
    from ..evaluation.predict import label_names, predict

    if options.top < 1:
        raise ZooError(f"--top {options.top}: at least one class is needed.")
    found = named(options)
    model, names = found.model, label_names(found.model, found.dataset)
    rows, failed = [], 0
    for path in options.images:
        try:
            (best,) = predict(model, [path], options.top)
        except DataError as error:  # the others are classified all the same
            print(f"zoo: {error}", file=sys.stderr)
            failed = 1
            continue
        if options.json:
            guesses = [{"label": k, "class": names[k], "probability": round(p, 6)} for k, p in best]
            rows.append({"image": path, "guesses": guesses})
        else:
            print(f"{printable(path)}: " + ", ".join(f"{names[k]} {100 * p:.1f} %" for k, p in best))
    if options.json:
        print(json.dumps(rows, indent=2))
    return failed
