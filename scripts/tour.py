"""A newcomer's way through the command line, in an empty folder: run, stop, go on, measure, use, pass on.

    python scripts/tour.py FOLDER

Offline and in a minute: the data are the 1,000 images that travel with the package, which serve as training set too, so
that no accuracy here means anything. The first command that does not end as it should ends the tour. Networks of one's
own are in docs/own_networks.md, a family of one's own in docs/add_a_family.md.
"""

import os
import runpy
import shlex
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import zoo

SAMPLE = Path(zoo.__file__).parent / "data" / "fashion_mnist_1000"
RECIPE = """weight: sparse_mlp_300_100.mine_fmnist
dataset: fashion-mnist
epochs: 2
batch_size: 250
lr: 0.1
model_args: {sparsity: 0.8}
method: dynamic
method_options: {period: 2, target: 1000}
"""
DATA = "--dataset fashion-mnist --data data"
BEFORE = f"""
zoo list 'sparse_mlp*'
zoo recipes 'sparse_mlp*dsr*'
zoo train mine.yaml --data data --output run --budget 0.001
zoo train mine.yaml --data data --output run --budget 0.001 --resume
zoo train mine.yaml --data data --output run --resume
zoo info run
zoo validate run {DATA} --results run.json
zoo validate run {DATA} --limit 100
zoo validate sparse_mlp_300_100 {DATA} --checkpoint run/checkpoint.pt
zoo predict run image.png
zoo export run --format onnx -o run.onnx
zoo export run --format safetensors -o run.safetensors
zoo validate sparse_mlp_300_100 {DATA} --checkpoint run.safetensors
"""
AFTER = f"""
zoo validate ./mine {DATA} --limit 100
zoo validate ./plain {DATA} --limit 100
zoo bundle lrunet1_100.zoo_fmnist ./run ./mine -o own.zoo
zoo bundle --install own.zoo --to installed
zoo mirror mirror lrunet1_100.zoo_fmnist ./mine
zoo verify lrunet1_100.zoo_fmnist
"""


def run(lines: str) -> None:
    """Each command as typed, in this process: starting Python anew for each would take longer than they do."""
    for line in filter(None, lines.splitlines()):
        print(f"\n$ {line}", flush=True)
        sys.argv[1:] = shlex.split(line)[1:]
        try:
            runpy.run_module("zoo", run_name="__main__")
        except SystemExit as end:
            if end.code:
                sys.exit(f"The tour ends here, with exit code {end.code}.")


def networks_come_back() -> None:
    """What is fine-tuned, saved and collapsed is the same function in another place."""
    images = torch.randn(4, 1, 28, 28)
    model = timm.create_model("lrunet1_100.zoo_fmnist", pretrained=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.001 * torch.randn_like(parameter)  # in place of training
        for name, network in (("mine", model), ("plain", zoo.reparameterize(model))):
            save_for_hf(network, name, safe_serialization=True)
            again = timm.create_model(f"local-dir:{name}", pretrained=True).eval()
            difference = (again(images) - model(images)).abs().max().item()
            print(f"\nlocal-dir:{name} is {type(again).__name__}; its scores differ by {difference:.1e}")
            if difference > 1e-5:
                sys.exit("The tour ends here: another function came back.")


def tour(folder: Path) -> None:
    """Everything, in an empty folder."""
    (folder / "data").mkdir(parents=True)
    for path in SAMPLE.glob("*.gz"):
        for name in (path.name, path.name.replace("t10k", "train")):
            (folder / "data" / name).write_bytes(path.read_bytes())
    (folder / "mine.yaml").write_text(RECIPE)
    Image.fromarray((torch.rand(28, 28) * 255).byte().numpy()).save(folder / "image.png")
    os.chdir(folder)
    run(BEFORE)
    networks_come_back()
    run(AFTER)


if __name__ == "__main__":
    tour(Path(sys.argv[1]))
