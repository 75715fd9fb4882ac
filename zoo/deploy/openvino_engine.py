"""A network as an ONNX file that OpenVINO runs: float32, bfloat16 by its word when it compiles that file, or int8."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..extras import require
from .engines import ENGINES
from .onnxruntime_engine import first_and_last, quiet_logging
from .onnxruntime_engine import write as write  # the same file; OpenVINO takes its precision when it loads it

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # without one it takes bfloat16 wherever the CPU has it

LOAD = '''import openvino


def load():
    """What takes images (batch, channels, height, width), float32, and returns scores (batch, classes)."""
    hint = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(FACTS["precision"], "f32")}
    network = openvino.Core().compile_model(HERE / FACTS["file"], "CPU", hint)
    return lambda images: network(images)[0].copy()
'''

SETTINGS = {
    "ranges of all values": "MIXED",
    "ranges of all values, first and last layer in float32": "MIXED",
}
"""By what is said of it, the preset of nncf.

Left to itself it takes means of each image's extremes, which cut off what lies beyond them, and corrects biases
from a few images, which has small networks further off: docs/deploy.md.
"""


def quantized(setting: str, path: Path, target: Path, images: np.ndarray) -> None:
    """Write a file that is quantized by nncf, OpenVINO's own tool: QDQ, kernels by channel.

    Args:
        setting: A name of :data:`SETTINGS`.
        path: The file of float32.
        target: The new one.
        images: Training images, float32.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it tells its makers over the network that it is used
    name = ENGINES["openvino"].quantizer[0]
    tool, onnx = require(name, "int8"), require("onnx", "export")
    advanced = require(f"{name}.quantization.advanced_parameters", "int8")
    scope = tool.IgnoredScope(names=first_and_last(path)) if "first and last" in setting else None
    # its way around overflow has 7 bits for the first layer: for CPUs whose integer sums saturate, which are refused
    options = advanced.AdvancedQuantizationParameters(overflow_fix=advanced.OverflowFix.DISABLE)
    if "all values" in setting:
        ranges = require(f"{name}.quantization.range_estimator", "int8").RangeEstimatorParametersSet
        options.activations_range_estimator_params, options.disable_bias_correction = ranges.MINMAX, True
    with contextlib.redirect_stdout(io.StringIO()), quiet_logging():
        network = tool.quantize(
            onnx.load(path),
            tool.Dataset([{"images": image[None]} for image in images]),
            preset=tool.QuantizationPreset[SETTINGS[setting]],
            target_device=tool.TargetDevice.CPU,
            subset_size=len(images),
            ignored_scope=scope,
            advanced_parameters=options,
        )
    onnx.save(network, target)


def load(path: Path, threads: int, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file in a precision, with so many threads."""
    engine = ENGINES["openvino"]
    hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    network = require(engine.needs[-1], engine.extra).Core().compile_model(path, "CPU", hints)

    def run(images: np.ndarray) -> np.ndarray:
        return network(images)[0].copy()  # the next call writes into the same memory

    return run
