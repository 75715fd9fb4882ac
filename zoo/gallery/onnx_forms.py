"""A network as an ONNX file: as it was trained, its kernels made on each run, or collapsed."""

import torch
from torch import nn

from ..errors import ZooError
from ..outputs import gap_of, largest, outputs_of, placed
from ..precision import full_precision
from ..reparam import reparameterize
from ..reparam.export import TOLERANCE, onnx_content
from ..reparam.record import random_images


@full_precision()
def onnx_form(model: nn.Module, name: str, collapsed: bool) -> bytes:
    """A network as an ONNX file, which is run once and compared with the network.

    Args:
        model: In eval mode.
        name: Goes into the metadata.
        collapsed: Plain layers, batch norms folded, what is used again unrolled; else as it was trained.

    Raises:
        ZooError: If the extra ``export`` is missing, or the file does not compute the same.
    """
    inputs = placed(model, random_images(model, 4, 1))
    written = reparameterize(model, batch_norm="fold", reuse="unroll") if collapsed else model
    with torch.no_grad():
        content, found = onnx_content(written, inputs, {"weight": name}, as_trained=not collapsed)
        gap = largest([gap_of(a, b)[1] for a, b in zip(outputs_of(model, inputs), found, strict=True)])
    if not gap <= TOLERANCE:
        raise ZooError(f"The ONNX file of {name} would differ from it by {gap:.1e} of the largest score.")
    return content
