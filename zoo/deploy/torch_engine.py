"""A network as a ``torch.export`` file, which needs PyTorch and nothing of the network's own code."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..reparam.export import export
from ..reparam.record import EquivalenceRecord
from .fused import fuse_convolutions

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Of the largest score: more is no rounding any more. How large the difference is, is measured and told."""

LOAD = """import torch


def load():  # what takes images (batch, channels, height, width), float32, and returns scores (batch, classes)
    network = torch.export.load(HERE / FACTS["file"]).module()
    for node in (node for node in network.graph.nodes if "mkldnn._convolution" in str(node.target)):
        map_size = [1, *node.args[0].meta["val"].shape[1:]]
        kernel, _, *how = *node.args[1 + str(node.target).endswith("binary") :][:6], map_size
        kernel, (part, _, name) = network.get_parameter(kernel.target).detach(), kernel.target.rpartition(".")
        packed = torch.ops.mkldnn._reorder_convolution_weight(kernel, *how)  # as this CPU reads it for such maps
        setattr(network.get_submodule(part), name, torch.nn.Parameter(packed, requires_grad=False))
    return torch.inference_mode()(lambda images: network(torch.from_numpy(images)).numpy())
"""


class _Cast(nn.Module):
    """A network in one data type whose images and scores are float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network.to(dtype=dtype, memory_format=torch.channels_last), dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype, memory_format=torch.channels_last)).float()


def write(model: nn.Module, path: Path, precision: str, **about: Any) -> EquivalenceRecord:
    """Collapse a network, fold its batch norms, lay its kernels out channels last, and write and check the file.

    Args:
        model: In eval mode.
        path: The file.
        precision: ``fp32`` or ``bf16``.
        **about: As of :func:`zoo.reparam.export.export`.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # so torch.export calls a channels-last one
        options = {"wrap": lambda plain: _Cast(plain, dtype), "tolerance": _TOLERANCE[dtype]}
        options["rewrite"] = fuse_convolutions
        return export(model, path, "torch-export", **options, **about)


def load(path: Path, threads: int, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file as ``run.py`` does; ``threads`` are those of this process."""
    script: dict[str, Any] = {"HERE": path.parent, "FACTS": {"file": path.name}}
    exec(LOAD, script)
    return script["load"]()
