"""Sparsity in training: what moves, how much, where to, and that a resumed run goes the same way."""

import copy
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.makers import learned_of, make_weight, maker_of
from zoo.makers.masked import MaskedWeight
from zoo.makers.tied import TiedWeight
from zoo.training.sparsity import METHODS, make_method, transfer_masks
from zoo.training.sparsity.base import layers_with
from zoo.training.sparsity.entries import allot
from zoo.training.sparsity.pruning import prune_fraction

OPTIONS = {
    "dense": {},
    "static": {},
    "dynamic": {"period": 2, "target": 40, "initial_threshold": 0.02},
    "set": {"period": 2, "fraction": 0.1},
    "deepr": {"temperature": 1e-2, "report_period": 1},
    "rigl": {"period": 2, "end_iteration": 50},
    "pruned": {"target": 0.8, "prunes": 3, "every": 1},
}
MOVING = ("dynamic", "set", "deepr", "rigl")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(sparsity: float = 0.8, unit: str = "weight", reparam: str = "sparse", fc: float | None = None):
    """Two convolutions and a classifier, all of them made, for 2x6x6 images and 4 classes."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False)
    )
    model.extend([nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)])
    for layer in (model[0], model[3], model[8]):
        p = fc if fc is not None and layer is model[8] else sparsity
        shape = tuple(layer.weight.shape)
        make_weight(layer, MaskedWeight(shape, p, unit) if reparam == "sparse" else TiedWeight(shape, p, unit))
    return model


def batch(iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(iteration)
    return torch.randn(16, 2, 6, 6, generator=g), torch.randint(4, (16,), generator=g)


def optimizer_of(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3)


def run(model, method, optimizer, iterations, epoch_length=5, look=None) -> list[dict]:
    """A training loop; ``look(iteration)`` is called right before ``after_step``."""
    records = []
    for iteration in iterations:
        epoch = iteration // epoch_length
        images, labels = batch(iteration)
        images = images.to(next(model.parameters()).dtype)
        loss = F.cross_entropy(model(images), labels)
        term = method.penalty()
        optimizer.zero_grad()
        (loss if term is None else loss + term).backward()
        method.before_step(epoch, iteration)
        optimizer.step()
        if look:
            look(iteration)
        records.append(method.after_step(epoch, iteration))
        if iteration % epoch_length == epoch_length - 1:
            records.append(method.after_epoch(epoch))
    return [record for record in records if record]


def masks(model) -> dict[str, torch.Tensor]:
    return {name: maker_of(layer).mask.clone() for name, layer in layers_with(model, MaskedWeight).items()}


def entries(model) -> int:
    return sum(int(mask.sum()) for mask in masks(model).values())


def step(model, name, changes, iteration=2, seed=0):
    """One reallocation right away: the method's record, the masks before and those after."""
    method = make_method(name, model, OPTIONS[name] | changes, generator(seed))
    before = masks(model)
    record = method.after_step(0, iteration)
    return record, before, masks(model)


# Reallocation in general


@pytest.mark.parametrize("unit", ["weight", "row", "kernel", "filter"])
@pytest.mark.parametrize("name", MOVING)
def test_moving_conserves_never_undoes_itself_and_never_empties(name, unit):
    model = network(0.6, unit)
    if name == "deepr" and unit != "weight":
        with pytest.raises(zoo.ZooError, match="single weights"):
            make_method(name, model, OPTIONS[name], generator())
        return
    changes = {"initial_threshold": 0.2, "target": 10_000} if name == "dynamic" else {}
    method = make_method(name, model, OPTIONS[name] | changes, generator())
    before, total, moved = {}, entries(model), 0

    def remember(iteration):
        before.update(masks(model))

    optimizer = optimizer_of(model)
    for iteration in range(12):
        records = run(model, method, optimizer, [iteration], look=remember)
        for record in records:
            moved += record["moved"]
            assert record["shortfall"] == 0
            assert record["active"] == {n: maker_of(layer).active for n, layer in method.layers.items()}
            after = masks(model)
            gone = {n: before[n] & ~after[n] for n in after}
            came = {n: after[n] & ~before[n] for n in after}
            assert sum(int(m.sum()) for m in gone.values()) == record["moved"], "what left is still off"
            assert sum(int(m.sum()) for m in came.values()) == record["moved"]
            for n, layer in method.layers.items():
                learned = learned_of(layer).detach().reshape(*after[n].shape, -1)
                assert not learned[~after[n] | came[n]].any(), "off means 0, and growth starts from 0"
        assert entries(model) == total
        assert all(mask.any() for mask in masks(model).values())
    assert moved > 10


@pytest.mark.parametrize("name", MOVING)
def test_channels_last_moves_the_same(name):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = network(0.6).double().to(memory_format=memory_format)
        method = make_method(name, model, OPTIONS[name], generator())
        run(model, method, optimizer_of(model), range(7))
        results.append(masks(model))
    assert all(torch.equal(mask, results[1][n]) for n, mask in results[0].items())


def test_when_it_is_time():
    method = make_method("set", network(), OPTIONS["set"] | {"period": {"0": 3, 2: 4}, "stop_epoch": 3}, generator())
    due = [i for i in range(40) if method.after_step(i // 10, i)]
    assert due == [3, 6, 9, 12, 15, 18, 20, 24, 28]
    never = make_method("set", network(), OPTIONS["set"] | {"stop_epoch": 0}, generator())
    assert never.after_step(0, 2) is None


@pytest.mark.parametrize("name", ["dynamic", "set", "deepr", "rigl"])
def test_without_room_it_ends(name):
    model = network(0.0)
    changes = {"initial_threshold": 1e9} if name == "dynamic" else {}
    method = make_method(name, model, OPTIONS[name] | changes, generator())
    total = entries(model)
    records = run(model, method, optimizer_of(model), range(3))
    record = records[-1]
    assert record["moved"] - record["shortfall"] == 0
    assert entries(model) == total - record["moved"]
    assert all(mask.any() for mask in masks(model).values())
    if name in ("deepr", "rigl"):
        assert record["moved"] == 0, "full layers do not take part"
    if name == "set":
        assert record["moved"] == sum(int(0.1 * mask.numel()) + 1 for mask in masks(model).values())


def test_too_little_room_is_filled_and_the_rest_reported():
    model = network(0.02)
    free = sum(int((~mask).sum()) for mask in masks(model).values())
    record, before, after = step(model, "dynamic", {"initial_threshold": 1e9})
    assert record["grown"] == free
    assert record["shortfall"] == record["moved"] - free > 0
    assert all(after[n][~before[n]].all() for n in after)


def test_a_full_layer_passes_on_what_it_cannot_take():
    model = network(0.8, fc=0.0)
    for changes in ({"rewire_scaling": True}, {"rewire_scaling": False}):
        clone = copy.deepcopy(model)
        total = entries(clone)
        record, before, after = step(clone, "dynamic", changes | {"initial_threshold": 0.15})
        assert before["8"].all()
        assert int(after["8"].sum()) < before["8"].numel()
        assert record["shortfall"] == 0
        assert entries(clone) == total


def test_allotment():
    assert allot(10, [3, 1, 1], [9, 9, 9], generator()) == [6, 2, 2]
    assert allot(10, [3, 1, 1], [4, 9, 9], generator()) == [4, 3, 3]
    assert allot(10, [3, 1, 1], [1, 2, 3], generator()) == [1, 2, 3]
    assert allot(0, [0, 0], [5, 5], generator()) == [0, 0]
    assert allot(500, [9995, 5], [0, 500], generator()) == [0, 500], "rounding cannot keep it from ending"
    assert allot(4, [1, 0], [0, 4], generator()) == [0, 4]
    outcomes = {tuple(allot(5, [1, 1], [9, 9], generator(seed))) for seed in range(40)}
    assert outcomes == {(2, 3), (3, 2)}, "2.5 rounds to 2, and the one left over goes to either"
    clipped = [allot(7, [3, 3, 3, 3, 0], [9] * 5, generator(seed)) for seed in range(40)]  # 1.75 each rounds to 2
    assert all(sum(counts) == 7 for counts in clipped), "a difference clipped at zero does not add entries"
    for seed in range(200):
        g = generator(seed)
        shares, room = (torch.randint(0, 50, (6,), generator=g).tolist() for _ in range(2))
        total = int(torch.randint(0, 200, (1,), generator=g))
        counts = allot(total, shares, room, g)
        assert sum(counts) == min(total, sum(room))
        assert all(0 <= count <= most for count, most in zip(counts, room, strict=True))


def test_growth_is_uniform_over_what_was_off():
    hits = torch.zeros(12, 4)
    model = network(0.5)
    state = copy.deepcopy(model.state_dict())
    before = masks(model)["8"]
    for seed in range(600):
        model.load_state_dict(state)
        hits += step(model, "set", {"fraction": 0.2}, seed=seed)[2]["8"].T.float()
    hits = hits.T
    grown = hits[~before]
    assert len(grown) == 24
    expected = 600 * 5 / 24  # floor(0.2 * 24) + 1 of 24 places
    assert (grown - expected).abs().max() < 5 * math.sqrt(600 * 5 / 24 * 19 / 24)


def test_optimizer_state_is_left_alone():
    model = network()
    method, optimizer = make_method("dynamic", model, OPTIONS["dynamic"], generator()), optimizer_of(model)
    kept = {}

    def remember(iteration):
        kept.update({p: s["momentum_buffer"].clone() for p, s in optimizer.state.items()})

    assert run(model, method, optimizer, range(3), look=remember)[0]["moved"]
    assert all(torch.equal(kept[p], s["momentum_buffer"]) for p, s in optimizer.state.items())


# The paper's method


def test_dynamic_prunes_below_the_threshold_in_all_layers():
    model = network(0.5, "kernel")
    learned_of(model[0]).data[0, 0] = 0.05  # mean magnitude equal to the threshold stays
    maker_of(model[0]).mask[0, 0] = True
    values = {n: maker_of(layer).scores(learned_of(layer)) for n, layer in layers_with(model, MaskedWeight).items()}
    threshold = values["0"][0, 0].item()
    record, before, after = step(model, "dynamic", {"initial_threshold": threshold})
    assert record["threshold"] == threshold
    for n in after:
        assert torch.equal(before[n] & ~after[n], before[n] & (values[n] < threshold))
    assert after["0"][0, 0]
    assert record["moved"] > 0


def test_dynamic_keeps_the_first_of_a_layer_that_would_be_empty():
    model = network(0.8)
    record, before, after = step(model, "dynamic", {"initial_threshold": 1e9})
    for n in after:
        left = (before[n] & after[n]).flatten().nonzero().flatten().tolist()
        assert left == [before[n].flatten().nonzero()[0].item()]
    assert record["shortfall"] == 0


def test_dynamic_grows_by_what_is_left():
    model = network(0.8)
    learned_of(model[3]).data.mul_(1e6)  # loses nothing, so it gets most
    record, before, after = step(model, "dynamic", {"initial_threshold": 0.15})
    left = {n: int((before[n] & after[n]).sum()) for n in after}
    grown = {n: int((after[n] & ~before[n]).sum()) for n in after}
    assert left["3"] == int(before["3"].sum())
    for n in after:
        assert abs(grown[n] - record["moved"] * left[n] / sum(left.values())) <= 2
    assert grown["3"] > 0
    kept = network(0.8)
    learned_of(kept[3]).data.mul_(1e6)
    _, before, after = step(kept, "dynamic", {"initial_threshold": 0.15, "rewire_scaling": False})
    assert all(before[n].sum() == after[n].sum() for n in after)


def test_threshold_follows_the_number_moved():
    for target, factor in ((100, 1.0), (91, 1.0), (90, 0.5), (111, 1.0), (112, 2.0), (1, 0.5), (10_000, 2.0)):
        model = network(0.5)
        weights = learned_of(model[3]).data
        weights.fill_(1.0)
        weights.view(-1)[maker_of(model[3]).mask.flatten().nonzero().flatten()[:100]] = 0.001  # 100 of them below
        learned_of(model[0]).data.fill_(1.0)
        learned_of(model[8]).data.fill_(1.0)
        method = make_method("dynamic", model, OPTIONS["dynamic"] | {"target": target}, generator())
        record = method.after_step(0, 2)
        assert (record["moved"], record["threshold"]) == (100, 0.02)
        assert method.threshold == record["next_threshold"] == 0.02 * factor


def test_big_new_weights_are_drawn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(20, 30, 3), nn.Linear(200, 300))
    for layer in model:
        make_weight(layer, MaskedWeight(tuple(layer.weight.shape), 0.9))
    before = {n: learned_of(layer).detach().clone() for n, layer in model.named_children()}
    step(model, "dynamic", {"big_new_weights": True, "initial_threshold": 1e-9})
    for n, std in (("0", math.sqrt(2 / (9 * 30))), ("1", 1 / math.sqrt(200))):
        learned, mask = learned_of(model[int(n)]).detach(), maker_of(model[int(n)]).mask
        assert learned[~mask].std().item() == pytest.approx(std, rel=0.05)
        assert torch.equal(learned[mask], before[n][mask])


def test_exploration_is_counted():
    model = network(0.8)
    method = make_method("set", model, OPTIONS["set"] | {"track_exploration": True}, generator())
    seen = masks(model)
    records = []
    for i in range(2, 21, 2):
        records.append(method.after_step(0, i))
        seen = {n: seen[n] | mask for n, mask in masks(model).items()}
    assert records[-1]["explored"] == sum(int(m.sum()) for m in seen.values()) / sum(m.numel() for m in seen.values())
    assert records[-1]["explored"] > records[0]["explored"] > 0.2


# SET, RigL


def test_set_moves_the_smallest_of_each_layer():
    model = network(0.5)
    scores = {n: learned_of(layer).detach().abs() for n, layer in layers_with(model, MaskedWeight).items()}
    _, before, after = step(model, "set", {"fraction": 0.138})
    for n in after:
        count = int(0.138 * int(before[n].sum())) + 1
        gone = before[n] & ~after[n]
        assert int(gone.sum()) == int((after[n] & ~before[n]).sum()) == count
        assert scores[n][gone].max() < scores[n][before[n] & ~gone].min()


def dense_gradients(model, images, labels) -> dict[str, torch.Tensor]:
    """Gradient of the loss by each kernel, from ordinary layers that hold the kernels; of all entries."""
    plain = copy.deepcopy(model)
    for name in layers_with(plain, MaskedWeight):
        plain[int(name)] = plain[int(name)].fuse()
    F.cross_entropy(plain(images), labels).backward()
    return {name: plain[int(name)].weight.grad for name in layers_with(model, MaskedWeight)}


@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize("regrow", [False, True])
def test_rigl_grows_where_the_gradient_is_largest(unit, regrow):
    model = network(0.7, unit)
    options = {"period": 3, "end_iteration": 40, "fraction": 0.4, "regrow": regrow}
    method, optimizer = make_method("rigl", model, options, generator()), optimizer_of(model)
    run(model, method, optimizer, range(6))
    images, labels = batch(6)
    expected = dense_gradients(model, images, labels)
    state = {}

    def remember(iteration):
        state["masks"] = masks(model)
        state["scores"] = {n: maker_of(layer).scores(learned_of(layer)) for n, layer in method.layers.items()}

    record = run(model, method, optimizer, [6], look=remember)[0]
    share = 0.2 * (1 + math.cos(math.pi * 6 / 40))
    assert record["fraction"] == pytest.approx(share)
    for n, after in masks(model).items():
        before, scores = state["masks"][n], state["scores"][n]
        count = int(share * int(before.sum()))
        assert count > 0
        active = before.flatten().nonzero().flatten()
        leavers = active[scores.flatten()[active].topk(count, largest=False).indices]
        kept = before.clone()
        kept.view(-1)[leavers] = False
        gradient = expected[n].abs().reshape(*before.shape, -1).mean(-1)
        values = gradient.flatten().tolist()
        candidates = (~kept if regrow else ~before).flatten().nonzero().flatten().tolist()
        chosen = sorted(candidates, key=lambda i: (-values[i], i))[:count]  # kernels after dead channels tie at 0
        assert values[chosen[0]] > 0
        kept.view(-1)[chosen] = True
        assert torch.equal(after, kept)


def test_rigl_takes_gradients_only_when_needed_and_adds_up_parts():
    model = network(0.7)
    method = make_method("rigl", model, {"period": 4, "end_iteration": 40}, generator())
    average = copy.deepcopy(model)  # with hooks of its own class only: it must not feed the method
    kept = []
    optimizer = optimizer_of(model)
    run(model, method, optimizer, range(8), look=lambda i: kept.append(len(method._gradients)))
    assert kept == [3, 0, 0, 0, 3, 0, 0, 0]
    (images, labels), gradients = batch(8), []
    F.cross_entropy(average(images), labels).backward()
    assert not method._gradients
    for part in (slice(0, 8), slice(8, 16)):
        gradients.append(dense_gradients(model, images[part], labels[part]))
        F.cross_entropy(model(images[part]), labels[part]).backward()
    for n, gradient in method._gradients.items():
        assert torch.allclose(gradient, gradients[0][n] + gradients[1][n], atol=1e-6)
    assert len(method._gradients) == 3
    model.eval()
    with torch.no_grad():
        model(images)
    assert method.after_step(0, 8)["moved"] > 0
    with pytest.raises(zoo.ZooError, match="backward"):
        method.after_step(0, 12)
    assert method.after_step(0, 40) is None


# DeepR


def test_deepr_moves_the_weights_that_change_sign():
    model = network(0.7)
    method = make_method("deepr", model, {"temperature": 0.0, "report_period": 1}, generator())
    method.before_step(0, 0)
    assert method.after_step(0, 0)["moved"] == 0
    before = masks(model)["3"]
    active = before.flatten().nonzero().flatten()
    flipped, weights = active[[1, 4, 9]], learned_of(model[3]).data
    weights.view(-1)[flipped] *= -1
    others = masks(model)
    record = method.after_step(0, 1)
    assert record["moved"] == 3
    after = masks(model)["3"]
    assert torch.equal((before & ~after).flatten().nonzero().flatten(), flipped)
    new = (after & ~before).flatten().nonzero().flatten()
    assert len(new) == 3
    assert all(torch.equal(masks(model)[n], others[n]) for n in ("0", "8"))
    weights.view(-1)[new] = torch.tensor([-1.0, 1.0, 0.0])  # any sign is right the first time
    assert method.after_step(0, 2)["moved"] == 0
    weights.view(-1)[new] = torch.tensor([1.0, 1.0, 5.0])
    assert method.after_step(0, 3)["moved"] == 1


def test_deepr_does_not_rewire_half_in_its_first_step():
    model = network(0.7)
    method = make_method("deepr", model, OPTIONS["deepr"] | {"temperature": 1e-5}, generator())
    for layer in method.layers.values():  # initial values drawn after the method was made
        nn.init.normal_(learned_of(layer), std=0.1)
    moved = []
    optimizer = optimizer_of(model, lr=0.01)
    before = masks(model)
    run(model, method, optimizer, [0])
    moved = sum(int((before[n] & ~mask).sum()) for n, mask in masks(model).items())
    assert moved < 0.1 * entries(model)


def test_deepr_noise():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(50, 50))
    make_weight(model[0], MaskedWeight((300, 300), 0.5))
    make_weight(model[1], MaskedWeight((50, 50), 0.0))
    options = {"temperature": {0: 0.02, 3: 0.0}, "eta": 0.09, "stop_epoch": 2}
    method = make_method("deepr", model, options, generator())
    for epoch in (0, 2):
        for layer in model:
            learned_of(layer).grad = torch.ones_like(learned_of(layer))
        method.before_step(epoch, 0)
        noise = learned_of(model[0]).grad - 1
        mask = maker_of(model[0]).mask
        assert not noise[~mask].any()
        assert noise[mask].std().item() == pytest.approx(0.06 if epoch == 0 else 0.0, rel=0.02)
        assert noise[mask].mean().abs() < 0.002
        assert torch.equal(learned_of(model[1]).grad, torch.ones(50, 50)), "a full layer gets none"
    assert method.after_step(2, 1) is None


def test_deepr_reports_sums():
    model = network(0.7)
    method = make_method("deepr", model, OPTIONS["deepr"] | {"report_period": 5}, generator())
    left = []
    before = {}

    def remember(iteration):
        before.update(masks(model))

    reports = []
    optimizer = optimizer_of(model)
    for i in range(10):
        reports += run(model, method, optimizer, [i], look=remember)
        left.append(sum(int((before[n] & ~mask).sum()) for n, mask in masks(model).items()))
    assert [r["iteration"] for r in reports] == [4, 9]
    assert [r["moved"] for r in reports] == [sum(left[:5]), sum(left[5:])]
    assert reports[0]["moved"] > 0


# Pruning


@pytest.mark.parametrize("kind", ["exponential", "cubic"])
@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize(("target", "prunes"), [(0.9, 20), (0.5, 7), (0.8, 1)])
def test_pruning_lands_on_its_target(kind, unit, target, prunes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(20, 40, 3), nn.Conv2d(10, 20, 3))
    for layer in model:
        make_weight(layer, MaskedWeight(tuple(layer.weight.shape), 0.0, unit))
    options = {"target": target, "prunes": prunes, "schedule": kind, "start_epoch": 1, "every": 2}
    method = make_method("pruned", model, options, generator())
    pruned = [epoch for epoch in range(2 * prunes + 10) if method.after_epoch(epoch)]
    assert pruned == [1 + 2 * t for t in range(prunes)]
    for mask in masks(model).values():
        assert abs(int(mask.sum()) - (1 - target) * mask.numel()) <= prunes
    for n, layer in method.layers.items():
        scores = maker_of(layer).scores(learned_of(layer))
        assert not scores[~masks(model)[n]].any()


def test_pruning_follows_its_schedule_and_takes_the_smallest():
    assert [prune_fraction("exponential", 0.8, t, 4) for t in range(4)] == [1 - 0.2**0.25] * 4
    left, course = 1.0, []
    for t in range(5):
        left *= 1 - prune_fraction("cubic", 0.9, t, 5)
        course.append(left)
    assert course == pytest.approx([1 - 0.9 * (1 - (1 - (t + 1) / 5) ** 3) for t in range(5)])
    model = network(0.0)
    scores = {n: learned_of(layer).detach().abs() for n, layer in layers_with(model, MaskedWeight).items()}
    method = make_method("pruned", model, OPTIONS["pruned"], generator())
    record = method.after_epoch(0)
    share, removed = 1 - 0.2 ** (1 / 3), 0
    for n, mask in masks(model).items():
        count = int(share * mask.numel()) + 1
        removed += count
        assert int((~mask).sum()) == count
        assert scores[n][~mask].max() < scores[n][mask].min()
    assert (record["moved"], record["prune"]) == (removed, 1)


def test_pruning_needs_a_dense_start_and_its_calls():
    with pytest.raises(zoo.ZooError, match="all ones: begin"):
        make_method("pruned", network(0.5), OPTIONS["pruned"], generator()).after_epoch(0)
    method = make_method("pruned", network(0.0), OPTIONS["pruned"], generator())
    method.before_step(0, 0)
    with pytest.raises(zoo.ZooError, match="after_epoch"):
        method.before_step(1, 5)


def test_pruning_with_capped_layers():
    model = timm.create_model("sparse_mlp_300_100", sparsity=0.0)
    with pytest.raises(zoo.ZooError, match="make_sparse"):
        make_method("pruned", model, OPTIONS["pruned"], generator())
    model.make_sparse(0.0)
    names = list(layers_with(model, MaskedWeight))
    options = {"target": 0.98, "prunes": 5, "caps": {names[2]: 0.9}}
    method = make_method("pruned", model, options, generator())
    for epoch in range(10):
        method.after_epoch(epoch)
    left = {n: int(mask.sum()) for n, mask in masks(model).items()}
    assert abs(left[names[2]] - 100) <= 5
    assert abs(sum(left.values()) - 0.02 * 266_200) <= 15
    sparsities = [1 - left[n] / masks(model)[n].numel() for n in names[:2]]
    assert sparsities[0] == pytest.approx(sparsities[1], abs=2e-3)
    for caps, message in (({"head": 0.9}, "sparse layers are"), (dict.fromkeys(names, 0.9), "too much")):
        with pytest.raises(zoo.ZooError, match=message):
            make_method("pruned", model, options | {"caps": caps}, generator())


# Tied weights, penalties


@pytest.mark.parametrize("unit", ["weight", "kernel"])
def test_tied_gradients_are_divided_before_the_step(unit):
    model = network(0.8, unit, "tied")
    for rescale in (False, True):
        method = make_method("tied", model, {"rescale": rescale}, generator())
        images, labels = batch(0)
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        before = {n: (learned_of(layer).detach().clone(), learned_of(layer).grad.clone()) for n, layer in layers(model)}
        method.before_step(0, 0)
        torch.optim.SGD(model.parameters(), lr=0.5).step()
        for n, layer in layers(model):
            value, gradient = before[n]
            positions = layer.weight.numel() // (9 if unit == "kernel" and layer.weight.dim() == 4 else 1)
            repeats = positions / len(value) if rescale else 1
            assert torch.allclose(learned_of(layer), value - 0.5 * gradient / repeats, rtol=1e-5, atol=1e-8)
            assert positions / len(value) > 4


def layers(model):
    return layers_with(model, MaskedWeight, TiedWeight).items()


@pytest.mark.parametrize("reparam", ["sparse", "tied"])
def test_penalties(reparam):
    model = network(0.7, reparam=reparam)
    method = "static" if reparam == "sparse" else "tied"
    learned = {n: learned_of(layer).detach().double().requires_grad_() for n, layer in layers(model)}
    full = {n: v if reparam == "sparse" else v[maker_of(model[int(n)]).index] for n, v in learned.items()}
    expected = {False: sum(v.abs().sum() for v in learned.values())}
    expected[True] = learned["8"].abs().sum()
    for n in ("0", "3"):
        for kernel in full[n].reshape(-1, 9):
            expected[True] = expected[True] + (kernel.square().sum() + 1e-12).sqrt()
    for group_lasso in (False, True):
        model.zero_grad()
        term = make_method(method, model, {"l1": 0.03, "group_lasso": group_lasso}, generator()).penalty()
        assert term.item() == pytest.approx(0.03 * expected[group_lasso].item(), rel=1e-5)
        term.backward()
        gradients = torch.autograd.grad(0.03 * expected[group_lasso], list(learned.values()), retain_graph=True)
        for (_, layer), gradient in zip(layers(model), gradients, strict=True):
            assert torch.allclose(learned_of(layer).grad, gradient.float(), rtol=1e-4, atol=1e-6)
        assert model[1].weight.grad is None
    assert make_method(method, model, {}, generator()).penalty() is None


def test_group_lasso_has_a_gradient_at_zero():
    model = network(0.7)
    learned_of(model[3]).data.zero_()
    make_method("static", model, {"l1": 1.0, "group_lasso": True}, generator()).penalty().backward()
    assert not learned_of(model[3]).grad.any()


# State


@pytest.mark.parametrize("name", [*MOVING, "pruned"])
def test_resume_is_exact(name, tmp_path):
    changes = {"track_exploration": True} if name in ("dynamic", "set", "rigl") else {}
    options = OPTIONS[name] | changes | {"l1": 1e-4}
    sparsity = 0.0 if name == "pruned" else 0.7

    def fresh():
        model = network(sparsity)
        return model, make_method(name, model, options, generator(5)), optimizer_of(model)

    model, method, optimizer = fresh()
    whole = run(model, method, optimizer, range(17))
    first_model, first, first_optimizer = fresh()
    parts = run(first_model, first, first_optimizer, range(8))
    state = {"model": first_model.state_dict(), "optimizer": first_optimizer.state_dict(), "method": first.state_dict()}
    torch.save(state, tmp_path / "state.pt")
    run(first_model, first, first_optimizer, range(8, 10))  # what goes on must not reach into what was saved
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second_model, second, second_optimizer = fresh()
    second.generator.manual_seed(99)
    second.load_state_dict(state["method"])
    second_model.load_state_dict(state["model"])
    second_optimizer.load_state_dict(state["optimizer"])
    assert parts + run(second_model, second, second_optimizer, range(8, 17)) == whole
    assert whole
    assert all(torch.equal(value, second_model.state_dict()[key]) for key, value in model.state_dict().items())
    ends = [m.state_dict() for m in (method, second)]
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        other = ends[1][key]
        if isinstance(value, dict):
            assert value.keys() == other.keys()
            assert all(torch.equal(value[n], other[n]) for n in value)
        else:
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    if name == "dynamic":
        assert method.threshold != OPTIONS["dynamic"]["initial_threshold"]


def test_a_state_of_another_method_is_refused():
    state = make_method("set", network(), OPTIONS["set"], generator()).state_dict()
    with pytest.raises(zoo.ZooError, match="'set', not 'dynamic'"):
        make_method("dynamic", network(), OPTIONS["dynamic"], generator()).load_state_dict(state)
    del state["seen"]
    with pytest.raises(zoo.ZooError, match="seen"):
        make_method("set", network(), OPTIONS["set"], generator()).load_state_dict(state)


def test_masks_are_transferred_and_nothing_else():
    source, target = network(0.8), network(0.8)
    step(source, "set", {"fraction": 0.5})
    for parameter in source.parameters():
        parameter.data.add_(1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    transfer_masks(target, source.state_dict())
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key] if key.endswith("mask") else before[key])
    as_float = {key: value.float() for key, value in source.state_dict().items()}
    transfer_masks(target, as_float)
    assert maker_of(target[0]).mask.dtype == torch.bool


def test_masks_that_do_not_fit_are_refused_by_name():
    target = network(0.8)
    before = masks(target)
    state = network(0.5).state_dict()
    key = "3.parametrizations.weight.0.mask"
    cases = [
        ({k: v for k, v in state.items() if k != key}, "No mask of 3 in the masks given"),
        (state | {"7.parametrizations.weight.0.mask": state[key]}, "No mask of 7 in the network"),
        (network(0.5, "kernel").state_dict(), r"mask of 0 has shape \(8, 2\)"),
        (state | {key: state[key] * 0.5}, "mask of 3 has values"),
    ]
    for given, message in cases:
        with pytest.raises(zoo.WeightError, match=message):
            transfer_masks(target, given)
    assert all(torch.equal(mask, before[n]) for n, mask in masks(target).items())
    with pytest.raises(zoo.WeightError, match="no masks"):
        transfer_masks(nn.Linear(2, 2), state)


# Names and options


def test_methods_that_leave_weights_alone():
    for name in ("static", "dense"):
        model = network(0.7)
        before = masks(model)
        method = make_method(name, model, {}, generator())
        assert run(model, method, optimizer_of(model), range(6)) == []
        assert all(torch.equal(mask, before[n]) for n, mask in masks(model).items())
    assert make_method("dense", nn.Linear(2, 2), {}, generator()).penalty() is None


def test_method_names():
    assert set(METHODS) == {"dense", "static", "dynamic", "set", "deepr", "rigl", "pruned", "tied"}
    with pytest.raises(
        zoo.UnknownNameError, match=r"'dynamics'.*dense, static, dynamic, set, deepr, rigl, pruned, tied"
    ):
        make_method("dynamics", network(), {}, generator())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("set", {"period": 5, "fractoin": 0.1}, "fraction"),
        ("set", {"period": 5}, "needs the option fraction"),
        ("set", {"period": 0, "fraction": 0.1}, "period.*at least 1, not 0"),
        ("set", {"period": {1: 5}, "fraction": 0.1}, "begins with epoch 0"),
        ("set", {"period": {0: "often"}, "fraction": 0.1}, "period.*whole number"),
        ("set", {"period": 5, "fraction": 1.5}, "fraction.*from 0 to 1, not 1.5"),
        ("set", {"period": 5, "fraction": True}, "fraction"),
        ("dynamic", {"period": 5, "target": 1.5}, "target.*whole"),
        ("dynamic", {"period": 5, "target": 5, "rewire_scaling": 1}, "rewire_scaling.*true or false"),
        ("pruned", {"target": 0.9, "schedule": "linear"}, "schedule.*exponential, cubic"),
        ("pruned", {"target": 0.9, "caps": 3}, "caps.*mapping"),
        ("static", {"l1": float("nan")}, "l1"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(zoo.ZooError, match=message):
        make_method(name, network(), options, generator())


def test_numbers_may_be_text():
    method = make_method("deepr", network(), {"temperature": {0: "1e-5", "25": "1e-8"}}, generator())
    assert method.values["temperature"] == {0: 1e-5, 25: 1e-8}


def test_networks_without_such_weights_are_refused():
    for name in ("static", "dynamic", "tied"):
        with pytest.raises(zoo.ZooError, match="Linear has none"):
            make_method(name, nn.Linear(2, 2), OPTIONS.get(name, {}), generator())
    with pytest.raises(zoo.ZooError, match="is for sparse weights"):
        make_method("set", network(reparam="tied"), OPTIONS["set"], generator())
    with pytest.raises(zoo.ZooError, match="l1"):
        make_method("dense", nn.Linear(2, 2), {"l1": 0.1}, generator())


# Several processes


def train_one_of_two(rank: int, file: str) -> None:
    """Each process sees its half of every batch; afterwards masks and weights must be equal."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for name in ("rigl", "deepr"):
        model = network(0.7)
        method = make_method(name, model, OPTIONS[name], generator())
        parallel, optimizer = nn.parallel.DistributedDataParallel(model), optimizer_of(model)
        for iteration in range(9):
            images, labels = (tensor[rank::2] for tensor in batch(iteration))
            optimizer.zero_grad()
            F.cross_entropy(parallel(images), labels).backward()
            method.before_step(0, iteration)
            optimizer.step()
            record = method.after_step(0, iteration)
        assert record["moved"] > 0
        for key, value in model.state_dict().items():
            if "running" not in key:
                both = [torch.empty_like(value.float()) for _ in range(2)]
                torch.distributed.all_gather(both, value.float())
                assert torch.equal(*both), (name, key)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_move_the_same(tmp_path):
    torch.multiprocessing.spawn(train_one_of_two, (str(tmp_path / "meeting"),), nprocs=2)
