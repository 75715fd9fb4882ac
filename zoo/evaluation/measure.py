"""Accuracy of weights by their names, or of the weights in a file: what ``zoo validate`` and ``eval/`` do."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from ..checkpoints import load_checkpoint
from ..data.catalog import get_dataset
from ..errors import DataError, ZooError
from ..registry import check_name, create_model
from ..reparam import load_collapsed, reparameterize
from ..weights.manifest import collapsed_facts, facts, full_name, warm_starts
from ..weights.verify import sha256_of
from .results import table
from .validate import Result, validate


def measure(
    names: Sequence[str],
    dataset: str,
    data: str | Path,
    *,
    collapsed: bool = False,
    checkpoint: str | Path | None = None,
    batch_size: int = 256,
    device: str = "",
) -> list[Result]:
    """Measure weights, one after the other. What was assumed of a file goes to standard error.

    Args:
        names: ``arch.tag``, or architectures for their first weight; with ``checkpoint`` one architecture.
        dataset: ``fashion-mnist``, ``cifar10``, ``cifar100``, ``mnist`` or ``imagenet``.
        data: Folder of the data set.
        collapsed: Measure the networks' collapsed forms.
        checkpoint: Measure the weights in this file, as :func:`zoo.checkpoints.load_checkpoint` reads it.
        batch_size: Images per step.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Raises:
        ZooError: If a name or the data set does not exist, or a weight or the data cannot be had or do not fit.
    """
    if batch_size < 1:
        raise ZooError(f"--batch-size {batch_size}: at least one image per batch is needed.")
    results = []
    for model, name, sha256, notes in _networks(names, dataset, collapsed, checkpoint):
        name = f"{name} (collapsed)" if collapsed else name
        results.append(validate(model, dataset, data, name=name, sha256=sha256, batch_size=batch_size, device=device))
        for note in notes:
            print(f"zoo: {checkpoint}: {note}", file=sys.stderr)
    return results


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
    """Measurements as text, a line each under a header; below them a line for each of their warnings."""
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
    header = ["name", "data set", "top-1 %", "top-5 %", "n", "95 % interval", "images/s"]
    warnings = dict.fromkeys(f"warning: {r.warning}" for r in results if r.warning)
    return "\n".join([table(cells, header), *warnings])


def _networks(
    names: Sequence[str], dataset: str, collapsed: bool, checkpoint: str | Path | None
) -> Iterator[tuple[nn.Module, str, str, tuple[str, ...]]]:
    """Networks to measure, with their names, the sha256 of their files, and notes."""
    if checkpoint:
        arch, path = names[0], Path(checkpoint)
        if len(names) > 1 or "." in check_name(arch):
            raise ZooError(f"{' '.join(names)}: with --checkpoint name one architecture, without a tag (zoo list).")
        read = load_checkpoint(path, arch, get_dataset(dataset))
        model = reparameterize(read.model) if collapsed else read.model
        yield model, f"{arch} from {path.name}", sha256_of(path), read.notes
        return
    for name in names:
        if check_name(name) in warm_starts():
            model = create_model(name, pretrained=True).eval()
            yield reparameterize(model) if collapsed else model, name, "", ()
            continue
        name = full_name(name)
        model = load_collapsed(name) if collapsed else create_model(name, pretrained=True)
        yield model, name, (collapsed_facts(name) if collapsed else facts(name))["sha256"], ()
