"""Every kind of ``zoo.transform`` on the convolutional networks of timm's registry, there and back.

For each network and kind: transform, give batch norms random statistics, run in float64 at two sizes, collapse with
``zoo.reparameterize``, and compare function, class and keys. A file keeps what is done, so that a run can be stopped.

    python scripts/transform_table.py --results docs/transforms.jsonl --most 30
"""

import argparse
import collections
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

import zoo
from zoo.outputs import gap_of, outputs_of

SPECS = {
    "share": "share:templates=2",
    "symmetrize": "symmetrize:spa",
    "sparsify": "sparsify:0.9",
    "tie": "tie:0.5",
    "pd_a": "pd_a",
    "pd_b": "pd_b",
    "ac": "ac",
    "reuse": "reuse",
    "lowrank": "lowrank:0.25",
}
"""One transformation of each kind."""

EXACT = ("pd_a", "pd_b", "ac")
TOLERANCE = 1e-9  # of the largest score, in float64


def family_of(arch: str) -> str:
    """The module of timm that has an architecture."""
    return timm.models.model_entrypoint(arch).__module__.rpartition(".")[2]


def architectures(most: int, largest: int) -> list[str]:
    """Architectures with convolutions, the smallest of each family first, at most so many of one family.

    Args:
        most: Of one family.
        largest: Parameters.
    """
    found: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    for arch in tqdm(timm.list_models(), "counting", leave=False):
        family = family_of(arch)
        if not timm.models.model_entrypoint(arch).__module__.startswith("timm."):
            continue
        try:
            with torch.device("meta"):
                model = timm.create_model(arch)
        except Exception:  # not every network can be built without values
            continue
        convs = sum(isinstance(m, nn.Conv2d) for m in model.modules())
        parameters = sum(p.numel() for p in model.parameters())
        if convs >= 5 and parameters <= largest:
            found[family].append((parameters, arch))
    ranked = [
        (place, size, arch) for group in found.values() for place, (size, arch) in enumerate(sorted(group)[:most])
    ]
    return [arch for _, _, arch in sorted(ranked)]


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give batch norms random statistics, gains and shifts."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for name, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.5, 1.5)):
                if (tensor := getattr(module, name)) is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3)):
                if (tensor := getattr(module, name)) is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def inputs_of(model: nn.Module) -> list[torch.Tensor]:
    """Images of two sizes that a network takes, as small as it takes them."""
    channels, height, width = model.pretrained_cfg["input_size"]
    generator = torch.Generator().manual_seed(1)
    found = []
    for side in (64, 96, 128, 160):
        images = torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
        try:
            model(images)
            found.append(images)
        except Exception:  # too small, or fixed
            continue
        if len(found) == 2:
            return found
    return found or [torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64)]


@torch.no_grad()
def try_kinds(arch: str, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """Results of each kind on one network."""
    torch.manual_seed(0)
    source = randomise(timm.create_model(arch)).double().eval()
    inputs = inputs_of(source)
    expected = [outputs_of(source, images) for images in inputs]
    about = {"arch": arch, "family": family_of(arch), "sizes": [images.shape[-1] for images in inputs]}
    for kind in kinds:
        start = time.perf_counter()
        try:
            row = try_kind(source, kind, inputs, expected, planned=kind in ("share", "pd_a"))
        except Exception as error:  # every failure is a row of the table
            row = {"status": "fail", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        yield {**about, "kind": kind, **row, "seconds": round(time.perf_counter() - start, 1)}


def try_kind(
    source: nn.Module, kind: str, inputs: list[torch.Tensor], expected: list[list[torch.Tensor]], planned: bool
) -> dict[str, Any]:
    """Transform, compare, collapse, compare."""
    model = zoo.transform(source, SPECS[kind])
    report = model.zoo_report
    if not report.changed:
        reasons = collections.Counter(report.left_alone.values())
        why = reasons.most_common(1)[0][0] if reasons else "no convolution"
        return {"status": "not applicable", "why": why}
    if kind in EXACT:
        gap = largest_gap(expected, [outputs_of(model, images) for images in inputs])
        if gap > TOLERANCE:
            return {"status": "fail", "why": f"starts {gap:.1e} away from the same function"}
    randomise(model)
    plain = zoo.reparameterize(model)
    if type(plain) is not type(source):
        return {"status": "fail", "why": f"came back as a {type(plain).__name__}"}
    if kind != "pd_b" and list(plain.state_dict()) != list(source.state_dict()):
        other = sorted({*plain.state_dict()} ^ {*source.state_dict()})[:3]
        return {"status": "fail", "why": f"came back with other keys: {', '.join(other) or 'their order'}"}
    gap = largest_gap([outputs_of(model, i) for i in inputs], [outputs_of(plain, i) for i in inputs])
    if not gap <= TOLERANCE and not gap <= (own := rounding(model, inputs)):
        return {"status": "fail", "why": f"collapsed it differs by {gap:.1e}, by rounding alone by {own:.1e}"}
    plan = zoo.plan(source, SPECS[kind]) if planned else report
    if plan.after != report.after or plan.collapsed != report.collapsed:
        return {"status": "fail", "why": "the plan said something else"}
    return {"status": "pass", "changed": len(report.changed), "layers": len(report.changed) + len(report.left_alone),
            "parameters": [report.before.parameters, report.after.parameters, report.after.on], "gap": gap}  # fmt: skip


def rounding(model: nn.Module, inputs: list[torch.Tensor]) -> float:
    """What changing each parameter by a few of float64's last digits does: random statistics make some steep."""
    torch.manual_seed(0)
    near = copy.deepcopy(model)
    for parameter in near.parameters():
        parameter.mul_(1 + 1e-15 * torch.randn_like(parameter))
    return largest_gap([outputs_of(model, i) for i in inputs], [outputs_of(near, i) for i in inputs])


def largest_gap(first: list[list[torch.Tensor]], second: list[list[torch.Tensor]]) -> float:
    """Largest difference over the largest value, of all outputs at all sizes."""
    return max(gap_of(a, b)[1] for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of results; of a network and kind measured again the last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {(row["arch"], row["kind"]): row for row in map(json.loads, lines)}
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="file of results, a JSON object per line")
    parser.add_argument("--most", type=int, default=8, help="networks of one family")
    parser.add_argument("--largest", type=int, default=30_000_000, help="parameters")
    parser.add_argument("--only", nargs="*", help="these architectures")
    parser.add_argument("--again", action="store_true", help="do what failed again")
    args = parser.parse_args()
    rows = read(args.results)
    torch.set_num_threads(1)
    done = {(row["arch"], row["kind"]) for row in rows if not (args.again and row["status"] == "fail")}
    names = args.only or architectures(args.most, args.largest)
    with open(args.results, "a", encoding="utf-8") as file:
        for arch in (bar := tqdm(names, "networks")):
            if kinds := [kind for kind in SPECS if (arch, kind) not in done]:
                bar.set_postfix_str(arch)
                try:
                    for row in try_kinds(arch, kinds):
                        file.write(json.dumps(row) + "\n")
                        file.flush()
                        if row["status"] == "fail":
                            tqdm.write(f"{arch} {row['kind']}: {row['why']}", file=sys.stderr)
                except Exception as error:  # the network itself does not run here
                    tqdm.write(f"{arch}: {' '.join(str(error).split())[:200]}", file=sys.stderr)


if __name__ == "__main__":
    main()
