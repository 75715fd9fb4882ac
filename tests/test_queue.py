"""The queue: its entries are real, it keeps to a budget and goes on, and it travels to a bare machine and back."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data.arrays import read_idx
from zoo.locks import alone
from zoo.training import checkpoint, loop, queue_run
from zoo.training.queue import Entry, Progress, load_queue, progress
from zoo.training.queue_run import data_folders, run_queue
from zoo.weights.manifest import weights

SMALL = {"batch_size": 10, "amp": ""}
ONE = Entry("lrunet1_fmnist", gpu=1, cpu=1, set={"epochs": 2, **SMALL})


def script(name):
    """A script for the bare machine as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "bare_gpu" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A training set of 100 of the bundled images; no curves are drawn of it."""
    monkeypatch.setattr("zoo.training.curve.plot_loss", lambda *_: None)
    folder = tmp_path / "data"
    folder.mkdir()
    for path in SAMPLE.glob("*.gz"):
        content = read_idx(path)[:100]
        sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
        name = path.name.replace("t10k", "train").removesuffix(".gz")
        (folder / name).write_bytes(bytes([0, 0, 8, content.ndim]) + sizes + content.tobytes())
    return {"fashion-mnist": folder}


def states(entries, runs):
    return [progress(entry, runs).state for entry in entries]


def test_every_entry_loads_and_has_its_own_name():
    entries = load_queue()
    assert len(entries) > 20
    families = set()
    for entry in entries:
        recipe = entry.load(ROOT)
        assert recipe.epochs > 0
        assert entry.gpu > 0 < entry.cpu
        assert set(entry.measured) <= {"gpu", "cpu"}
        families.add(entry.recipe.split("_")[0])
    assert {"sparse", "swrn", "wrn", "symm", "lrunet14", "pd", "lstm"} <= families
    assert len({entry.name for entry in entries}) == len(entries)


def test_an_entry_is_staged_when_the_manifest_says_so():
    staged = next(facts["recipe"] for facts in weights().values() if facts["recipe"])
    assert progress(Entry(staged, 1, 1)).state == "staged"
    assert progress(Entry(staged, 1, 1, set={"seed": 7})).state == "waiting"


def test_another_seed_is_done_when_it_stands_with_the_staged_weight(monkeypatch):
    name, facts = next((name, facts) for name, facts in weights().items() if facts["recipe"])
    runs = [{"seed": seed, "top1": 90.0, "correct": 9000} for seed in (0, 7)]
    known = {name: facts | {"seeds": {"runs": runs, "mean": 90.0, "std": 0.0}}}
    monkeypatch.setattr("zoo.training.queue.weights", lambda: known)
    assert progress(Entry(facts["recipe"], 1, 1, set={"seed": 7})).state == "measured"
    assert progress(Entry(facts["recipe"], 1, 1, set={"seed": 8})).state == "waiting"
    assert progress(Entry(facts["recipe"], 1, 1, set={"seed": 7, "epochs": 1})).state == "waiting"


def test_it_keeps_to_the_budget_and_goes_on(data, tmp_path, monkeypatch):
    """A clock that moves a second a step makes the moments of stopping certain."""
    now = [0.0]
    real_step, real_save = loop.Learner.step, checkpoint.save
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def step(*args):
        now[0] += 1
        return real_step(*args)

    def save(*args):
        now[0] += 2
        real_save(*args)

    monkeypatch.setattr(loop.Learner, "step", step)
    monkeypatch.setattr(checkpoint, "save", save)
    entries, runs, lines = [ONE, Entry("lrunet1_100_c10", 1, 1)], tmp_path / "runs", []

    def call(budget):
        now[0] = 0.0
        lines.clear()
        return run_queue(entries, data, runs, budget, device="cpu", report=lines.append)

    assert call(15) == []
    assert 8 <= now[0] <= 15
    assert lines == [f"{ONE.name}: part-trained, epoch 0 of 2 ({now[0]:.0f} s)"]
    before = checkpoint.load(runs / ONE.name / "checkpoint.pt")["step"]
    assert before < 10
    assert call(5) == []
    assert lines == [f"{ONE.name}: part-trained, epoch 0 of 2; no time left in the budget"]
    assert now[0] == 0
    assert call(40) == []
    assert now[0] <= 40
    assert states(entries, runs) == ["trained", "waiting"]
    assert lines[1] == "lrunet1_100_c10: passed over, its data is not there: --data cifar10=DIR"
    assert call(40) == []
    assert lines[0] == f"{ONE.name}: trained"
    monkeypatch.undo()
    whole = loop.train(ONE.load(runs), data["fashion-mnist"], tmp_path / "whole", device="cpu").state_dict()
    parts = checkpoint.load(runs / ONE.name / "checkpoint.pt")["model"]
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items()), "in parts as in one go"


def test_one_that_fails_does_not_stop_the_others(data, tmp_path, monkeypatch, capsys):
    rows = [
        {"recipe": "lrunet1_fmnist", "set": {"epochs": 1, "lr": 1e30, **SMALL}, "gpu": 1, "cpu": 1},
        {"recipe": "lrunet1_fmnist", "set": {"epochs": 1, "seed": 3, **SMALL}, "gpu": 1, "cpu": 1},
        {"recipe": "lrunet1_fmnist", "set": {"epochs": 1, "seed": 4, **SMALL}, "gpu": 1, "cpu": 1},
        {"recipe": "lrunet1_fmnist", "set": {"epochs": 1, "seed": 5, **SMALL}, "gpu": 1, "cpu": 99},
    ]
    file, runs = tmp_path / "queue.yaml", tmp_path / "runs"
    file.write_text(yaml.safe_dump(rows, sort_keys=False))
    real = loop.train

    def sometimes(recipe, *args, **kwargs):
        if recipe.seed == 3:
            raise torch.cuda.OutOfMemoryError("out of memory\nand more")
        return real(recipe, *args, **kwargs)

    monkeypatch.setattr(loop, "train", sometimes)
    words = ["train", "--queue", str(file), "--data", f"fmnist={data['fashion-mnist']}", "--output", str(runs)]
    assert main([*words, "--longest", "1h", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "failed: The loss is" in lines[0]
    assert "failed: OutOfMemoryError: out of memory (" in lines[1]
    assert lines[2].startswith("lrunet1_fmnist-epochs1-seed4-batch_size10-amp: trained (")
    assert "99 minutes are expected, more than --longest" in lines[3]
    assert err.splitlines()[-1].startswith(
        "zoo: 2 of the queue's entries failed: lrunet1_fmnist-epochs1-lr1e_30-batch_size10-amp, "
    )
    kept = [json.loads(line) for line in (runs / "queue.jsonl").read_text().splitlines()]
    assert [("error" in line, line["state"]) for line in kept] == [
        (True, "waiting"),
        (True, "waiting"),
        (False, "trained"),
    ]
    assert main(["queue", "--queue", str(file), "--output", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 remain: about 3 minutes on an H200-class GPU, or 101 on two CPU cores" in out
    assert main(["queue", "--queue", str(file), "--output", str(runs), "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["waiting", "waiting", "trained", "waiting"]


def test_states_come_from_the_folder(data, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    folder = runs / ONE.name
    run_queue([ONE], data, runs, device="cpu", report=lambda _: None)
    assert states([ONE], runs) == ["trained"]
    (folder / "checkpoint.pt").rename(tmp_path / "checkpoint.pt")
    assert states([ONE], runs) == ["trained"], "its log tells"
    (folder / "log.jsonl").rename(tmp_path / "log.jsonl")
    assert states([ONE], runs) == ["waiting"]
    (tmp_path / "checkpoint.pt").rename(folder / "checkpoint.pt")
    assert states([ONE], runs) == ["trained"], "the checkpoint is written before the log"
    (folder / "checkpoint.pt").write_bytes(b"half")
    assert states([ONE], runs)[0].startswith("damaged")
    stored = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**stored, "lr": 0.5, "checkpoint_every": 3}))
    (folder / "checkpoint.pt").unlink()
    assert states([ONE], runs) == ["a run with another recipe (lr)"]
    lines = []
    assert run_queue([ONE], data, runs, device="cpu", report=lines.append) == [ONE.name]
    assert "move it away" in lines[0]


def test_an_entry_waits_for_the_one_it_starts_from(data, tmp_path):
    second = Entry("lrunet1_fmnist", 1, 1, set={"epochs": 1, **SMALL}, after=ONE.name)
    runs, lines = tmp_path / "runs", []
    run_queue([second, ONE], data, runs, device="cpu", report=lines.append)
    assert lines[0] == f"{second.name}: passed over, it starts from the finished run of {ONE.name}"
    assert second.load(runs).start == str(runs / ONE.name)
    run_queue([ONE, second], data, runs, device="cpu", report=lines.append)
    assert states([ONE, second], runs) == ["trained", "trained"]


def test_a_run_serves_to_start_from_after_it_was_staged(data, tmp_path, monkeypatch):
    second = Entry("lrunet1_fmnist", 1, 1, set={"epochs": 1, **SMALL}, after=ONE.name)
    runs, lines = tmp_path / "runs", []
    run_queue([ONE], data, runs, device="cpu", report=lines.append)
    real = progress

    def staged(entry, folder=None):
        return Progress("staged", 1, 1) if entry == ONE else real(entry, folder)

    monkeypatch.setattr("zoo.training.queue_run.progress", staged)
    run_queue([ONE, second], data, runs, device="cpu", report=lines.append)
    assert states([second], runs) == ["trained"], lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {recipe: lrunet1_fmnist, gpu: 1}", "cpu: an entry needs"),
        ("- {recipe: lrunet1_fmnist, gpu: 1, cpu: 1, sett: {}}", "sett: an entry needs"),
        ("- {recipe: lrunet1_fmnist, gpu: 1, cpu: 1}\n- {recipe: lrunet1_fmnist, gpu: 2, cpu: 1}", "twice"),
        ("- {recipe: lrunet1_fmnist, gpu: 1, cpu: 1, after: lrunet9}", "not above it"),
        ("recipe: lrunet1_fmnist", "a list of entries"),
        ("- {", "not a YAML file"),
        ("- {recipe: lrunet1_fmnst, gpu: 1, cpu: 1}", "lrunet1_fmnist"),
    ],
)
def test_wrong_queue_files(tmp_path, text, message):
    (tmp_path / "queue.yaml").write_text(text)
    with pytest.raises(zoo.ZooError, match=message):
        run_queue(load_queue(tmp_path / "queue.yaml"), {}, tmp_path / "runs", device="cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queue", "--data", "."], "--data cifar10=."),
        (["--queue", "--data", "cifar=."], "Unknown data set 'cifar'"),
        (["--queue", "--data", "cifar10=nowhere"], "no such folder"),
        (["--queue", "nowhere.yaml", "--data", "cifar10=."], "no queue file"),
        (["--queue", "--resume", "--data", "cifar10=."], "leave the others out"),
        (["--queue"], "needs the data sets that are there"),
        (["--data", "."], "or --queue"),
        (["lrunet1_fmnist"], "needs --data DIR"),
        (["lrunet1_fmnist", "--data", ".", "--data", "."], "belong to --queue"),
    ],
)
def test_wrong_command_lines(tmp_path, capsys, words, message):
    assert main(["train", *words, "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("word", "expected"), [("90", 90), ("90s", 90), ("9m", 540), ("2h", 7200), ("1.5h", 5400)])
def test_units_of_time(word, expected, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(queue_run, "run_queue", lambda *args: given.append(args[3]) or [])
    assert main(["train", "--queue", "--budget", word, "--data", f"wt2={tmp_path}", "--output", str(tmp_path)]) == 0
    assert given == [expected]


@pytest.mark.parametrize("word", ["9x", "m", "-3", "0", "1e3"])
def test_what_is_no_time(word, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--queue", f"--budget={word}", "--data", "c10=.", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "is no time: write 90" in capsys.readouterr().err


def test_one_queue_at_a_time(data, tmp_path):
    with alone(tmp_path / "queue.lock", ""), pytest.raises(zoo.ZooError, match="another zoo train --queue"):
        run_queue([ONE], data, tmp_path, device="cpu")


def test_data_names():
    folders = data_folders([f"c10={ROOT}", f"wikitext-2={ROOT}", f"fashion-mnist={ROOT}"])
    assert list(folders) == ["cifar10", "wikitext-2", "fashion-mnist"]


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """CIFAR-10 of 50 and 10 images, and the script that packs it in sheets of 5."""
    cifar, generator = script("cifar"), np.random.default_rng(0)
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cifar, "ROWS", 5)
    monkeypatch.setattr(cifar, "COLUMNS", 1)
    monkeypatch.setattr(cifar, "BATCH", 10)
    for split, batches in cifar.BATCHES.items():
        rows = generator.integers(0, 256, (10 * len(batches), 3073), np.uint8)
        rows[:, 0] %= 10
        for number, batch in enumerate(batches):
            (folder / f"{batch}.bin").write_bytes(rows[10 * number :][:10].tobytes())
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        monkeypatch.setitem(cifar.IMAGES, split, cifar.digest(images))
    return cifar, tmp_path / "cifar"


def test_cifar_travels_in_parts_and_comes_out_the_same(small_cifar, tmp_path):
    cifar, source = small_cifar
    cifar.pack(source, tmp_path / "parts", part_mb=0.06)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 2
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= 0.06 * 2**20 for part in parts)
    there = tmp_path / "there"
    whole = [cifar.unpack(part, there) for part in reversed(parts)]
    assert whole == [False] * (len(parts) - 1) + [True]
    for file in (source / "cifar-10-batches-bin").iterdir():
        assert (there / "cifar-10-batches-bin" / file.name).read_bytes() == file.read_bytes()
    assert not (there / "sheets").exists()
    with pytest.raises(zoo.ZooError, match="not empty"):
        cifar.pack(source, tmp_path / "parts", part_mb=1)


def test_damaged_or_foreign_images_are_refused(small_cifar, tmp_path, monkeypatch):
    cifar, source = small_cifar
    cifar.pack(source, tmp_path / "parts", part_mb=10)
    part = tmp_path / "parts" / "part-1"
    monkeypatch.setitem(cifar.IMAGES, "test", "0" * 64)
    with pytest.raises(zoo.DataError, match="do not have the sha256"):
        cifar.unpack(part, tmp_path / "there")
    with pytest.raises(zoo.DataError, match="not those of CIFAR-10"):
        cifar.pack(source, tmp_path / "again", part_mb=10)
    sheet = part / "train-00.webp"
    sheet.write_bytes(sheet.read_bytes()[:-1])
    with pytest.raises(zoo.DataError, match=r"train-00\.webp is damaged"):
        cifar.unpack(part, tmp_path / "there2")


@pytest.mark.slow
def test_runs_travel_out_and_back(data, tmp_path, monkeypatch):
    parcel = script("parcel")
    other = Entry("lrunet1_fmnist", 1, 1, set={"epochs": 2, "seed": 5, **SMALL})
    there, home = tmp_path / "there" / "runs", tmp_path / "home" / "runs"
    run_queue([ONE], data, there, device="cpu", report=lambda _: None)
    loop.train(other.load(there), data["fashion-mnist"], there / other.name, device="cpu", budget=1e-9)

    def give(source, target, back=False, names=(), part=200_000, count=4, half_above=0):
        outbox = source.parent / "outbox"
        return parcel.give(source, target, list(names), back, outbox, part, count, half_above)

    folders = []
    for number in range(40):
        give(there, tmp_path / f"out{number}")
        if not (tmp_path / f"out{number}").exists():
            break  # nothing is left to give
        folders.append(tmp_path / f"out{number}")
        files = list(folders[-1].iterdir())
        assert len(files) <= 5
        assert all(file.stat().st_size <= 200_000 for file in files)
    assert 2 < len(folders) < 40
    for folder in reversed(folders):
        parcel.take(folder, home, home.parent / "inbox")
    for path in there.glob("lrunet*/*"):
        assert (home / path.parent.name / path.name).read_bytes() == path.read_bytes()
    assert states([ONE, other], home) == ["trained", "part-trained"]
    assert not list((home.parent / "inbox").iterdir())

    assert give(home, tmp_path / "back", back=True, part=20_000_000) == 0
    fresh = tmp_path / "fresh" / "runs"
    assert parcel.take(tmp_path / "back", fresh, fresh.parent / "inbox")
    assert states([ONE, other], fresh) == ["trained", "part-trained"]
    assert not (fresh / ONE.name / "checkpoint.pt").exists(), "a finished run need not travel back"
    run_queue([ONE, other], data, fresh, device="cpu", report=lambda _: None)
    whole = loop.train(other.load(there), data["fashion-mnist"], tmp_path / "whole", device="cpu").state_dict()
    parts = checkpoint.load(fresh / other.name / "checkpoint.pt")["model"]
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())
    assert parcel.take(tmp_path / "back", fresh, fresh.parent / "inbox")
    assert states([other], fresh) == ["trained"], "an older state does not replace a newer one"

    assert give(fresh, tmp_path / "last", part=20_000_000) == 0
    damaged = tmp_path / "last" / "part-000"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(zoo.ZooError, match="damaged"):
        parcel.take(tmp_path / "last", home, home.parent / "inbox")
    assert states([other], home) == ["part-trained"]


def test_halved_runs_go_on_and_say_so(data, tmp_path, monkeypatch):
    parcel = script("parcel")
    recipe = Entry("lrunet1_fmnist", 1, 1, set={"epochs": 3, "ema": 0.9, **SMALL}).load(tmp_path)
    there, home = tmp_path / "there" / "runs", tmp_path / "home" / "runs"
    loop.train(recipe, data["fashion-mnist"], there / "a", device="cpu", budget=1e-9)
    with pytest.raises(zoo.ZooError, match="after its first epoch"):
        parcel.give(there, tmp_path / "out", [], False, tmp_path / "outbox", 10_000_000, 4, 1000)
    stop_after_an_epoch(recipe, data["fashion-mnist"], there / "a", monkeypatch)
    parcel.give(there, tmp_path / "out2", [], False, tmp_path / "outbox", 10_000_000, 4, 1000)
    parcel.take(tmp_path / "out2", home, tmp_path / "inbox")
    exact, halved = (checkpoint.load(runs / "a" / "checkpoint.pt") for runs in (there, home))
    assert (home / "a" / "checkpoint.pt").stat().st_size < 0.6 * (there / "a" / "checkpoint.pt").stat().st_size
    for key, tensor in exact["model"].items():
        assert torch.allclose(tensor.float(), halved["model"][key].float(), rtol=1e-3, atol=1e-6)
    loop.train(recipe, data["fashion-mnist"], home / "a", resume=True, device="cpu")
    log = [json.loads(line) for line in (home / "a" / "log.jsonl").open()]
    assert [line.get("halved", False) for line in log] == [True, False, False]
    assert all(math.isfinite(line["loss"]) for line in log)
    end = checkpoint.load(home / "a" / "checkpoint.pt")
    assert {tensor.dtype for tensor in end["model"].values() if tensor.is_floating_point()} == {torch.float32}
    kinds = {v.dtype for group in end["optimizer"]["state"].values() for v in group.values() if v is not None}
    assert kinds == {torch.float32}


class Stopped(Exception):
    """What stands for a crash."""


def stop_after_an_epoch(recipe, data, folder, monkeypatch):
    """Go on with a run until the first step of the second epoch."""
    real = loop.Learner.step

    def step(learner, images, labels, epoch, *rest):
        if epoch:
            raise Stopped
        return real(learner, images, labels, epoch, *rest)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop.Learner, "step", step)
        loop.train(recipe, data, folder, resume=True, device="cpu")


def test_the_whole_way_on_a_bare_machine(data, tmp_path):
    """there.sh with a data folder in hand: trains, gives, is wiped, takes, goes on."""
    rows = [{"recipe": "lrunet1_fmnist", "set": {"epochs": 1, **SMALL}, "gpu": 1, "cpu": 1}]
    carry, out = tmp_path / "carry", tmp_path / "out"
    carry.mkdir()
    (carry / "queue.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    folder = carry / "fashion-mnist"
    folder.mkdir()
    for file in data["fashion-mnist"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    environment = {
        **os.environ,
        "CARRY": str(carry),
        "KEEP": str(tmp_path / "keep"),
        "OUT": str(out),
        "QUEUE": str(carry / "queue.yaml"),
        "PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", str(ROOT / "scripts" / "bare_gpu" / "there.sh"), "5m"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "lrunet1_fmnist-epochs1-batch_size10-amp: trained (" in done.stdout
    assert sorted(file.name for file in out.iterdir()) == ["parcel.json", "part-000"]
    assert script("parcel").take(out, tmp_path / "home", tmp_path / "inbox")
    assert states(load_queue(carry / "queue.yaml"), tmp_path / "home") == ["trained"]
