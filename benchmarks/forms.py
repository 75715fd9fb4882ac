"""How long a network of this zoo takes in each of its forms, over the plain network it stands beside.

    python benchmarks/forms.py [OURS=PLAIN ...] [--batch 1] [--threads 1] [--rounds 9] [--train]

All are measured in turn in each round, in processor time divided by that of the plain network in the same round; the
median and the range of these ratios are printed. ``--train`` measures a step, forward and backward, in place of
inference. Absolute times belong to a machine and are not printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import zoo
from zoo.evaluation.results import table

PAIRS = (
    "swrn_28_10_2=wrn_28_10",
    "symm_wrn_28_10=wrn_28_10",
    "sparse_wrn_28_2=wrn_28_2",
    "pd_a_resnet18=resnet18",
    "pd_b_resnet18=resnet18",
)


def ratios(work: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Processor time of each over that of the first, by round."""
    for run in work:
        run()
    found: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        times = []
        for run in work:
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        for ratio, seconds in zip(found, times, strict=True):
            ratio.append(seconds / times[0])
    return found


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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for pair in options.pair:
        ours, _, plain = pair.partition("=")
        models = [timm.create_model(name) for name in (plain, ours)]
        if not options.train:
            models.append(zoo.reparameterize(models[1].eval()))
        size = models[0].pretrained_cfg["input_size"]
        images = torch.randn(options.batch, *size)
        work = [step(model.train(options.train), images, options.train) for model in models]
        for form, found in zip(("as trained", "collapsed"), ratios(work, options.rounds)[1:], strict=False):
            spread = f"{min(found):.2f} to {max(found):.2f}"
            rows.append([ours, plain, form, f"{statistics.median(found):.2f}", spread])
    kind = "a training step" if options.train else "inference"
    print(f"{kind}, batch {options.batch}, threads {options.threads}: processor time over the plain network's")
    print(table(rows, ["network", "over", "form", "median", "range"]))


if __name__ == "__main__":
    main()
