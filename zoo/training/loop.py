"""The training loop: a checkpoint as often as the recipe says, one log line per epoch."""

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import distribute_bn
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ZooError
from . import checkpoint
from .captured import stepper
from .data import Images, Photographs, load_splits
from .distributed import Processes
from .interruption import Interruption
from .learner import Learner, build_network, goes_on
from .recipe import Recipe
from .tally import StepClock, Tally
from .used_code import used_code


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the one after them.
        total: Sum of the losses of these steps' images, this process's part.
        seconds: Time these steps took with all that belongs to them.
        step_seconds: Time in the steps themselves, without waiting for data, checks, and writing.
        forced: What differed in an earlier part of the epoch and was forced, see :func:`.checkpoint.check_identity`.
        log: Lines of the finished epochs.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    seconds: float = 0.0
    step_seconds: float = 0.0
    forced: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


def train(
    recipe: Recipe,
    data: str | Path,
    output: str | Path,
    resume: bool = False,
    device: str = "",
    budget: float = 0,
    force: bool = False,
) -> nn.Module:
    """Train a weight; the folder then holds ``checkpoint.pt``, ``log.jsonl``, ``recipe.json`` and ``curve.png``.

    With ``keep: best`` there is also ``best.pt``, the network of the epoch that was best on the held-out images so far
    (which one stands in the log); ``checkpoint.pt`` is always the last.

    ``resume`` goes on from the last checkpoint, on the CPU bit for bit as if nothing had happened. Under torchrun every
    process calls this; each takes its part of the same batches in the same order.

    Args:
        recipe: What to train and how.
        data: Folder of the data set.
        output: Folder of the run.
        resume: Continue the run that lies there, if any; without it an existing run is not overwritten.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        budget: Seconds after which to stop with a checkpoint, unfinished; 0 for no limit.
        force: Resume although versions or code have changed since; the log's next line then has ``forced``.

    Returns:
        The network after the last epoch (or the best one, by ``keep``), or where the budget ended, in eval mode.

    Raises:
        ZooError: If the folder holds a run that is not this one or that another process is at, the loss is no longer
            finite, or the disk is full.
        Interrupted: If SIGINT or SIGTERM came: the run has saved and stopped at the step it was at.
    """
    processes, output = Processes.join(device), Path(output)
    end = time.monotonic() + budget if budget else math.inf
    with checkpoint.only_trainer(output, processes), own_stream(processes):
        steps = run_steps(recipe, data, output, resume, processes, end, force, Interruption())
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value


def own_stream(processes: Processes) -> AbstractContextManager:
    """A CUDA stream for a run, which a step needs to be captured; nothing where there is no GPU, or several."""
    alone = processes.device.type == "cuda" and processes.world == 1
    return torch.cuda.stream(torch.cuda.Stream(processes.device)) if alone else nullcontext()


def run_steps(
    recipe: Recipe,
    data: str | Path,
    output: Path,
    resume: bool,
    processes: Processes,
    end: float,
    force: bool,
    interruption: AbstractContextManager[Interruption],
    load: Callable[..., Any] = load_splits,
    label: str = "",
) -> Iterator[float]:
    """:func:`train` step by step, for those who have several runs to see to; its folder is held by the caller.

    Args:
        recipe: What to train and how.
        data: Folder of the data set.
        output: Folder of the run.
        resume: Continue the run that lies there, if any.
        processes: Who takes part.
        end: When to stop with a checkpoint, by ``time.monotonic``.
        force: Resume although versions or code have changed.
        interruption: Signals that stop the run.
        load: Reads the data.
        label: Put before the lines on standard error.

    Yields:
        Which share of the run is done, after each step.

    Returns:
        The network, in eval mode; errors as :func:`train`.
    """
    file = output / "checkpoint.pt"
    if file.exists() and not resume:
        raise checkpoint.occupied(output)
    torch.manual_seed(recipe.seed)
    np.random.seed(recipe.seed)  # timm's mixup draws from it, alike in all processes
    splits, digest = load(recipe, data, processes.device)
    training, held_out = splits["train"], splits["held-out"]
    updates = math.ceil(len(training) / recipe.batch_size)
    network = build_network(recipe, processes.device, begin=not file.exists())
    if recipe.masks_from and not file.exists():
        from .sparsity import transfer_masks

        transfer_masks(network, checkpoint.load(Path(recipe.masks_from) / "checkpoint.pt")["model"])
    learner = Learner(recipe, updates, processes, network)
    if processes.rank:
        torch.manual_seed(recipe.seed + processes.rank)  # dropout differs where the images do
    parts = [part for part in (network, learner.method) if part]
    code = used_code(__name__, *parts)
    identity = checkpoint.identity(recipe, digest, processes.device, processes.world, code)
    position, generator = Position(), None
    if file.exists():
        state = checkpoint.load(file)
        forced = checkpoint.check_identity(state.get("identity"), identity, output, force)
        with checkpoint.must_fit(output):
            learner.restore(state)
            checkpoint.restore_random_state(state["random"][processes.rank])
            total = state["position"].pop("totals")[processes.rank]
            position = Position(**state["position"], epoch=state["epoch"], step=state["step"], total=total)
        position.forced += forced
        if processes.first:
            checkpoint.warn_of(forced, output)
        if position.step:
            generator = torch.Generator(processes.device)
            generator.set_state(state["generator"])
    elif recipe.start and goes_on(recipe):
        learner.begin_with(checkpoint.load(Path(recipe.start) / "checkpoint.pt"))
    processes.wait()  # all have read before one writes
    if processes.first:
        checkpoint.remove_leftovers(output)
        checkpoint.write(json.dumps(recipe.to_dict(), indent=2).encode() + b"\n", output / "recipe.json")
        if position.log:  # the checkpoint's, if the run ended before it was written
            checkpoint.write_lines(map(json.dumps, position.log), output / "log.jsonl")
        if recipe.method and not file.exists():  # training a final mask from its own initial weights needs them
            checkpoint.save({"model": learner.model.state_dict(), "epoch": 0, "step": 0}, output / "initial.pt")

    def save(generator: torch.Generator | None) -> None:
        state = {
            **learner.state(),
            "epoch": position.epoch,
            "step": position.step,
            "generator": generator.get_state() if generator else None,
            "random": processes.gather(checkpoint.random_state()),
            "position": {
                "seconds": position.seconds,
                "step_seconds": position.step_seconds,
                "forced": position.forced,
                "log": position.log,
                "totals": processes.gather(position.total),
            },
            "identity": identity,
        }
        if processes.first:
            checkpoint.save(state, file)
        processes.wait()

    def save_best() -> None:
        if processes.first and learner.best:
            checkpoint.save(learner.best, output / "best.pt")

    save_best()  # the one of the checkpoint, if the run ended before it was written
    done = position.epoch * updates + position.step
    bar = tqdm(total=recipe.epochs * updates, initial=done, desc=output.name, disable=None if processes.first else True)
    tally = Tally(processes.device)
    take = stepper(learner, tally, len(training))
    with bar, interruption as told:
        while position.epoch < recipe.epochs:
            whole = yield from _epoch(learner, training, position, generator, end, save, bar, told, take, tally)
            if not whole:
                told.check(f"epoch {position.epoch + 1}, step {position.step}")
                return learner.result.eval()
            generator = None
            line = {"epoch": position.epoch + 1, "loss": position.total, "lr": learner.lr}
            line |= learner.end_epoch(position.epoch)
            line |= {"forced": position.forced} if position.forced else {}
            if len(held_out):
                began = time.monotonic()
                line["held_out_top1"] = accuracy(learner.result, held_out, processes)
                position.seconds += time.monotonic() - began
            better = recipe.keep == "best" and learner.keep_best(line["epoch"], line["held_out_top1"])
            if learner.best:
                line["best_epoch"] = learner.best["epoch"]
            line["seconds"] = round(position.seconds, 1)
            line["step_share"] = round(position.step_seconds / max(position.seconds, 1e-9), 3)
            log = [*position.log, line]
            position.__dict__.update(Position(epoch=position.epoch + 1, log=log).__dict__)
            save(None)
            if better:
                save_best()
            if processes.first:
                checkpoint.write_lines(map(json.dumps, log), output / "log.jsonl")
                tqdm.write(label + json.dumps(line), file=sys.stderr)
            if position.epoch < recipe.epochs and told.agree(processes):
                told.check(f"the end of epoch {position.epoch}")
    if processes.first and importlib.util.find_spec("matplotlib"):
        from .curve import plot_loss

        plot_loss(position.log, output / "curve.png", recipe.weight)
    if learner.best:
        learner.result.load_state_dict(learner.best["model"])
    return learner.result.eval()


def _epoch(
    learner: Learner,
    training: Images | Photographs,
    position: Position,
    generator: torch.Generator | None,
    end: float,
    save: Callable[[torch.Generator | None], None],
    bar: tqdm,
    interruption: Interruption,
    take: Callable[..., None],
    tally: Tally,
) -> Iterator[float]:
    """Train from a position to the end of its epoch; False, after saving, if the time ran out or a signal came before.

    Order and augmentation of an epoch come from a generator seeded by recipe and epoch, in that order; ``generator``
    is that generator as it stood in a checkpoint.
    """
    recipe, processes = learner.recipe, learner.processes
    place, began, before = processes.device, time.monotonic(), position.seconds
    fresh = torch.Generator(place).manual_seed(recipe.seed * 100_003 + position.epoch)
    order = torch.randperm(len(training), generator=fresh, device=place)
    generator = generator or fresh
    alone = processes.world == 1  # several stop together, at their next look at each other
    often = 1 if alone and place.type == "cpu" else 20
    tally.begin(position.total, position.step)
    clock = StepClock(place)
    learner.model.train()
    for images, labels, count in training.epoch(position.epoch, order, generator, position.step, processes):
        with clock:
            take(images, labels, position.epoch, position.step, count)
        position.step += 1
        bar.update()
        last = position.step == learner.updates
        due = bool(recipe.checkpoint_every) and position.step % recipe.checkpoint_every == 0 and not last
        over = time.monotonic() > end
        told = alone and bool(interruption.signal or over)
        regular = position.step % often == 0 and (often == 1 or not alone)  # on a GPU it would have to wait
        if due or last or told or regular:
            _check(tally.bad, position.epoch, processes, bar)
            over = any(processes.gather(over))
            if interruption.agree(processes) or ((due or over) and not last):
                position.total, position.seconds = tally.total.item(), before + time.monotonic() - began
                position.step_seconds += clock.take()
                save(generator)
                if over or interruption.signal:
                    return False
        yield (position.epoch + position.step / learner.updates) / recipe.epochs
    position.total = round(processes.sum(tally.total).item() / len(training), 5)
    position.seconds = before + time.monotonic() - began
    position.step_seconds += clock.take()
    return True


def _check(bad: Tensor, epoch: int, processes: Processes, bar: tqdm) -> None:
    firsts = [first for first in processes.gather(bad.tolist()) if not math.isinf(first[0])]
    if firsts:
        step, loss = min(firsts)
        bar.close()
        raise ZooError(
            f"The loss is {loss} at epoch {epoch + 1}, step {step:.0f}: lower it with --set lr=... and begin anew; the "
            "last good checkpoint, if there is one, is kept."
        )


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images | Photographs, processes: Processes) -> float:
    """Top-1 accuracy in percent of the first process's network, in float32 and eval mode; all take their part."""
    model.eval()
    if processes.world > 1:
        distribute_bn(model, processes.world, reduce=False)
    right = torch.zeros((), dtype=torch.long, device=processes.device)
    for x, y in images.part(processes):
        right += (model(x).argmax(1) == y).sum()
    return round(100 * processes.sum(right).item() / len(images), 4)
