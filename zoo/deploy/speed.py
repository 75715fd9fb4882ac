"""How long a deployed file takes beside the plain network in timm's eager mode: ratios, measured in turn."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_LEAST = 0.01  # seconds of one timing: what is shorter is repeated
_PEAK = 1024  # side of the square matrices


def speeds(
    runs: dict[str, Callable[[np.ndarray], object]],
    size: tuple[int, int, int],
    macs: int,
    batches: tuple[int, ...] = (1, 32),
    rounds: int = 7,
) -> list[dict[str, Any]]:
    """Time functions on random images, one after the other in each round.

    Args:
        runs: By name; what the times are divided by comes first.
        size: (channels, height, width).
        macs: Multiply-accumulates of the first for one image.
        batches: Images per call.
        rounds: Timings of each.

    Returns:
        For each batch: ``batch``, ``threads``, ``limit`` (the time of as much arithmetic as a float32 matrix product
        at its fastest, over the first one's median) and ``ratios``, by name the ``median``, ``low`` and ``high`` of
        its time over the first one's in the same round.
    """
    generator = np.random.default_rng(0)
    return [_of_batch(runs, generator.standard_normal((n, *size), dtype=np.float32), macs, rounds) for n in batches]


def _of_batch(
    runs: dict[str, Callable[[np.ndarray], object]], images: np.ndarray, macs: int, rounds: int
) -> dict[str, Any]:
    work = {name: functools.partial(run, images) for name, run in runs.items()}
    square = torch.randn(_PEAK, _PEAK)
    work[""] = functools.partial(torch.mm, square, square)
    repeats = {name: _repeats(call) for name, call in work.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(_seconds(call, repeats[name]))
    peak, base = min(times.pop("")) / _PEAK**3, next(iter(times.values()))
    ratios = {}
    for name, own in times.items():
        parts = [a / b for a, b in zip(own, base, strict=True)]
        known = {"median": statistics.median(parts), "low": min(parts), "high": max(parts)}
        ratios[name] = {key: round(value, 3) for key, value in known.items()}
    limit = round(macs * len(images) * peak / statistics.median(base), 3)
    return {"batch": len(images), "threads": torch.get_num_threads(), "limit": limit, "ratios": ratios}


def _repeats(call: Callable[[], object]) -> int:
    for _ in range(2):  # an engine's first calls prepare what later ones use
        call()
    return max(1, round(_LEAST / _seconds(call, 1)))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    call()  # whatever ran before it has taken its place in the caches
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
