"""``zoo export`` and ``zoo import``."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ..data.catalog import DATASETS
from ..files import FORMATS
from ..names import check_name
from ..settings import parse_settings
from .evaluate import CHECKPOINT, NETWORK, TRANSFORM, named


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("export", help="write a weight as a collapsed network and run the file to check it")
    parser.description = (
        "Write a weight as a collapsed network and run the file to check it. Its metadata has mean, std, input_size, "
        "class_names, licence, weight and weight_sha256, as far as they are known."
    )
    parser.add_argument("name", help=NETWORK)
    parser.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    parser.add_argument("--transform", default="", metavar="SPEC", help=TRANSFORM)
    parser.add_argument("--format", choices=list(FORMATS), required=True)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: the name with the format's ending")
    parser.add_argument("--batch-norm", choices=("keep", "fold"), default="keep")
    parser.add_argument("--reuse", choices=("shared", "unroll"), default="shared", help="LruNet's repeated blocks")
    parser.set_defaults(run=_export)
    parser = commands.add_parser("import", help="convert a checkpoint, an authors' or your own, to this zoo's form")
    parser.add_argument(
        "file", help="safetensors, or what torch.save wrote: a state dict, or a training script's; nothing is executed"
    )
    parser.add_argument("--as", dest="arch", required=True, metavar="ARCH", help="architecture of this zoo")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="argument of the architecture; may be repeated"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="default: ARCH.safetensors")
    parser.set_defaults(run=_import)


def export(*words: Any, **options: Any) -> Any:
    """:func:`zoo.reparam.export.export`, imported when it is used."""
    from ..reparam.export import export

    return export(*words, **options)


def _export(options: argparse.Namespace) -> None:
    from ..weights.verify import sha256_of

    found = named(options)
    path = options.output or found.name + FORMATS[options.format]
    about = {"dataset": found.dataset, "sha256": found.sha256}
    forms = {"batch_norm": options.batch_norm, "reuse": options.reuse}
    record = export(found.model, path, options.format, found.name, **about, **forms)
    print(f"{path}  sha256 {sha256_of(Path(path))}")
    print(json.dumps(record.to_dict(), indent=2))


def _import(options: argparse.Namespace) -> None:
    from ..checkpoints import read_network, write_network
    from ..weights.verify import sha256_of

    arch = check_name(options.arch).split(".", 1)[0]
    network = read_network(options.file, arch, parse_settings(options.set))
    path = options.output or f"{arch}.safetensors"
    write_network(network, path)
    for note in network.notes:
        print(f"zoo: {options.file}: {note}", file=sys.stderr)
    print(f"{path}  sha256 {sha256_of(Path(path))}")
    listed = "".join(f", {key}={value!r}" for key, value in network.arguments.items())
    print(f'timm.create_model("{arch}", checkpoint_path="{path}"{listed})')
    channels, classes = network.model.pretrained_cfg["input_size"][0], network.model.num_classes
    channels = network.arguments.get("in_chans", channels)
    for dataset in DATASETS.values():
        if (dataset.num_classes, dataset.input_size[0]) == (classes, channels):
            print(f"zoo validate {arch} --dataset {dataset.name} --data DIR --checkpoint {shlex.quote(path)}")
