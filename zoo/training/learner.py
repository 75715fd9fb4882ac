"""One step of training and everything that it changes."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import get_dataset
from ..errors import ZooError
from ..files import is_file
from ..models._bounded import try_out
from ..own_folders import run_recipe
from ..registry import check_name
from ..weights.importers import network_of
from . import checkpoint
from .distributed import Processes
from .recipe import Recipe
from .schedule import make_optimizer, make_schedule, momentum_restarts


def build_network(recipe: Recipe, device: torch.device, begin: bool = False) -> nn.Module:
    """The network of a recipe with its initial weights.

    Args:
        recipe: Gives architecture, arguments and data set.
        device: Where it goes.
        begin: With the tensors that ``start`` names, transformed where the recipe says so; if it names a run of the
            same network, :meth:`Learner.begin_with` takes them.

    Raises:
        ZooError: If there is no such architecture, it refuses the recipe's ``model_args``, or ``start`` does not fit.
    """
    info = get_dataset(recipe.dataset)
    sizes = {"num_classes": info.num_classes, "in_chans": info.input_size[0]}
    if recipe.image_size:  # what evaluation reads off the network
        sizes["pretrained_cfg_overlay"] = {"input_size": recipe.input_size()}
    arch = recipe.weight.split(".", 1)[0]
    if not timm.is_model(arch):
        check_name(arch)  # its message has the close names
    arch, own = network_of(recipe.to_dict())
    arguments = {**sizes, **own}
    if own:
        try_out(arch, own, lambda: timm.create_model(arch, **arguments))
    if begin and recipe.start and not goes_on(recipe):
        model = _begun(recipe, sizes).to(device)
    else:
        model = timm.create_model(arch, **arguments).to(device)
    if recipe.method == "pruned":  # its network begins dense, with room for the masks
        from ..makers.masked import MaskedWeight  # other networks do not depend on its code

        for module in model.modules():
            if isinstance(module, MaskedWeight):
                module.mask.fill_(True)
    if recipe.channels_last:
        for tensor in (*model.parameters(), *model.buffers()):  # Module.to refuses template banks, which have five axes
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def goes_on(recipe: Recipe) -> bool:
    """Whether ``start`` is a run of the same network, whose optimizer state is taken over too."""
    folder = Path(recipe.start)
    return is_file(folder / "checkpoint.pt") and run_recipe(folder).get("transform", "") == recipe.transform


def _begun(recipe: Recipe, sizes: dict[str, Any]) -> nn.Module:
    from ..named import load_named  # other networks do not depend on their code
    from ..transforms import transform

    found = load_named(recipe.start)
    model = timm.create_model(recipe.weight.split(".", 1)[0], **{**sizes, **recipe.model_args})
    try:
        model.load_state_dict(found.model.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ZooError(f"start: {found.name} has other tensors than {recipe.weight} ({reason}).") from None
    return transform(model, recipe.transform) if recipe.transform else model


def load_run(folder: str | Path, best: bool = False) -> nn.Module:
    """The network of a run, in eval mode, on the CPU.

    Args:
        folder: Of the run.
        best: The best epoch's of a run with ``keep: best``, not that of the last checkpoint.

    Raises:
        ZooError: If there is no such run.
    """
    recipe, file = Path(folder) / "recipe.json", Path(folder) / ("best.pt" if best else "checkpoint.pt")
    for path in (recipe, file):
        if not path.is_file():
            raise ZooError(f"{path}: no such file; is {folder} the folder of a run of zoo train?")
    model = build_network(Recipe(**json.loads(recipe.read_text())), torch.device("cpu"))
    model.load_state_dict(checkpoint.load(file)["model"])
    return model.eval()


class Learner:
    """Network, optimizer, schedule, averaged weights and sparse method of a run.

    Args:
        recipe: What to train and how.
        updates: Steps per epoch.
        processes: Who takes part.
        model: The network, from :func:`build_network`.

    Attributes:
        model: The network that is trained.
        lr: Learning rate of the last step.
        record: What the sparse method last reported in this epoch.
        best: With ``keep: best``: ``epoch`` (from 1), ``held_out_top1`` and ``model`` of the best one so far.
    """

    def __init__(self, recipe: Recipe, updates: int, processes: Processes, model: nn.Module):
        self.recipe, self.updates, self.processes, self.model = recipe, updates, processes, model
        place = processes.device
        self.optimizer = make_optimizer(model, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, updates)
        self.scaler = torch.amp.GradScaler(place.type, enabled=recipe.amp == "float16")
        self.ema = ModelEmaV3(model, decay=recipe.ema) if recipe.ema else None
        if self.ema and recipe.method:  # its masks follow those that move, which is no average of them
            from ..makers.whole import WholeNumbers  # other networks do not depend on its code

            for module in self.ema.modules():
                if isinstance(module, WholeNumbers):
                    module.lend()
        self.mix = None
        if recipe.mixup or recipe.cutmix:
            classes = get_dataset(recipe.dataset).num_classes
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
        self.method = self.record = self.best = None
        if recipe.method:
            from .sparsity import make_method

            generator = torch.Generator().manual_seed(recipe.seed)  # the same in all processes
            self.method = make_method(recipe.method, model, recipe.method_options, generator)
        wrapped = processes.wrap(model)
        self.network = torch.compile(wrapped) if recipe.compile else wrapped

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @property
    def result(self) -> nn.Module:
        """The network a run is for: the averaged one if there is one."""
        return self.ema.module if self.ema else self.model

    def step(self, images: Tensor, labels: Tensor, epoch: int, step: int, count: int = 0) -> Tensor:
        """Take one step.

        Args:
            images: The global batch, normalised, (batch, channels, height, width), or this process's part of it.
            labels: (batch,).
            epoch: From 0.
            step: Within the epoch, from 0.
            count: Images in the global batch; 0 if these are all. Of a part, mixup pairs its own images.

        Returns:
            This process's part of the sum of the images' cross entropies, without penalties.
        """
        count = count or len(labels)
        images, targets = self.prepare(images, labels, epoch, step, count)
        loss = self.update(images, targets, epoch, step, count)
        self.move(epoch, step)
        self.average()
        return loss

    def prepare(self, images: Tensor, labels: Tensor, epoch: int, step: int, count: int) -> tuple[Tensor, Tensor]:
        """What comes before a step: restart of the momentum, learning rates, mixup; arguments as of :meth:`step`.

        Returns:
            This process's images and their labels, or after mixup the targets, (part, classes).
        """
        if step == 0 and momentum_restarts(self.recipe, epoch):
            self.optimizer.state.clear()
        self.schedule.step_update(epoch * self.updates + step)
        targets = labels
        if self.mix and len(labels) % 2 == 0:  # timm pairs images; with soft targets smoothing is in them
            images, targets = self.mix(images, labels)
        if len(labels) == count:
            images, targets = self.processes.slice(images), self.processes.slice(targets)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets

    def update(self, images: Tensor, targets: Tensor, epoch: int, step: int, count: int) -> Tensor:
        """Forward, loss, backward and the optimizer's step on what :meth:`prepare` returned; returns as :meth:`step`.

        Except with float16, which scales the loss, nothing here reads a value from the device.
        """
        recipe = self.recipe
        kind = getattr(torch, recipe.amp or "float32")
        with torch.autocast(images.device.type, kind, enabled=bool(recipe.amp)):
            scores = self._scores(images)
        smoothing = recipe.label_smoothing if targets.dim() == 1 else 0.0
        loss = F.cross_entropy(scores.float(), targets, label_smoothing=smoothing) * self.processes.share(count)
        penalty = self.method.penalty() if self.method else None
        objective = loss if penalty is None else loss + penalty
        self.optimizer.zero_grad()
        self.scaler.scale(objective).backward()
        self.scaler.unscale_(self.optimizer)
        if self.method:
            self.method.before_step(epoch, epoch * self.updates + step)
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach() * (count / self.processes.world)

    def moves(self, epoch: int, step: int) -> bool:
        """Whether this step does more than others do: the momentum restarts before it, or weights move with it."""
        restart = step == 0 and momentum_restarts(self.recipe, epoch)
        return restart or bool(self.method and self.method.moves(epoch, epoch * self.updates + step))

    def move(self, epoch: int, step: int) -> None:
        """What a sparse method does after the optimizer's step."""
        if self.method:
            self.record = self.method.after_step(epoch, epoch * self.updates + step) or self.record

    def average(self) -> None:
        """Take the weights into their average, if there is one."""
        if self.ema:
            self.ema.update(self.model)

    def _scores(self, images: Tensor) -> Tensor:
        try:
            return self.network(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ZooError(
                f"Batch norms cannot train on a batch of {len(images)}, which the last one of an epoch is: choose "
                "another batch_size, or hold out some images."
            ) from None

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """What a sparse method does after an epoch (from 0); its last report of the epoch, for the log."""
        if not self.method:
            return {}
        record = self.method.after_epoch(epoch) or self.record
        self.record = None
        return {"sparse": record} if record else {}

    def keep_best(self, epoch: int, top1: float) -> bool:
        """Keep the network if no earlier epoch was as good.

        Args:
            epoch: From 1.
            top1: Its held-out accuracy in percent.

        Returns:
            Whether it was kept.
        """
        if self.best and top1 <= self.best["held_out_top1"]:
            return False
        model = {key: tensor.detach().to("cpu", copy=True) for key, tensor in self.result.state_dict().items()}
        self.best = {"epoch": epoch, "step": 0, "held_out_top1": top1, "model": model}
        return True

    def begin_with(self, state: dict[str, Any]) -> None:
        """Take over network and optimizer state of a finished run, as pruning from a dense network does.

        Raises:
            ZooError: If it is another network's.
        """
        weights = dict(state.get("trained") or state["model"])
        for name, tensor in self.model.state_dict().items():  # an ordinary weight is what is learned under a mask
            plain = name.replace(".parametrizations.weight.original", ".weight")
            if plain in weights:
                weights[name] = weights.pop(plain)
            elif name.endswith(".mask"):
                weights.setdefault(name, tensor)
        try:
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ZooError(f"start: the run there is not of this network ({str(error).splitlines()[0]}).") from None
        if self.ema:
            self.ema.set(self.model)

    def state(self) -> dict[str, Any]:
        """Everything steps change; ``model`` is the result, ``trained`` what an average was taken of."""
        state = {
            "model": self.result.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.ema:
            state["trained"] = self.model.state_dict()
        if self.best:
            state["best"] = self.best
        if self.method:
            state["method"], state["record"] = self.method.state_dict(), self.record
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.result.load_state_dict(state["model"])
        if self.ema:
            self.model.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state.get("best")
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.method:
            self.method.load_state_dict(state["method"])
            self.record = state["record"]
