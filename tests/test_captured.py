"""The step that a GPU replays, run as it is on the CPU, against the plain step; and what happens around the capture."""

import contextlib
import logging

import numpy as np
import pytest
import torch

from zoo.makers import maker_of
from zoo.training import captured, loop
from zoo.training.captured import WARM_UP, Captured, obstacle
from zoo.training.distributed import Processes
from zoo.training.learner import Learner, build_network
from zoo.training.recipe import Recipe
from zoo.training.tally import Tally

ALONE = Processes(torch.device("cpu"))
UPDATES, BATCH, LAST = 3, 4, 2
SMALL = {"depth": 10, "width": 1}
SPARSE = {"model_args": {**SMALL, "sparsity": 0.5}}
NARROW = {"model_args": {"width": 0.0625}}
EVERY = {"ema": 0.5, "clip_grad": 1.0, "label_smoothing": 0.1}

CASES = {
    "shared": ("swrn", {"model_args": {"depth": 16, "width": 1, "bank_size": 2}}),
    "low rank": ("lrunet1_100", {"mixup": 0.2, "cutmix": 1.0}),
    "symmetric": ("symm_wrn", {"model_args": SMALL, "opt": "adamw", "lr": 1e-3}),
    "ParaDise, A": ("pd_a_resnet18_half_cifar", {**NARROW, "opt": "momentum"}),
    "ParaDise, B": ("pd_b_resnet18_half_cifar", NARROW),
    "dynamic": ("sparse_wrn", {**SPARSE, "method": "dynamic", "method_options": {"period": 2, "target": 50}}),
    "set": ("sparse_wrn", {**SPARSE, "method": "set", "method_options": {"period": 2, "fraction": 0.2}}),
    "rigl": ("sparse_wrn", {**SPARSE, "method": "rigl", "method_options": {"period": 2, "end_iteration": 99}}),
    "tied": (
        "sparse_wrn",
        {
            "model_args": {**SMALL, "sparsity": 0.5, "reparam": "tied"},
            "method": "tied",
            "method_options": {"rescale": True, "l1": 1e-4},
        },
    ),
    "restart": (
        "sparse_wrn",
        {**SPARSE, "method": "static", "sched": "step", "milestones": [1], "restart_momentum": True},
    ),
}


@pytest.fixture
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def recipe(case: str) -> Recipe:
    arch, changes = CASES[case]
    return Recipe(f"{arch}.t_c10", "cifar10", **{"epochs": 4, "batch_size": BATCH, **EVERY, **changes})


def trained(r: Recipe, wrap, steps: int):
    """A learner after some steps, with a smaller last one, and their tally; ``wrap`` makes what takes them."""
    torch.manual_seed(0)
    np.random.seed(0)
    learner, tally = Learner(r, UPDATES, ALONE, build_network(r, ALONE.device)), Tally(ALONE.device)
    learner.model.train()
    take = wrap(learner, tally)
    generator, side = torch.Generator().manual_seed(0), 17 if "lrunet" in r.weight else 8
    for number in range(steps):
        step = number % UPDATES
        count = LAST if step == UPDATES - 1 else BATCH
        images = torch.randn(count, 3, side, side, generator=generator)
        take(images, torch.randint(10, (count,), generator=generator), number // UPDATES, step, count)
    return learner, tally


def plain(learner: Learner, tally: Tally):
    return lambda *step: tally.add(learner.step(*step))


def assert_same(one, other, tolerance: float) -> None:
    for key, value in one[0].state()["model"].items():
        torch.testing.assert_close(value, other[0].result.state_dict()[key], rtol=tolerance, atol=tolerance)
    for key, value in one[0].model.state_dict().items():
        torch.testing.assert_close(value, other[0].model.state_dict()[key], rtol=tolerance, atol=tolerance)
    assert one[0].record == other[0].record
    assert one[1].total.item() == pytest.approx(other[1].total.item(), rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_captured_step_is_the_plain_one(case, in_float64):
    r, replayed = recipe(case), []

    def uncaptured(learner, tally):
        take = Captured(learner, tally, capture=False)
        run = take._run
        take._run = lambda *where: (replayed.append(where), run(*where))
        return take

    steps = 5 if r.method else 3
    expected, found = trained(r, plain, steps), trained(r, uncaptured, steps)
    moving = {"restart": [(1, 0)], "dynamic": [(1, 1)], "set": [(1, 1)], "rigl": [(1, 1)]}.get(case, [])
    whole = [(0, 0), (0, 1), (1, 0), (1, 1)][: steps - 1]
    assert replayed == [at for at in whole if at not in moving], "the others are plain"
    assert_same(expected, found, 1e-12)
    if case in ("dynamic", "set", "rigl"):
        assert found[0].record["moved"]
    groups = [{key: group[key] for key in ("lr", "fused", "foreach")} for group in found[0].optimizer.param_groups]
    assert all(isinstance(group["lr"], float) and not group["fused"] for group in groups), "as checkpoints have it"


def test_a_capture_that_fails_leaves_the_run_as_it_was(caplog):
    r, lines = recipe("restart"), []
    expected = trained(r, plain, 2 * UPDATES)
    found = trained(r, lambda learner, tally: Captured(learner, tally, say=lines.append), 2 * UPDATES)
    assert_same(expected, found, 0)  # there is no GPU here, or the network is not on it
    assert len(lines) == 1 and "not captured in a CUDA graph, for that failed (" in lines[0]


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs that record nothing and run the step again; the list gets a line for each capture."""
    real, captures, recording = Captured._run, [], []

    class Graph:
        def replay(self):
            real(self.owner, 0, 0)

    def run(owner, epoch, step):
        if recording:
            captures.append((epoch, step))
            recording[0].owner = owner
        else:
            real(owner, epoch, step)

    @contextlib.contextmanager
    def graph(new, stream, capture_error_mode):
        recording.append(new)
        yield
        recording.clear()

    monkeypatch.setattr(Captured, "_run", run)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return captures


@pytest.mark.parametrize(("case", "captures"), [("shared", [(1, 0)]), ("restart", [(1, 1)]), ("dynamic", [(1, 0)])])
def test_it_is_captured_again_only_where_a_tensor_lies_elsewhere(case, captures, graphs):
    r = recipe(case)
    assert WARM_UP == UPDATES
    expected, found = trained(r, plain, 9), trained(r, Captured, 9)
    assert graphs == captures, "a restart is a plain step that makes the momentum anew"
    assert_same(expected, found, 1e-5)
    r.milestones = [1, 2] if r.milestones else []
    graphs.clear()
    trained(r, Captured, 9)
    assert graphs == captures + ([(2, 1)] if r.milestones else [])


def test_a_run_resumes_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 256, (28, 3, 8, 8), np.uint8), generator.integers(0, 10, 28)
    monkeypatch.setattr("zoo.training.data.load_arrays", lambda *_: arrays)
    r = recipe("dynamic")
    r.epochs, r.batch_size, r.augment = 2, 8, {"pad": 1, "flip": True}
    expected = loop.train(r, tmp_path, tmp_path / "plain", device="cpu")
    monkeypatch.setattr(loop, "stepper", lambda learner, tally, images: Captured(learner, tally, capture=False))
    whole = loop.train(r, tmp_path, tmp_path / "whole", device="cpu")
    for _ in range(3):
        loop.train(r, tmp_path, tmp_path / "parts", resume=True, device="cpu", budget=1e-6)
    parts = loop.train(r, tmp_path, tmp_path / "parts", resume=True, device="cpu")
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(whole.state_dict()[key], parts.state_dict()[key]), key


def test_the_average_takes_over_a_mask_that_only_gained():
    learner, _ = trained(recipe("dynamic"), plain, 1)
    mask = maker_of(next(iter(learner.method.layers.values()))).mask
    mask[...] = True
    learner.average()
    name = next(name for name in learner.result.state_dict() if name.endswith("mask"))
    assert learner.result.state_dict()[name].all()


REFUSED = {
    "float16 scales the loss": {**SPARSE, "amp": "float16"},
    "deepr moves weights in every": {**SPARSE, "method": "deepr", "method_options": {"temperature": 0.0}},
    "the optimizer RMSprop cannot be": {**SPARSE, "opt": "rmsprop"},
    "several processes": SPARSE,
    "": {**SPARSE, "amp": "bfloat16", "opt": "adam"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_captured_says_so(reason, monkeypatch, caplog):
    r = Recipe("sparse_wrn.t_c10", "cifar10", batch_size=BATCH, **REFUSED[reason])
    learner = Learner(r, UPDATES, ALONE, build_network(r, ALONE.device))
    learner.processes = Processes(torch.device("cuda"), world=2 if reason.startswith("several") else 1)
    assert obstacle(learner).startswith(reason) and bool(obstacle(learner)) == bool(reason)
    monkeypatch.setattr(captured, "Captured", lambda *_, **__: "captured")
    with caplog.at_level(logging.WARNING):
        how = captured.stepper(learner, Tally(ALONE.device), 10)
    assert (how == "captured") == (not reason)
    words = f"not captured in a CUDA graph, for {reason}" if reason else "the last step of an epoch, of 2 images"
    assert len(caplog.messages) == 1 and words in caplog.messages[0]


def test_the_tally_names_the_first_loss_that_is_not_finite():
    tally = Tally(ALONE.device)
    tally.begin(3.0, 5)
    places = [tensor.data_ptr() for tensor in (tally.total, tally.step, tally.bad)]
    for loss in (1.0, float("nan"), float("inf")):
        tally.add(torch.tensor(loss))
    assert tally.bad[0] == 7 and tally.bad[1].isnan()
    assert places == [tensor.data_ptr() for tensor in (tally.total, tally.step, tally.bad)]
    tally.begin(3.0, 5)
    tally.add(torch.tensor(1.0))
    assert tally.total == 4 and tally.bad.isinf().all()
