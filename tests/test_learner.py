"""A step of training against the same step written out in plain PyTorch, option by option."""

import copy
import math

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch import nn
from torch.nn import functional as F

from zoo.makers import learned_of, maker_of
from zoo.makers.masked import MaskedWeight
from zoo.training import loop
from zoo.training.data import Images
from zoo.training.distributed import Processes
from zoo.training.learner import Learner, build_network
from zoo.training.recipe import Recipe
from zoo.training.sparsity.base import layers_with

ALONE = Processes(torch.device("cpu"))
EPOCHS, UPDATES = 3, 3
TABLE = {"sched": "step", "lr_table": {0: 0.1, 1: 0.04, 2: 0.01}, "warmup_epochs": 0}


def recipe(**changes) -> Recipe:
    values = {"model_args": {"sparsity": 0.5}, "epochs": EPOCHS, "warmup_epochs": 0, "batch_size": 8, **changes}
    return Recipe("sparse_mlp_300_100.test_fmnist", "fashion-mnist", **values)


def network_of(r: Recipe) -> nn.Module:
    torch.manual_seed(1)
    return build_network(r, ALONE.device)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(8, 1, 28, 28, generator=generator) for _ in range(EPOCHS * UPDATES)]
    return [(images, torch.randint(10, (8,), generator=generator)) for images in draw]


def learned_by_hand(r: Recipe) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[float]]:
    """State of the network and of its average after all steps, and the loss of each step."""
    model = network_of(r).train()
    decayed = [p for p in model.parameters() if p.dim() > 1 or r.decay_all]
    spared = [p for p in model.parameters() if p.dim() == 1 and not r.decay_all]
    groups = [{"params": decayed, "weight_decay": r.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=r.momentum, nesterov=r.opt == "sgd")
    average, losses = copy.deepcopy(model.state_dict()), []
    mix = Mixup(r.mixup, r.cutmix, label_smoothing=r.label_smoothing, num_classes=10) if r.mixup or r.cutmix else None
    for step, (images, labels) in enumerate(batches()):
        if r.sched == "step":
            rate = r.lr_table[step // UPDATES]
        else:
            rate = r.lr * (1 + math.cos(math.pi * step / (EPOCHS * UPDATES))) / 2
        if r.restart_momentum and step and step % UPDATES == 0:
            optimizer.state.clear()
        targets = (1 - r.label_smoothing) * F.one_hot(labels, 10) + r.label_smoothing / 10
        if mix:
            images, targets = mix(images.clone(), labels)
        loss = -(targets * model(images).log_softmax(1)).sum(1).mean()
        losses.append(8 * loss.item())
        if r.method:
            made = [learned_of(layer) for layer in layers_with(model, MaskedWeight).values()]
            loss = loss + r.method_options["l1"] * sum(learned.abs().sum() for learned in made)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad *= min(1.0, r.clip_grad / (norm.item() + 1e-6)) if r.clip_grad else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for key, value in model.state_dict().items():
            share = (1 - r.ema) if value.is_floating_point() else 1.0
            average[key] = value.clone() if share == 1.0 else average[key] + share * (value - average[key])
    return model.state_dict(), average, losses


CASES = {
    "plain": {},
    "momentum": {"opt": "momentum", "momentum": 0.6},
    "weight decay": {"weight_decay": 0.3},
    "decay of all": {"weight_decay": 0.3, "decay_all": True},
    "label smoothing": {"label_smoothing": 0.4},
    "clipping": {"clip_grad": 0.3},
    "average": {"ema": 0.7},
    "table": TABLE,
    "momentum thrown away": {**TABLE, "restart_momentum": True},
    "mixup": {"mixup": 0.4, "label_smoothing": 0.2},
    "cutmix": {"cutmix": 1.0},
    "penalty": {"method": "static", "method_options": {"l1": 1e-3}},
    "everything": {
        **TABLE,
        "restart_momentum": True,
        "label_smoothing": 0.2,
        "clip_grad": 0.5,
        "ema": 0.6,
        "mixup": 0.2,
        "decay_all": True,
        "weight_decay": 0.1,
        "method": "static",
        "method_options": {"l1": 1e-4},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_what_the_recipe_says(case):
    r = recipe(**CASES[case])
    np.random.seed(5)
    trained, average, losses = learned_by_hand(r)
    np.random.seed(5)
    learner = Learner(r, UPDATES, ALONE, network_of(r))
    learner.model.train()
    found = [
        learner.step(images, labels, step // UPDATES, step % UPDATES).item()
        for step, (images, labels) in enumerate(batches())
    ]
    assert found == pytest.approx(losses, rel=1e-4), "the sum of the images' losses, without penalties"
    for state, expected in ((learner.model, trained), (learner.result, average if r.ema else trained)):
        for key, value in state.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")
    assert (learner.result is learner.model) == (not r.ema)
    state = learner.state()
    assert all(torch.equal(value, learner.result.state_dict()[key]) for key, value in state["model"].items())


def test_gradients_are_clipped_after_the_loss_scale_is_taken_out():
    r = recipe(amp="float16", clip_grad=1e-3, opt="momentum", momentum=0.0, weight_decay=0.0, lr=1.0)
    learner = Learner(r, UPDATES, ALONE, network_of(r))
    learner.step(*batches()[0], 0, 0)
    learner.scaler.update(64.0)  # the first scale of all overflows, and its step is left out
    before = nn.utils.parameters_to_vector(learner.model.parameters()).detach().clone()
    learner.step(*batches()[1], 0, 0)
    moved = nn.utils.parameters_to_vector(learner.model.parameters()) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "set", "method_options": {"period": 2, "fraction": 0.3}},
        {"method": "rigl", "method_options": {"period": 2, "end_iteration": 99}},
    ],
)
def test_the_average_of_moving_masks_is_a_network_with_the_same_masks(method):
    r = recipe(ema=0.9, **method)
    learner = Learner(r, UPDATES, ALONE, network_of(r))
    pairs = list(zip(*(layers_with(m, MaskedWeight).values() for m in (learner.model, learner.result)), strict=True))
    first = [maker_of(layer).mask.clone() for layer, _ in pairs]
    values = [learned_of(layer).detach().clone() for layer, _ in pairs]
    for step, (images, labels) in enumerate(batches()):
        learner.step(images, labels, step // UPDATES, step % UPDATES)
        for (layer, averaged), value in zip(pairs, values, strict=True):
            mask = maker_of(averaged).mask
            assert mask.dtype == torch.bool
            assert torch.equal(mask, maker_of(layer).mask)
            assert not averaged.weight[~mask].any()
            value += 0.1 * (learned_of(layer).detach() - value)
            torch.testing.assert_close(averaged.weight, value * mask)
    assert not all(torch.equal(maker_of(layer).mask, mask) for (layer, _), mask in zip(pairs, first, strict=True))


def test_held_out_images_are_measured_in_eval_mode():
    r = recipe(model_args={"sparsity": 0.5, "drop_rate": 0.9})
    model = network_of(r).train()
    for images, _ in batches():
        model(3 * images + 1)  # batch norms that have seen other images than those below
    pixels = torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8)
    split = Images(pixels, torch.zeros(40, dtype=torch.long), (0.3,), (0.4,))
    with torch.no_grad():
        guesses = copy.deepcopy(model).eval()((pixels / 255 - 0.3) / 0.4).argmax(1)
    before = copy.deepcopy(model.state_dict())
    for label in guesses.unique().tolist():
        split.labels = torch.full((40,), label)
        expected = 100 * (guesses == label).double().mean().item()
        assert loop.accuracy(model.train(), split, ALONE) == pytest.approx(expected, abs=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (
        "batch norms learn nothing"
    )


def test_the_best_network_is_a_copy_and_the_first_among_equals():
    learner = Learner(recipe(held_out=1, keep="best", ema=0.5), UPDATES, ALONE, network_of(recipe()))
    expected = copy.deepcopy(learner.result.state_dict())
    assert learner.keep_best(1, 50.0)
    learner.step(*batches()[0], 0, 0)
    assert not learner.keep_best(2, 50.0)
    assert learner.best["epoch"] == 1
    assert all(torch.equal(value, expected[key]) for key, value in learner.best["model"].items())
    assert learner.keep_best(3, 50.1)
    averaged = learner.result.state_dict()
    assert all(torch.equal(value, averaged[key]) for key, value in learner.best["model"].items())


@pytest.mark.parametrize(("images", "world"), [(7, 2), (8, 3), (5, 4), (2, 4)])
def test_shares_make_the_mean_over_processes_that_over_images(images, world):
    losses = torch.randn(images, dtype=torch.float64)
    own = [Processes(torch.device("cpu"), rank, world) for rank in range(world)]
    together = sum(p.slice(losses).mean() * p.share(images) for p in own) / world
    torch.testing.assert_close(together, losses.mean())
