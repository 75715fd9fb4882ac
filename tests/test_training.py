"""Training: it learns, resumes to the bit, refuses what does not fit, and leaves good files behind."""

import errno
import gzip
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo
from interruption import Stopped, crash_at, kill_after_checkpoint, same
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.training import checkpoint, loop
from zoo.training import used_code as used
from zoo.training.augment import augment, cut_out
from zoo.training.data import load_splits
from zoo.training.distributed import Processes
from zoo.training.learner import Learner, build_network
from zoo.training.recipe import Recipe, load_recipe
from zoo.training.schedule import make_optimizer, make_schedule
from zoo.training.used_code import PACKAGE, ROOMS, used_code


@pytest.fixture
def data(tmp_path):
    """A training set: the bundled images under the training split's names."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in SAMPLE.glob("*.gz"):
        (folder / path.name.replace("t10k", "train")).symlink_to(path)
    return folder


@pytest.fixture
def few(tmp_path):
    """240 of them, for what is the same with any number: 20 steps of 12."""
    folder = tmp_path / "few"
    folder.mkdir()
    for path in SAMPLE.glob("*.gz"):
        content, (start, size) = gzip.decompress(path.read_bytes()), (16, 784) if "images" in path.name else (8, 1)
        content = content[:4] + (240).to_bytes(4, "big") + content[8 : start + 240 * size]
        (folder / path.stem.replace("t10k", "train")).write_bytes(content)
    return folder


def recipe(**changes) -> Recipe:
    values = {"epochs": 3, "batch_size": 50, "lr": 0.05, "augment": {"pad": 1, "flip": True, "cutout": 4}, **changes}
    return Recipe("lrunet1_100.zoo_fmnist", "fashion-mnist", **values)


def test_it_learns(data, tmp_path):
    model = loop.train(recipe(held_out=200), data, tmp_path / "run", device="cpu")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert log[2]["loss"] < 0.7 * log[0]["loss"]
    assert log[2]["held_out_top1"] > 40
    assert not model.training
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["held_out"] == 200


EVERYTHING = {
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
    "clip_grad": 1.0,
    "amp": "bfloat16",
    "sched": "step",
    "milestones": [1],
    "restart_momentum": True,
    "checkpoint_every": 6,
    "model_args": {"drop_rate": 0.3},
    "augment": {"pad": 2, "reflect": True, "rotate": 10, "flip": True, "cutout": 4},
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_resume_is_exact(few, tmp_path, monkeypatch, changes):
    r = recipe(epochs=2, batch_size=12, **changes)
    whole = loop.train(r, few, tmp_path / "whole", device="cpu")
    undo = crash_at(monkeypatch, 34)  # of 20 steps an epoch
    with pytest.raises(Stopped):
        loop.train(r, few, tmp_path / "parts", device="cpu")
    undo()
    state = checkpoint.load(tmp_path / "parts" / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == ((1, 12) if changes else (1, 0))
    with pytest.raises(zoo.ZooError, match="--resume"):
        loop.train(r, few, tmp_path / "parts", device="cpu")
    torch.rand(7)  # whatever else the process draws
    parts = loop.train(r, few, tmp_path / "parts", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())
    logs = [[json.loads(line) for line in (tmp_path / f / "log.jsonl").open()] for f in ("whole", "parts")]
    for line in (line for log in logs for line in log):
        assert 0 < line.pop("step_share") <= 1
        line.pop("seconds")
    assert logs[0] == logs[1]


def test_kill_in_the_middle_of_an_epoch_changes_nothing(few, tmp_path):
    def words(folder, *more):
        settings = ["epochs=1", "batch_size=10", "checkpoint_every=4", "augment.cutout=4"]
        settings = [word for setting in settings for word in ("--set", setting)]
        places = ["--data", str(few), "--output", str(tmp_path / folder), "--device", "cpu"]
        return ["train", "lrunet1_fmnist", *places, *settings, *more]

    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # as those of this process
    checkpoint_file = tmp_path / "killed" / "checkpoint.pt"
    kill_after_checkpoint([sys.executable, "-m", "zoo", *words("killed")], checkpoint_file, environment)
    state = checkpoint.load(checkpoint_file)
    assert (state["epoch"], 0 < state["step"] < 24) == (0, True), "killed in the first epoch, of 24 steps"
    (tmp_path / "killed" / ".checkpoint.pt.999999999.part").write_bytes(b"half")  # as if it was killed while writing
    assert main(words("killed", "--resume")) == main(words("whole")) == 0
    killed, whole = (checkpoint.load(tmp_path / folder / "checkpoint.pt") for folder in ("killed", "whole"))
    assert same(whole["model"], killed["model"])
    assert killed["epoch"] == 1
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_what_differs_is_not_resumed(few, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def resume(**changes):
        loop.train(recipe(epochs=1, batch_size=12, **changes), few, folder, resume=True, device="cpu")

    loop.train(recipe(epochs=1, batch_size=12), few, folder, device="cpu")
    resume(checkpoint_every=5)  # changes nothing but how safe it is
    with pytest.raises(zoo.ZooError, match=r"another recipe \(lr 0\.05, here 0\.01\)"):
        resume(lr=0.01)
    monkeypatch.setattr(checkpoint, "__version__", "99")
    with pytest.raises(zoo.ZooError, match=r"other versions \(zoo .*'99'\)"):
        resume()
    monkeypatch.undo()
    state = checkpoint.load(folder / "checkpoint.pt")
    state["identity"]["code"]["models/lrunet.py"] = "0"
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(zoo.ZooError, match=r"other code \(models/lrunet\.py\)"):
        resume()
    labels = few / "train-labels-idx1-ubyte"
    content = zoo.data.arrays.read_idx(labels).copy()
    content[0] = (content[0] + 1) % 10
    labels.write_bytes(b"\x00\x00\x08\x01" + len(content).to_bytes(4, "big") + content.tobytes())
    with pytest.raises(zoo.ZooError, match="on other data"):
        resume()


def mlp(**changes) -> Recipe:
    return Recipe("sparse_mlp_300_100.t_fmnist", "fashion-mnist", **{"lr": 0.05, "batch_size": 200, **changes})


def change_code(run, path="models/sparse_mlp.py"):
    state = checkpoint.load(run / "checkpoint.pt")
    state["identity"]["code"][path] = "0"
    state["identity"]["versions"]["torch"] = "1.0"
    torch.save(state, run / "checkpoint.pt")


def test_changed_code_is_forced_and_the_log_says_so(data, tmp_path, caplog):
    whole = loop.train(mlp(epochs=2), data, tmp_path / "whole", device="cpu")
    loop.train(mlp(epochs=2), data, tmp_path / "run", device="cpu", budget=1e-6)
    change_code(tmp_path / "run")
    with pytest.raises(zoo.ZooError, match=r"other versions \(torch '1\.0', here .*--force"):
        loop.train(mlp(epochs=2), data, tmp_path / "run", resume=True, device="cpu")
    options = {"resume": True, "force": True, "device": "cpu"}
    loop.train(mlp(epochs=2), data, tmp_path / "run", budget=1e-6, **options)  # the epoch is not over yet
    (warning,) = [message for message in caplog.messages if "in spite of" in message]
    assert "in spite of torch '1.0', here" in warning and "other code: models/sparse_mlp.py" in warning
    assert "\n" not in warning
    forced = loop.train(mlp(epochs=2), data, tmp_path / "run", resume=True, device="cpu")  # now it is this code's
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert [line.get("forced", [])[1:] for line in lines] == [["other code: models/sparse_mlp.py"], []]
    assert same(whole.state_dict(), forced.state_dict()), "nothing but the identity differed"


def test_what_a_run_records_once_is_not_forced(data, tmp_path):
    options = {"resume": True, "force": True, "device": "cpu"}
    loop.train(mlp(epochs=1), data, tmp_path / "run", device="cpu")
    with pytest.raises(zoo.ZooError, match=r"another recipe \(lr 0\.05, here 0\.01\); choose another --output[^;]*$"):
        loop.train(mlp(epochs=1, lr=0.01), data, tmp_path / "run", **options)
    state = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    good = dict(state["model"])
    state["model"].popitem()
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(zoo.ZooError, match="does not fit this network or code") as caught:
        loop.train(mlp(epochs=1), data, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    state["model"], state["identity"]["machine"]["processes"] = good, 2
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(zoo.ZooError, match=r"another kind of machine \(processes 2, here 1\)"):
        loop.train(mlp(epochs=1), data, tmp_path / "run", **options)


FAMILY = {
    "ge_resnet18": "paradise",
    "lrunet1_100": "lrunet",
    "sparse_mlp_300_100": "sparse",
    "sparse_wrn_16_1": "sparse",
    "swrn_16_1_2": "sharing",
    "symm_wrn_16_1": "symmetry",
}


@pytest.mark.parametrize("arch", FAMILY)
def test_a_run_depends_on_the_code_of_its_own_family_alone(arch):
    method = {"method": "set", "method_options": {"period": 1, "fraction": 0.1}} if arch == "sparse_wrn_16_1" else {}
    r, ran = Recipe(f"{arch}.test_c10", "cifar10", **method), set()
    importlib.import_module("zoo.training.sparsity")  # loading it while a profile is taken would count
    sys.setprofile(lambda frame, event, argument: ran.add(frame.f_code.co_filename))
    try:
        network = build_network(r, ALONE.device)
        learner = Learner(r, 1, ALONE, network)
        learner.step(torch.randn(2, 3, 28, 28), torch.arange(2), 0, 0)
        learner.end_epoch(0)
    finally:
        sys.setprofile(None)
    ran = {Path(file).relative_to(PACKAGE).as_posix() for file in ran if PACKAGE in Path(file).parents}
    ran = {path for path in ran if path.split("/")[0] in ROOMS and not path.endswith("__init__.py")}
    code = used_code("zoo.training.loop", network, *filter(None, [learner.method]))
    assert ran <= code.keys(), "all that ran counts"
    families = [names for family, names in zoo.models.FAMILIES.items() if family != FAMILY[arch]]
    others = {f"models/{name}.py" for names in families for name in names}
    assert not others & code.keys(), "an edit in another family is none of this run's concern"
    assert ("training/sparsity/reallocate.py" in code) == bool(method)
    assert not {f"training/{name}.py" for name in ("stage", "staged_files")} & code.keys()


def test_an_edit_counts_for_the_runs_that_import_it(tmp_path, monkeypatch):
    shutil.copytree(PACKAGE, tmp_path / "zoo", ignore=shutil.ignore_patterns("hub", "data", "__pycache__"))
    monkeypatch.setattr(used, "PACKAGE", tmp_path / "zoo")
    networks = {arch: zoo.create_model(arch) for arch in ("lrunet1_100", "swrn_16_1_2")}
    before = {arch: used_code("zoo.training.learner", network) for arch, network in networks.items()}
    for path, concerned in (("models/lrunet.py", ["lrunet1_100"]), ("makers/shared.py", ["swrn_16_1_2"]),
                            ("training/schedule.py", [*networks]), ("makers/lowrank.py", [])):  # fmt: skip
        with open(tmp_path / "zoo" / path, "a") as file:
            file.write("# edited\n")
        now = {arch: used_code("zoo.training.learner", network) for arch, network in networks.items()}
        assert [arch for arch in networks if now[arch] != before[arch]] == concerned
        before = now


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(few, tmp_path, monkeypatch):
    with pytest.raises(zoo.ZooError, match=r"loss is (nan|inf).*lower"):
        loop.train(recipe(batch_size=12, lr=1e30), few, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    real, calls = Learner.step, []

    def spoiled(*args):
        calls.append(1)
        return real(*args) + (math.nan if len(calls) == 8 else 0)

    monkeypatch.setattr(Learner, "step", spoiled)
    with pytest.raises(zoo.ZooError, match="loss is nan at epoch 1, step 8"):
        loop.train(recipe(batch_size=12, checkpoint_every=6), few, tmp_path / "later", device="cpu")
    assert checkpoint.load(tmp_path / "later" / "checkpoint.pt")["step"] == 6


def test_a_last_batch_of_one_image_is_refused_with_a_way_out(data, tmp_path):
    changes = {"weight": "sparse_mlp_300_100.trial_fmnist", "model_args": {}, "batch_size": 999, "epochs": 1}
    recipe = load_recipe("lrunet1_fmnist", changes)
    with pytest.raises(zoo.ZooError, match=r"cannot train on a batch of 1, which.*another batch_size"):
        loop.train(recipe, data, tmp_path / "run", device="cpu")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(zoo.ZooError, match=r"w is no longer finite at epoch 1, step 2.*no checkpoint"):
        checkpoint.save({"model": {"w": torch.tensor([math.nan])}, "epoch": 0, "step": 2}, tmp_path / "checkpoint.pt")


def test_a_full_disk_keeps_the_last_good_checkpoint(few, tmp_path, monkeypatch):
    whole = loop.train(recipe(epochs=1, batch_size=12), few, tmp_path / "whole", device="cpu")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) == 4:  # recipe, two checkpoints, this one
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(zoo.ZooError, match=r"No space left on device.*last good checkpoint.*is kept.*--resume"):
        loop.train(recipe(epochs=1, batch_size=12, checkpoint_every=5), few, tmp_path / "run", device="cpu")
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["step"] == 10
    rest = loop.train(recipe(epochs=1, batch_size=12), few, tmp_path / "run", resume=True, device="cpu")
    assert same(whole.state_dict(), rest.state_dict())


def test_a_budget_stops_between_steps(few, tmp_path):
    whole = loop.train(recipe(epochs=1, batch_size=12), few, tmp_path / "whole", device="cpu")
    loop.train(recipe(epochs=1, batch_size=12), few, tmp_path / "run", device="cpu", budget=1e-6)
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["step"] == 1
    rest = loop.train(recipe(epochs=1, batch_size=12), few, tmp_path / "run", resume=True, device="cpu")
    assert same(whole.state_dict(), rest.state_dict())


def test_held_out_images_are_not_trained_on(data):
    r = recipe(held_out=300)
    train, held = load_splits(r, data, ALONE.device)[0].values()
    assert (len(train), len(held)) == (700, 300)
    everything = load_splits(recipe(), data, ALONE.device)[0]["train"]
    pixels = torch.cat([train.images, held.images]).flatten(1).sum(1).sort().values
    assert torch.equal(pixels, everything.images.flatten(1).sum(1).sort().values)
    again = load_splits(r, data, ALONE.device)[0]["held-out"]
    assert torch.equal(again.images, held.images)


def test_augmentation_shifts_flips_and_cuts():
    images = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(400, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    plain = augment(images, generator)
    assert torch.equal(plain, images)
    shifted = augment(images, generator, pad=1)
    padded = torch.nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    windows = {tuple(padded[y : y + 8, x : x + 8].flatten().tolist()) for y in range(3) for x in range(3)}
    assert {tuple(image.flatten().tolist()) for image in shifted} == windows
    flipped = augment(images, generator, flip=True)
    assert {tuple(i.flatten().tolist()) for i in flipped} == {
        tuple(images[0].flatten().tolist()),
        tuple(images[0].flip(2).flatten().tolist()),
    }
    holes = (cut_out(images, generator, 4) == 0).sum((1, 2, 3))
    assert holes.max() == 16
    assert holes.min() >= 4, "clipped at the border, never empty"
    assert augment(images, generator, pad=2, flip=True).dtype == torch.uint8
    mirrored = augment(images, generator, pad=1, reflect=True)
    padded = torch.nn.functional.pad(images[:1].float(), (1, 1, 1, 1), mode="reflect")[0, 0].byte()
    windows = {tuple(padded[y : y + 8, x : x + 8].flatten().tolist()) for y in range(3) for x in range(3)}
    assert {tuple(image.flatten().tolist()) for image in mirrored} == windows
    assert augment(images, generator, pad=4, crop=12).shape == (400, 1, 12, 12)
    with pytest.raises(zoo.ZooError, match="larger than"):
        augment(images, generator, pad=1, crop=12)


def test_rotation_turns_about_the_centre_both_ways():
    images = torch.zeros(500, 1, 21, 21, dtype=torch.uint8)
    images[:, :, 10, :] = 100  # a horizontal line
    turned = augment(images, torch.Generator().manual_seed(0), rotate=10)
    assert turned[:, 0, 10, 10].eq(100).all(), "the centre stays"
    ends = turned[:, 0, :, 19].float().argmax(1) - 10  # tan(10 degrees) * 9 = 1.6 rows at most
    assert (ends.min(), ends.max()) == (-2, 2)
    assert (turned[:, 0, :, 1].float().argmax(1) - 10 + ends).abs().max() <= 1, "it stays a line"
    assert set(turned.unique().tolist()) == {0, 100}, "nearest neighbour"


ALONE = Processes(torch.device("cpu"))


def rates(r: Recipe, updates: int = 10) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=r.lr)
    schedule, found = make_schedule(optimizer, r, updates), []
    for step in range(r.epochs * updates):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_schedules():
    steps = rates(recipe(epochs=6, lr=0.1, sched="step", milestones=[2, 4], factor=0.2, warmup_epochs=0))
    assert steps == pytest.approx([0.1] * 20 + [0.02] * 20 + [0.004] * 20)
    table = rates(recipe(epochs=4, sched="step", lr_table={"0": 0, "1": "2e-2", "3": 0.004}, warmup_epochs=0))
    assert table == pytest.approx([0] * 10 + [0.02] * 20 + [0.004] * 10)
    warm = rates(recipe(epochs=3, lr=1, sched="step", milestones=[2], warmup_epochs=1))
    assert warm[:11] == pytest.approx([0.01 + 0.099 * n for n in range(11)])
    assert warm[20:] == pytest.approx([0.1] * 10)
    cosine = rates(recipe(epochs=10, lr=1, warmup_epochs=0))
    assert cosine == pytest.approx([(1 + math.cos(math.pi * n / 100)) / 2 for n in range(100)])


def test_optimizer_groups():
    for decay_all, expected in ((False, 0.0), (True, 5e-4)):
        model = build_network(recipe(), ALONE.device)
        optimizer = make_optimizer(model, recipe(decay_all=decay_all, opt="momentum"))
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert {decay[id(p)] for p in model.parameters() if p.dim() == 1} == {expected}
        assert {decay[id(p)] for p in model.parameters() if p.dim() == 4} == {5e-4}
        assert not optimizer.param_groups[0]["nesterov"]
    assert make_optimizer(model, recipe()).param_groups[0]["nesterov"]


@pytest.mark.parametrize(
    "network",
    [
        lambda: zoo.create_model("symm_wrn_16_1"),
        lambda: zoo.create_model("sparse_wrn_16_1", reparam="tied", sparsity=0.5),
        lambda: zoo.create_model("swrn_16_1_2"),
        lambda: zoo.language.SymmRNNLanguageModel(50, 16, 16, symm_ih="1010"),
    ],
)
def test_made_kernels_decay_and_coefficients_and_biases_do_not(network):
    model = network()
    spared = {id(p) for group in make_optimizer(model, recipe()).param_groups if not group["weight_decay"]
              for p in group["params"]}  # fmt: skip
    coefficients = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    for name, parameter in model.named_parameters():
        small = name in coefficients or "bias" in name or "bn" in name or "norm" in name
        assert (id(parameter) in spared) == small, name


def test_half_precision_scales_the_loss():
    r = recipe(amp="float16")
    learner = Learner(r, 2, ALONE, build_network(r, ALONE.device))
    assert torch.isfinite(learner.step(torch.randn(2, 1, 28, 28), torch.arange(2), 0, 0))
    learner.scaler.update(7.0)
    other = Learner(r, 2, ALONE, build_network(r, ALONE.device))
    other.restore(learner.state())
    assert other.scaler.get_scale() == 7.0


def test_splits_by_position(data):
    everything = load_splits(recipe(), data, ALONE.device)[0]["train"]
    assert len(everything) == 1000
    images, labels = zoo.data.load_arrays("fashion-mnist", data, "train")
    last = load_splits(recipe(held_out=50, held_out_from="last"), data, ALONE.device)[0]["held-out"]
    assert torch.equal(last.images, torch.from_numpy(images[-50:]))
    assert torch.equal(last.labels, torch.from_numpy(labels[-50:]))
    with pytest.raises(zoo.ZooError, match="choose fewer"):
        load_splits(recipe(held_out=1000), data, ALONE.device)[0]["train"]


RECORDING = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from test_training import recorded_main
torch.save(recorded_main(sys.argv[3:]), sys.argv[1] + os.environ["RANK"])
"""


def recorded_main(words: list[str]) -> list:
    """Run a command; returns what became of each batch: sums over the images, and labels."""
    real, seen = Processes.slice, []

    def recorded(self, batch):
        part = real(self, batch)
        seen.append(part.float().flatten(1).sum(1) if part.dim() > 1 else part.float())
        return part

    Processes.slice = recorded
    try:
        assert main(words) == 0
    finally:
        Processes.slice = real
    return seen


def test_two_processes_see_the_batches_of_one(few, tmp_path):
    script = tmp_path / "recording.py"
    script.write_text(RECORDING)
    settings = ["epochs=1", "batch_size=49", "checkpoint_every=2", "lr=0.02", "held_out=40", "amp=''"]
    settings = [word for setting in settings for word in ("--set", setting)]
    # 200 images in batches of 49: the last one, of 4, is even, the others are not
    words = ["train", "lrunet1_fmnist", "--data", str(few), "--device", "cpu", *settings, "--output"]
    one = recorded_main([*words, str(tmp_path / "one")])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(script), str(tmp_path / "two-"), str(Path(__file__).parent)]
    command += [*words, str(tmp_path / "two")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    two = [torch.load(tmp_path / f"two-{rank}", weights_only=True) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1]) == 2 * 5
    for whole, first, second in zip(one, *two, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))
        assert len(first) - len(second) in (0, 1)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("one", "two")]
    for alone, together in zip(*logs, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=0.15)  # batch norms see half a batch each
    assert checkpoint.load(tmp_path / "two" / "checkpoint.pt")["identity"]["machine"]["processes"] == 2


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ({"epoch": 3}, "epochs"),
        ({"augment.pda": 3}, "augment.pad"),
        ({"augment.pad": 3, "agument.pad": 1}, "augment"),
        ({"lr.x": 1}, "lr"),
    ],
)
def test_unknown_keys_show_close_ones(overrides, hint):
    with pytest.raises(zoo.UnknownNameError, match=hint):
        load_recipe("lrunet1_fmnist", overrides)


def test_overrides_reach_into_mappings(tmp_path):
    changed = load_recipe("lrunet1_fmnist", {"augment.pad": 3, "epochs": 1})
    assert (changed.augment["pad"], changed.augment["flip"], changed.epochs) == (3, True, 1)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"weight": "lrunet2_100.mine_c10"}))
    with pytest.raises(zoo.ZooError, match="lacks dataset"):
        load_recipe(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lr": "fast"}, "lr is a number"),
        ({"epochs": 1.5}, "epochs is a whole number"),
        ({"sched": "cosin"}, "sched is one of 'cosine', 'step'"),
        ({"amp": "int8"}, "amp is one of"),
        ({"lr_table": {1: 0.1}, "sched": "step"}, "rate for epoch 0"),
        ({"milestones": [3]}, "sched: step"),
        ({"held_out_from": "first"}, "'random', 'last'"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"lr": math.nan}, "lr is a finite number"),
        ({"ema": 2}, "ema must be at least 0 and below 1, not 2"),
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"clip_grad": -1}, "clip_grad must be at least 0"),
        ({"seed": 2**32}, "seed must be at least 0 and below 4294967296"),
        ({"held_out": -5}, "held_out must be at least 0"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0"),
        ({"mean": [0.1, 0.2]}, "lists of 1 numbers"),
        ({"mean": ["x"]}, r"mean\[0\] is a number"),
        ({"std": [0]}, "std is above 0"),
        ({"milestones": ["x"], "sched": "step"}, r"milestones\[0\] is a whole number"),
        ({"milestones": [0], "sched": "step"}, "milestones are epochs from 1"),
        ({"lr_table": {0: "fast"}, "sched": "step"}, r"lr_table\.0 is a number"),
        ({"lr_table": {0: 0.1, "x": 1}, "sched": "step"}, "lr_table is a whole number, not 'x'"),
        ({"augment.pad": 1.5}, r"augment\.pad is a whole number"),
        ({"augment.flip": 3}, r"augment\.flip is true or false"),
        ({"augment.cutout": -3}, "no value may be below 0"),
        ({"mixup": 0.2, "batch_size": 51}, "batch_size must be even"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(overrides, message):
    with pytest.raises(zoo.ZooError, match=message):
        load_recipe("lrunet1_fmnist", overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": "lrunet1_10.t_fmnist"}, "No model is called 'lrunet1_10'.*lrunet1_100"),
        ({"weight": "resnet18.t_fmnist", "model_args": {"foo": 1}}, r"resnet18 cannot be built with .*'foo'"),
        ({"model_args": {"dept": 1}}, "sparse_mlp_300_100 takes no argument 'dept'"),
        ({"opt": "sdg"}, "opt: timm cannot make the optimizer 'sdg'"),
        ({"opt": "sgd", "momentum": 0.0}, "Nesterov momentum requires a momentum"),
    ],
)
def test_what_timm_refuses_is_one_line(changes, message):
    r = Recipe(**{"weight": "sparse_mlp_300_100.t_fmnist", "dataset": "fashion-mnist", **changes})
    with pytest.raises(zoo.ZooError, match=message) as caught:
        Learner(r, 1, ALONE, build_network(r, ALONE.device))
    assert "\n" not in str(caught.value)


def test_numbers_that_yaml_reads_as_words():
    assert load_recipe("lrunet1_fmnist", {"weight_decay": "1e-4"}).weight_decay == 1e-4
    stored = json.loads(json.dumps(load_recipe("sparse_wrn_28_2_dsr_s90_c10").to_dict()))
    assert Recipe(**stored) == load_recipe("sparse_wrn_28_2_dsr_s90_c10")


def test_a_sparse_method_resumes_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.data.load_arrays", tiny_cifar)
    values = {
        "model_args": {"sparsity": 0.8},
        "method": "dynamic",
        "method_options": {"period": {"0": 2}, "target": 50, "initial_threshold": "1e-2"},
        "checkpoint_every": 3,
        "epochs": 2,
        "batch_size": 8,
    }
    r = Recipe("sparse_wrn_16_1.test_c10", "cifar10", **values)
    whole = loop.train(r, tmp_path, tmp_path / "whole", device="cpu")
    undo = crash_at(monkeypatch, 14)
    with pytest.raises(Stopped):
        loop.train(r, tmp_path, tmp_path / "parts", device="cpu")
    undo()
    parts = loop.train(r, tmp_path, tmp_path / "parts", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())
    masks = {key: value for key, value in whole.state_dict().items() if key.endswith("mask")}
    initial = checkpoint.load(tmp_path / "whole" / "initial.pt")["model"]
    assert any(not torch.equal(value, initial[key]) for key, value in masks.items()), "weights move"
    assert sum(value.sum() for value in masks.values()) == sum(initial[key].sum() for key in masks)
    lines = [[json.loads(line) for line in (tmp_path / f / "log.jsonl").open()] for f in ("whole", "parts")]
    assert [line["sparse"] for line in lines[0]] == [line["sparse"] for line in lines[1]]


def test_pruning_starts_from_a_dense_run(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.data.load_arrays", tiny_cifar)
    common = {"epochs": 2, "batch_size": 8}
    dense = Recipe("sparse_wrn_16_1.test_c10", "cifar10", model_args={"sparsity": 0.0}, **common)
    loop.train(dense, tmp_path, tmp_path / "dense", device="cpu")
    options = {"target": 0.9, "prunes": 2, "every": 1}
    pruning = Recipe("sparse_wrn_16_1.test_c10", "cifar10", method="pruned", method_options=options, **common)
    pruning.model_args = {"sparsity": 0.9}
    pruning.start = str(tmp_path / "dense")
    pruned = loop.train(pruning, tmp_path, tmp_path / "pruned", device="cpu")
    masks = [value for key, value in pruned.state_dict().items() if key.endswith("mask")]
    assert sum(int(mask.sum()) for mask in masks) == pytest.approx(0.1 * sum(m.numel() for m in masks), rel=0.01)


def test_masks_of_another_run_and_its_initial_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.data.load_arrays", tiny_cifar)
    common = {"model_args": {"sparsity": 0.9}, "epochs": 1, "batch_size": 8, "augment": {"flip": True}}
    moving = {"method": "set", "method_options": {"period": 2, "fraction": 0.3}}
    loop.train(
        Recipe("sparse_wrn_16_1.test_c10", "cifar10", **common, **moving), tmp_path, tmp_path / "a", device="cpu"
    )
    first = checkpoint.load(tmp_path / "a" / "checkpoint.pt")["model"]
    initial = checkpoint.load(tmp_path / "a" / "initial.pt")["model"]
    fixed = Recipe("sparse_wrn_16_1.test_c10", "cifar10", method="static", masks_from=str(tmp_path / "a"), **common)
    loop.train(fixed, tmp_path, tmp_path / "b", device="cpu")
    began, ended = (checkpoint.load(tmp_path / "b" / f)["model"] for f in ("initial.pt", "checkpoint.pt"))
    for key, value in first.items():
        if key.endswith(".mask"):
            assert torch.equal(value, ended[key])
        else:
            assert torch.equal(began[key], initial[key]), "the same seed draws that run's initial weights"
    assert any(not torch.equal(value, initial[key]) for key, value in first.items() if key.endswith(".mask"))
    fixed.masks_from = str(tmp_path / "nowhere")
    with pytest.raises(zoo.ZooError, match="nowhere"):
        loop.train(fixed, tmp_path, tmp_path / "c", device="cpu")


def tiny_cifar(*_):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (64, 3, 8, 8), np.uint8), generator.integers(0, 10, 64)
