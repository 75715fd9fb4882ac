"""A network as an ONNX file that ONNX Runtime runs."""

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


def write(model: nn.Module, path: Path, precision: str, **about: Any) -> EquivalenceRecord:
    """Collapse a network, fold its batch norms, and write and check the file.

    Args:
        model: In eval mode.
        path: The file.
        precision: The file is of float32 for every one.
        **about: As of :func:`zoo.reparam.export.export`.
    """
    return export(model, path, "onnx", **about)


def load(path: Path, threads: int, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file, with so many threads."""
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # beside others its threads wait in between
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]
