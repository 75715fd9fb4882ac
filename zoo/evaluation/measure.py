"""Accuracy of what is named: weights, runs, folders, or the weights in a file. ``zoo validate`` and ``eval/`` do it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.catalog import get_dataset
from ..device import choose_device
from ..distributed import Processes
from ..errors import DataError, ZooError
from ..named import load_named
from ..registry import create_model
from ..weights.audit import predictions_here
from ..weights.manifest import facts
from ..weights.verify import sha256_of
from .corruptions import Corruption
from .guesses import BINS
from .predictions import differences, read_predictions, refuse_existing
from .result import Result
from .results import table
from .validate import check_amp, validate


def measure(
    names: Sequence[str],
    dataset: str,
    data: str | Path,
    *,
    collapsed: bool = False,
    checkpoint: str | Path | None = None,
    transform: str = "",
    batch_size: int | None = None,
    device: str = "",
    limit: int = 0,
    predictions: str | Path | None = None,
    corruptions: Sequence[Corruption] = (),
    amp: str = "",
    channels_last: bool = False,
    processes: Processes | None = None,
) -> list[Result]:
    """Measure networks, one after the other. What was assumed of one goes to standard error, warnings are logged once.

    Args:
        names: ``arch.tag``, architectures for their first weight, or folders, see :func:`zoo.named.load_named`;
            with ``checkpoint`` one architecture.
        dataset: ``fashion-mnist``, ``cifar10``, ``cifar100``, ``mnist`` or ``imagenet``.
        data: Folder of the data set.
        collapsed: Measure the networks' collapsed forms.
        checkpoint: Measure the weights in this file, as :func:`zoo.checkpoints.load_checkpoint` reads it.
        transform: Transform each network first, as :func:`zoo.transform` takes it.
        batch_size: Images per step; by default as :func:`.validate` has it.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        limit: Measure the first so many images only, 0 for all.
        predictions: Write what one network said of each image to this file, which may not exist yet.
        corruptions: Also measure each network on images that are corrupted in these ways, one after the other.
        amp: As :func:`.validate` takes it.
        channels_last: Likewise.
        processes: Likewise, in the place of ``device``.

    Raises:
        ZooError: If a name or the data set does not exist, or a weight or the data cannot be had or do not fit.
    """
    if batch_size is not None and batch_size < 1:
        raise ZooError(f"--batch-size {batch_size}: at least one image per batch is needed.")
    if checkpoint and len(names) > 1:
        raise ZooError(f"{' '.join(names)}: with --checkpoint name one architecture, without a tag (zoo list).")
    if predictions is not None and len(names) > 1:
        raise ZooError(
            f"{' '.join(names)}: with --predictions name one network, whose predictions the file is to hold."
        )
    processes = processes or Processes(choose_device(device))
    if predictions is not None and processes.first:
        refuse_existing(predictions)
    check_amp(processes.device, amp)
    results, said = [], set[str]()
    for word in names:
        found = load_named(word, checkpoint, get_dataset(dataset), collapsed, transform)
        name = f"{found.name} from {Path(checkpoint).name}" if checkpoint else word if found.folder else found.name
        name = f"{word} ({transform})" if transform else name
        name = f"{name} (collapsed)" if collapsed else name
        options = {"batch_size": batch_size, "limit": limit, "name": name, "sha256": found.sha256, "said": said}
        options |= {"amp": amp, "channels_last": channels_last, "processes": processes}
        results.append(validate(found.model, dataset, data, predictions=predictions, **options))
        bar = {"desc": f"{name} corrupted", "unit": "corruption", "leave": False}
        for corruption in tqdm(corruptions, disable=None if corruptions and processes.first else True, **bar):
            results.append(validate(found.model, dataset, data, corruption=corruption, **options))
        for note in found.notes if processes.first else ():
            print(f"zoo: {checkpoint or word}: {note}", file=sys.stderr)
    return results


TOLERANCE = {"nll": 0.001, "calibration_error": 0.05}
"""By how much figures beside top-1 may differ from the manifest's: of another processor's rounding, which may also put
an image or two into the next bin of the calibration error (in percent, so that 0.01 is one image of 10,000)."""


def measure_again(
    names: Sequence[str], folders: Mapping[str, str | Path], cache_dir: str | Path | None = None
) -> tuple[list[list[str]], list[str]]:
    """Measure every accuracy that the manifest has of some weights once more, on the CPU.

    Likelihood and calibration error, where it has them, are to be the same within :data:`TOLERANCE`.

    Where a weight's predictions are here, they are compared image by image (:func:`.predictions.differences`); another
    count then is right if nothing but ties makes it so.

    Args:
        names: ``arch.tag``.
        folders: Of the data sets, by their names; the one under the empty name stands for all others.
        cache_dir: Where downloaded weights are.

    Returns:
        A line per measurement (weight, data set, right images by the manifest, right images now, verdict), and a
        sentence for everything that differs; also if nothing could be measured.
    """
    rows, problems, measured = [], [], 0
    for name in names:
        if not facts(name)["results"]:
            rows.append([name, facts(name)["dataset"], "-", "-", "the manifest has no measurement"])
        for known in facts(name)["results"]:
            expected = f"{known['correct']} of {known['n']}"
            folder = folders.get(known["dataset"], folders.get(""))
            try:
                if folder is None:
                    raise DataError(f"no --data {known['dataset']}=DIR")
                model = create_model(name, pretrained=True, cache_dir=cache_dir)
                found = validate(model, known["dataset"], folder, name=name, split=known["split"], device="cpu")
            except DataError as error:
                rows.append([name, known["dataset"], expected, "not measured", str(error)])
                continue
            measured += 1
            same = (found.correct, found.n) == (known["correct"], known["n"])
            problem, ties = _against_predictions(name, known, found, cache_dir)
            # a file of predictions of other images says that these figures are of other images too
            comparable = ties is not None or predictions_here(name, cache_dir) is None
            others = _other_figures(known, found) if comparable else ""
            verdict = "NOT its predictions" if problem else "the manifest's, to the image"
            if ties and not problem:
                verdict = f"the manifest's, but for {ties} {'tie' if ties == 1 else 'ties'} within rounding"
            elif not same:
                problem = f"{found.correct} of {found.n} right on {known['dataset']}, not {expected}"
                verdict = "NOT the manifest's"
            elif ties is None and not problem:
                verdict += " (counted; no predictions of it are here)"
            verdict = "NOT the manifest's" if others and not problem else verdict
            rows.append([name, known["dataset"], expected, f"{found.correct} of {found.n}", verdict])
            problems += [f"{name}: {what}" for what in (problem, others) if what]
    if not measured:
        problems.append("no accuracy was measured: give the folders with --data DATASET=DIR")
    return rows, problems


def _other_figures(known: dict[str, Any], found: Result) -> str:
    """Which figures beside top-1 are not the manifest's, in words."""
    problems = []
    for key, value in found.beside_top1().items():
        if key in known and (value is None or abs(value - known[key]) > TOLERANCE[key]):
            now = "not finite" if value is None else f"{value:.4f}"
            problems.append(f"{key} is {now} on {known['dataset']}, not {known[key]:.4f} (within {TOLERANCE[key]})")
    return "; ".join(problems)


def _against_predictions(
    name: str, known: dict[str, Any], found: Result, cache_dir: str | Path | None
) -> tuple[str, int | None]:
    """What is wrong with a weight's file of predictions after a new measurement, in words, and how many ties differ.

    None for the ties if there is nothing to compare with.
    """
    file = predictions_here(name, cache_dir)
    if file is None:
        return "", None
    try:
        if (sha256 := sha256_of(file)) != facts(name)["predictions"]["sha256"]:
            return f"{file}: its sha256 is {sha256}, not the manifest's", None
        kept = read_predictions(file)
        if len(kept.prediction) != known["n"]:
            return "", None  # of another measurement than this one
        if (kept.sha256, kept.correct) != (facts(name)["sha256"], known["correct"]):
            return f"{file} holds the predictions of another weight or measurement", None
        differ, ties = differences(kept, found)
    except (DataError, OSError) as error:
        return str(error), None
    return f"{differ:,} of {found.n:,} images are not predicted as in {file}" if differ else "", ties


def accuracy_table(results: Sequence[Result]) -> str:
    """Measurements as text, a line each under a header; below them their warnings, which belong to the figures.

    Those of corrupted images are left to :func:`corruption_table`.
    """
    results = [result for result in results if not result.corruption]
    cells = [
        [
            r.name,
            r.dataset,
            f"{r.top1:.2f}",
            f"{r.top5:.2f}",
            r.n if r.n == r.of else f"{r.n} of {r.of}",
            "{:.2f}-{:.2f}".format(*r.interval),
            r.images_per_second,
        ]
        for r in results
    ]
    header = ["name", "data set", "top-1 %", "top-5 %", "n", "95 % interval", "images/s"]
    notes = [[r.name, r.dataset, _figure(r.nll, 4), _figure(r.ece, 2)] for r in results]
    calibration = table(notes, ["name", "data set", "negative log-likelihood", f"calibration error % ({BINS} bins)"])
    warnings = dict.fromkeys(f"warning: {r.warning}" for r in results if r.warning)
    return "\n".join([table(cells, header), calibration, *warnings])


def corruption_table(results: Sequence[Result]) -> str:
    """Top-1 accuracies on corrupted images as text: a line a corruption with a column for each severity."""
    lines = []
    for name, sha256 in dict.fromkeys((r.name, r.sha256) for r in results if r.corruption):
        own = [r for r in results if r.corruption and (r.name, r.sha256) == (name, sha256)]
        severities = sorted({r.corruption["severity"] for r in own})
        kinds: dict[str, dict[int, float]] = {}
        for r in own:
            kinds.setdefault(r.corruption["name"], {})[r.corruption["severity"]] = r.top1
        rows = [[kind, *(f"{found[s]:.2f}" for s in severities)] for kind, found in kinds.items()]
        mean = sum(r.top1 for r in own) / len(own)
        lines.append(f"{name} on {own[0].n:,} corrupted images of {own[0].dataset}, top-1 %: mean {mean:.2f} (made")
        lines[-1] += f" {own[0].corruption['made']}; seed {own[0].corruption['seed']})"
        lines.append(table(rows, ["corruption", *(f"severity {s}" for s in severities)]))
    return "\n".join(lines)


def _figure(value: float | None, digits: int) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def class_table(results: Sequence[Result]) -> str:
    """Accuracy by class as text: a line a class under a header with a column of right images for each measurement."""
    rows: dict[int, list[object]] = {}
    results = [result for result in results if not result.corruption]
    for result in results:
        for found in result.per_class:
            row = rows.setdefault(found["label"], [found["class"], found["n"]])
            row.append(f"{found['top1']:.2f}")
    return table(rows.values(), ["class", "n", *(f"{result.name}, top-1 %" for result in results)])
