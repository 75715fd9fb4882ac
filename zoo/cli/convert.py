"""``zoo export`` and ``zoo import``."""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from ..errors import WeightError, ZooError
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
    model = create_model(arch, **{**_sizes(sample, state), **settings})
    load_reference(model, state)
    path = Path(options.output or f"{arch}.safetensors")
    metadata = {"format": "pt", "architecture": arch, "model_args": json.dumps(settings)}
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    try:
        write_atomically(safetensors_bytes(tensors, metadata), path)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written ({error.strerror or error}).") from None
    print(f"{path}  sha256 {sha256_of(path)}")
    arguments = "".join(f", {key}={value!r}" for key, value in settings.items())
    print(f'timm.create_model("{arch}", num_classes={model.num_classes}, checkpoint_path="{path}"{arguments})')


def _sizes(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, int]:
    """Classes and channels of a checkpoint, read off its classifier and first convolution."""
    if not hasattr(model, "reference_key"):
        return {}
    cfg, sizes = model.pretrained_cfg, {}
    for argument, layer, dim in (("num_classes", cfg["classifier"], 0), ("in_chans", cfg["first_conv"], 1)):
        tensor = state.get(model.reference_key(f"{layer}.weight"))
        if tensor is not None and tensor.dim() > dim:
            sizes[argument] = tensor.shape[dim]
    return sizes
