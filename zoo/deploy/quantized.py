"""A network in integers of 8 bits: an engine's own quantizer with each of a few settings, and the nearest is taken."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..outputs import gap_of

CALIBRATION, APART = 256, 512
"""Training images that the values' ranges are measured on, and others that the settings are compared on."""

_NEARER = 0.8
"""A later setting is taken if its divergence is at most so much of the best one's before it."""

_LARGE = 96
"""Side of images from which on an eighth as many are taken: the quantizers hold the values of all layers in memory."""


def quantize(
    engine: ModuleType, path: Path, images: np.ndarray, threads: int
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """Replace a float32 ONNX file with the best of its quantized ones.

    The best one's probabilities of the classes differ the least on training images that were not calibrated with (mean
    Kullback-Leibler divergence from the network's); what differs little counts as equal, and the first one is taken.

    Args:
        engine: Its module: ``SETTINGS`` names the ways, ``quantized`` goes one, ``load`` runs a file.
        path: The file.
        images: Training images, (images, channels, height, width), float32.
        threads: For running.

    Returns:
        What runs the file, and the facts: ``calibration`` and ``apart`` (numbers of images), ``setting``, ``tried`` (by
        setting the divergence and in how many of the images apart the guess is the same), and ``scores`` (the largest
        difference on the images apart).
    """
    part = 8 if max(images.shape[2:]) >= _LARGE else 1
    count = max(1, min(CALIBRATION // part, len(images) // 2))
    calibration, apart = images[:count], images[count:][: APART // part]
    expected = _scores(engine.load(path, threads, "fp32"), apart)
    made, best = path.with_name("made.onnx"), path.with_name("best.onnx")
    tried: dict[str, dict[str, float]] = {}
    nearest, setting = expected, ""
    for name in engine.SETTINGS:
        engine.quantized(name, path, made, calibration)
        scores = _scores(engine.load(made, threads, "int8"), apart)
        same = int((scores.argmax(1) == expected.argmax(1)).sum())
        tried[name] = {"divergence": _divergence(expected, scores), "same_guess": same}
        if not setting or tried[name]["divergence"] <= _NEARER * tried[setting]["divergence"]:
            nearest, setting = scores, name
            made.replace(best)
    best.replace(path)
    made.unlink(missing_ok=True)
    absolute, relative = gap_of(expected, nearest)
    difference = {"images": f"{len(apart)} training", "max_absolute": absolute, "max_relative": relative}
    facts = {"calibration": len(calibration), "apart": len(apart), "setting": setting, "tried": tried}
    return engine.load(path, threads, "int8"), {"quantized": facts, "scores": difference}


def _scores(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Tensor:
    return torch.cat([torch.from_numpy(run(images[i : i + 32])).double() for i in range(0, len(images), 32)])


def _divergence(expected: Tensor, scores: Tensor) -> float:
    """In nats, with three digits; infinite where a score is none."""
    logs = (expected.log_softmax(1), scores.log_softmax(1))
    value = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean().item()
    return float(f"{value:.3g}") if value == value else float("inf")
