"""Accuracy of what is named: weights, runs, folders, or the weights in a file. ``zoo validate`` and ``eval/`` do it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.catalog import get_dataset
from ..errors import DataError, ZooError
from ..named import load_named
from ..registry import create_model
from ..weights.manifest import facts
from .results import table
from .validate import Result, validate, warned_once


@warned_once()
def measure(
    names: Sequence[str],
    dataset: str,
    data: str | Path,
    *,
    collapsed: bool = False,
    checkpoint: str | Path | None = None,
    batch_size: int = 256,
    device: str = "",
    limit: int = 0,
) -> list[Result]:
    """Measure networks, one after the other. What was assumed of one goes to standard error, warnings are logged once.

    Args:
        names: ``arch.tag``, architectures for their first weight, or folders, see :func:`zoo.named.load_named`;
            with ``checkpoint`` one architecture.
        dataset: ``fashion-mnist``, ``cifar10``, ``cifar100``, ``mnist`` or ``imagenet``.
        data: Folder of the data set.
        collapsed: Measure the networks' collapsed forms.
        checkpoint: Measure the weights in this file, as :func:`zoo.checkpoints.load_checkpoint` reads it.
        batch_size: Images per step.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        limit: Measure the first so many images only, 0 for all.

    Raises:
        ZooError: If a name or the data set does not exist, or a weight or the data cannot be had or do not fit.
    """
    if batch_size < 1:
        raise ZooError(f"--batch-size {batch_size}: at least one image per batch is needed.")
    if checkpoint and len(names) > 1:
        raise ZooError(f"{' '.join(names)}: with --checkpoint name one architecture, without a tag (zoo list).")
    results = []
    for word in names:
        found = load_named(word, checkpoint, get_dataset(dataset), collapsed)
        name = f"{found.name} from {Path(checkpoint).name}" if checkpoint else word if found.folder else found.name
        name = f"{name} (collapsed)" if collapsed else name
        options = {"batch_size": batch_size, "device": device, "limit": limit}
        results.append(validate(found.model, dataset, data, name=name, sha256=found.sha256, **options))
        for note in found.notes:
            print(f"zoo: {checkpoint or word}: {note}", file=sys.stderr)
    return results


@warned_once()
def measure_again(
    names: Sequence[str], folders: Mapping[str, str | Path], cache_dir: str | Path | None = None
) -> tuple[list[list[str]], list[str]]:
    """Measure every accuracy that the manifest has of some weights once more, on the CPU.

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
            verdict = "the manifest's, to the image" if same else "NOT the manifest's"
            rows.append([name, known["dataset"], expected, f"{found.correct} of {found.n}", verdict])
            if not same:
                problems.append(f"{name}: {found.correct} of {found.n} right on {known['dataset']}, not {expected}")
    if not measured:
        problems.append("no accuracy was measured: give the folders with --data DATASET=DIR")
    return rows, problems


def accuracy_table(results: Sequence[Result]) -> str:
    """Measurements as text, a line each under a header; below them their warnings, which belong to the figures."""
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
    warnings = dict.fromkeys(f"warning: {r.warning}" for r in results if r.warning)
    return "\n".join([table(cells, header), *warnings])
