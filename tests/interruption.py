"""Ending a run where it is not ready for it, for the tests that then go on with it."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from zoo.training.learner import Learner


class Stopped(Exception):
    """What stands for a crash."""


def crash_at(monkeypatch, step: int) -> Callable[[], None]:
    """Let the ``step``-th step of the process (from 1) crash; returns how to undo that."""
    real, calls = Learner.step, []

    def stop(*args):
        calls.append(1)
        if len(calls) == step:
            raise Stopped
        return real(*args)

    monkeypatch.setattr(Learner, "step", stop)
    return lambda: monkeypatch.setattr(Learner, "step", real)


def kill_after_checkpoint(command: Sequence[str], file: Path, environment: Mapping[str, str]) -> None:
    """Start a process and end it with SIGKILL as soon as its first checkpoint is there."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None, "it ended without a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether every tensor of ``a`` is, to the bit, the one of ``b``."""
    return all(torch.equal(tensor, b[key]) for key, tensor in a.items())
