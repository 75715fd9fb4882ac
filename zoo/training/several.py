"""Several runs by one command: at once on a GPU, one after the other on a CPU, fitted to the time if there is a budget.

On a GPU one thread serves all: it takes the next step of the run that is furthest behind, each on its own CUDA stream.
Steps are launched, not waited for, so that the streams fill the GPU together and the runs end together.
"""

import gc
import itertools
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ..errors import ZooError
from ..own_folders import run_progress
from . import checkpoint
from .captured import WARM_UP, stepper
from .data import load_splits, read_arrays
from .distributed import Processes
from .interruption import Interrupted, Interruption
from .learner import Learner, build_network
from .loop import own_stream, run_steps
from .recipe import Recipe
from .schedule import rate_table
from .tally import StepClock, Tally

TRIAL = 20.0
"""Seconds in which steps are measured before epochs are fitted to the time, or a tenth of it if that is less."""

KEPT = 0.9
"""Share of the time that is fitted; the rest is for checkpoints, held-out images and what the trial did not see."""


@dataclass
class Run:
    """One of several runs.

    Attributes:
        recipe: A :class:`Recipe`, or another one with ``epochs`` and ``to_dict``.
        data: Folder of the data set.
        output: Folder of the run.
        train: What trains it alone, with the arguments of :func:`zoo.training.loop.train`.
        state: How it ended, a few words; empty as long as it has not.
        failed: Whether ``state`` says why it failed.
        begun: Whether it has its epochs from an earlier command.
    """

    recipe: Any
    data: Path
    output: Path
    train: Callable[..., Any]
    state: str = ""
    failed: bool = False
    begun: bool = False

    def fail(self, error: Exception) -> None:
        """Note an error, which is this run's alone."""
        words = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, ZooError):
            traceback.print_exc()
            words = f"{type(error).__name__}: {words}"
        self.state, self.failed = f"failed: {words}", True


def train_several(
    runs: Sequence[Run], resume: bool = False, device: str = "", budget: float = 0, force: bool = False
) -> int:
    """Train several runs; each notes how it ended, and one that fails does not stop the others.

    Args:
        runs: Each with a folder of its own.
        resume: Go on with those that were begun and pass over those that are finished.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        budget: Seconds for all; 0 for no limit. Image networks that are not begun yet get as many epochs as fit, see
            :func:`fitted`; what is not finished by then stops with a checkpoint.
        force: Resume although versions or code have changed.

    Returns:
        The signal that stopped them, 0 if none did.

    Raises:
        ZooError: Before anything is trained: if a folder holds a run already and ``resume`` is not set, or there are
            several processes.
    """
    end = time.monotonic() + budget if budget else math.inf
    processes = Processes.join(device)
    if processes.world > 1:
        raise ZooError("Several processes train one run: with torchrun name one recipe and one seed.")
    for run in runs:
        if (run.output / "checkpoint.pt").exists() and not resume:
            raise checkpoint.occupied(run.output)
    load = partial(load_splits, read=cache(read_arrays))
    with ExitStack() as held, Interruption() as told:
        for run in runs:
            try:
                if isinstance(run.recipe, Recipe):  # other trainings hold their folders themselves
                    held.enter_context(checkpoint.only_trainer(run.output, processes))
                if resume and (run.output / "recipe.json").exists():
                    _recall(run)
            except Exception as error:
                run.fail(error)
        images = [run for run in runs if isinstance(run.recipe, Recipe) and not run.state]
        if budget:
            _fit(images, processes, load, end, told)
        lanes = [[run] for run in runs]
        if processes.device.type == "cuda":
            lanes = [images, *([run] for run in runs if not isinstance(run.recipe, Recipe))]
        for lane in lanes:
            lane = [run for run in lane if not run.state]
            if told.signal or time.monotonic() > end:
                for run in lane:
                    run.state = "stopped by a signal" if told.signal else "stopped by --budget"
            elif lane and not isinstance(lane[0].recipe, Recipe):
                _train_alone(lane[0], resume, device, end, force, told)
            else:
                labelled = len(runs) > 1
                _train_together(lane, resume, processes, end, force, told, load, labelled)
        return told.signal


def _train_alone(run: Run, resume: bool, device: str, end: float, force: bool, told: Interruption) -> None:
    left = 0 if math.isinf(end) else max(end - time.monotonic(), 1e-9)
    try:
        run.train(run.recipe, run.data, run.output, resume, device, left, force)
        _note_end(run)
    except Interrupted as stop:
        run.state, told.signal = str(stop), stop.signal
    except Exception as error:
        run.fail(error)


def _train_together(
    runs: Sequence[Run],
    resume: bool,
    processes: Processes,
    end: float,
    force: bool,
    told: Interruption,
    load: Callable[..., Any],
    labelled: bool,
) -> None:
    def steps(run: Run) -> Iterator[float]:
        arguments = (run.recipe, run.data, run.output, resume, processes, end, force, nullcontext(told), load)
        return run_steps(*arguments, label=f"{run.output.name} " if labelled else "")

    going = [_Going(run, steps(run), own_stream(processes)) for run in runs]
    while going:
        behind = min(going, key=lambda one: one.share)
        try:
            behind.advance()
            continue
        except StopIteration:
            _note_end(behind.run)
        except Interrupted as stop:
            behind.run.state = str(stop)
        except Exception as error:
            behind.run.fail(error)
        going.remove(behind)


@dataclass
class _Going:
    run: Run
    steps: Iterator[float]
    stream: Any
    share: float = -1.0

    def advance(self) -> None:
        with self.stream:
            self.share = next(self.steps)


def _note_end(run: Run) -> None:
    done, epochs = run_progress(run.output)
    run.state = "finished" if done >= epochs else "stopped by --budget"


def _recall(run: Run) -> None:
    """Take over the epochs of a run that was fitted to its time, and see whether it is finished."""
    try:
        stored = json.loads((run.output / "recipe.json").read_text())
        epochs = int(stored["epochs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{run.output}: its recipe.json cannot be read ({error}).") from None

    def same(recipe: Any) -> bool:
        wanted = json.loads(json.dumps(recipe.to_dict()))
        free = ("start", "masks_from", *checkpoint.FREE)
        return all(key in free or stored.get(key, value) == value for key, value in wanted.items())

    if epochs < run.recipe.epochs and same(fitted(run.recipe, epochs)):
        run.recipe, run.begun = fitted(run.recipe, epochs), True
    saved = (run.output / "checkpoint.pt").exists()
    run.begun = run.begun or saved
    if saved and same(run.recipe) and run_progress(run.output)[0] >= epochs:
        run.state = "finished already"


def fitted(recipe: Any, epochs: int) -> Any:
    """A recipe in fewer epochs: what it counts in epochs or steps shrinks in proportion, from the first step on.

    That is the warm-up, milestones, tables of rates, and of sparse methods the epochs in ``period`` and
    ``temperature``, ``stop_epoch``, ``end_iteration`` and the prunes. A cosine ends with the epochs by itself.

    Args:
        recipe: A :class:`Recipe`, or one of another task, of which the epochs alone change.
        epochs: Not more than it has.
    """
    share = epochs / recipe.epochs
    if not isinstance(recipe, Recipe) or share == 1:
        return replace(recipe, epochs=epochs)

    def less(number: Any) -> int:
        return max(round(float(number) * share), min(int(float(number)), 1))

    def epoch(number: Any) -> int:  # what begins before the end goes on doing so, if need be together with the next
        return less(number) if float(number) >= recipe.epochs else min(less(number), max(epochs - 1, 1))

    def table(values: Mapping[Any, Any]) -> dict[int, Any]:
        return {epoch(key): values[key] for key in sorted(values, key=int)}

    options = dict(recipe.method_options)
    for key in options.keys() & {"stop_epoch", "end_iteration"}:
        options[key] = None if options[key] is None else less(options[key])
    for key in options.keys() & {"period", "temperature"}:
        options[key] = table(options[key]) if isinstance(options[key], Mapping) else options[key]
    if recipe.method == "pruned":  # all of it is pruned within the epochs, if need be in fewer parts
        start = min(round(int(options.get("start_epoch", 0)) * share), epochs - 1)
        whole, prunes = int(options.get("every", 2)), int(options.get("prunes", 20))
        every, span = max(int(whole * share), 1), min(int(whole * (prunes - 1) * share), epochs - 1 - start)
        prunes = min(prunes, span // every + 1)
        options |= {"every": every, "prunes": prunes} | ({"start_epoch": start} if "start_epoch" in options else {})
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=recipe.warmup_epochs * share,
        milestones=[epoch(milestone) for milestone in recipe.milestones],
        lr_table=table(recipe.lr_table),
        method_options=options,
    )


def _fit(runs: Sequence[Run], processes: Processes, load: Callable[..., Any], end: float, told: Interruption) -> None:
    """Give the runs that are not begun as many epochs as fit into the time, and write that down."""
    if all(run.begun for run in runs):
        return
    pace = _pace(runs, processes, load, end, told)
    if processes.device.type == "cuda":  # what the trials took is of no use to the runs, which have other streams
        gc.collect()
        torch.cuda.empty_cache()
    new, begun = ([run for run in runs if run.begun == known and not run.state] for known in (False, True))
    if told.signal or not new:
        return
    rest = sum(1 - done / epochs for done, epochs in (run_progress(run.output) for run in begun))
    share = (KEPT * pace * (end - time.monotonic()) * len(new + begun) - rest) / len(new)
    for run in new:
        wanted, whole = run.recipe, run.recipe.epochs
        run.recipe = fitted(run.recipe, min(max(int(whole * share), 1), whole))
        fit, lost = f"{run.output.name}: {run.recipe.epochs} of {whole} epochs fit into the time", ""
        if (kept := _rates(run.recipe)) < (rates := _rates(wanted)):
            lost = f"; too few for its schedule: {kept} of its {rates} learning rates are used"
        print(fit + lost, file=sys.stderr)
        try:
            checkpoint.write(json.dumps(run.recipe.to_dict(), indent=2).encode() + b"\n", run.output / "recipe.json")
        except ZooError as error:
            run.fail(error)


def _rates(recipe: Recipe) -> int:
    """How many learning rates a step recipe comes to; 1 of a cosine."""
    return sum(epoch < recipe.epochs for epoch in rate_table(recipe)) if recipe.sched == "step" else 1


def _pace(runs: Sequence[Run], processes: Processes, load: Callable[..., Any], end: float, told: Interruption) -> float:
    """Which share of all these runs a second does, by a trial of their steps that leaves nothing behind."""
    cuda = processes.device.type == "cuda"
    with ExitStack() as stack:
        trials = []
        for run in runs:
            steps = stack.enter_context(closing(_trial(run, processes, load)))
            trial = _Going(run, steps, own_stream(processes))
            try:
                for _ in range(WARM_UP + 2 if cuda else 1):
                    trial.advance()
                trials.append(trial)
            except Exception as error:
                run.fail(error)
        if not trials:
            return 0.0
        before = sum(trial.share for trial in trials)
        least = {id(trial): 2 for trial in trials}
        if cuda:
            torch.cuda.synchronize(processes.device)
        began = time.monotonic()
        until = began + min(TRIAL, (end - began) / 10)
        while not told.signal and (time.monotonic() < until or any(least.values())):
            trial = min(trials, key=lambda one: (not least[id(one)], one.share))
            trial.advance()
            least[id(trial)] = max(least[id(trial)] - 1, 0)
        if cuda:
            torch.cuda.synchronize(processes.device)
        return (sum(trial.share for trial in trials) - before) / len(trials) / (time.monotonic() - began)


def _trial(run: Run, processes: Processes, load: Callable[..., Any]) -> Iterator[float]:
    recipe, device = run.recipe, processes.device
    torch.manual_seed(recipe.seed)
    training = load(recipe, run.data, device)[0]["train"]
    updates = math.ceil(len(training) / recipe.batch_size)
    learner, tally, done = Learner(recipe, updates, processes, build_network(recipe, device)), Tally(device), 0
    take, clock = stepper(learner, tally, len(training), say=lambda line: None), StepClock(device)
    learner.model.train()
    for epoch in itertools.count():
        generator = torch.Generator(device).manual_seed(epoch)
        order = torch.randperm(len(training), generator=generator, device=device)
        for step, (images, labels, count) in enumerate(training.epoch(epoch, order, generator, 0, processes)):
            with clock:
                take(images, labels, epoch, step, count)
            done += 1
            yield done / (updates * recipe.epochs)
        learner.end_epoch(epoch)
