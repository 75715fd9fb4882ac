"""What share of a training's time its steps take; the rest is reading, augmenting and moving images, and checks.

    python benchmarks/training_share.py RECIPE --data DIR [--seconds 30] [--set KEY=VALUE ...]

A recipe is run for some seconds, as ``zoo train --budget`` does, in a folder that is then removed. Absolute times
belong to a machine and are not printed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import zoo
from zoo.settings import parse_settings
from zoo.training import checkpoint
from zoo.training.loop import train
from zoo.training.recipe import Recipe, load_recipe


def measure(recipe: Recipe, data: str, seconds: float, device: str = "") -> float:
    """Train for some seconds.

    Args:
        recipe: What to train; its epochs and checkpoints do not matter.
        data: Folder of the data set.
        seconds: How long, in whole steps.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.

    Returns:
        The share of the time that was spent in steps.
    """
    recipe.epochs, recipe.checkpoint_every, recipe.held_out, recipe.keep = 10**6, 0, 0, "last"
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, data, folder, device=device, budget=seconds)
        position = checkpoint.load(Path(folder) / "checkpoint.pt")["position"]
    times = [(line["seconds"], line["step_share"] * line["seconds"]) for line in position["log"]]
    # what follows is of the epoch in which it stopped
    times.append((position["seconds"], position["step_seconds"]))
    return sum(steps for _, steps in times) / sum(whole for whole, _ in times)


def main() -> None:
    """Print the share as a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="+")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--device", default="")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of zoo train")
    options = parser.parse_args()
    for name in options.recipe:
        recipe = load_recipe(name, parse_settings(options.set))
        share = measure(recipe, options.data, options.seconds, options.device)
        print(f"{name}: {100 * share:.1f} % in steps, {1 / share:.3f} times as long as the steps alone")


if __name__ == "__main__":
    try:
        main()
    except zoo.ZooError as error:
        sys.exit(str(error))
