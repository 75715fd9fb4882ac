"""The engines that a network can be deployed for, and which of them work here. Nothing here needs torch."""

import importlib.util
from dataclasses import dataclass

from ..errors import ZooError
from ..extras import DISTRIBUTION

PRECISIONS = ("fp32", "bf16", "int8")

AUTO = "auto"
"""In place of an engine's name: the fastest for one image."""


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        title: Its name for people.
        file: Name of the network's file in the folder.
        needs: Packages, by import name, that making the file takes.
        extra: The extra of this package that brings them.
        runs_with: What ``run.py`` needs beside numpy and Pillow.
        precisions: Those it has.
        instead: By precision that it lacks: what to take instead.
        quantizer: Packages that int8 takes beside, which the extra ``int8`` brings.
    """

    title: str
    file: str
    needs: tuple[str, ...]
    extra: str
    runs_with: str
    precisions: tuple[str, ...]
    instead: dict[str, str]
    quantizer: tuple[str, ...] = ()


ENGINES = {
    "torch": Engine(
        "PyTorch",
        "model.pt2",
        (),
        "",
        "torch",
        ("fp32", "bf16"),
        {"int8": "take --engine onnxruntime or openvino, or --precision fp32 or bf16"},
    ),
    "onnxruntime": Engine(
        "ONNX Runtime",
        "model.onnx",
        ("onnx", "onnxscript", "onnxruntime"),
        "export",
        "onnxruntime",
        ("fp32", "int8"),
        {"bf16": "it has no convolutions in bfloat16 on CPUs; take --engine torch or openvino, or --precision fp32"},
    ),
    "openvino": Engine(
        "OpenVINO",
        "model.onnx",
        ("onnx", "onnxscript", "onnxruntime", "openvino"),
        "openvino",
        "openvino",
        ("fp32", "bf16", "int8"),
        {},
        ("nncf",),
    ),
}


def usable_engines(name: str, precision: str) -> tuple[list[str], dict[str, str]]:
    """An engine, if it is installed and has a precision on this CPU; of ``auto`` all that are.

    Returns:
        Their names, and for ``auto`` by name why others are not among them.

    Raises:
        ZooError: If there is none: in one line, what to install or to take instead.
    """
    if name != AUTO:
        check_engine(name, precision)
        return [name], {}
    left_out: dict[str, str] = {}
    for engine in ENGINES:
        try:
            check_engine(engine, precision)
        except ZooError as error:
            left_out[engine] = str(error)
    names = [engine for engine in ENGINES if engine not in left_out]
    if not names:
        raise ZooError(f"No engine has --precision {precision} here: " + " ".join(left_out.values()))
    return names, left_out


def check_engine(name: str, precision: str) -> None:
    """Whether an engine is installed and has a precision on this CPU.

    Raises:
        ZooError: In one line, what to install or to take instead.
    """
    engine = ENGINES[name]
    if precision not in engine.precisions:
        raise ZooError(f"--engine {name} has no --precision {precision}: {engine.instead[precision]}.")
    if module := missing(engine, precision):
        extra = "int8" if module in engine.quantizer else engine.extra
        raise ZooError(
            f"--engine {name} needs the package {module}{' for int8' * (extra == 'int8')}. Install it with: "
            f"pip install '{DISTRIBUTION}[{extra}]'"
        )
    if precision == "int8" and not _has_int8():
        raise ZooError("This CPU has no sums of int8 products (VNNI, AMX or Arm's dot): take --precision fp32.")
    if precision == "bf16" and not _has_bfloat16():
        raise ZooError(
            "This CPU does not compute in bfloat16 (AVX-512 BF16, AMX or Arm's BF16): take --precision fp32."
        )


def missing(engine: Engine, precision: str = "fp32") -> str | None:
    """The first package that an engine needs for a precision and that is not installed."""
    modules = (*engine.needs, *(engine.quantizer if precision == "int8" else ()))
    return next((module for module in modules if importlib.util.find_spec(module) is None), None)


def _has_bfloat16() -> bool:
    return _has("avx512_bf16", "amx_bf16", "bf16")


def _has_int8() -> bool:
    return _has("avx512_vnni", "avx_vnni", "amx_int8", "dot")


def _has(*names: str) -> bool:
    import torch

    return any(torch.cpu.get_capabilities().get(name) for name in names)
