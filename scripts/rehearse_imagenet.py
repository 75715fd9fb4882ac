"""Rehearse the way of an ImageNet weight on photographs at hand, at small size: minutes on a CPU core.

    python scripts/rehearse_imagenet.py PHOTOS OUTPUT [--recipe NAME] [--set KEY=VALUE ...]

PHOTOS is a folder of photographs in ImageNet form (one folder per WordNet id, of any number of classes). Every second
one is linked into OUTPUT/photos/train, the others into OUTPUT/photos/val. Then the recipe is trained at 64x64, killed
in the middle of an epoch and resumed; the result is validated, collapsed, validated again and exported.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import zoo
from zoo.data.images import ImageFolder
from zoo.evaluation.validate import validate
from zoo.reparam.export import export
from zoo.settings import parse_settings
from zoo.training.learner import load_run

SETTINGS = [
    "image_size=64",
    "epochs=4",
    "batch_size=64",
    "lr=0.05",
    "sched=cosine",
    "milestones=[]",
    "warmup_epochs=1",
    "amp=''",
    "workers=1",
    "checkpoint_every=5",
]


def split(photos: Path, output: Path) -> tuple[int, int]:
    """Link every second photograph into ``train``, the others into ``val``; returns how many went where."""
    counts = [0, 0]
    images = ImageFolder(photos)
    for number, (path, _) in enumerate(images.samples):
        link = output / ("val", "train")[number % 2] / Path(path).relative_to(images.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(Path(path).resolve())
        counts[number % 2] += 1
    return counts[1], counts[0]


def train(recipe: str, data: Path, run: Path, settings: list[str]) -> float:
    """Train, kill the process once it has written a checkpoint in the middle of an epoch, resume; returns seconds."""
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "zoo", "train", recipe, "--data", str(data), "--output", str(run), *words]
    began = time.monotonic()
    process = subprocess.Popen(command)
    while not (run / "checkpoint.pt").exists():
        if process.poll() is not None:
            sys.exit(f"zoo train ended with code {process.returncode} before its first checkpoint.")
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    print(f"killed with code {process.wait()}; resuming")
    subprocess.run([*command, "--resume"], check=True)
    return time.monotonic() - began


def main() -> None:
    """Run all steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--recipe", default="pd_a_resnet18_in1k")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of zoo train")
    options = parser.parse_args()
    data, run = options.output / "photos", options.output / "run"
    settings = [word for word in SETTINGS if word.split("=")[0] not in parse_settings(options.set)] + options.set
    figures: dict[str, object] = {"recipe": options.recipe, "settings": settings}
    figures["train"], figures["val"] = split(options.photos, data)
    figures["training_seconds"] = round(train(options.recipe, data, run, settings))
    figures["log"] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    model = load_run(run)
    plain, record = zoo.reparameterize(model, return_record=True)
    for name, network in (("trained", model), ("collapsed", plain)):
        result = validate(network, "imagenet", data, name=name)
        figures[name] = {"top1": result.top1, "top5": result.top5, "n": result.n, "correct": result.correct}
    figures["collapse"] = record.to_dict()
    export(model, options.output / "collapsed.safetensors", "safetensors", "rehearsal")
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    try:
        main()
    except zoo.ZooError as error:
        sys.exit(str(error))
