"""A trained CIFAR-10 network transformed and fine-tuned, beside itself fine-tuned alike.

    python scripts/transform_proof.py --data DIR --work DIR        all that is not done yet

Every network starts from the same weights and sees the same images in the same order, equally augmented, with the same
optimizer; nothing was tuned. What is done lies in the folder ``--work``, so a stopped script goes on from there. The
whole takes one CPU core about ten minutes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from timm.data import resolve_data_config  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zoo  # noqa: E402
from zoo.data import load_arrays  # noqa: E402
from zoo.evaluation.compare import compare  # noqa: E402
from zoo.evaluation.predictions import Predictions, read_predictions  # noqa: E402
from zoo.evaluation.validate import validate  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.layers import decay_groups  # noqa: E402
from zoo.training.data import Images  # noqa: E402

RESULTS = ROOT / "docs" / "transform_proof.json"
WEIGHT = "resnet18_half_cifar.zoo_c10"
UNTOUCHED = "untouched"
SPECS = (
    UNTOUCHED,
    "symmetrize:tri+sparsify:0.9",
    "sparsify:0.9",
    "symmetrize:tri",
    "share:templates=2",
    "pd_a",
)
BUDGET = {"images": 4000, "epochs": 1, "batch": 50, "lr": 0.02, "weight_decay": 5e-4, "momentum": 0.9, "seed": 0}
UNCOLLAPSED = 2000  # of the test images; all would take as long as everything else together


def started(spec: str) -> nn.Module:
    """The trained network, transformed."""
    model = zoo.create_model(WEIGHT, pretrained=True)
    torch.manual_seed(BUDGET["seed"])  # of branches that begin at nothing
    return model if spec == UNTOUCHED else zoo.transform(model, spec)


def tuned(spec: str, data: str, file: Path) -> nn.Module:
    """The same after fine-tuning, from the file if there is one."""
    model = started(spec)
    if not file.exists():
        losses = fine_tune(model, data)
        state = {"model": model.state_dict(), "losses": losses}
        write_atomically(lambda target: torch.save(state, target), file)
    model.load_state_dict(torch.load(file, weights_only=True)["model"])
    return model.eval()


def fine_tune(model: nn.Module, data: str) -> list[float]:
    """Train a network in place; the losses, step by step."""
    config = resolve_data_config(model=model)
    pixels, labels = (torch.from_numpy(a[: BUDGET["images"]]) for a in load_arrays("cifar10", data, "train"))
    images = Images(pixels, labels, config["mean"], config["std"])
    generator = torch.Generator().manual_seed(BUDGET["seed"])
    groups = decay_groups(model, BUDGET["weight_decay"])
    optimizer = torch.optim.SGD(groups, BUDGET["lr"], BUDGET["momentum"], nesterov=True)
    steps = -(-BUDGET["images"] // BUDGET["batch"]) * BUDGET["epochs"]
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train().to(memory_format=torch.channels_last)
    losses: list[float] = []
    for _ in range(BUDGET["epochs"]):
        order = torch.randperm(len(images), generator=generator)
        for x, y in images.batches(order, BUDGET["batch"], generator, pad=4, flip=True):
            losses.append(_step(model, x.contiguous(memory_format=torch.channels_last), y, optimizer))
            schedule.step()
    return losses


def _step(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def run(data: str, work: Path) -> None:
    """Everything that is not in the folder yet, what matters most first."""
    work = work / "-".join(f"{key}{value}" for key, value in BUDGET.items())  # other budgets are other results
    work.mkdir(parents=True, exist_ok=True)

    def file(spec: str, ending: str) -> Path:
        return work / f"{spec.replace(':', '_')}{ending}"

    def measured(spec: str, stage: str, make: Any, limit: int = 0) -> Predictions:
        path = file(spec, f"-{stage}.npz")
        if not path.exists():
            validate(
                make(), "cifar10", data, name=spec, device="cpu", channels_last=True, limit=limit, predictions=path
            )
            print(spec, stage, read_predictions(path).right.mean(), flush=True)
        return read_predictions(path)

    def weights(spec: str) -> nn.Module:
        return tuned(spec, data, file(spec, ".pt"))

    for spec in SPECS:
        weights(spec)
        print(spec, "tuned", flush=True)
    after = {s: measured(s, "after", lambda s=s: zoo.reparameterize(weights(s))) for s in SPECS}
    before = {s: measured(s, "before", lambda s=s: zoo.reparameterize(started(s).eval())) for s in SPECS}
    whole = {s: measured(s, "uncollapsed", lambda s=s: weights(s), UNCOLLAPSED) for s in SPECS}
    rows = []
    for spec in SPECS:
        losses = torch.load(file(spec, ".pt"), weights_only=True)["losses"]
        differ = int((whole[spec].prediction != after[spec].prediction[:UNCOLLAPSED]).sum())
        rows.append(
            {
                "transform": spec,
                **sizes(spec),
                "before": before[spec].correct,
                "after": after[spec].correct,
                "n": len(after[spec].right),
                "against_untouched": compare(after[UNTOUCHED], after[spec]).to_dict(),
                "uncollapsed": {"n": UNCOLLAPSED, "guesses_that_differ": differ},
                "losses": [round(loss, 4) for loss in losses],
            }
        )
    combined, *halves = SPECS[1:4]
    beside = [compare(after[half], after[combined]).to_dict() for half in halves]
    results = {"weight": WEIGHT, "budget": BUDGET, "networks": rows, "combination": beside}
    write_atomically((json.dumps(results, indent=1) + "\n").encode(), RESULTS)


def sizes(spec: str) -> dict[str, Any]:
    """What a network stores and takes, and how far its kernels are from the trained ones at the start."""
    model = started(spec)
    if spec == UNTOUCHED:
        count = sum(p.numel() for p in model.parameters())
        return {"stored": count, "on": count, "collapsed": count, "kernel_error": 0.0}
    report = model.zoo_report
    return {
        "stored": report.after.parameters,
        "on": report.after.on,
        "collapsed": report.collapsed.parameters,
        "kernel_error": report.kernel_error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--work", required=True, type=Path, help="folder for what is done so far")
    options = parser.parse_args()
    run(options.data, options.work)


if __name__ == "__main__":
    main()
