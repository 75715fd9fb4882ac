"""The training loop: one process, images on the device, a checkpoint after every epoch."""

import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data import get_dataset, load_arrays
from ..errors import ZooError
from ..files import write_atomically
from .augment import augment
from .recipe import Recipe


class Images:
    """A split held on the device as uint8, delivered in normalised float batches.

    Args:
        images: (N, channels, height, width), uint8.
        labels: (N,), int64.
        mean: Per-channel mean in [0, 1].
        std: Per-channel standard deviation in [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]):
        self.images, self.labels = images, labels
        self.mean = torch.tensor(mean, device=images.device).view(-1, 1, 1) * 255
        self.std = torch.tensor(std, device=images.device).view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, size: int, generator: torch.Generator | None, **augmentation) -> Iterator:
        """Yield (images, labels) for the indices in ``order``; augmented if a generator is given."""
        for index in order.split(size):
            images = self.images[index]
            if generator is not None:
                images = augment(images, generator, **augmentation)
            yield (images.float() - self.mean) / self.std, self.labels[index]


def load_split(recipe: Recipe, data: str | Path, split: str, device: torch.device) -> Images:
    """Read a split for training or for choosing.

    Args:
        recipe: Gives data set, seed and number of held-out images.
        data: Folder of the data set.
        split: ``train`` (less the held-out images) or ``held-out``; the test set has no place here.
        device: Where the images go.
    """
    info = get_dataset(recipe.dataset)
    images, labels = (torch.from_numpy(a) for a in load_arrays(recipe.dataset, data, "train"))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(recipe.seed))
    cut = len(order) - recipe.held_out
    chosen = order[:cut] if split == "train" else order[cut:]
    return Images(images[chosen].to(device), labels[chosen].to(device), info.mean, info.std)


def train(recipe: Recipe, data: str | Path, output: str | Path, resume: bool = False, device: str = "") -> nn.Module:
    """Train a weight; the folder then holds ``checkpoint.pt``, ``log.jsonl`` and ``recipe.json``.

    The checkpoint is replaced atomically after every epoch, so that ``resume`` goes on from the last finished one.
    Data order and augmentation of an epoch depend on seed and epoch alone.

    Args:
        recipe: What to train and how.
        data: Folder of the data set.
        output: Folder of the run.
        resume: Continue the run that lies there; without it an existing run is not overwritten.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Returns:
        The network after the last epoch, in eval mode.

    Raises:
        ZooError: If the folder holds another recipe's run, or the loss is no longer finite.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    output = Path(output)
    checkpoint_file = output / "checkpoint.pt"
    if checkpoint_file.exists() and not resume:
        raise ZooError(f"{output} already holds a run: pass --resume to go on with it, or another folder.")
    torch.manual_seed(recipe.seed)
    training = load_split(recipe, data, "train", place)
    held_out = load_split(recipe, data, "held-out", place) if recipe.held_out else None
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = timm.create_model(recipe.weight, **recipe.model_args).to(place, memory_format=memory_format)
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    updates = math.ceil(len(training) / recipe.batch_size)
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
    fingerprint = hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode()).hexdigest()
    first = 0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file, map_location=place, weights_only=True)
        if state["recipe"] != fingerprint:
            raise ZooError(f"{output} holds a run of another recipe (see recipe.json there): choose another folder.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        first = state["epoch"]
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")

    for epoch in range(first, recipe.epochs):
        started = time.time()
        generator = torch.Generator(place).manual_seed(recipe.seed * 100_003 + epoch)
        order = torch.randperm(len(training), generator=generator, device=place)
        model.train()
        total = torch.zeros((), device=place)
        bar = tqdm(
            training.batches(order, recipe.batch_size, generator, **recipe.augment),
            total=updates,
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            disable=None,
            file=sys.stderr,
        )
        for step, (images, labels) in enumerate(bar):
            scheduler.step_update(epoch * updates + step)
            images = images.contiguous(memory_format=memory_format)
            with torch.autocast(place.type, getattr(torch, recipe.amp or "float32"), enabled=bool(recipe.amp)):
                scores = model(images)
            loss = F.cross_entropy(scores.float(), labels, label_smoothing=recipe.label_smoothing)
            if not torch.isfinite(loss):
                raise ZooError(f"The loss is {loss.item()} at epoch {epoch + 1}, step {step + 1}: lower --set lr=...")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
        line = {
            "epoch": epoch + 1,
            "loss": round(total.item() / len(training), 5),
            "lr": optimizer.param_groups[0]["lr"],
        }
        if held_out is not None:
            line["held_out_top1"] = accuracy(model, held_out)
        line["seconds"] = round(time.time() - started, 1)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch + 1,
            "rng": torch.get_rng_state(),
            "recipe": fingerprint,
        }
        write_atomically(functools.partial(torch.save, state), checkpoint_file)
        with open(output / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr)
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, batch_size: int = 500) -> float:
    """Top-1 accuracy in percent, in float32 and eval mode."""
    model.eval()
    order = torch.arange(len(images), device=images.labels.device)
    right = sum((model(x).argmax(1) == y).sum() for x, y in images.batches(order, batch_size, None))
    return round(100 * right.item() / len(images), 4)
