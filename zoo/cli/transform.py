"""``zoo transform``: what a transformation would do to a network, and a folder with the transformed one."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..own_folders import HUB, LOCAL

OPTIONS = {
    "templates": "share: templates of each group of kernels of one shape",
    "symm_type": "symmetrize: tri, wwt, spa, tri+spa, quar, eight, block4, evd, pdpt, chunk_0_2, ...",
    "sparsity": "sparsify, tie: share of the weights that go, such as 0.9",
    "unit": "sparsify, tie: weight, or what goes as a whole",
    "density": "sparsify: uniform or erk",
    "branches": "pd_a, pd_b: names with commas",
    "reduction": "pd_b: divides the gate's hidden width",
    "times": "reuse: how often each block is run",
    "rank": "lowrank, symmetrize pdpt: a number of columns, or a share of them",
    "layers": "any kind: shell patterns of layers, with commas",
}
"""Options of the kinds that ship, which a flag each sets; those of other packages' kinds go into SPEC."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("transform", help="share, symmetrize, sparsify, ... the kernels of any network")
    parser.description = (
        "Say layer by layer what a transformation does to a network of timm's, of this zoo or in a folder, and what it "
        "takes before, in training and collapsed; with -o also write the transformed network as save_for_hf does. "
        "Kinds: share, symmetrize, sparsify, tie, lowrank, reuse, pd_a, pd_b, ac."
    )
    parser.add_argument("network", metavar="NETWORK", help="a name of timm's or of this zoo, or a folder")
    parser.add_argument(
        "spec", nargs="?", metavar="SPEC", help="such as share:templates=2, symmetrize:tri+sparsify:0.9"
    )
    parser.add_argument("--kind", help="one kind, in the place of SPEC, with its options as the flags below")
    for name, about in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=about)
    parser.add_argument("--plan", action="store_true", help="only say it; no values are computed or allocated")
    parser.add_argument("--pretrained", action="store_true", help="begin with the name's pretrained weights")
    parser.add_argument("--input-size", metavar="C,H,W", help="of the images, where the network's own is another")
    parser.add_argument("-o", "--output", metavar="DIR", help="a new folder for the transformed network")
    parser.add_argument("--json", action="store_true", help="the report as one object on standard output")
    parser.set_defaults(run=_transform)


def _transform(options: argparse.Namespace) -> None:
    from timm.models import is_model

    from ..named import load_named
    from ..transforms import plan, transform

    spec, size = _spec(options), _input_size(options.input_size)
    if options.plan and options.output:
        raise ZooError("--plan changes and writes nothing: leave it or --output out.")
    if options.output is not None and Path(options.output).exists():
        raise ZooError(f"{options.output or '.'} is there already: name another folder.")
    model: Any = options.network
    if "/" in model or model.startswith((LOCAL, *HUB)) or (Path(model).is_dir() and not is_model(model.split(".")[0])):
        model = load_named(model).model  # a folder has weights
    random = isinstance(model, str) and not options.pretrained
    if options.plan:
        report = plan(model, spec, input_size=size)
    else:
        named = {"pretrained": options.pretrained} if isinstance(model, str) else {}
        model = transform(model, spec, input_size=size, **named)
        report = model.zoo_report
    if options.output:
        if not report.changed:
            raise ZooError(f"{options.network}: nothing to write, no layer qualifies for {spec} (--plan says why).")
        _save(model, Path(options.output))
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if options.output:
        drawn = "its values are random, --pretrained begins with a weight's; " if random else ""
        print(
            f"zoo: {drawn}timm.create_model('local-dir:{options.output}', pretrained=True) after import zoo",
            file=sys.stderr,
        )


def _spec(options: argparse.Namespace) -> str:
    """The transformation as a string, from SPEC or from ``--kind`` and its flags."""
    given = {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    if (options.kind is None) == (options.spec is None):
        raise ZooError(
            "Name a transformation, either SPEC or --kind: zoo transform resnet50 --kind share --templates 2."
        )
    if options.spec is not None:
        if given:
            raise ZooError(f"--{next(iter(given)).replace('_', '-')} belongs to --kind; in SPEC write OPTION=VALUE.")
        return options.spec
    words = [f"{name}={value.replace(',', '|')}" for name, value in given.items()]
    return f"{options.kind}:{','.join(words)}" if words else options.kind


def _input_size(word: str | None) -> tuple[int, int, int] | None:
    if word is None:
        return None
    parts = word.split(",")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ZooError(f"--input-size {word}: channels, height and width with commas, such as 3,224,224.")
    return tuple(map(int, parts))


def _save(model: Any, folder: Path) -> None:
    """Write a network as timm's ``save_for_hf`` does; nothing is left of a folder that cannot be written whole."""
    from timm.models import save_for_hf

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
            save_for_hf(model, Path(part) / "whole", safe_serialization=True)
            (Path(part) / "whole").rename(folder)
    except OSError as error:
        raise ZooError(f"{folder}: cannot be written ({error.strerror or error}).") from None
