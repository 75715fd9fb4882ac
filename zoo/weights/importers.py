"""Checkpoints of any training script, read without executing anything in them and reduced to one state dict.

Pickles are read by :mod:`.pickles`. Objects of a script's own classes (a recorder, a loss scaler) are replaced by inert
stand-ins: their code is neither imported nor run, and what they held is thrown away with them.
"""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.catalog import DATASETS
from ..errors import WeightError
from ..files import LARGEST_TEXT, open_file, read_file
from . import packed
from .pickles import StandIn, Unusual, read_pickle
from .verify import parse

_EMA = ("state_dict_ema", "model_ema")  # averaged weights come before the others, as timm's own loader has it
_PLAIN = ("state_dict", "model", "net", "model_state_dict")
_WRAPPERS = ("module", "_orig_mod", "model", "1")  # data parallel, torch.compile, a trainer's attribute, apex
_PREPARATION = ("mean", "std", "crop_pct", "interpolation")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds, and what it says of itself.

    Attributes:
        tensors: Under the file's own names; dense and on the CPU. Some may be views of the same memory.
        taken: The container's key that they were under; empty if they were the whole file.
        others: Further keys with weights of the same network, which were left (the weights that are not averaged).
        architecture: What the file calls its network; empty if it does not say.
        arguments: Arguments of the network that the file gives.
        preparation: How images are prepared, as far as the file says: ``mean``, ``std``, ``crop_pct``,
            ``interpolation``, and of a run on photographs ``input_size``.
        own: The file was written by ``zoo import`` or ``zoo train``, so ``architecture`` is a name of this zoo.
        dataset: What a run of ``zoo train`` was trained on; empty of any other file.
    """

    tensors: dict[str, Tensor]
    taken: str = ""
    others: tuple[str, ...] = ()
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    preparation: dict[str, Any] = field(default_factory=dict)
    own: bool = False
    dataset: str = ""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a safetensors file, or one that ``torch.save`` wrote in either of its formats.

    A file called ``model.safetensors`` or ``pytorch_model.bin`` may have timm's ``config.json`` beside it, which then
    says what the file does not.

    Containers known: a bare state dict; one under ``state_dict_ema`` or ``model_ema`` (averaged weights, preferred as
    in timm), ``state_dict``, ``model``, ``net`` or ``model_state_dict``, or under a single key of any other name,
    beside epoch, accuracy, optimizer and recorder; ``params`` and ``stats`` of the symmetry paper, which are joined.

    Args:
        path: The file.

    Raises:
        WeightError: If the file is not such a checkpoint, is damaged, names something that cannot be made inert, or
            claims tensors that it does not have the bytes for.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(9)
    except FileNotFoundError:
        raise WeightError(f"No such file: {path}") from None
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error}).") from None
    is_safetensors = start[8:] == b"{" or path.suffix == ".safetensors"
    checkpoint = (_open_safetensors if is_safetensors else _open_pickle)(path)
    _check_tensors(checkpoint.tensors, path, None if is_safetensors else size)
    return checkpoint if checkpoint.architecture or checkpoint.preparation else _with_config(checkpoint, path)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint as :func:`open_checkpoint` finds them, each with memory of its own.

    Prefixes of wrappers are removed where every key has them, half precision becomes float32.

    Args:
        path: The file.

    Raises:
        WeightError: As :func:`open_checkpoint`.
    """
    tensors = without_wrappers(open_checkpoint(path).tensors)
    while (first := _shared_component(tensors)) in _WRAPPERS:
        tensors = {name.removeprefix(f"{first}."): tensor for name, tensor in tensors.items()}
    return {name: single(tensor).detach().clone().contiguous() for name, tensor in tensors.items()}


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what data parallel, ``torch.compile`` and averaging leave in names, also of parts that were wrapped.

    Args:
        tensors: Under a file's names.

    Returns:
        The same without the components ``module`` and ``_orig_mod``, and without the counter of
        ``torch.optim.swa_utils.AveragedModel``; as they were where two names would become one.
    """
    averaged = all(name.startswith("module.") or name == "n_averaged" for name in tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not (averaged and name == "n_averaged")}
    renamed = {".".join(p for p in name.split(".") if p not in ("module", "_orig_mod")): name for name in kept}
    return {new: kept[old] for new, old in renamed.items()} if len(renamed) == len(kept) and "" not in renamed else kept


def unwrapped(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A state dict, and what it is with one, two, ... leading components removed that all its names share."""
    found = [without_wrappers(tensors)]
    while first := _shared_component(found[-1]):
        found.append({name.removeprefix(f"{first}."): tensor for name, tensor in found[-1].items()})
    return found


def single(tensor: Tensor) -> Tensor:
    """The tensor in float32 if its precision is lower."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def _shared_component(tensors: Mapping[str, Tensor]) -> str:
    parts = {name.partition(".")[::2] for name in tensors}
    firsts = {first for first, _ in parts}
    return firsts.pop() if len(firsts) == 1 and all(rest for _, rest in parts) else ""


# ---- safetensors ----


def _open_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, ValueError, OverflowError, RuntimeError) as error:
        raise WeightError(f"{path}: not a safetensors file ({error}).") from None
    if not tensors:
        raise WeightError(f"{path}: holds no tensors.")
    if facts.get("format") == packed.FORMAT:
        tensors = parse(packed.unpack(read_file(path, path.stat().st_size), path), path)
    if "architecture" not in facts:
        said = {key: _as_value(facts[key]) for key in _PREPARATION if key in facts}  # as zoo export writes it
        return Checkpoint(tensors, architecture=facts.get("arch", ""), preparation=_preparation(said))
    return Checkpoint(
        tensors,
        architecture=facts["architecture"],
        arguments=_mapping(path, "model_args", facts),
        preparation=_preparation(_mapping(path, "preparation", facts)),
        own=True,
    )


def _with_config(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """A file that says nothing of itself, with what timm's ``save_for_hf`` has written into config.json beside it."""
    if path.name not in ("model.safetensors", "pytorch_model.bin"):
        return checkpoint
    try:
        config = json.loads(read_file(path.parent / "config.json", LARGEST_TEXT))
        arch, arguments, cfg = (config.get(key) for key in ("architecture", "model_args", "pretrained_cfg"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return checkpoint
    arch, arguments, cfg = str(arch or ""), *(v if isinstance(v, dict) else {} for v in (arguments, cfg))
    return replace(checkpoint, architecture=arch, arguments=arguments, preparation=_preparation(cfg))


def _as_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _mapping(path: Path, key: str, facts: Mapping[str, str]) -> dict[str, Any]:
    try:
        values = json.loads(facts.get(key, "{}"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise WeightError(f"{path}: its {key} are not as zoo import writes them; import the original file again.")
    return values


# ---- pickles ----


def _open_pickle(path: Path) -> Checkpoint:
    content = read_pickle(path)
    if isinstance(content, StandIn):
        raise WeightError(_whole_network(path, content))
    if not isinstance(content, Mapping):
        raise WeightError(f"{path}: holds a {type(content).__name__}, not a checkpoint.")
    taken, others, state = _state_dict(path, content)
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {}
    recipe = _recipe(path, content)
    if recipe:
        dataset = DATASETS.get(str(recipe.get("dataset")))
        usual = dict.fromkeys(_PREPARATION) if dataset is None else {**vars(dataset), "interpolation": "bilinear"}
        arch, arguments = network_of(recipe)
        said = {key: recipe.get(key) or usual[key] for key in _PREPARATION}
        side = recipe.get("image_size")
        said["input_size"] = (dataset.input_size[0], side, side) if dataset and side else None
    else:
        arch, arguments, said = content.get("arch"), args.get("model_kwargs"), args
    return Checkpoint(
        state,
        taken,
        others,
        arch if isinstance(arch, str) else "",
        dict(arguments) if isinstance(arguments, dict) else {},
        _preparation(said),
        own=bool(recipe),
        dataset=dataset.name if recipe and dataset else "",
    )


def network_of(recipe: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture that a recipe trains, and what it is created with beside classes and channels."""
    arch, arguments = recipe["weight"].split(".", 1)[0], recipe.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    if not recipe.get("transform"):
        return arch, arguments
    return "transformed", {"base": arch, "base_args": arguments, "transform": recipe["transform"]}


def _recipe(path: Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """The recipe of the run of ``zoo train`` that wrote a file, in it or beside it; empty if it is of no such run."""
    identity = content.get("identity")
    recipe = identity.get("recipe") if isinstance(identity, dict) else None
    if recipe is None and {"model", "epoch", "step"} <= content.keys():  # the file of the best epoch says no more
        try:
            recipe = json.loads(read_file(path.parent / "recipe.json", LARGEST_TEXT))
        except (OSError, ValueError, RecursionError):
            return {}
    return recipe if isinstance(recipe, dict) and isinstance(recipe.get("weight"), str) else {}


def _state_dict(path: Path, content: Mapping[Any, Any]) -> tuple[str, tuple[str, ...], dict[str, Tensor]]:
    """The key that the weights are under, the keys of other weights of the same network, and the weights."""
    if isinstance(content.get("params"), dict) and isinstance(content.get("stats"), dict):
        return "params and stats", (), _only_tensors(path, {**content["params"], **content["stats"]})
    for key in (*_EMA, *_PLAIN):
        if isinstance(content.get(key), StandIn):
            raise WeightError(_whole_network(path, content[key], key))
    known = [key for key in (*_EMA, *_PLAIN) if isinstance(content.get(key), Mapping)]
    if known:
        return known[0], tuple(known[1:]) if known[0] in _EMA else (), _only_tensors(path, content[known[0]], known[0])
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return "", (), _only_tensors(path, content)
    inner = [key for key, value in content.items() if isinstance(value, Mapping) and _all_tensors(value)]
    if len(inner) > 1:
        raise WeightError(
            f"{path}: holds several state dicts ({', '.join(map(str, inner))}); save the one of the network alone."
        )
    if inner:
        return str(inner[0]), (), _only_tensors(path, content[inner[0]])
    return "", (), _only_tensors(path, content)


def _all_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values.values())


def _only_tensors(path: Path, state: Mapping[Any, Any], key: str = "") -> dict[str, Tensor]:
    where = f"{path}, {key}" if key else str(path)
    wrong = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong and isinstance(state[wrong[0]], Unusual):
        raise WeightError(f"{path}: {_short(wrong[0])} is not an ordinary dense tensor.")
    if wrong or not state:
        raise WeightError(f"{where}: {_short(wrong[0]) if wrong else 'nothing'} is no tensor; expected a state dict.")
    return dict(state)


def _whole_network(path: Path, content: StandIn | None = None, key: str = "") -> str:
    what = f"holds a whole {type(content).__name__ if content else 'network'}" + (f" under {key}" if key else "")
    return f"{path}: {what}, which only its own code can read. Save its state dict: torch.save(model.state_dict(), ...)"


def _preparation(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that say how images are prepared, checked."""
    found: dict[str, Any] = {}
    for key in (*_PREPARATION, "input_size"):
        value = values.get(key)
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if key == "interpolation":
            if isinstance(value, str) and value:
                found[key] = value
        elif all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e3 for n in numbers):
            found[key] = tuple(numbers) if key in ("mean", "std", "input_size") else value
    if not (found.keys() >= {"mean", "std"} and all(found["std"])):  # one without the other is not enough
        found.pop("mean", None), found.pop("std", None)
    return found


def _check_tensors(tensors: Mapping[str, Tensor], path: Path, size: int | None) -> None:
    """Refuse what is no array of numbers or, in a pickle of ``size`` bytes, grows when it is copied."""
    seen, total = set(), 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise WeightError(f"{path}: {_short(name)} is not an ordinary dense tensor.")
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        total += 0 if place in seen else tensor.nbytes  # the same tensor under two names is usual
        seen.add(place)
    if size is not None and total > 2 * size:
        raise WeightError(f"{path}: refused, its tensors claim {total:,} bytes and the file has {size:,}.")


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) < 80 else f"{text[:80]}..."
