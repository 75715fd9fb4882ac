"""A network as an ONNX file that OpenVINO runs, in float32 or bfloat16 by its word when it compiles the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..extras import require
from .engines import ENGINES
from .onnxruntime_engine import write as write  # the same file; OpenVINO takes its precision when it loads it

_HINTS = {"fp32": "f32", "bf16": "bf16"}  # without one OpenVINO takes bfloat16 wherever the CPU has it

LOAD = '''import openvino


def load():
    """What takes images (batch, channels, height, width), float32, and returns scores (batch, classes)."""
    hint = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[FACTS["precision"]]}
    network = openvino.Core().compile_model(HERE / FACTS["file"], "CPU", hint)
    return lambda images: network(images)[0].copy()
'''


def load(path: Path, threads: int, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file in a precision, with so many threads."""
    engine = ENGINES["openvino"]
    hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    network = require(engine.needs[-1], engine.extra).Core().compile_model(path, "CPU", hints)

    def run(images: np.ndarray) -> np.ndarray:
        return network(images)[0].copy()  # the next call writes into the same memory

    return run
