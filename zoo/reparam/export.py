"""Collapsed networks as files, each checked by running what was written."""

import copy
import functools
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UnknownNameError, ZooError
from ..extras import require
from ..files import FORMATS, write_atomically
from ..outputs import gap_of, largest, outputs_of, placed
from ..precision import full_precision
from ..weights.convert import safetensors_bytes
from .collapse import reparameterize
from .described import said_of
from .file_facts import file_facts
from .record import EquivalenceRecord, equivalence_record, random_images

_CONSTANT, _SHAPES = 2**20, 16  # values of what is computed beforehand: of any kernel, and of shapes only
TOLERANCE = 1e-3
"""By how much of the largest score a file may differ: float32 sums in another order, over up to 150 layers."""


@full_precision()
def export(
    model: nn.Module,
    path: str | Path,
    form: str,
    name: str = "",
    input_size: tuple[int, int, int] | None = None,
    example: Tensor | None = None,
    dataset: str = "",
    sha256: str = "",
    wrap: Callable[[nn.Module], nn.Module] = lambda plain: plain,
    rewrite: Callable[[torch.export.ExportedProgram], None] = lambda program: None,
    tolerance: float = TOLERANCE,
    **options: str,
) -> EquivalenceRecord:
    """Collapse a network, write it, read the file back and compare its outputs with the original's.

    The file carries the equivalence record and what :func:`.file_facts` tells (mean, standard deviation, class names,
    ...): in safetensors' and ONNX's metadata, and in torch.export's extra file ``metadata.json``.

    Args:
        model: Network in eval mode.
        path: The file.
        form: ``safetensors``, ``onnx`` or ``torch-export``; the last two take batches of any size.
        name: Goes into the metadata; ``arch.tag`` of a weight, or any other.
        input_size: (channels, height, width) of its images, if the network's configuration does not say it.
        example: Inputs (batch, ...), at least two, to trace and compare with in place of random images.
        dataset: What the network was trained on, if it is the user's own: its class names go into the metadata.
        sha256: Of the file that the user's own network was read from, for the metadata.
        wrap: What is done to the collapsed network before it is written, such as casting it.
        rewrite: What is done to the program of torch-export before it is written, in place.
        tolerance: By how much of the largest output the file's may differ.
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
    record = equivalence_record(model, plain, input_size=input_size, example=example)
    inputs = placed(model, random_images(model, 4, 1, input_size) if example is None else example)
    torch_export = functools.partial(_torch_export, rewrite)
    write = {"safetensors": _safetensors, "onnx": onnx_content, "torch-export": torch_export}[form]
    facts = file_facts(model, inputs, name, dataset, sha256)
    content, found = write(wrap(plain), inputs, {**facts, "equivalence": json.dumps(record.to_dict())})
    expected = outputs_of(model, inputs)
    gap = largest([gap_of(a, b)[1] if a.shape == b.shape else math.nan for a, b in zip(expected, found, strict=True)])
    if not gap <= tolerance:
        raise ZooError(f"The {form} file would differ from {name or 'the model'} by {gap:.1e} of the largest output.")
    try:
        write_atomically(content, Path(path))
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror or error}).") from None
    return record


def _safetensors(plain: nn.Module, inputs: Tensor, facts: dict[str, str]) -> tuple[bytes, list[Tensor]]:
    state = {key: tensor.contiguous() for key, tensor in plain.state_dict().items()}
    content = safetensors_bytes(state, {"format": "pt", "form": "collapsed", **said_of(plain), **facts})
    restored = copy.deepcopy(plain)
    for tensor in [*restored.parameters(), *restored.buffers()]:
        tensor.zero_()
    restored.load_state_dict(load(content), strict=True)
    return content, outputs_of(restored, inputs)


def onnx_content(
    model: nn.Module, inputs: Tensor, facts: Mapping[str, str], as_trained: bool = False
) -> tuple[bytes, list[Tensor]]:
    """A network as an ONNX file, as it is, and the outputs of that file.

    Args:
        model: In eval mode.
        inputs: Images (batch, ...), at least two, to trace and run it with.
        facts: The file's metadata.
        as_trained: The file makes its kernels on each run, as the network does; else they are constants in it, where
            the network has or makes them from values of its own.

    Raises:
        ZooError: If the extra ``export`` is missing.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    program = torch.onnx.export(
        model,
        (inputs,),
        dynamo=True,
        verbose=False,
        optimize=not as_trained,
        input_names=["images"],
        output_names=_output_names(model(inputs)),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )
    # kernels that are parts of others become constants too, as tools that quantize expect; torch stops at 8,192 entries
    limit = _SHAPES if as_trained else _CONSTANT
    optimizer = require("onnxscript.optimizer", "export")
    optimizer.optimize_ir(program.model, input_size_limit=limit, output_size_limit=limit)
    program.model.metadata_props.update(facts)
    buffer = io.BytesIO()
    program.save(buffer)
    session = require("onnxruntime", "export").InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    return buffer.getvalue(), _in_parts(
        lambda part: [torch.from_numpy(a) for a in session.run(None, {"images": part.cpu().numpy()})], inputs
    )


def _output_names(outputs: Tensor | Sequence | Mapping) -> list[str]:
    if isinstance(outputs, Tensor):
        return ["scores"]
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return [str(key) for key in outputs]
    return [f"output_{i}" for i in range(len(tree_leaves(outputs)))]


def _torch_export(
    rewrite: Callable[[torch.export.ExportedProgram], None], plain: nn.Module, inputs: Tensor, facts: dict[str, str]
) -> tuple[bytes, list[Tensor]]:
    program = torch.export.export(
        plain, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
    )
    rewrite(program)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(facts)})
    restored = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), _in_parts(lambda part: tree_leaves(restored(part)), inputs)


def _in_parts(run: Callable[[Tensor], list[Tensor]], inputs: Tensor) -> list[Tensor]:
    """The outputs for one input and for the others, joined: two sizes of batch, neither that of the export."""
    parts = [run(part) for part in (inputs[:1], inputs[1:]) if len(part)]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]
