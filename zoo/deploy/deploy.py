"""``zoo deploy``: a network made for one engine, run and measured, in a folder of its own with a card."""

import importlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from ..data.catalog import get_dataset
from ..errors import DataError, ZooError
from ..evaluation.compare import compare
from ..evaluation.predict import label_names
from ..evaluation.predictions import Predictions
from ..evaluation.result import Result
from ..evaluation.validate import validate
from ..extras import DISTRIBUTION
from ..files import folder_in_making, place_of_result
from ..named import Named
from ..outputs import gap_of, outputs_of
from ..reparam import reparameterize
from ..reparam.file_facts import weight_of
from ..reparam.record import random_images
from ..version import __version__
from ..weights.manifest import weights
from .calibration import training_images
from .card import card
from .engines import AUTO, ENGINES, usable_engines
from .quantized import APART, CALIBRATION, quantize
from .run_script import preparation, run_script
from .speed import speeds

FACTS = "network.json"
_PRODUCER = f"{DISTRIBUTION} deploy"


def deploy(
    found: Named,
    folder: str | Path,
    engine: str,
    precision: str = "fp32",
    *,
    data: str | Path | None = None,
    dataset: str = "",
    accuracy: bool = False,
) -> dict[str, Any]:
    """Write a folder that runs alone: the network's file, ``network.json``, ``run.py`` and a card.

    The folder appears when everything in it is measured; one that this function wrote before is replaced.

    Args:
        found: The network, as :func:`zoo.named.load_named` gives it.
        folder: Of the result.
        engine: A name of :data:`.engines.ENGINES`, or ``auto``: the one that here takes the least time for one image.
        precision: ``fp32``, ``bf16`` or ``int8``, which is calibrated on training images.
        data: Folder of the data set.
        dataset: Its name; by default what the network was trained on.
        accuracy: Measure the test set with the network and the file, and compare them image by image.

    Returns:
        What ``network.json`` holds.

    Raises:
        ZooError: If the engine or the precision is not to be had here, the folder is somebody else's, the network is no
            classifier of images that ``run.py`` can prepare, or the data do not fit.
    """
    folder = place_of_result(
        Path(folder).expanduser(), _PRODUCER, FACTS, lambda known: (known["file"], "run.py", "README.md")
    )
    names, left_out = usable_engines(engine, precision)
    if not found.model.num_classes:
        raise ZooError(f"{found.name} has no classes, and run.py says which one an image is of: use zoo export.")
    dataset = dataset or found.dataset
    if (accuracy or precision == "int8") and not (data and dataset):
        missing = "--data DIR, the folder of the data set" if dataset else "--dataset NAME and --data DIR"
        purpose = "calibrate int8 on training images" if precision == "int8" else "measure the accuracy"
        raise ZooError(f"{found.name}: to {purpose} add {missing}.")
    config, place = resolve_data_config(model=found.model), (dataset, data, set())
    training = training_images(found, dataset, data, config, CALIBRATION + APART) if precision == "int8" else None
    if accuracy:
        before = _validated(found, found.model, *place)
    facts = {"producer": _PRODUCER, "version": __version__, "name": found.name}
    facts |= {"engine": engine, "precision": precision}  # of auto: until it is measured
    facts |= preparation(config, found.name) | {"classes": label_names(found.model, found.dataset)}
    if weight := weight_of(found.model, found.name):
        facts |= {"licence": weights()[weight]["licence"]}
    facts["sha256"] = found.sha256
    with folder_in_making(folder) as part:
        run, measured = _make(found, part, names, precision, training)
        facts |= measured
        if engine == AUTO:
            facts["left_out"] = left_out
        if accuracy:
            facts["accuracy"] = _accuracy(before, _validated(found, Running(run, found.model), *place), data)
        script = run_script(_module(facts["engine"]).LOAD, ENGINES[facts["engine"]].runs_with)
        texts = {"run.py": script, FACTS: json.dumps(facts, indent=2)}
        for name, text in (texts | {"README.md": card(facts)}).items():
            (part / name).write_text(text + "\n" * (not text.endswith("\n")), encoding="utf-8")
    return facts


def _module(engine: str) -> Any:
    return importlib.import_module(f".{engine}_engine", __package__)


def _make(
    found: Named, part: Path, engines: list[str], precision: str, training: np.ndarray | None
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """Write the file of each engine and time all in turn; what runs the fastest, which stays, and what was measured."""
    model, runs, macs, quantized = found.model, {}, 0, {}
    about = {"name": found.name, "dataset": found.dataset, "sha256": found.sha256}
    written: dict[Callable, Path] = {}
    paths = {engine: part / engine / ENGINES[engine].file for engine in engines}
    for engine, path in paths.items():
        write = _module(engine).write
        if write in written:  # two engines run the same file
            path.parent.mkdir()
            shutil.copyfile(written[write], path)
        else:
            macs = write(model, path, precision, **about, batch_norm="fold", reuse="unroll").after.macs
            written[write] = path
    threads = torch.get_num_threads()
    for engine, path in paths.items():
        if training is None:
            runs[engine] = _module(engine).load(path, threads, precision)
        else:
            runs[engine], quantized[engine] = quantize(_module(engine), path, training, threads)
    images = random_images(model, 8, 2).float()
    (expected, *others), found_scores = outputs_of(model, images), {e: run(images.numpy()) for e, run in runs.items()}
    if others or any(expected.shape != scores.shape or scores.ndim != 2 for scores in found_scores.values()):
        raise ZooError(f"{found.name}: a network that gives scores (batch, classes) is needed.")
    eager = {"plain network, eager": _eager(reparameterize(model)), "as named, eager": _eager(model)}
    titled = {ENGINES[engine].title: run for engine, run in runs.items()}
    times = speeds(eager | titled, tuple(images.shape[1:]), macs)
    best = min(engines, key=lambda engine: times[0]["ratios"].get(ENGINES[engine].title, {}).get("median", 0))
    paths[best].rename(part / ENGINES[best].file)
    for engine in engines:
        shutil.rmtree(paths[engine].parent)
    absolute, relative = gap_of(expected, torch.from_numpy(found_scores[best]))
    return runs[best], {
        "engine": best,
        "file": ENGINES[best].file,
        "bytes": (part / ENGINES[best].file).stat().st_size,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", *_packages(best, precision))},
        "scores": {"images": "8 random", "max_absolute": absolute, "max_relative": relative},
        "speed": times,
    } | quantized.get(best, {})


def _packages(engine: str, precision: str) -> tuple[str, ...]:
    return ENGINES[engine].needs + (ENGINES[engine].quantizer if precision == "int8" else ())


def _eager(model: nn.Module) -> Callable[[np.ndarray], object]:
    def run(images: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run


class Running(nn.Module):
    """What runs a file, as a network for measuring."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], model: nn.Module):
        super().__init__()
        self.run, self.num_classes, self.pretrained_cfg = run, model.num_classes, model.pretrained_cfg

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.run(images.numpy()))


def _validated(found: Named, model: nn.Module, dataset: str, data: str | Path, said: set[str]) -> Result:
    options = {"name": found.name, "sha256": found.sha256, "device": "cpu", "said": said}
    return validate(model, get_dataset(dataset).name, data, **options)


def _accuracy(before: Result, after: Result, data: str | Path) -> dict[str, Any]:
    """The test set with the network and with the file, image by image."""
    if before.n != after.n:
        raise DataError(f"{data}: it changed while it was measured.")
    difference = compare(Predictions.of_result(before), Predictions.of_result(after))
    same = int((before.guesses.classes[:, 0] == after.guesses.classes[:, 0]).sum())
    return {"before": before.correct, "after": after.correct, "same_guess": same} | {
        "warning": before.warning,
        **difference.to_dict(),
    }
