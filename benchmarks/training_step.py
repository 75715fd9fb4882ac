"""A captured training step against the plain one, and against what memory takes at least, on a CUDA machine.

    python benchmarks/training_step.py sparse_wrn_28_2_dsr_s90_c10 wrn_16_4_c10

The floor counts each layer's input and output once forward and twice backward (read to compute gradients, gradients
written), at the speed at which this GPU copies memory; parameters and elementwise work between layers come on top.
"""

import argparse
import time
from collections.abc import Callable

import torch

from zoo.training.captured import WARM_UP, stepper
from zoo.training.distributed import Processes
from zoo.training.learner import Learner, build_network
from zoo.training.recipe import Recipe, load_recipe
from zoo.training.tally import Tally

STEPS = 100


def milliseconds(step: Callable[[], object], steps: int = STEPS) -> float:
    """Of one call, after a few that are not counted."""
    for _ in range(WARM_UP + 2):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / steps


def copy_speed() -> float:
    """Bytes that are read or written in a millisecond when a gigabyte is copied."""
    source, target = (torch.zeros(1 << 28, device="cuda") for _ in range(2))
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source), 20)


def floor(learner: Learner, images: torch.Tensor, bytes_per_ms: float) -> float:
    """Milliseconds that a step's memory traffic takes at least."""
    moved, half = [0], bool(learner.recipe.amp)

    def count(module: torch.nn.Module, inputs: tuple, output: object) -> None:
        for tensor in (*inputs, output):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                moved[0] += tensor.numel() * (2 if half else tensor.element_size())

    leaves = [m for m in learner.model.modules() if not list(m.children()) and list(m.parameters(recurse=False))]
    hooks = [module.register_forward_hook(count) for module in leaves]
    with torch.no_grad():
        learner.model(images)
    for hook in hooks:
        hook.remove()
    return 3 * moved[0] / bytes_per_ms


def compare(name: str, recipe: Recipe, processes: Processes, bytes_per_ms: float) -> str:
    """A line for a recipe; moves of sparsity are rare and not among these steps."""
    times = []
    place = processes.device
    images = torch.randn(recipe.batch_size, *recipe.input_size(), device=place)
    labels = torch.randint(10, (recipe.batch_size,), device=place)
    for captured in (False, True):
        learner, tally = Learner(recipe, 10**6, processes, build_network(recipe, place)), Tally(place)
        learner.model.train()
        take = stepper(learner, tally, recipe.batch_size) if captured else learner.step
        # iteration 1 comes again and again: no multiple of a period
        times.append(milliseconds(lambda take=take: take(images, labels, 0, 1, recipe.batch_size)))
    plain, replayed = times
    least = floor(learner, images, bytes_per_ms)
    return f"{name}: plain {plain:.2f} ms, captured {replayed:.2f} ms ({plain / replayed:.1f} times as fast), " \
           f"memory {least:.2f} ms (captured: {replayed / least:.1f} times that)"  # fmt: skip


def main() -> None:
    """Print a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="names or files of recipes of image networks")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA GPU here, so nothing is measured.")
        return
    processes = Processes(torch.device("cuda"))
    print(torch.cuda.get_device_name())
    with torch.cuda.stream(torch.cuda.Stream()):
        bytes_per_ms = copy_speed()
        for name in options.recipes:
            print(compare(name, load_recipe(name), processes, bytes_per_ms), flush=True)


if __name__ == "__main__":
    main()
