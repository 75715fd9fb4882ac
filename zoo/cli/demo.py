"""``zoo demo``: the main job, offline, with what the package carries."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_atomically
from ..tables import table
from ..weights.manifest import facts

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

WEIGHT = "lrunet1_100.zoo_fmnist"
SAMPLE = Path(__file__).resolve().parent.parent / "data" / "fashion_mnist_1000"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("demo", help="verify, validate and use a weight that the package carries; no network")
    parser.add_argument("--output", default="out", metavar="DIR", help="folder of the pictures (out)")
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    from ..data import get_dataset, load_arrays
    from ..evaluation.pictures import draw_predictions
    from ..evaluation.predict import predict
    from ..evaluation.validate import validate
    from ..registry import create_model
    from ..weights.fetch import fetch

    found = fetch(WEIGHT)
    print(f"{WEIGHT}: sha256 {facts(WEIGHT)['sha256']} verified ({found.kind})", file=sys.stderr)
    model = create_model(WEIGHT, pretrained=True)
    result = validate(model, "fashion-mnist", SAMPLE, name=WEIGHT, sha256=facts(WEIGHT)["sha256"])
    row = [WEIGHT, f"{result.top1:.2f}", "{:.2f}-{:.2f}".format(*result.interval), result.n]
    print(table([row], ["name", "top-1 %", "95 % interval", "n (first images of the test set)"]))

    images, labels = load_arrays("fashion-mnist", SAMPLE, "test")
    chosen = [int(np.flatnonzero(labels == k)[0]) for k in range(10)]  # the first image of each class
    chosen += _wrong(model, images, labels)[:5]
    output = Path(options.output)
    files = []
    for i in chosen:
        files.append(output / f"image_{i:03d}.png")
        write_atomically(lambda file, i=i: Image.fromarray(images[i, 0]).save(file, "png"), files[-1])
    names = get_dataset("fashion-mnist").classes
    captions = [
        (names[labels[i]], names[best[0][0]], best[0][1])
        for i, best in zip(chosen, predict(model, files, top=1), strict=True)
    ]
    title = f"{WEIGHT} on fashion-mnist: the first test image of each class, and the first wrong guesses"
    sheet = draw_predictions([images[i, 0] for i in chosen], captions, title=title)
    write_atomically(lambda file: sheet.save(file, "png"), output / "predictions.png")
    print(output / "predictions.png")


def _wrong(model: "nn.Module", images: "np.ndarray", labels: "np.ndarray") -> list[int]:
    """Which images of (n, 1, height, width) the network takes for another class."""
    import numpy as np
    import torch

    cfg = model.pretrained_cfg
    inputs = (torch.from_numpy(images) / 255 - cfg["mean"][0]) / cfg["std"][0]
    with torch.inference_mode():
        guesses = model(inputs.to(next(model.parameters()).device)).argmax(1).cpu().numpy()
    return np.flatnonzero(guesses != labels).tolist()
