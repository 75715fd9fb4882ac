"""``zoo export`` and ``zoo import``."""

import argparse
import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..data.catalog import DATASETS, Dataset
from ..errors import DataError, WeightError, ZooError
from ..extras import require
from ..files import write_atomically
from ..models import load_reference
from ..registry import check_name, create_model
from ..reparam.export import FORMATS, export
from ..weights.convert import safetensors_bytes
from ..weights.importers import read_checkpoint
from ..weights.manifest import full_name
from ..weights.verify import sha256_of


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("export", help="write a weight as a collapsed network and run the file to check it")
    parser.add_argument("name", help="arch.tag, or an architecture for its first weight")
    parser.add_argument("--format", choices=list(FORMATS), required=True)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: the name with the format's ending")
    parser.add_argument("--batch-norm", choices=("keep", "fold"), default="keep")
    parser.add_argument("--reuse", choices=("shared", "unroll"), default="shared", help="LruNet's repeated blocks")
    parser.set_defaults(run=_export)
    parser = commands.add_parser("import", help="convert an authors' checkpoint to this zoo's form")
    parser.add_argument("file", help="checkpoint as the paper's script saved it; nothing in it is executed")
    parser.add_argument("--as", dest="arch", required=True, metavar="ARCH", help="architecture of this zoo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="argument of the architecture")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: ARCH.safetensors")
    parser.set_defaults(run=_import)


def _export(options: argparse.Namespace) -> None:
    name = full_name(check_name(options.name))
    path = options.output or name + FORMATS[options.format]
    model = create_model(name, pretrained=True).eval()
    record = export(model, path, options.format, name, batch_norm=options.batch_norm, reuse=options.reuse)
    print(f"{path}  sha256 {sha256_of(Path(path))}")
    print(json.dumps(record.to_dict(), indent=2))


def parse_settings(words: list[str]) -> dict[str, object]:
    """``KEY=VALUE`` words as a mapping; values are read as YAML.

    Raises:
        ZooError: If a word has another form.
    """
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ZooError(f"--set {word}: write it as KEY=VALUE.")
        settings[key] = require("yaml", "train").safe_load(value)
    return settings


def _import(options: argparse.Namespace) -> None:
    arch = check_name(options.arch).split(".", 1)[0]
    settings = parse_settings(options.set)
    state = read_checkpoint(options.file)
    with torch.device("meta"):
        sample = create_model(arch, **settings)
    arguments = {**_sizes(sample, state), **settings}
    model = create_model(arch, **arguments)
    load_reference(model, state)
    path = Path(options.output or f"{arch}.safetensors")
    metadata = {"format": "pt", "architecture": arch, "model_args": json.dumps(arguments)}
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    try:
        write_atomically(safetensors_bytes(tensors, metadata), path)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error}).") from None
    print(f"{path}  sha256 {sha256_of(path)}")
    listed = "".join(f", {key}={value!r}" for key, value in arguments.items())
    print(f'timm.create_model("{arch}", checkpoint_path="{path}"{listed})')
    imagenet = DATASETS["imagenet"]
    if model.num_classes == imagenet.num_classes:
        print(f"zoo validate {arch} --dataset {imagenet.name} --data DIR --checkpoint {shlex.quote(str(path))}")


def _sizes(model: nn.Module, state: dict[str, Tensor]) -> dict[str, int]:
    """Classes and channels of a checkpoint, read off its classifier and first convolution."""
    if not hasattr(model, "reference_key"):
        return {}
    cfg, sizes = model.pretrained_cfg, {}
    for argument, layer, dim in (("num_classes", cfg["classifier"], 0), ("in_chans", cfg["first_conv"], 1)):
        tensor = state.get(model.reference_key(f"{layer}.weight"))
        if tensor is not None and tensor.dim() > dim:
            sizes[argument] = tensor.shape[dim]
    return sizes


def load_converted(path: str | Path, arch: str, dataset: Dataset) -> nn.Module:
    """The network of a file that ``zoo import`` wrote, in eval mode.

    Args:
        path: The file; its metadata holds the architecture and the arguments it was made with.
        arch: The architecture it must be of.
        dataset: Images are prepared as this data set's.

    Raises:
        WeightError: If the file is missing, is not such a file, or is of another architecture.
        DataError: If the network takes images of other channels than this data set's.
    """
    arguments, state = _read_converted(Path(path), arch)
    shape = (arguments.get("in_chans", dataset.input_size[0]), *dataset.input_size[1:])
    cfg = {"input_size": shape, "mean": dataset.mean, "std": dataset.std, "crop_pct": dataset.crop_pct}
    try:
        with torch.device("meta"):  # nothing is allocated for a network that the file does not fill
            create_model(arch, **arguments).load_state_dict(state, strict=True, assign=True)
        model = create_model(arch, pretrained_cfg_overlay=cfg, **arguments)
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightError(f"{path}: does not fit {arch}: {' '.join(str(error).split())[:300]}") from None
    if shape != dataset.input_size:
        raise DataError(
            f"{path}: the network takes images of {shape[0]} channels, {dataset.name} has {dataset.input_size[0]}."
        )
    return model.eval()


def _read_converted(path: Path, arch: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments and tensors of a file that ``zoo import`` wrote."""
    advice = f"Convert the authors' file with: zoo import FILE --as {arch}"
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightError(f"No such file: {path}") from None
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, ValueError) as error:
        raise WeightError(f"{path}: not a safetensors file ({error}). {advice}") from None
    if "architecture" not in facts:
        raise WeightError(f"{path}: names no architecture, so zoo import did not write it. {advice}")
    if facts["architecture"] != arch:
        raise WeightError(f"{path}: holds a {facts['architecture']}, not a {arch}: name the architecture it holds.")
    try:
        arguments = json.loads(facts.get("model_args", ""))
    except ValueError:
        arguments = None
    # timm's own arguments could name other files
    if not isinstance(arguments, dict) or set(arguments) & set(inspect.signature(timm.create_model).parameters):
        raise WeightError(f"{path}: its model_args are not as zoo import writes them. {advice}")
    return arguments, state
