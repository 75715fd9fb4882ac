"""What running one block several times buys at batch 1, and which form of its step is fast: 14-LruNet, one thread.

    python benchmarks/reuse.py [--rounds 9] [--output docs/reuse_speed.json]

The same network shared and unrolled (kernels of its own for every run, equal values), in eager mode and as files of
ONNX Runtime and OpenVINO, fp32 and int8 (random calibration, for speed only): bytes, growth of the process's memory,
and processor times over the shared one's in eager mode, with warm caches and with caches that other data have filled.
The step: depthwise convolution with two outputs per channel, batch norm folded, then the grouped 1x1 convolution.
"""

import argparse
import copy
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import openvino
import timm
import torch
from measure import machine, ratios, write
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from sparse import int8_of, onnxruntime_run, openvino_run
from zoo.layers import repeat_channels
from zoo.reparam.export import export

NAME = "lrunet14_100"
STEPS = ((64, 16), (256, 4), (512, 4))
FORMS = ("repeated", "two outputs", "interleaved", "split")


class Step(nn.Module):
    """A depthwise step in one of its forms, all of one function."""

    def __init__(self, channels: int, form: str):
        super().__init__()
        self.form, self.channels = form, channels
        generator = torch.Generator().manual_seed(0)
        self.dw = nn.Parameter(torch.randn(2 * channels, 1, 3, 3, generator=generator) / 3)
        self.pw = nn.Parameter(torch.randn(channels, channels // 4, 1, 1, generator=generator) / channels**0.5)
        if form in ("interleaved", "split"):
            self.even, self.odd = (nn.Parameter(self.dw[i::2].detach().clone()) for i in (0, 1))
        if form == "split":
            self.pw_even, self.pw_odd = (nn.Parameter(self.pw[:, i::2].detach().clone()) for i in (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        c = self.channels
        if self.form == "repeated":
            y = F.conv2d(repeat_channels(x, 2), self.dw, padding=1, groups=2 * c)
        elif self.form == "two outputs":
            y = F.conv2d(x, self.dw, padding=1, groups=c)
        else:
            halves = [F.conv2d(x, kernel, padding=1, groups=c) for kernel in (self.even, self.odd)]
            if self.form == "split":
                parts = zip(halves, (self.pw_even, self.pw_odd), strict=True)
                return F.relu(sum(F.conv2d(half, kernel, groups=8) for half, kernel in parts) + x)
            y = torch.stack(halves, 2).flatten(1, 2)
        return F.relu(F.conv2d(y, self.pw, groups=8) + x)


def onnx_bytes(model: nn.Module, images: Tensor) -> bytes:
    """A network as an ONNX file of one image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (images,), dynamo=True, verbose=False).save(path)
        return path.read_bytes()


def step_rows(rounds: int) -> list[dict]:
    """Each form of the step at each width, in each engine, over the repeated one in the same engine."""
    rows = []
    for channels, side in STEPS:
        images = torch.randn(1, channels, side, side)
        steps = {form: nn.Sequential(*(Step(channels, form) for _ in range(7))).eval() for form in FORMS}
        expected = steps[FORMS[0]](images)
        if not all(torch.allclose(step(images), expected, rtol=1e-3, atol=1e-3) for step in steps.values()):
            raise SystemExit(f"The forms of the step with {channels} channels differ.")
        files = {form: onnx_bytes(step, images) for form, step in steps.items()}
        last = images.to(memory_format=torch.channels_last)
        engines = {
            "eager": {form: lambda s=step, x=images: s(x) for form, step in steps.items()},
            "eager, channels last": {form: lambda s=step, x=last: s(x) for form, step in steps.items()},
            "ONNX Runtime": {form: onnxruntime_run(file, images) for form, file in files.items()},
            "OpenVINO": {form: openvino_run(file, images) for form, file in files.items()},
        }
        for engine, work in engines.items():
            rows.append(
                {"step": f"{channels} channels, map {side}", "engine": engine, "ratios": ratios(work, rounds)[1]}
            )
            print(rows[-1], flush=True)
    return rows


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


def memory(file: str, engine: str) -> int:
    """By how many bytes a process grows that loads a file and runs it; in a process of its own."""
    images = torch.randn(1, 3, 32, 32)
    start = onnxruntime_run if engine == "ONNX Runtime" else openvino_run
    before = _status("VmRSS:")
    run = start(Path(file).read_bytes(), images)
    for _ in range(3):
        run()
    return _status("VmRSS:") - before


def grown(file: Path, engine: str) -> int:
    """As :func:`memory`, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory, (str(file), engine))


def network_rows(rounds: int) -> list[dict]:
    """The shared and the unrolled network in each engine."""
    model = timm.create_model(NAME).eval()
    images = torch.randn(1, 3, 32, 32)
    rows, warm, size = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for reuse in ("shared", "unroll"):
            # eager mode is slow at a folded batch norm of a shared kernel, a 1x1 depthwise convolution: there they stay
            plain = zoo.reparameterize(model, batch_norm="keep" if reuse == "shared" else "fold", reuse=reuse)
            kernels = sum(p.numel() for p in plain.parameters())
            warm[reuse, "eager"] = lambda net=plain: net(images)
            size[reuse, "eager"] = 4 * kernels
            file = Path(folder) / f"{reuse}.onnx"
            export(copy.deepcopy(model), file, "onnx", batch_norm="fold", reuse=reuse)
            content = file.read_bytes()
            fixed = openvino.Core().read_model(content)
            fixed.reshape([1, 3, 32, 32])
            small = int8_of(fixed.clone(), images)
            warm[reuse, "ONNX Runtime"] = onnxruntime_run(content, images)
            warm[reuse, "OpenVINO"] = openvino_run(fixed, images)
            warm[reuse, "OpenVINO int8"] = openvino_run(small, images)
            openvino.save_model(small, Path(folder) / f"{reuse}.xml", compress_to_fp16=False)
            size |= {(reuse, engine): len(content) for engine in ("ONNX Runtime", "OpenVINO")}
            size[reuse, "OpenVINO int8"] = (Path(folder) / f"{reuse}.bin").stat().st_size
        grows = {
            (reuse, engine): grown(Path(folder) / f"{reuse}.onnx", engine)
            for reuse in ("shared", "unroll")
            for engine in ("ONNX Runtime", "OpenVINO")
        }
    other = torch.zeros(16_000_000)
    ways: dict[str, Callable[[], object] | None] = {"warm": None, "cold": lambda: other.add_(1)}
    found = {way: ratios(warm, rounds if way == "warm" else 2 * rounds, between)[1] for way, between in ways.items()}
    for (reuse, engine), bytes_ in size.items():
        rows.append(
            {"network": f"{NAME}, {reuse}", "engine": engine, "bytes": bytes_, "grows": grows.get((reuse, engine))}
            | {way: times[reuse, engine] for way, times in found.items()}
        )
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="docs/reuse_speed.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {"machine": machine(1), "steps": step_rows(options.rounds), "networks": network_rows(options.rounds)}
    write(options.output, found)


if __name__ == "__main__":
    main()
