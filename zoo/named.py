"""From what somebody names to a network: a weight, the folder of a run, a folder of their own, or a file of weights."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import timm
from torch import nn

from .checkpoints import load_checkpoint
from .data.catalog import Dataset
from .errors import WeightError, ZooError
from .files import LARGEST_TEXT, is_file, read_file
from .own_folders import HUB, LOCAL, own_folder, run_progress, run_recipe
from .registry import check_name, create_model, list_models
from .reparam import load_collapsed, reparameterize
from .transforms import transform as apply_transform
from .transforms.spec import read_spec, write_spec
from .transforms.transform import ARCHITECTURE, network_of
from .weights.load import known_repository
from .weights.manifest import collapsed_facts, facts, full_name, warm_starts
from .weights.packed import weight_file
from .weights.verify import sha256_of


@dataclass(frozen=True)
class Named:
    """A network that somebody named.

    Attributes:
        model: The network, in eval mode, on the CPU.
        name: ``arch.tag`` of a weight of the manifest; of a folder the architecture and the folder's name; of a file
            the architecture.
        dataset: What it was trained on; empty if nothing says so.
        sha256: Of its file; empty if it has none of its own.
        notes: What was chosen or assumed, a sentence each.
        folder: Where it lies, if it is a folder of the user's own.
    """

    model: nn.Module
    name: str
    dataset: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    folder: Path | None = None


def load_named(
    word: str,
    checkpoint: str | Path | None = None,
    dataset: Dataset | None = None,
    collapsed: bool = False,
    transform: str = "",
) -> Named:
    """The network that a word of the command line stands for.

    Args:
        word: ``arch.tag``, an architecture for its first weight, or a folder as :func:`own_folder` finds it: that of a
            run of ``zoo train`` (its averaged or best network where the recipe says so), or one that timm's
            ``save_for_hf`` wrote.
        checkpoint: A file to take the weights from; ``word`` is then its architecture.
        dataset: How images are prepared for a file that does not say it; by default as the architecture's usually are.
        collapsed: Return the network of plain layers.
        transform: What is done to the network, as :func:`zoo.transform` takes it; ``word`` may then be any name of
            timm's, and the file's tensors those of the network before or after it.

    Raises:
        UnknownNameError: If there is no such name.
        WeightError: If the weight cannot be had, the folder is of neither kind, or a file does not fit.
        DataError: If the file's network takes images of other channels than the data set's.
    """
    if transform:
        found = _load_transformed(word, checkpoint, dataset, transform)
    elif checkpoint is not None:
        if own_folder(word) or "." in check_name(word):
            raise ZooError(f"{word}: with --checkpoint name one architecture, without a tag (zoo list).")
        read = load_checkpoint(checkpoint, word, dataset)
        found = Named(read.model, word, read.dataset, sha256_of(Path(checkpoint)), read.notes)
    elif folder := own_folder(word):
        is_run = not word.startswith(LOCAL) and is_file(folder / "checkpoint.pt")
        found = (_load_run if is_run else _load_saved)(folder)
    elif word.startswith(HUB):
        found = _load_from_hub(word)
    elif check_name(word) in warm_starts():
        found = Named(create_model(word, pretrained=True).eval(), word, "imagenet")
    else:
        name = full_name(word)
        model = load_collapsed(name, batch_norm="keep") if collapsed else create_model(name, pretrained=True)
        sha256 = (collapsed_facts(name) if collapsed else facts(name))["sha256"]
        return Named(model.eval(), name, facts(name)["dataset"], sha256)
    return replace(found, model=reparameterize(found.model)) if collapsed else found


def _load_transformed(word: str, checkpoint: str | Path | None, dataset: Dataset | None, spec: str) -> Named:
    label = re.sub(r"[^a-z0-9.]+", "_", write_spec(read_spec(spec)))  # a mistake in it is told before anything is read
    is_folder = "/" in word or word.startswith((LOCAL, *HUB)) or not timm.is_model(word.split(".", 1)[0])
    found = None
    if is_folder or checkpoint is None:
        is_timms = not is_folder and word.split(".", 1)[0] not in list_models()
        found = Named(network_of(word, True).eval(), word) if is_timms else load_named(word, checkpoint, dataset)
    else:
        try:  # a file of the transformed network
            read = load_checkpoint(checkpoint, ARCHITECTURE, dataset, {"base": word, "transform": spec})
        except WeightError as error:
            if "does not fit" not in str(error):
                raise
            read = load_checkpoint(checkpoint, word, dataset)
        found = Named(read.model, word, read.dataset, sha256_of(Path(checkpoint)), read.notes)
    model = found.model
    if checkpoint is None or not getattr(model, "zoo_report", None):
        model = apply_transform(model, spec)
        found = replace(found, sha256="")  # no file has these tensors
    return replace(found, model=model.eval(), name=f"{found.name}-{label}")


def own_name(arch: str, folder: Path) -> str:
    """``arch.tag`` for a network in a folder of the user's own: its tag is the folder's name."""
    tag = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower().removeprefix(f"{arch}.")).strip("_")
    return f"{arch}.{tag or 'own'}"


def _load_run(folder: Path) -> Named:
    recipe = run_recipe(folder)
    if recipe.get("task"):
        raise WeightError(
            f"{folder}: the run of a language model. Measure it with zoo validate {folder} --dataset "
            f"{recipe.get('dataset', 'wikitext-2')} --data DIR; nothing else is done with one."
        )
    best = folder / "best.pt"
    file = best if recipe.get("keep") == "best" and is_file(best) else folder / "checkpoint.pt"
    arch, (done, epochs) = str(recipe["weight"]).split(".", 1)[0], run_progress(folder)
    read = load_checkpoint(file, ARCHITECTURE if recipe.get("transform") else arch)
    notes = (f"this run is unfinished: {done} of {epochs} epochs",) if done < epochs else ()
    if is_file(folder / "config.json"):
        notes += (f"the run's checkpoint was taken; the network saved beside it is {LOCAL}{folder}",)
    return Named(read.model, own_name(arch, folder), read.dataset, sha256_of(file), notes, folder)


def _load_from_hub(word: str) -> Named:
    """A network of a Hub repository: verified if the repository has the name of a weight, else as it is."""
    model = create_model(word, pretrained=True).eval()
    repository = word.split(":", 1)[1].partition("@")[0]
    if name := known_repository({"source": "hf-hub", "hf_hub_id": repository}):
        return Named(model, name, facts(name)["dataset"], facts(name)["sha256"])
    return Named(model, own_name(model.pretrained_cfg["architecture"], Path(repository)))


def _load_saved(folder: Path) -> Named:
    """A network in Hub form: what timm's ``save_for_hf`` writes."""
    file = next((f for f in (weight_file(folder), folder / "pytorch_model.bin") if is_file(f)), None)
    config = folder / "config.json"
    if not is_file(config) and is_file(folder / "recipe.json"):
        done, epochs = run_progress(folder)
        raise WeightError(f"{folder}: a run without a checkpoint yet ({done} of {epochs} epochs); go on with --resume.")
    if file is None or not is_file(config):
        missing = [name for name, there in (("config.json", is_file(config)), ("model.safetensors", file)) if not there]
        wanted = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
        if len(missing) == 1:
            raise WeightError(f"{folder}: {wanted}; timm.models.save_for_hf writes both.")
        raise WeightError(f"{folder}: no run of zoo train (no checkpoint.pt) and no saved network ({wanted}).")
    notes: tuple[str, ...] = ()
    try:
        values = json.loads(read_file(config, LARGEST_TEXT))
        arch = values["architecture"]
        if not isinstance(arch, str) or not timm.is_model(arch):
            raise WeightError(f"{config}: there is no architecture {arch!r}.")
        model = create_model(f"{LOCAL}{folder}", pretrained=True)
        cfg = model.pretrained_cfg
        channels = (values.get("model_args") or {}).get("in_chans", cfg["input_size"][0])
        if len(cfg["mean"]) != channels:  # timm writes the configuration that the network began with
            mean, std = (sum(cfg[key]) / len(cfg[key]) for key in ("mean", "std"))
            cfg |= {"input_size": (channels, *cfg["input_size"][1:])}
            cfg |= {"mean": (mean,) * channels, "std": (std,) * channels}
            notes = (f"config.json has no mean for {channels} channels: {mean:g} was taken (std {std:g})",)
    except ZooError:
        raise
    except Exception as error:  # timm's own, and those of the libraries that read a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightError(f"{folder}: cannot be loaded as a saved network ({reason}).") from None
    return Named(model.eval(), own_name(arch, folder), "", sha256_of(file), notes, folder)
