"""How long a network of this zoo takes in each of its forms, over the plain network it stands beside.

    python benchmarks/forms.py [OURS=PLAIN ...] [--batch 1] [--threads 1] [--rounds 9] [--train] [--output FILE]

All are measured in turn in each round, in processor time divided by that of the plain network in the same round; the
median and the range of these ratios are printed. ``--train`` measures a step, forward and backward, in place of
inference. Absolute times belong to a machine and are not printed.

"least" is the limit of inference as trained: the plain network, each made kernel of which is copied before its use (of
shared ones, two templates are added): what is read and written then no maker can do without.

A block of memory as large as a kernel, once freed, goes back to the operating system, and the next costs thousands of
page faults, until the process has freed a larger one (glibc's moving threshold). Here one of 32 MB is freed first.
"""

import argparse
import copy
from collections.abc import Callable

import timm
import torch
from measure import machine, ratios, write
from torch import nn

import zoo
from zoo.makers import make_weight, maker_of
from zoo.makers.base import made_tensors
from zoo.makers.shared import SharedWeight
from zoo.tables import table

PAIRS = (
    "swrn_28_10_2=wrn_28_10",
    "symm_wrn_28_10=wrn_28_10",
    "sparse_wrn_28_2=wrn_28_2",
    "pd_a_resnet18=resnet18",
    "pd_b_resnet18=resnet18",
)


class Least(nn.Module):
    """Reads what a maker reads, as whole kernels, and writes a kernel.

    Args:
        maker: In whose place it stands.
    """

    def __init__(self, maker: nn.Module):
        super().__init__()
        shared = isinstance(maker, SharedWeight) and maker.bank.num_templates > 1
        self.templates = [t.detach() for t in maker.bank.templates[:2]] if shared else []

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        """The kernel, or another of its shape."""
        return torch.add(*self.templates) if self.templates else kernel.clone()

    def right_inverse(self, kernel: torch.Tensor) -> torch.Tensor:
        """The kernel."""
        return kernel


def least(model: nn.Module) -> nn.Module:
    """A made network with the least in place of its makers."""
    plain = copy.deepcopy(zoo.reparameterize(model))
    for name, layer, tensor in made_tensors(model):
        make_weight(plain.get_submodule(name), Least(maker_of(layer, tensor)), tensor)
    return plain.eval()


def step(model: nn.Module, images: torch.Tensor, train: bool) -> Callable[[], object]:
    """One pass over the images, with gradients where it is a training step."""

    def run() -> None:
        with torch.set_grad_enabled(train):
            scores = model(images)
            if train:
                scores.square().mean().backward()

    return run


def main() -> None:
    """Print the ratios as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", nargs="*", default=PAIRS, metavar="OURS=PLAIN")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--output", help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.empty(8_000_000).fill_(0)
    found = {"machine": machine(options.threads), "forms": []}
    for pair in options.pair:
        ours, _, plain = pair.partition("=")
        models = {"plain": timm.create_model(plain), "as trained": timm.create_model(ours)}
        if not options.train:
            models["collapsed"] = zoo.reparameterize(models["as trained"].eval())
            if made_tensors(models["as trained"]):
                models["least"] = least(models["as trained"])
        images = torch.randn(options.batch, *models["plain"].pretrained_cfg["input_size"])
        work = {form: step(model.train(options.train), images, options.train) for form, model in models.items()}
        row = {"network": ours, "over": plain, "batch": options.batch, "train": options.train}
        found["forms"].append(row | {"ratios": ratios(work, options.rounds)[1]})
    rows = [
        [row["network"], row["over"], form, f"{median:.2f}", f"{low:.2f} to {high:.2f}"]
        for row in found["forms"]
        for form, (median, low, high) in row["ratios"].items()
        if form != "plain"
    ]
    kind = "a training step" if options.train else "inference"
    print(f"{kind}, batch {options.batch}, threads {options.threads}: processor time over the plain network's")
    print(table(rows, ["network", "over", "form", "median", "range"]))
    if options.output:
        write(options.output, found)


if __name__ == "__main__":
    main()
