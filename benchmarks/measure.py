"""What the measuring scripts share: the machine's name, times in turn, and results as a file."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

_SIDE = 1024


def machine(threads: int) -> dict[str, Any]:
    """The processor, threads, versions, and the fastest float32 matrix product now, in 10^9 multiply-adds a second."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    versions = {}
    for name in ("torch", "timm", "onnxruntime", "openvino", "nncf"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    square = torch.randn(_SIDE, _SIDE)
    best = min(seconds(lambda: square @ square) for _ in range(15))
    return {
        "cpu": cpu,
        "features": sorted({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"} & set(flags)),
        "threads": threads,
        "load": [round(value, 1) for value in os.getloadavg()],
        "peak": round(_SIDE**3 / best / 1e9, 1),
        "versions": versions,
        "date": date.today().isoformat(),
    }


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Processor time of one call, that of all its threads."""
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def in_turn(
    work: dict[str, Callable[[], object]],
    rounds: int,
    between: Callable[[], object] | None = None,
    clock: Callable[[Callable[[], object], int], float] = seconds,
) -> dict[str, list[float]]:
    """Time functions in turn in each round.

    Args:
        work: By name.
        rounds: How often.
        between: Called before each timing, which is then of a single call; else the function itself is.
        clock: Gives the seconds of one call of a function that it calls so many times.

    Returns:
        Seconds by name, one figure a round.
    """
    repeats = {}
    for name, run in work.items():
        run(), run()
        repeats[name] = max(1, round(0.005 / max(clock(run, 1), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            (between or run)()  # whatever ran before it has taken its place in the caches
            times[name].append(clock(run, 1 if between else repeats[name]))
    return times


def over(times: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """By name the median, lowest and highest of time over that of another in the same round."""
    found = {}
    for name, own in times.items():
        parts = [a / b for a, b in zip(own, times[base], strict=True)]
        found[name] = [round(value, 3) for value in (statistics.median(parts), min(parts), max(parts))]
    return found


def ratios(
    work: dict[str, Callable[[], object]], rounds: int, between: Callable[[], object] | None = None
) -> tuple[float, dict[str, list[float]]]:
    """The median time of the first in seconds, and of all :func:`over` the first; arguments as of :func:`in_turn`."""
    times = in_turn(work, rounds, between)
    first = next(iter(times))
    return statistics.median(times[first]), over(times, first)


def write(path: str, result: dict[str, Any]) -> None:
    """Write a result as JSON, a line for each of its rows."""
    lines = [f'"machine": {json.dumps(result["machine"])}']
    for key, rows in result.items():
        if key != "machine":
            lines.append(f'"{key}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]")
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")
