"""The learning rate over a run, and the optimizer it belongs to."""

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from ..errors import ZooError
from .recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """timm's optimizer of a recipe; weight decay spares what ``model.no_weight_decay()`` names.

    Args:
        model: The network.
        recipe: Gives optimizer, rate, momentum, weight decay and whether biases and batch norms decay too.

    Raises:
        ZooError: If timm has no such optimizer, or it refuses these values.
    """
    try:
        return create_optimizer_v2(
            model,
            opt=recipe.opt,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=not recipe.decay_all,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ZooError(f"opt: timm cannot make the optimizer {recipe.opt!r} with these values ({error}).") from error


class StepSchedule:
    """Learning rates that change at given epochs, as the papers' tables have them.

    timm's multi-step schedule, counted in updates, changes one update before the milestone, and has no tables.

    Args:
        optimizer: Gets the rates.
        table: Learning rate from the start of each epoch (counted from 0) on.
        updates: Steps per epoch.
        warmup: Epochs of linear warm-up from a hundredth of the rate.
    """

    def __init__(self, optimizer: Optimizer, table: dict[int, float], updates: int, warmup: float = 0.0):
        self.optimizer, self.table, self.updates, self.warmup = optimizer, dict(sorted(table.items())), updates, warmup

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        epoch = step // self.updates
        rate = next(value for start, value in reversed(self.table.items()) if start <= epoch)
        ramp = step / (self.warmup * self.updates) if self.warmup else 1.0
        return rate * (0.01 + 0.99 * ramp) if ramp < 1 else rate

    def step_update(self, step: int) -> None:
        """Set the rates of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group.get("lr_scale", 1.0)


def rate_table(recipe: Recipe) -> dict[int, float]:
    """The learning rates of a step recipe by the epoch they begin at: its table, or rate times factor to the n."""
    if recipe.lr_table:
        return recipe.lr_table
    return {0: recipe.lr, **{m: recipe.lr * recipe.factor**n for n, m in enumerate(sorted(recipe.milestones), 1)}}


def make_schedule(optimizer: Optimizer, recipe: Recipe, updates: int):
    """An object whose ``step_update(step)`` sets the learning rate of a step, counted from 0 over the whole run.

    Args:
        optimizer: Gets the rates.
        recipe: Gives the schedule: ``cosine`` (timm's, to zero) or ``step``.
        updates: Steps per epoch.
    """
    if recipe.sched == "step":
        return StepSchedule(optimizer, rate_table(recipe), updates, recipe.warmup_epochs)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.lr / 100,
        warmup_prefix=False,
        min_lr=0,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    return scheduler


def momentum_restarts(recipe: Recipe, epoch: int) -> bool:
    """Whether the momentum is thrown away before an epoch (counted from 0), as scripts do that restart at each drop."""
    return recipe.restart_momentum and epoch > 0 and epoch in rate_table(recipe)
