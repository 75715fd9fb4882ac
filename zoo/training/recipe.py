"""Recipes: small YAML files that say all that decides a trained weight."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data import get_dataset
from ..errors import UnknownNameError, ZooError
from ..files import LARGEST_TEXT, read_file
from ..settings import read_yaml
from ..suggest import close_names, did_you_mean
from .values import check_ranges, typed

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


AUGMENT = {"pad": int, "reflect": bool, "crop": int, "rotate": float, "flip": bool, "cutout": int}
"""Keys of ``augment`` with their types: arguments of :func:`.augment.augment`, and the side of the cut-out square."""

PHOTO_AUGMENT = (
    "scale",
    "ratio",
    "train_crop_mode",
    "hflip",
    "vflip",
    "color_jitter",
    "color_jitter_prob",
    "grayscale_prob",
    "gaussian_blur_prob",
    "auto_augment",
    "interpolation",
)
"""Keys of ``augment`` for photographs in folders: arguments of ``timm.data.create_transform``."""

FOLDERS = ("imagenet", "in1k")
"""Data sets that are folders of photographs."""

MAPPINGS = ("augment", "model_args", "method_options", "lr_table")
"""Keys whose entries can be replaced singly, as in ``augment.pad``."""

ABOUT = ("published", "twins", "remark")
"""Keys that say what a recipe's weight is compared with, see :mod:`.comparison`; no part of the training."""

RANGES = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "factor": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "label_smoothing": (0, 1),
    "image_size": (0, math.inf),
    "workers": (0, math.inf),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
    "ema": (0, 1),
    "clip_grad": (0, math.inf),
    "seed": (0, 2**32),  # NumPy takes no larger one
    "held_out": (0, math.inf),
    "checkpoint_every": (0, math.inf),
}
"""Smallest value, and the one to stay below."""

CHOICES = {
    "sched": ("cosine", "step"),
    "held_out_from": ("random", "last"),
    "amp": ("", "bfloat16", "float16"),
    "keep": ("last", "best"),
}


@dataclass
class Recipe:
    """One training run.

    Attributes:
        weight: ``arch.tag`` of the weight it makes.
        dataset: Data set name.
        model_args: Arguments of the architecture beyond classes and channels.
        transform: What is done to the architecture, as :func:`zoo.transform` takes it; empty for nothing.
        epochs: Passes over the training set.
        batch_size: Images per step, over all processes.
        opt: Optimizer name, timm's (``sgd`` is SGD with Nesterov momentum, ``momentum`` without).
        lr: Peak learning rate.
        momentum: Momentum.
        weight_decay: L2 penalty; timm's rule spares biases, batch norms and what ``model.no_weight_decay()`` names.
        decay_all: Decay biases and batch norms too, as the five papers do; ``no_weight_decay()`` still holds.
        sched: ``cosine`` to zero, or ``step``.
        milestones: Of ``step``: epochs (from 0) at whose start the rate is multiplied by ``factor``.
        factor: See ``milestones``.
        lr_table: Of ``step``, in place of ``lr`` and ``milestones``: learning rate by the epoch it begins at.
        restart_momentum: Forget the momentum at each change of a ``step`` schedule.
        warmup_epochs: Linear warm-up from a hundredth of the rate, within the epochs.
        label_smoothing: Probability mass spread over all classes.
        augment: See :data:`AUGMENT`; for photographs :data:`PHOTO_AUGMENT`.
        image_size: Side of the crops of photographs, 0 for the data set's usual one.
        workers: Processes that read photographs, for each training process; the result does not depend on it.
        mixup: Alpha of mixup (timm's), 0 for none.
        cutmix: Alpha of CutMix (timm's), 0 for none; with both, each batch gets one of them.
        ema: Decay of the exponential moving average of the weights (timm's), which is then the result; 0 for none.
        clip_grad: Largest norm of the gradient, 0 for no limit.
        amp: Autocast data type, ``bfloat16``, ``float16`` or empty for float32 throughout.
        channels_last: Memory format of images and kernels.
        compile: Use ``torch.compile``.
        mean: Per-channel mean of the normalisation in [0, 1]; empty for the data set's.
        std: Per-channel standard deviation; empty for the data set's.
        seed: Seed of initialisation, data order, augmentation and dropout.
        held_out: Training images kept apart for choices; 0 for the final run.
        held_out_from: The ``last`` ones of the file, or of a seeded permutation (``random``).
        keep: The result is the network after the ``last`` epoch, or after the ``best`` one on the held-out images.
        method: How sparse weights move, a name of :mod:`zoo.training.sparsity`; empty for not at all.
        method_options: Its options.
        start: Folder of a finished run whose network and optimizer state this one begins with; or a weight, or a saved
            network or run of the architecture before ``transform``, whose tensors alone are taken; empty for none.
        masks_from: Folder of a finished run whose final masks this one begins with, its weights being its own (with the
            same seed, that run's initial ones); empty for none.
        checkpoint_every: Steps between checkpoints beside the one after each epoch; 0 for only that.
    """

    weight: str
    dataset: str
    model_args: dict[str, Any] = field(default_factory=dict)
    transform: str = ""
    epochs: int = 20
    batch_size: int = 128
    opt: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = False
    sched: str = "cosine"
    milestones: list[int] = field(default_factory=list)
    factor: float = 0.1
    lr_table: dict[int, float] = field(default_factory=dict)
    restart_momentum: bool = False
    warmup_epochs: float = 1
    label_smoothing: float = 0.0
    augment: dict[str, Any] = field(default_factory=dict)
    image_size: int = 0
    workers: int = 4
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    amp: str = ""
    channels_last: bool = True
    compile: bool = False
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    seed: int = 0
    held_out: int = 0
    held_out_from: str = "random"
    keep: str = "last"
    method: str = ""
    method_options: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    masks_from: str = ""
    checkpoint_every: int = 0

    def __post_init__(self):
        """Check types and choices.

        Raises:
            ZooError: If a value is of the wrong kind; the message says what is meant.
        """
        for f in fields(self):
            setattr(self, f.name, typed(f.name, f.type, getattr(self, f.name)))
        check_ranges(self, RANGES)
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                words = ", ".join(repr(word) for word in allowed)
                raise ZooError(f"Recipe key {key} is one of {words}, not {getattr(self, key)!r}.")
        if self.transform:
            from ..transforms.spec import read_spec  # which needs torch, and a list of recipes does not

            read_spec(self.transform)
        known = PHOTO_AUGMENT if self.is_folder() else AUGMENT
        for key in self.augment:
            if key not in known:
                raise unknown_key(f"augment.{key}", [f"augment.{word}" for word in known])
        if not self.is_folder():
            self.augment = {key: typed(f"augment.{key}", AUGMENT[key], value) for key, value in self.augment.items()}
            if min(self.augment.values(), default=0) < 0:
                raise ZooError(f"Recipe key augment: no value may be below 0, as in {self.augment}.")
        if self.lr_table and (self.sched != "step" or 0 not in self.lr_table):
            raise ZooError("lr_table belongs to sched: step and needs a rate for epoch 0.")
        if self.milestones and self.sched != "step":
            raise ZooError("milestones belong to sched: step.")
        if min([*self.milestones, *self.lr_table], default=1) < (0 if self.lr_table else 1):
            raise ZooError("milestones are epochs from 1, and those of lr_table from 0.")
        channels = get_dataset(self.dataset).input_size[0]
        if not {len(self.mean), len(self.std)} <= {0, channels} or min(self.std, default=1) <= 0:
            raise ZooError(f"mean and std are lists of {channels} numbers, one per channel, and std is above 0.")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ZooError(f"mixup and cutmix pair images: batch_size must be even, not {self.batch_size}.")
        if self.image_size and not self.is_folder():
            raise ZooError("image_size belongs to photographs in folders; for small sets there is augment.crop.")
        if self.keep == "best" and not self.held_out:
            raise ZooError("keep: best chooses an epoch on held-out images: set held_out to their number.")

    def is_folder(self) -> bool:
        """Whether the data set is a folder of photographs, read as they are needed."""
        return self.dataset in FOLDERS

    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images as the network is shown them for evaluation."""
        channels, height, width = get_dataset(self.dataset).input_size
        return (channels, self.image_size, self.image_size) if self.image_size else (channels, height, width)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return asdict(self)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the input, in [0, 1]."""
        info = get_dataset(self.dataset)
        return tuple(self.mean or info.mean), tuple(self.std or info.std)


def task_of(name: str | Path) -> str:
    """The task of a recipe: ``language``, or empty for the classification of images.

    Raises:
        UnknownNameError: If there is no such recipe.
        ZooError: If the file is not a mapping.
    """
    return str(read_recipe(name)[1].get("task", ""))


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe that ships with the package (by name), or any YAML file or run's ``recipe.json`` (by path).

    Args:
        name: Recipe name such as ``lrunet10_fmnist``, or a path ending in ``.yaml`` or ``.json``.
        overrides: Values that replace the file's; ``augment.pad`` reaches into a mapping.

    Raises:
        UnknownNameError: If the recipe or a key does not exist; the message names close matches.
        ZooError: If the file is not a mapping of known keys.
    """
    path, values = read_recipe(name)
    if values.get("task"):
        raise ZooError(f"{path}: a recipe for the task {values['task']}, not for classifying images.")
    known = [f.name for f in fields(Recipe)]
    for key in overrides or {}:
        parent, _, child = key.partition(".")
        if parent not in known or (child and parent not in MAPPINGS):
            raise unknown_key(key, known)
    values = with_differences(values, overrides or {})
    for key in values:
        if key not in known:
            raise unknown_key(key, known)
    missing = [key for key in ("weight", "dataset") if key not in values]
    if missing:
        raise ZooError(f"{path}: the recipe lacks {' and '.join(missing)}.")
    return Recipe(**values)


def recipe_names(task: str | None = None) -> list[str]:
    """Names of the recipes that ship with the package, sorted.

    Args:
        task: ``language``, empty for the classification of images, or None for all.
    """
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return names if task is None else [name for name in names if task_of(name) == task]


def read_recipe(name: str | Path, task: str = "") -> tuple[Path, dict[str, Any]]:
    """Find a recipe by name or path and read its keys, unchecked, on top of those of its ``base``, if it names one.

    Args:
        name: Recipe name, or a path ending in ``.yaml``.
        task: Suggest names of this task only; empty for all.

    Raises:
        UnknownNameError: If there is no such recipe or base; the message names close ones.
        ZooError: If a file is not a mapping, or the bases lead round in a circle or to another task.
    """
    path, values = _read(_path_of(name), str(name), task, ())
    return path, {key: value for key, value in values.items() if key not in ABOUT}


def about(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """A recipe's file, and what it says itself (its bases do not hand this on) under the keys :data:`ABOUT`.

    Raises:
        UnknownNameError: If there is no such recipe or base.
    """
    path, values = _read(_path_of(name), str(name), "", ())
    return path, {key: values[key] for key in ABOUT if key in values}


def with_differences(values: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """Keys on top of others: each replaces the whole value, but ``augment.pad`` only this entry of a mapping."""
    values = dict(values)
    for key, value in differences.items():
        parent, _, child = str(key).partition(".")
        if child and isinstance(values.get(parent) or {}, dict):
            values[parent] = {**(values.get(parent) or {}), int(child) if child.isdigit() else child: value}
        else:
            values[key] = value
    return values


def _path_of(name: str | Path) -> Path:
    return Path(name) if _is_path(name) else RECIPES / f"{name}.yaml"


def _is_path(name: str | Path) -> bool:
    return str(name).endswith((".yaml", ".yml", ".json"))


def _read(path: Path, name: str, task: str, above: tuple[Path, ...]) -> tuple[Path, dict[str, Any]]:
    """Read a file and its bases; ``above`` are the files that led here."""
    if not path.is_file():
        hint = did_you_mean(name, recipe_names(task or None), "See: zoo recipes")
        what, where = f"{task} recipe" if task else "recipe", f"{above[-1]}: the base is missing. " if above else ""
        raise UnknownNameError(f"{where}No {what} {name!r}. {hint}")
    try:
        values = read_yaml(read_file(path, LARGEST_TEXT).decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{path}: cannot be read ({error}).") from None
    if not isinstance(values, dict):
        raise ZooError(f"{path}: a recipe is a mapping of keys to values.")
    base = values.pop("base", None)
    if base is None:
        return path, with_differences({}, values)
    if not isinstance(base, str) or not base:
        raise ZooError(f"{path}: base is the name of another recipe, not {base!r}.")
    chain = (*above, path)
    below = path.parent / base if _is_path(base) else RECIPES / f"{base}.yaml"
    if below.resolve() in [file.resolve() for file in chain]:
        raise ZooError(f"{path}: its base {base} leads back to it; a chain of bases must end.")
    inherited = _read(below, base, task, chain)[1]
    inherited = {key: value for key, value in inherited.items() if key not in ABOUT}
    if "task" in values and values["task"] != inherited.get("task", ""):
        raise ZooError(f"{path}: its base {base} is not a recipe for the task {values['task']!r}.")
    return path, with_differences(inherited, values)


def unknown_key(key: object, known: list[str]) -> UnknownNameError:
    """The error for a key that no recipe of this kind has; it names close ones."""
    close = close_names(str(key), known) or known
    return UnknownNameError(f"Unknown recipe key {key!r}: did you mean {', '.join(close)}?")
