"""A network as an ONNX file that ONNX Runtime runs."""

import contextlib
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..extras import require
from ..reparam.export import export
from ..reparam.record import EquivalenceRecord

LOAD = '''import onnxruntime


def load():
    """What takes images (batch, channels, height, width), float32, and returns scores (batch, classes)."""
    session = onnxruntime.InferenceSession(HERE / FACTS["file"], providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]
'''

SETTINGS = {
    "ranges of all values": "MinMax",
    "ranges of 99.999 % of the values": "Percentile",
    "ranges of all values, first and last layer in float32": "MinMax",
}
"""By what is said of it, how ``quantize_static`` calibrates."""


def write(model: nn.Module, path: Path, precision: str, **about: Any) -> EquivalenceRecord:
    """Collapse a network, fold its batch norms, and write and check the file.

    Args:
        model: In eval mode.
        path: The file.
        precision: The file is of float32 for every one; of ``int8`` :func:`quantized` makes the next from it.
        **about: As of :func:`zoo.reparam.export.export`.
    """
    return export(model, path, "onnx", **about)


def quantized(setting: str, path: Path, target: Path, images: np.ndarray) -> None:
    """Write a file that is quantized by ONNX Runtime's own tool: QDQ, kernels by channel, activations as uint8.

    Args:
        setting: A name of :data:`SETTINGS`.
        path: The file of float32.
        target: The new one.
        images: Training images, float32.
    """
    tool = require("onnxruntime.quantization", "export")
    prepare = require("onnxruntime.quantization.shape_inference", "export").quant_pre_process
    size = math.gcd(len(images), 16)  # its histograms take batches of one size only
    batches = iter([{"images": images[i : i + size]} for i in range(0, len(images), size)])
    reader = type("Reader", (tool.CalibrationDataReader,), {"get_next": lambda self: next(batches, None)})()
    with contextlib.redirect_stdout(io.StringIO()), quiet_logging():
        prepare(str(path), str(target), skip_symbolic_shape=True)
        tool.quantize_static(
            str(target),
            str(target),
            reader,
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            nodes_to_exclude=first_and_last(target) if "first and last" in setting else [],
            calibrate_method=tool.CalibrationMethod[SETTINGS[setting]],
            extra_options={"CalibPercentile": 99.999},
        )


def first_and_last(path: Path) -> list[str]:
    """Names of the first convolution and of the last layer of an ONNX file."""
    nodes = require("onnx", "export").load(path).graph.node
    layers = [node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    return [layers[0], layers[-1]]


@contextlib.contextmanager
def quiet_logging():
    """Without the remarks of quantizers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def load(path: Path, threads: int, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file, with so many threads."""
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # beside others its threads wait in between
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]
