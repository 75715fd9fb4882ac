"""A network as two ONNX files: as it was trained, its kernels made on each run, and collapsed."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from ..errors import ZooError
from ..outputs import gap_of, largest, outputs_of, placed
from ..precision import full_precision
from ..reparam.export import export, onnx_content
from ..reparam.record import random_images

_TOLERANCE = 1e-3  # of the largest score, as zoo.reparam.export's


@full_precision()
def trained_form(model: nn.Module, name: str) -> bytes:
    """A network as it was trained, run once and compared with what was written.

    Args:
        model: In eval mode.
        name: Goes into the metadata.

    Raises:
        ZooError: If the extra ``export`` is missing, or the file does not compute the same.
    """
    inputs = placed(model, random_images(model, 4, 1))
    with torch.no_grad():
        content, found = onnx_content(model, inputs, {"name": name, "form": "as trained"}, as_trained=True)
        gap = largest([gap_of(a, b)[1] for a, b in zip(outputs_of(model, inputs), found, strict=True)])
    if not gap <= _TOLERANCE:
        raise ZooError(f"The ONNX file of {name} would differ from it by {gap:.1e} of the largest score.")
    return content


def collapsed_form(model: nn.Module, name: str) -> bytes:
    """A network of plain layers with batch norms folded, as ``zoo export`` writes and checks it.

    Args:
        model: In eval mode.
        name: Goes into the metadata.

    Raises:
        ZooError: As :func:`trained_form`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collapsed.onnx"
        export(model, path, "onnx", name, batch_norm="fold", reuse="unroll")
        return path.read_bytes()
