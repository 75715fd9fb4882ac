"""Whether zeros make a convolution faster on this processor: dense and sparse forms at batch 1, one thread, fp32.

    python benchmarks/sparse.py [--rounds 9] [--output docs/sparse_speed.json]

Layers: shapes of WRN-28-2 and ResNet-50, at five densities. CSR is torch's product of a compressed matrix with the
input (1x1), or with its unfolded patches (3x3); BSR has its zeros in whole blocks of 16 x 16, which is another and
coarser mask. Networks: ResNet-50 with 90 % zeros at random, and a staged WRN-28-2 with 90 %. All are processor times
over those of the dense convolution (the plain network) in torch's eager mode, in turn in each round.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import timm
import torch
from measure import machine, ratios, write
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.layers import make_sparse
from zoo.reparam.export import export

LAYERS = (
    ("WRN-28-2", 32, 32, 32, 3),
    ("WRN-28-2", 64, 64, 16, 3),
    ("WRN-28-2", 128, 128, 8, 3),
    ("ResNet-50", 64, 64, 56, 3),
    ("ResNet-50", 256, 256, 14, 3),
    ("ResNet-50", 512, 512, 7, 3),
    ("ResNet-50", 64, 256, 56, 1),
    ("ResNet-50", 1024, 256, 14, 1),
    ("ResNet-50", 512, 2048, 7, 1),
)
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
BLOCK = 16
NETWORKS = ("resnet50", "sparse_wrn_28_2.zoo_dsr_s90_c10")
DECOMPRESS = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.8}


def openvino_run(model: bytes | openvino.Model, images: Tensor, **options: object) -> Callable[[], object]:
    """What runs a model in OpenVINO with one thread."""
    core = openvino.Core()
    model = core.read_model(model) if isinstance(model, bytes) else model
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"} | options
    request = core.compile_model(model, "CPU", options).create_infer_request()
    array = images.numpy()
    return lambda: request.infer([array])


def onnxruntime_run(model: bytes, images: Tensor) -> Callable[[], object]:
    """What runs a model in ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, fed)


def onnx_of(kernel: Tensor, side: int) -> bytes:
    """A convolution with 'same' padding as an ONNX model."""
    pad = kernel.shape[2] // 2
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[pad] * 4)
    ends = [helper.make_tensor_value_info("x", 1, [1, kernel.shape[1], side, side])]
    outs = [helper.make_tensor_value_info("y", 1, [1, kernel.shape[0], side, side])]
    graph = helper.make_graph([node], "conv", ends, outs, [numpy_helper.from_array(kernel.numpy(), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def compressed(matrix: Tensor, images: Tensor, side: int) -> Callable[[], Tensor]:
    """A convolution as the product of a compressed matrix (out, in * side^2) with its input's patches."""
    pixels = images.shape[2] * images.shape[3]
    if side == 1:
        return lambda: matrix @ images.view(-1, pixels)
    return lambda: matrix @ F.unfold(images, side, padding=side // 2)[0]


def masked(kernel: Tensor, density: float, block: int = 1) -> Tensor:
    """A kernel with zeros at random, in blocks of its matrix (out, in * side^2)."""
    matrix = kernel.flatten(1)
    rows, columns = (size // block for size in matrix.shape)
    on = torch.rand(rows, columns).flatten()
    on = on <= on.kthvalue(max(1, round(density * on.numel()))).values
    on = on.view(rows, columns).repeat_interleave(block, 0).repeat_interleave(block, 1)
    return (matrix * on).view_as(kernel)


def layer_row(layer: tuple[str, int, int, int, int], density: float, rounds: int) -> dict:
    """Times of the forms of one layer at one density."""
    network, inputs, outputs, map_side, side = layer
    images, dense = torch.randn(1, inputs, map_side, map_side), torch.randn(outputs, inputs, side, side)
    kernel, blocks = masked(dense, density), masked(dense, density, BLOCK)
    model = onnx_of(kernel, map_side)
    work = {
        "dense": lambda: F.conv2d(images, kernel, padding=side // 2),
        "CSR": compressed(kernel.flatten(1).to_sparse_csr(), images, side),
        "BSR": compressed(blocks.flatten(1).to_sparse_bsr((BLOCK, BLOCK)), images, side),
        "ONNX Runtime": onnxruntime_run(model, images),
        "OpenVINO": openvino_run(model, images),
        "OpenVINO, sparse rate": openvino_run(model, images, **DECOMPRESS),
    }
    expected = work["dense"]().flatten()
    for name in ("CSR", "ONNX Runtime", "OpenVINO", "OpenVINO, sparse rate"):
        found = work[name]()
        found = found if isinstance(found, Tensor) else torch.from_numpy(np.array(found[0]))
        if not torch.allclose(found.flatten(), expected, atol=1e-3 * float(expected.abs().max())):
            raise SystemExit(f"{name} computes something else for {layer}.")
    base, found = ratios(work, rounds)
    macs = dense.numel() * map_side**2
    return {"network": network, "layer": f"{inputs}-{outputs}, {side}x{side}, map {map_side}", "density": density} | {
        "gmacs_per_s": round(macs / base / 1e9, 1),
        "ratios": found,
    }


class CsrConv(nn.Module):
    """A 1x1 convolution as a product with a compressed matrix."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.stride, self.bias = conv.stride[0], conv.bias
        self.matrix = conv.weight.detach().flatten(1).to_sparse_csr()

    def forward(self, x: Tensor) -> Tensor:
        """(1, in, height, width) -> (1, out, height / stride, width / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        y = (self.matrix @ x.flatten(2)[0]).view(1, -1, *x.shape[2:])
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


def with_csr(model: nn.Module) -> nn.Module:
    """A network's 1x1 convolutions in compressed form, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
                setattr(module, name, CsrConv(child))
    return model


def int8_of(model: openvino.Model, images: Tensor) -> openvino.Model:
    """The network with weights and activations of 8 bits, by nncf with random images: for its speed only."""
    import nncf

    samples = [torch.randn_like(images).numpy() for _ in range(4)]
    return nncf.quantize(model, nncf.Dataset(samples), subset_size=4, fast_bias_correction=True)


def network_row(name: str, rounds: int) -> dict:
    """Times of the forms of one network."""
    model = timm.create_model(name, pretrained="." in name).eval()
    if "." not in name:
        make_sparse(model, 0.9)
    plain = zoo.reparameterize(model)
    folded = zoo.reparameterize(model, batch_norm="fold")
    kernels = [m.weight for m in plain.modules() if isinstance(m, nn.Conv2d)]
    density = sum(int(k.count_nonzero()) for k in kernels) / sum(k.numel() for k in kernels)
    images = torch.randn(1, *model.pretrained_cfg["input_size"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        macs = export(model, file, "onnx", batch_norm="fold").after.macs
        content = file.read_bytes()
    fixed = openvino.Core().read_model(content)
    fixed.reshape(list(images.shape))
    small = int8_of(fixed.clone(), images)
    last = zoo.reparameterize(model, batch_norm="fold").to(memory_format=torch.channels_last)
    compressed_1x1 = with_csr(zoo.reparameterize(model, batch_norm="fold"))
    work = {
        "plain, eager": lambda: plain(images),
        "folded, eager": lambda: folded(images),
        "folded, channels last": lambda: last(images),
        "folded, 1x1 in CSR": lambda: compressed_1x1(images),
        "ONNX Runtime": onnxruntime_run(content, images),
        "OpenVINO": openvino_run(fixed, images),
        "OpenVINO, sparse rate": openvino_run(fixed, images, **DECOMPRESS),
        "OpenVINO bf16": openvino_run(fixed, images, INFERENCE_PRECISION_HINT="bf16"),
        "OpenVINO int8": openvino_run(small, images),
        "OpenVINO int8, sparse rate": openvino_run(small, images, **DECOMPRESS),
    }
    base, found = ratios(work, rounds)
    return {"network": name, "density": round(density, 3), "gmacs_per_s": round(macs / base / 1e9, 1), "ratios": found}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="docs/sparse_speed.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        found = {"machine": machine(1)}
        found["networks"] = [network_row(name, options.rounds) for name in NETWORKS]
        found["layers"] = [layer_row(layer, d, options.rounds) for layer in LAYERS for d in DENSITIES]
    write(options.output, found)


if __name__ == "__main__":
    main()
