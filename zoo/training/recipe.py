"""Recipes: small YAML files that say all that decides a trained weight."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

from ..data import get_dataset
from ..errors import UnknownNameError, ZooError
from ..extras import require

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


AUGMENT = ("pad", "reflect", "crop", "rotate", "flip", "cutout")
"""Keys of ``augment``: arguments of :func:`zoo.training.augment.augment`, and the side of the cut-out square."""

CHOICES = {
    "sched": ("cosine", "step"),
    "held_out_from": ("random", "last"),
    "amp": ("", "bfloat16", "float16"),
}


@dataclass
class Recipe:
    """One training run.

    Attributes:
        weight: ``arch.tag`` of the weight it makes.
        dataset: Data set name.
        model_args: Arguments of the architecture beyond classes and channels.
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
        augment: See :data:`AUGMENT`.
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
        method: How sparse weights move, a name of :mod:`zoo.training.sparsity`; empty for not at all.
        method_options: Its options.
        start: Folder of a finished run whose network and optimizer state this one begins with; empty for none.
        checkpoint_every: Steps between checkpoints beside the one after each epoch; 0 for only that.
    """

    weight: str
    dataset: str
    model_args: dict[str, Any] = field(default_factory=dict)
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
    method: str = ""
    method_options: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    checkpoint_every: int = 0

    def __post_init__(self):
        """Check types and choices.

        Raises:
            ZooError: If a value is of the wrong kind; the message says what is meant.
        """
        for f in fields(self):
            setattr(self, f.name, _typed(f.name, f.type, getattr(self, f.name)))
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                words = ", ".join(repr(word) for word in allowed)
                raise ZooError(f"Recipe key {key} is one of {words}, not {getattr(self, key)!r}.")
        for key in self.augment:
            if key not in AUGMENT:
                raise unknown_key(f"augment.{key}", [f"augment.{word}" for word in AUGMENT])
        if self.lr_table and (self.sched != "step" or 0 not in self.lr_table):
            raise ZooError("lr_table belongs to sched: step and needs a rate for epoch 0.")
        if self.milestones and self.sched != "step":
            raise ZooError("milestones belong to sched: step.")
        for key in ("epochs", "batch_size"):
            if getattr(self, key) < 1:
                raise ZooError(f"Recipe key {key} must be at least 1.")

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
    """Read a recipe that ships with the package (by name) or any YAML file (by path).

    Args:
        name: Recipe name such as ``lrunet10_fmnist``, or a path ending in ``.yaml``.
        overrides: Values that replace the file's; ``augment.pad`` reaches into a mapping.

    Raises:
        UnknownNameError: If the recipe or a key does not exist; the message names close matches.
        ZooError: If the file is not a mapping of known keys.
    """
    path, values = read_recipe(name)
    if values.get("task"):
        raise ZooError(f"{path}: a recipe for the task {values['task']}, not for classifying images.")
    known = [f.name for f in fields(Recipe)]
    for key, value in (overrides or {}).items():
        parent, _, child = key.partition(".")
        if parent not in known or (child and parent not in ("augment", "model_args", "method_options", "lr_table")):
            raise unknown_key(key, known)
        if child:
            values[parent] = {**(values.get(parent) or {}), int(child) if child.isdigit() else child: value}
        else:
            values[key] = value
    for key in values:
        if key not in known:
            raise unknown_key(key, known)
    missing = [key for key in ("weight", "dataset") if key not in values]
    if missing:
        raise ZooError(f"{path}: the recipe lacks {' and '.join(missing)}.")
    return Recipe(**values)


def read_recipe(name: str | Path, task: str = "") -> tuple[Path, dict[str, Any]]:
    """Find a recipe by name or path and read its keys, unchecked.

    Args:
        name: Recipe name, or a path ending in ``.yaml``.
        task: Suggest names of this task only; empty for all.

    Raises:
        UnknownNameError: If there is no such recipe; the message names close ones.
        ZooError: If the file is not a mapping.
    """
    yaml = require("yaml", "train")
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        paths = sorted(RECIPES.glob("*.yaml"))
        names = [p.stem for p in paths if not task or f"task: {task}" in p.read_text().splitlines()]
        close = difflib.get_close_matches(str(name), names) or names
        raise UnknownNameError(f"No {f'{task} ' if task else ''}recipe {str(name)!r}: did you mean {', '.join(close)}?")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ZooError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise ZooError(f"{path}: a recipe is a mapping of keys to values.")
    return path, values


def unknown_key(key: object, known: list[str]) -> UnknownNameError:
    """The error for a key that no recipe of this kind has; it names close ones."""
    close = difflib.get_close_matches(str(key), known) or known
    return UnknownNameError(f"Unknown recipe key {key!r}: did you mean {', '.join(close)}?")


def _typed(key: str, kind: Any, value: Any) -> Any:
    """A value as the type of its key; YAML reads ``1e-4`` as a word, and JSON knows no keys but words."""
    kind = get_origin(kind) or kind
    value = kind() if value is None else _plain(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", dict: "a mapping"}
        raise ZooError(f"Recipe key {key} is {words.get(kind, 'a list')}, not {value!r}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {int(k) if isinstance(k, str) and k.isdigit() else k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
