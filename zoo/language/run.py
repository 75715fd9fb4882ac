"""A run of a language model in progress: its steps, the end of an epoch, and its checkpoint."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import ZooError
from ..training import checkpoint
from ..training.interruption import Interruption
from ..weights.convert import safetensors_bytes
from .data import PADDING
from .perplexity import perplexity
from .recipe import LanguageRecipe


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the one after them.
        total: Sum of the losses of these steps' words, in nats.
        seconds: Time these steps took.
        hidden: State of the recurrent layers after them: hidden and, of LSTM, cell state; empty before the first.
        forced: What differed in an earlier part of the epoch and was forced, see
            :func:`zoo.training.checkpoint.check_identity`.
        log: Lines of the finished epochs.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    seconds: float = 0.0
    hidden: list[Tensor] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """A run in progress.

    Attributes:
        recipe: What is trained and how.
        model: The network.
        pieces: Inputs and targets of an epoch's steps, each (words per column, columns).
        file: Where the checkpoint goes.
        identity: Of :func:`zoo.training.checkpoint.identity`.
        position: Where the run stands.
    """

    recipe: LanguageRecipe
    model: nn.Module
    pieces: list[tuple[Tensor, Tensor]]
    file: Path
    identity: dict[str, Any]
    position: Position = field(default_factory=Position)

    def __post_init__(self):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.recipe.lr)

    def save(self) -> None:
        """Replace the checkpoint."""
        position = dict(vars(self.position))
        state = {"epoch": position.pop("epoch"), "step": position.pop("step"), "position": position}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save({**state, "random": checkpoint.random_state(), "identity": self.identity}, self.file)

    def restore(self, state: dict[str, Any], place: torch.device, force: bool = False) -> None:
        """Go on from a checkpoint.

        Args:
            state: The checkpoint.
            place: Where the model is.
            force: Go on although versions or code have changed.

        Raises:
            ZooError: If it is of another run.
        """
        folder = self.file.parent
        forced = checkpoint.check_identity(state.get("identity"), self.identity, folder, force)
        with checkpoint.must_fit(folder):
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.position = Position(epoch=state["epoch"], step=state["step"], **state["position"])
            self.position.hidden = [part.to(place) for part in self.position.hidden]
            checkpoint.restore_random_state(state["random"])
        self.position.forced += forced
        checkpoint.warn_of(forced, folder)

    def train_epoch(self, end: float, bar: tqdm, interruption: Interruption) -> bool:
        """Train to the end of the epoch; False, after a checkpoint, if the clock reaches ``end`` or a signal comes.

        Dropout of an epoch depends on seed and epoch alone.

        Raises:
            ZooError: If the loss is no longer finite.
        """
        recipe, position = self.recipe, self.position
        began, before = time.monotonic(), position.seconds
        self.model.train()
        if not position.step:
            torch.manual_seed(recipe.seed * 100_003 + position.epoch)
        for words, wanted in self.pieces[position.step :]:
            if recipe.sched == "cosine":
                share = (position.epoch + position.step / len(self.pieces)) / recipe.epochs
                self.optimizer.param_groups[0]["lr"] = recipe.lr * (1 + math.cos(math.pi * share)) / 2
            scores, hidden = self.model(words, _as_state(position.hidden))
            loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=PADDING)
            if not torch.isfinite(loss):
                raise self.diverged(f"loss is {loss.item()} at epoch {position.epoch + 1}, step {position.step + 1}")
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            self.optimizer.step()
            position.hidden = [part.detach() for part in ((hidden,) if isinstance(hidden, Tensor) else hidden)]
            position.total += loss.item() * (wanted != PADDING).sum().item()
            position.step += 1
            position.seconds = before + time.monotonic() - began
            bar.update()
            over = time.monotonic() > end
            due = bool(recipe.checkpoint_every) and position.step % recipe.checkpoint_every == 0
            if interruption.signal or ((due or over) and position.step < len(self.pieces)):
                self.save()
                if over or interruption.signal:
                    return False
        return True

    def end_epoch(self, valid: Tensor, first: int) -> None:
        """Measure, keep the model if it is the best, and write the checkpoint.

        Args:
            valid: The validation text as word numbers, (words,).
            first: Number of ``<eos>``.

        Raises:
            ZooError: If the loss is no longer finite, or a file cannot be written.
        """
        recipe, position, group = self.recipe, self.position, self.optimizer.param_groups[0]
        began = time.monotonic()
        measured = perplexity(self.model, valid, first, columns=recipe.eval_columns, steps=recipe.steps, name="valid")
        if not math.isfinite(measured.perplexity):
            raise self.diverged(f"validation loss is {measured.loss} after epoch {position.epoch + 1}")
        better = all(measured.loss < line["valid_loss"] for line in position.log)
        line = {
            "epoch": position.epoch + 1,
            "loss": position.total / sum((wanted != PADDING).sum().item() for _, wanted in self.pieces),
            "valid_loss": measured.loss,
            "valid_perplexity": round(measured.perplexity, 3),
            "best": better,
            "lr": group["lr"],
            "seconds": round(position.seconds + time.monotonic() - began, 1),
        }
        line |= {"forced": position.forced} if position.forced else {}
        if better:
            # before the checkpoint: if the process dies in between, the steps are repeated and give the same model
            tensors = {key: tensor.cpu().contiguous() for key, tensor in self.model.state_dict().items()}
            checkpoint.write(safetensors_bytes(tensors, {"format": "pt"}), self.file.with_name("model.safetensors"))
        elif recipe.sched == "plateau":
            group["lr"] /= recipe.lr_divisor
        self.position = Position(epoch=position.epoch + 1, log=[*position.log, line])
        self.save()

    def diverged(self, what: str) -> ZooError:
        """The error for a loss that is not finite."""
        return ZooError(
            f"The {what}: lower --set lr=... (now {self.recipe.lr}) or --set clip=... and begin anew; "
            f"{checkpoint.kept(self.file)}."
        )


def _as_state(hidden: list[Tensor]) -> Tensor | tuple[Tensor, ...] | None:
    return None if not hidden else hidden[0] if len(hidden) == 1 else tuple(hidden)
