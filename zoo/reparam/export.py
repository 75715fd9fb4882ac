"""Collapsed networks as files, each checked by running what was written."""

import copy
import io
import json
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from ..errors import UnknownNameError, ZooError
from ..extras import require
from ..files import write_atomically
from ..weights.convert import safetensors_bytes
from .collapse import reparameterize
from .record import EquivalenceRecord, equivalence_record, input_size_of

FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}
_TOLERANCE = 1e-3  # of the largest score: float32 sums in another order, over up to 150 layers


@torch.no_grad()
def export(model: nn.Module, path: str | Path, form: str, name: str = "", **options: str) -> EquivalenceRecord:
    """Collapse a network, write it, read the file back and compare its scores with the original's.

    Args:
        model: Network in eval mode.
        path: The file.
        form: ``safetensors`` (tensors, with the record in the metadata), ``onnx`` or ``torch-export``; the last two
            take batches of any size.
        name: Goes into the metadata.
        **options: As :func:`reparameterize`.

    Returns:
        The equivalence record of the collapse.

    Raises:
        ZooError: If the form does not exist, its extra is missing, or the file does not compute the same; it is then
            not written.
    """
    if form not in FORMATS:
        raise UnknownNameError(f"Unknown format {form!r}: choose one of {', '.join(FORMATS)}.")
    plain = reparameterize(model, **options)
    record = equivalence_record(model, plain)
    images = torch.randn(4, *input_size_of(model), generator=torch.Generator().manual_seed(1))
    images = images.to(next(model.parameters()))
    if form == "safetensors":
        content, scores = _safetensors(plain, images, name, record)
    elif form == "onnx":
        content, scores = _onnx(plain, images)
    else:
        content, scores = _torch_export(plain, images)
    expected = model(images)
    gap = (scores.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-12)
    if not gap <= _TOLERANCE:
        raise ZooError(f"The {form} file would differ from {name or 'the model'} by {gap:.1e} of the largest score.")
    try:
        write_atomically(content, Path(path))
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror or error}).") from None
    return record


def _safetensors(plain: nn.Module, images: Tensor, name: str, record: EquivalenceRecord) -> tuple[bytes, Tensor]:
    metadata = {"format": "pt", "name": name, "form": "collapsed", "equivalence": json.dumps(record.to_dict())}
    state = {key: tensor.contiguous() for key, tensor in plain.state_dict().items()}
    content = safetensors_bytes(state, metadata)
    restored = copy.deepcopy(plain)
    for tensor in [*restored.parameters(), *restored.buffers()]:
        tensor.zero_()
    restored.load_state_dict(load(content), strict=True)
    return content, restored(images)


def _onnx(plain: nn.Module, images: Tensor) -> tuple[bytes, Tensor]:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        plain,
        (images,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["scores"],
        dynamic_shapes=({0: batch},),
    )
    buffer = io.BytesIO()
    program.save(buffer)
    session = require("onnxruntime", "export").InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": part.cpu().numpy()})[0] for part in images.split([1, len(images) - 1])]
    return buffer.getvalue(), torch.cat([torch.from_numpy(part) for part in parts]).to(images.device)


def _torch_export(plain: nn.Module, images: Tensor) -> tuple[bytes, Tensor]:
    program = torch.export.export(
        plain, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    restored = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    parts = [restored(part) for part in images.split([1, len(images) - 1])]
    return buffer.getvalue(), torch.cat(parts)
