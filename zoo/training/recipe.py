"""Recipes: small YAML files that say all that decides a trained weight."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError, ZooError
from ..extras import require

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


@dataclass
class Recipe:
    """One training run.

    Attributes:
        weight: ``arch.tag`` of the weight it makes.
        dataset: Data set name.
        model_args: Arguments of the architecture beyond classes and channels.
        epochs: Passes over the training set.
        batch_size: Images per step.
        opt: Optimizer name, timm's (``sgd`` is SGD with Nesterov momentum).
        lr: Peak learning rate.
        momentum: Momentum.
        weight_decay: L2 penalty; timm's rule spares biases and batch norms.
        warmup_epochs: Linear warm-up from a hundredth of ``lr``, then cosine to zero.
        label_smoothing: Probability mass spread over all classes.
        augment: Arguments of :func:`zoo.training.augment.augment`.
        amp: Autocast data type, ``bfloat16``, ``float16`` or empty for float32 throughout.
        channels_last: Memory format of images and kernels.
        seed: Seed of initialisation, data order, augmentation and dropout.
        held_out: Training images kept apart for choices, the last of a seeded permutation; 0 for the final run.
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
    warmup_epochs: float = 1
    label_smoothing: float = 0.0
    augment: dict[str, Any] = field(default_factory=dict)
    amp: str = ""
    channels_last: bool = True
    seed: int = 0
    held_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return asdict(self)


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe that ships with the package (by name) or any YAML file (by path).

    Args:
        name: Recipe name such as ``lrunet10_fmnist``, or a path ending in ``.yaml``.
        overrides: Values that replace the file's; ``augment.pad`` reaches into a mapping.

    Raises:
        UnknownNameError: If the recipe or a key does not exist; the message names close matches.
        ZooError: If the file is not a mapping of known keys.
    """
    yaml = require("yaml", "train")
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        close = difflib.get_close_matches(str(name), names) or names
        raise UnknownNameError(f"No recipe {str(name)!r}: did you mean {', '.join(close)}?")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ZooError(f"{path}: a recipe is a mapping of keys to values.")
    known = [f.name for f in fields(Recipe)]
    for key, value in (overrides or {}).items():
        parent, _, child = key.partition(".")
        if parent not in known or (child and parent not in ("augment", "model_args")):
            _unknown_key(key, known)
        if child:
            values[parent] = {**(values.get(parent) or {}), child: value}
        else:
            values[key] = value
    for key in values:
        if key not in known:
            _unknown_key(key, known)
    missing = [key for key in ("weight", "dataset") if key not in values]
    if missing:
        raise ZooError(f"{path}: the recipe lacks {' and '.join(missing)}.")
    return Recipe(**values)


def _unknown_key(key: str, known: list[str]) -> None:
    close = difflib.get_close_matches(key, known) or known
    raise UnknownNameError(f"Unknown recipe key {key!r}: did you mean {', '.join(close)}?")
