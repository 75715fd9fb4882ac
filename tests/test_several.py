"""zoo train with several recipes and seeds: folders, budgets, failures, signals, and that each is trained as alone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from interruption import same
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data.arrays import read_idx
from zoo.language.recipe import load_language_recipe
from zoo.layers import make_sparse
from zoo.sparsity import make_method
from zoo.training import checkpoint, loop, several
from zoo.training.interruption import Interruption
from zoo.training.learner import Learner
from zoo.training.recipe import Recipe, load_recipe
from zoo.training.several import Run, fitted

SMALL = {"weight": "sparse_mlp_300_100.t_fmnist", "dataset": "fashion-mnist", "batch_size": 20, "epochs": 2, "lr": 0.01}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A training set of 100 of the bundled images, of 5 steps an epoch; no curves are drawn of it."""
    monkeypatch.setattr("zoo.training.curve.plot_loss", lambda *_: None)
    folder = tmp_path / "data"
    folder.mkdir()
    for path in SAMPLE.glob("*.gz"):
        content = read_idx(path)[:100]
        sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
        name = path.name.replace("t10k", "train").removesuffix(".gz")
        (folder / name).write_bytes(bytes([0, 0, 8, content.ndim]) + sizes + content.tobytes())
    return folder


@pytest.fixture
def command(data, tmp_path, capsys):
    """Trains recipes of the given names and values; returns exit code, standard output and error."""

    def run(recipes, *words):
        files = []
        for name, values in recipes.items():
            files.append(str(tmp_path / f"{name}.yaml"))
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**SMALL, **values}))
        given = ["--output", str(tmp_path / "runs"), "--device", "cpu", "--data", str(data)]
        return main(["train", *files, *given, *words]), *capsys.readouterr()

    return run


def model(folder):
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def test_each_has_its_folder_and_is_trained_as_alone(command, data, tmp_path):
    recipes = {"a": {}, "b": {"lr": 0.02}}
    code, out, err = command(recipes, "--seeds", "0,7")
    assert (code, out.splitlines()[:4]) == (0, [f"{n}: finished: 2 of 2 epochs" for n in NAMES])
    assert out.splitlines()[4].startswith("measure them: zoo validate ")
    assert len([line for line in err.splitlines() if line.startswith("b-seed7 {")]) == 2, "lines say whose they are"
    alone = loop.train(Recipe(**{**SMALL, "lr": 0.02, "seed": 7}), data, tmp_path / "alone", device="cpu").state_dict()
    assert same(alone, model(tmp_path / "runs" / "b-seed7"))
    assert json.loads((tmp_path / "runs" / "b-seed7" / "recipe.json").read_text())["seed"] == 7
    code, _, err = command(recipes, "--seeds", "0,7")
    assert code == 1 and "a-seed0 already holds a run" in err
    (tmp_path / "runs" / "a-seed7" / "checkpoint.pt").unlink()
    code, out, _ = command(recipes, "--seeds", "0,7", "--resume", "--json")
    rows = json.loads(out)
    assert [row["state"] for row in rows] == ["finished already", "finished", "finished already", "finished already"]
    assert [(row["epoch"], row["epochs"], row["finished"]) for row in rows] == [(2, 2, True)] * 4
    code, _, err = command({"a": {"lr": 0.5}, "b": {}}, "--seeds", "0", "--resume")
    assert code == 1 and "lr 0.01, here 0.5" in err and "lr 0.02, here 0.01" in err
    assert err.splitlines()[-1].startswith("zoo: 2 of 2 runs failed: a-seed0 (failed: ")


NAMES = ["a-seed0", "a-seed7", "b-seed0", "b-seed7"]


def test_one_recipe_and_seed_has_the_folder_itself(command, tmp_path):
    code, out, _ = command({"a": {}}, "--seeds", "3", "--json")
    assert code == 0 and json.loads(out)["finished"]
    assert json.loads((tmp_path / "runs" / "recipe.json").read_text())["seed"] == 3


def test_steps_in_turn_are_those_of_each_alone(data, tmp_path):
    recipes = [Recipe(**SMALL), Recipe(**{**SMALL, "seed": 1, "batch_size": 50})]
    runs = [Run(recipe, data, tmp_path / f"{n}", loop.train) for n, recipe in enumerate(recipes)]
    order, real = [], Learner.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", lambda self, *args: (order.append(self.recipe.seed), real(self, *args))[1])
        arguments = (loop.Processes(torch.device("cpu")), float("inf"), False, Interruption())
        several._train_together(runs, False, *arguments, several.load_splits, True)
    assert [run.state for run in runs] == ["finished"] * 2
    assert order == [0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0], "whoever is behind is next"
    for n, recipe in enumerate(recipes):
        alone = loop.train(recipe, data, tmp_path / f"alone{n}", device="cpu").state_dict()
        assert same(alone, model(tmp_path / f"{n}"))


def test_one_that_fails_does_not_stop_the_others(command, tmp_path, monkeypatch):
    real = Learner.step

    def sometimes(self, *args):
        if self.recipe.seed == 5:
            raise torch.cuda.OutOfMemoryError("out of memory\nand more")
        return real(self, *args)

    monkeypatch.setattr(Learner, "step", sometimes)
    code, out, err = command({"a": {"lr": 1e30}, "b": {"seed": 5}, "c": {}})
    assert code == 1
    assert err.splitlines()[-1].startswith("zoo: 2 of 3 runs failed: a (failed: The loss is ")
    assert "b (failed: OutOfMemoryError: out of memory)" in err.splitlines()[-1]
    assert "c: finished: 2 of 2 epochs" in out.splitlines()


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves a second with each step."""
    now, real = [0.0], Learner.step
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def step(self, *args):
        now[0] += 1
        return real(self, *args)

    monkeypatch.setattr(Learner, "step", step)
    return now


def test_a_budget_fits_the_epochs_and_a_resumed_run_keeps_them(command, clock, data, tmp_path, monkeypatch):
    recipes = {"a": {"epochs": 100, "warmup_epochs": 10}, "b": {"epochs": 50, "sched": "step", "milestones": [25]}}
    code, out, err = command(recipes, "--budget", "100s")
    stored = [json.loads((tmp_path / "runs" / n / "recipe.json").read_text()) for n in "ab"]
    epochs = [recipe["epochs"] for recipe in stored]
    assert code == 0 and clock[0] <= 100 and 60 <= 5 * sum(epochs) <= 90
    assert epochs[0] // 2 == epochs[1] and stored[0]["warmup_epochs"] == pytest.approx(epochs[0] / 10)
    assert stored[1]["milestones"] == [round(epochs[1] / 2)]
    assert out.splitlines()[:2] == [f"{n}: finished: {e} of {e} epochs" for n, e in zip("ab", epochs, strict=True)]
    assert f"b: {epochs[1]} of 50 epochs fit into the time" in err
    monkeypatch.setattr(several, "KEPT", 2.0)  # more than fits
    clock[0] = 0.0
    recipes = {f"{name}2": values for name, values in recipes.items()}
    code, out, _ = command(recipes, "--budget", "100s")  # the second one is not even begun
    assert code == 0 and clock[0] <= 102 and "b2: stopped by --budget" in out and "\ngo on: zoo train " in out
    code, out, _ = command(recipes, "--resume")
    assert code == 0 and out.count("finished") == 2
    recipe = load_recipe(tmp_path / "runs" / "b2" / "recipe.json")
    assert recipe.epochs < 50
    whole = loop.train(recipe, data, tmp_path / "whole", device="cpu")
    assert same(whole.state_dict(), model(tmp_path / "runs" / "b2")), "in parts as in one go by its recipe.json"


def test_a_signal_stops_all_and_they_go_on(command, data, tmp_path, monkeypatch):
    real, calls = Learner.step, []

    def step(self, *args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(Learner, "step", step)
    code, out, _ = command({"a": {}, "b": {}})
    assert code == 128 + signal.SIGINT
    assert out.splitlines()[:2] == [
        "a: stopped by SIGINT at epoch 1, step 3, which is saved: 0 of 2 epochs",
        "b: stopped by a signal: 0 of 2 epochs",
    ]
    assert checkpoint.load(tmp_path / "runs" / "a" / "checkpoint.pt")["step"] == 3
    assert command({"a": {}, "b": {}}, "--resume")[0] == 0
    whole = loop.train(Recipe(**SMALL), data, tmp_path / "whole", device="cpu").state_dict()
    assert same(whole, model(tmp_path / "runs" / "a"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a_c10"], "a_c10"),
        ([], "needs the name of a recipe"),
        (["wrn_16_1_c10", "--seeds", "0,x"], "--seeds 0,1,2"),
        (["wrn_16_1_c10", "--seeds", "1,1"], "different whole numbers"),
        (["wrn_16_1_c10", "--seeds", "1,2", "--set", "seed=3"], "leave one out"),
        (["wrn_16_1_c10", "wrn_16_1_c10"], "name each recipe once"),
        (["wrn_16_1_c10", "lrunet1_fmnist"], "these recipes are of cifar10 and fashion-mnist"),
        (["wrn_16_1_c10", "lrunet1_fmnist", "--data", "c10=."], "say which data set it is"),
        (["wrn_16_1_c10", "--data", "fmnist=."], "say which data set it is"),
    ],
)
def test_wrong_command_lines(tmp_path, capsys, words, message):
    assert main(["train", *words, "--data", ".", "--output", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_recipes_of_several_data_sets_name_each(tmp_path, capsys):
    words = ["train", "wrn_16_1_c10", "lrunet1_fmnist", "lstm_small_wikitext2", "--output", str(tmp_path)]
    assert main([*words, "--data", "c10=x", "--data", "fashion-mnist=y", "--device", "cpu"]) == 1
    assert "The data of wikitext-2 is missing: --data wikitext-2=DIR" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "expected"), [("90", 90), ("90s", 90), ("9m", 540), ("2h", 7200), ("1.5h", 5400)])
def test_units_of_time(word, expected, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(several, "train_several", lambda *args: given.append(args[3]) or 0)
    main(["train", "wrn_16_1_c10", "--seeds", "0,1", "--budget", word, "--data", ".", "--output", str(tmp_path)])
    assert given == [expected]


@pytest.mark.parametrize("word", ["9x", "m", "-3", "0", "1e3"])
def test_what_is_no_time(word, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "wrn_16_1_c10", f"--budget={word}", "--data", ".", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "is no time: write 90" in capsys.readouterr().err


BARE = """
import sys
for name in ("jsonschema", "matplotlib", "onnx", "transformers"):
    sys.modules[name] = None
from zoo.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_bare_machine_with_the_training_files_alone(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for batch in range(1, 6):
        rows = [bytes([row]) + os.urandom(3072) for row in range(8)]
        (folder / f"data_batch_{batch}.bin").write_bytes(b"".join(rows))
    words = ["train", "sparse_wrn_16_1_dsr_s90_c10", "wrn_16_1_c10", "--data", str(tmp_path), "--device", "cpu"]
    words += ["--output", str(tmp_path / "runs"), "--set", "epochs=1", "--set", "batch_size=20"]
    command, environment = [sys.executable, "-c", BARE, *words], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(": finished: 1 of 1 epochs") == 2


SHRUNK = [
    ("dynamic", {"period": {"0": 100, "40": 200}, "target": 9, "stop_epoch": 80},
     {"period": {0: 100, 20: 200}, "target": 9, "stop_epoch": 40}),
    ("rigl", {"period": 100, "end_iteration": 3000}, {"period": 100, "end_iteration": 1500}),
    ("deepr", {"temperature": {0: 1e-3, 60: 0.0}, "stop_epoch": None},
     {"temperature": {0: 1e-3, 30: 0.0}, "stop_epoch": None}),
    ("pruned", {"target": 0.9, "every": 3, "prunes": 20, "start_epoch": 10},
     {"target": 0.9, "every": 1, "prunes": 20, "start_epoch": 5}),
    ("pruned", {"target": 0.9, "every": 1, "prunes": 21}, {"target": 0.9, "every": 1, "prunes": 11}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options", "expected"), SHRUNK)
def test_half_the_epochs_half_the_schedule(method, options, expected):
    changes = {"epochs": 100, "sched": "step", "lr_table": {0: 0.1, 1: 0.2, 60: 0.01}, "warmup_epochs": 5}
    recipe = Recipe(**{**SMALL, **changes}, method=method, method_options=options)
    half = fitted(recipe, 50)
    assert (half.epochs, half.warmup_epochs, half.method_options) == (50, 2.5, expected)
    assert half.lr_table == {0: 0.1, 1: 0.2, 30: 0.01}, "the first rate stays the first"
    assert fitted(recipe, 100) == recipe
    assert fitted(load_recipe("lrunet1_fmnist"), 3).epochs == 3
    milestones = Recipe(**{**SMALL, "epochs": 100, "sched": "step", "milestones": [1, 40, 80]})
    assert fitted(milestones, 50).milestones == [1, 20, 40]
    assert fitted(load_language_recipe("lstm_small_wikitext2"), 2).epochs == 2


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 19])
@pytest.mark.parametrize("start", [0, 12, 19])
def test_in_however_few_epochs_all_is_pruned(epochs, start):
    options = {"target": 0.9, "start_epoch": start, "every": 2, "prunes": (20 - start + 1) // 2}
    recipe = fitted(Recipe(**{**SMALL, "epochs": 20}, method="pruned", method_options=options), epochs)
    network = make_sparse(torch.nn.Sequential(torch.nn.Conv2d(10, 20, 3)), 0.0)
    method = make_method("pruned", network, recipe.method_options, torch.Generator())
    done = [method.after_epoch(epoch) for epoch in range(epochs)]
    assert sum(record is not None for record in done) == recipe.method_options["prunes"]
    assert sum(method.active().values()) == pytest.approx(180, abs=20)


def test_the_last_rate_is_reached_and_what_is_left_out_is_said():
    late = Recipe(**{**SMALL, "epochs": 10, "sched": "step", "milestones": [5, 9]})
    assert fitted(late, 2).milestones == [1, 1] and several._rates(fitted(late, 2)) == 2 < several._rates(late)
    table = Recipe(**{**SMALL, "epochs": 10, "sched": "step", "lr_table": {0: 0.1, 8: 0.2, 9: 0.3}})
    assert fitted(table, 3).lr_table == {0: 0.1, 2: 0.3}
