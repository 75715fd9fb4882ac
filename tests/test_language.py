"""Language models: text folders, perplexity, and training that learns, resumes to the bit and collapses."""

import hashlib
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from tqdm import tqdm

import zoo
from conftest import data_folder
from interruption import kill_after_checkpoint
from zoo.cli import main
from zoo.language import run as runs
from zoo.language import train as training
from zoo.language.data import EOS, PADDING, TEXT_DATASETS, as_columns, get_text_dataset, load_split, load_text
from zoo.language.perplexity import load_best_model, perplexity
from zoo.language.recipe import LanguageRecipe, load_language_recipe
from zoo.language.train import train_language
from zoo.training import checkpoint as checkpoints
from zoo.training.curve import plot_curve
from zoo.training.interruption import Interruption
from zoo.training.recipe import recipe_names
from zoo.training.used_code import used_code

LINE = "the cat sat on a mat and\nthen it ran to its small house .\n"  # every word but <eos> says which one follows


@pytest.fixture
def data(tmp_path):
    """A periodic text of 16 different words, ``<eos>`` counted; only what follows ``<eos>`` needs memory."""
    return write_text(tmp_path / "text", LINE * 60, LINE * 8, LINE * 9)


def write_text(folder, train, valid, test, name="{}.txt"):
    folder.mkdir()
    for split, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / name.format(split)).write_text(text, encoding="utf-8")
    return folder


def recipe(**changes) -> LanguageRecipe:
    small = {"embedding_size": 12, "hidden_size": 12, "dropout": 0.1, "steps": 9, "columns": 4, "eval_columns": 3}
    return LanguageRecipe(**{**small, "epochs": 3, "lr": 5.0, **changes})


def run_command(*words) -> None:
    assert main([str(word) for word in words]) == 0


# Text folders


@pytest.mark.parametrize("name", ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens"])
def test_words_are_numbered_in_order_of_appearance(tmp_path, name):
    text = load_text(write_text(tmp_path / "t", "b a\n\na c\n", " d  a \n", "e\nb", name))
    assert text.words == ("b", "a", EOS, "c", "d", "e")
    assert {split: tokens.tolist() for split, tokens in text.splits.items()} == {
        "train": [0, 1, 2, 2, 1, 3, 2],
        "valid": [4, 1, 2],
        "test": [5, 2, 0, 2],
    }
    assert all(tokens.dtype == torch.int64 for tokens in text.splits.values())
    for split, tokens in text.splits.items():
        assert torch.equal(load_split(tmp_path / "t", split, text.words), tokens)


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(zoo.errors.DataError, match="No such folder"):
        load_text(tmp_path / "absent")
    folder = write_text(tmp_path / "t", "a\n", "a\n", "b\n")
    with pytest.raises(zoo.errors.DataError, match=r"1 of its words, such as 'b'"):
        load_split(folder, "test", ("a", EOS))
    with pytest.raises(zoo.errors.DataError, match="choose one of train, valid, test"):
        load_split(folder, "dev", ("a", EOS))
    (folder / "valid.txt").write_text("\n \n")
    with pytest.raises(zoo.errors.DataError, match=r"valid\.txt: the file is empty"):
        load_text(folder)
    (folder / "valid.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(zoo.errors.DataError, match="UTF-8"):
        load_text(folder)
    (folder / "valid.txt").unlink()
    with pytest.raises(zoo.errors.DataError, match=r"No valid split .*ptb\.valid\.txt"):
        load_text(folder)


def test_facts_are_found_by_name_and_suffix():
    assert get_text_dataset("wt2") is get_text_dataset("wikitext-2")
    assert get_text_dataset("wikitext-2").licence.startswith("CC BY-SA")
    with pytest.raises(zoo.UnknownNameError, match="wikitext-2, ptb"):
        get_text_dataset("wikitext")


@pytest.mark.parametrize(("length", "count"), [(12, 3), (13, 5), (7, 10), (1, 1)])
def test_every_token_is_a_target_once_and_follows_its_input(length, count):
    tokens = torch.arange(100, 100 + length)
    inputs, targets = as_columns(tokens, count, 7)
    assert inputs.shape == targets.shape == (math.ceil(length / count), count)
    real = targets != PADDING
    assert sorted(targets[real].tolist()) == tokens.tolist()
    previous = {100: 7, **{k: k - 1 for k in range(101, 100 + length)}}
    assert inputs[real].tolist() == [previous[k] for k in targets[real].tolist()]


# Perplexity


class Fixed(nn.Module):
    """Scores every word by a table, whatever came before."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, words, state=None):
        return self.scores.expand(*words.shape, -1), state


def test_uniform_guessing_has_the_perplexity_of_the_vocabulary_size(data):
    text = load_text(data)
    tokens, first = text.splits["test"], text.words.index(EOS)
    result = perplexity(Fixed(torch.zeros(len(text.words), dtype=torch.float64)), tokens, first, columns=7, steps=5)
    assert result.perplexity == pytest.approx(len(text.words), rel=1e-12)
    assert result.n == len(tokens)


@pytest.mark.parametrize("columns", [1, 4, 10, 400])
def test_every_token_counts_once(data, columns):
    text = load_text(data)
    tokens, first = text.splits["test"], text.words.index(EOS)
    scores = torch.randn(len(text.words), dtype=torch.float64).log_softmax(0)
    expected = -scores[tokens].mean().item()
    assert perplexity(Fixed(scores), tokens, first, columns=columns).loss == pytest.approx(expected, rel=1e-12)


def test_the_state_is_carried_and_the_mode_is_eval(data):
    text = load_text(data)
    tokens, first = text.splits["test"], text.words.index(EOS)
    model = recipe(dropout=0.5).build(len(text.words)).double().train()
    with torch.inference_mode():
        inputs = torch.cat([torch.tensor([first]), tokens[:-1]])
        expected = nn.functional.cross_entropy(model.eval()(inputs[:, None])[0].flatten(0, 1), tokens).item()
    for steps in (1, 8, 1000):
        assert perplexity(model.train(), tokens, first, columns=1, steps=steps).loss == pytest.approx(
            expected, rel=1e-9
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"symm_ih": "1111"},
        {"symm_type": "quar", "tied": True},
        {"symm_type": "eight", "symm_hh": "0110", "symm_ih": "1000"},
        {"symm_type": "tri", "cell": "gru", "num_layers": 1},
    ],
)
def test_the_collapsed_model_has_the_same_perplexity(data, changes):
    text = load_text(data)
    torch.manual_seed(3)
    model = recipe(**changes).build(len(text.words)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)  # far from the near-uniform start
    plain = zoo.reparameterize(model)
    assert type(plain.rnn) is (nn.GRU if changes.get("cell") == "gru" else nn.LSTM)
    tokens, first = text.splits["test"], text.words.index(EOS)
    one, other = (perplexity(m, tokens, first).perplexity for m in (model, plain))
    assert one > 1.1 * len(text.words)
    assert other == pytest.approx(one, rel=1e-9)


# Training


@pytest.mark.parametrize("changes", [{"symm_ih": "1111"}, {"cell": "gru", "tied": True}])
def test_a_symmetric_model_learns_a_periodic_text(data, tmp_path, changes):
    settings = recipe(embedding_size=24, hidden_size=24, num_layers=1, epochs=12, dropout=0.0, lr=20.0, **changes)
    model = train_language(settings, data, tmp_path / "run", device="cpu")
    text = load_text(data)
    measured = perplexity(model, text.splits["test"], text.words.index(EOS), columns=1)
    assert measured.perplexity < 1.2, "of 16 words"
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]


def checkpoint(run) -> dict:
    """A run's checkpoint without the times in it, and without generators that nothing here draws from."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["random"] = state["random"]["torch"]
    state["position"].pop("seconds")
    for line in state["position"]["log"]:
        line.pop("seconds")
    return state


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize("changes", [{}, {"cell": "gru", "sched": "cosine"}])
def test_a_run_in_parts_equals_a_whole_one(data, tmp_path, monkeypatch, changes):
    settings = recipe(dropout=0.5, epochs=4, **changes)
    whole = train_language(settings, data, tmp_path / "whole", device="cpu")
    clock, real = [0.0], nn.utils.clip_grad_norm_

    def tick(*args, **kwargs):
        clock[0] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(runs.nn.utils, "clip_grad_norm_", tick)
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    stops = []
    for budget in (5, 9, 60):  # steps; an epoch has 29
        train_language(settings, data, tmp_path / "parts", resume=True, device="cpu", budget=budget)
        state = checkpoint(tmp_path / "parts")
        stops.append((state["epoch"], state["step"]))
        assert len(state["position"]["log"]) == state["epoch"]
        assert len(state["position"]["hidden"]) == (1 if changes else 2)
        torch.rand(7)  # whatever else the process draws
    assert stops == [(0, 6), (0, 16), (2, 19)]
    with pytest.raises(zoo.ZooError, match="--resume"):
        train_language(settings, data, tmp_path / "parts", device="cpu")
    parts = train_language(settings, data, tmp_path / "parts", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 4


def test_a_budget_that_ends_in_the_first_epoch_returns_the_model_as_it_is(data, tmp_path):
    settings = recipe(dropout=0.0)
    model = train_language(settings, data, tmp_path / "run", device="cpu", budget=1e-9)
    state = checkpoint(tmp_path / "run")
    assert (state["epoch"], state["step"]) == (0, 1)
    assert same(model.state_dict(), state["model"])
    assert not model.training
    with pytest.raises(zoo.ZooError, match=r"no model\.safetensors: .*one epoch or more"):
        load_best_model(tmp_path / "run")


@pytest.fixture
def one_thread():
    """The same number of threads in this process as in others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_kill_in_the_middle_of_an_epoch_changes_nothing(data, tmp_path, one_thread):
    (data / "train.txt").write_text(LINE * 600)

    def command(folder, *words):
        sizes = {"embedding_size": 12, "hidden_size": 12, "steps": 9, "columns": 4, "epochs": 1, "checkpoint_every": 20}
        settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
        places = ["--data", str(data), "--output", str(tmp_path / folder), "--device", "cpu"]
        return ["train", "symm_lstm_hh_wikitext2", *places, *settings, *words]

    python, environment = [sys.executable, "-m", "zoo"], {**os.environ, "OMP_NUM_THREADS": "1"}
    file = tmp_path / "killed" / "checkpoint.pt"
    kill_after_checkpoint([*python, *command("killed")], file, environment)
    state = checkpoints.load(file)
    assert (state["epoch"], 0 < state["step"] < 284) == (0, True), "killed in the only epoch, of 284 steps"
    (tmp_path / "killed" / ".checkpoint.pt.999999999.part").write_bytes(b"half")  # as if it was killed while writing
    for words in (command("killed", "--resume"), command("whole")):
        run_command(*words)
    assert same(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))
    killed, whole = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("killed", "whole"))
    assert killed == whole
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_another_run_is_not_resumed(data, tmp_path, monkeypatch):
    train_language(recipe(epochs=1), data, tmp_path / "run", device="cpu")

    def resume(**changes):
        train_language(recipe(epochs=1, **changes), data, tmp_path / "run", resume=True, device="cpu")

    resume(checkpoint_every=3)  # changes nothing but how safe it is
    with pytest.raises(zoo.ZooError, match=r"another recipe \(clip 0\.25, here 1\.0, lr 5\.0, here 1\.0\)"):
        resume(lr=1.0, clip=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "__version__", "99")
        with pytest.raises(zoo.ZooError, match=r"other versions \(zoo '.*', here '99'\)"):
            resume()
    with monkeypatch.context() as patch:
        patch.setattr(training, "used_code", lambda *parts: {**used_code(*parts), "makers/symmetric.py": "0"})
        with pytest.raises(zoo.ZooError, match=r"other code \(makers/symmetric\.py\).*--force"):
            resume()
    (data / "train.txt").write_text(LINE * 59)
    with pytest.raises(zoo.ZooError, match="a run on other data"):
        resume()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK half")
    with pytest.raises(zoo.ZooError, match=r"checkpoint\.pt: not a checkpoint"):
        resume()


def test_changed_code_is_forced_and_the_log_says_so(data, tmp_path):
    run, common = tmp_path / "run", ("--data", data, "--device", "cpu")
    sizes = {"embedding_size": 12, "hidden_size": 12, "epochs": 2, "steps": 9, "columns": 4}
    settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    command = ["train", "symm_lstm_wikitext2", *common, "--output", run, *settings]
    run_command(*command, "--budget", "0.001")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["identity"]["code"]["language/network.py"] = "0"
    torch.save(state, run / "checkpoint.pt")
    assert main([str(word) for word in [*command, "--force"]]) == 1, "it belongs to --resume"
    assert main([str(word) for word in [*command, "--resume"]]) == 1
    run_command(*command, "--resume", "--force")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line.get("forced") for line in lines] == [["other code: language/network.py"], None]


def test_a_run_of_images_is_not_resumed_as_a_language_model(data, tmp_path):
    torch.save({"model": {}, "epoch": 1, "step": 0}, tmp_path / "checkpoint.pt")
    with pytest.raises(zoo.ZooError, match="older version"):
        train_language(recipe(), data, tmp_path, resume=True, device="cpu")


def test_several_processes_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(zoo.ZooError, match="without torchrun"):
        train_language(recipe(), data, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_rate_falls_and_the_best_model_is_kept(data, tmp_path, monkeypatch):
    losses, states = iter([3.0, 2.0, 2.0, 1.5, 1.6]), []
    real = runs.perplexity

    def scripted(model, *args, **kwargs):
        states.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        result = real(model, *args, **kwargs)
        loss = next(losses)
        return type(result)(math.exp(loss), loss, result.n, result.words_per_second)

    monkeypatch.setattr(runs, "perplexity", scripted)
    best = train_language(recipe(epochs=5, lr=8.0), data, tmp_path / "run", device="cpu")
    log = checkpoint(tmp_path / "run")["position"]["log"]
    assert [line["lr"] for line in log] == [8.0, 8.0, 8.0, 2.0, 2.0]
    assert [line["best"] for line in log] == [True, True, False, True, False]
    assert checkpoint(tmp_path / "run")["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert all(torch.equal(tensor, states[3][key]) for key, tensor in best.state_dict().items())
    assert not best.training


def test_a_step_is_clipped_plain_gradient_descent(data):
    text = load_text(data)
    settings = recipe(dropout=0.0, steps=10_000, clip=1e-3, lr=2.0)
    model = settings.build(len(text.words))
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    pieces = [as_columns(text.splits["train"], settings.columns, text.words.index(EOS))]
    run = runs.Run(settings, model, pieces, Path("unused"), {})
    assert run.train_epoch(math.inf, tqdm(disable=True), Interruption())
    step = nn.utils.parameters_to_vector(model.parameters()) - before
    assert step.norm().item() == pytest.approx(2.0 * 1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    with pytest.raises(zoo.ZooError, match=r"loss is (nan|inf).*lower"):
        train_language(recipe(lr=1e38, clip=1e30), data, tmp_path / "never", device="cpu")
    assert not (tmp_path / "never" / "checkpoint.pt").exists()
    real, steps = nn.utils.clip_grad_norm_, []

    def spoil(parameters, limit):
        parameters = list(parameters)
        steps.append(real(parameters, limit))
        if len(steps) == 40:  # in the second epoch
            parameters[0].grad.fill_(math.nan)

    monkeypatch.setattr(runs.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(zoo.ZooError, match=r"loss is nan at epoch 2, step 1[23].*last good checkpoint, .* is kept"):
        train_language(recipe(), data, tmp_path / "run", device="cpu")
    state = checkpoint(tmp_path / "run")
    assert (state["epoch"], state["step"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.parametrize("full", ["checkpoint.pt", "model.safetensors", "log.jsonl", "curve.png"])
def test_a_full_disk_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch, full):
    if full == "curve.png":
        pytest.importorskip("matplotlib")
    whole = train_language(recipe(), data, tmp_path / "whole", device="cpu")
    real, calls = checkpoints.write_atomically, []

    def fails(content, path):
        calls.append(path.name)
        if path.name == full and calls.count(full) == (1 if full == "curve.png" else 2):
            raise OSError(28, "No space left on device")
        real(content, path)

    monkeypatch.setattr(checkpoints, "write_atomically", fails)
    with pytest.raises(
        zoo.ZooError, match=rf"{full}: .*No space left on device.*is kept.*--resume|there is no checkpoint"
    ):
        train_language(recipe(), data, tmp_path / "run", device="cpu")
    monkeypatch.setattr(checkpoints, "write_atomically", real)
    if full != "log.jsonl":
        assert checkpoint(tmp_path / "run")["epoch"] == (3 if full == "curve.png" else 1)
    parts = train_language(recipe(), data, tmp_path / "run", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())


def test_the_curve_is_drawn(data, tmp_path):
    pytest.importorskip("matplotlib")
    train_language(recipe(), data, tmp_path / "run", device="cpu", budget=1e-9)
    assert not (tmp_path / "run" / "curve.png").exists(), "no epoch, no curve"
    train_language(recipe(), data, tmp_path / "run", resume=True, device="cpu")
    content = (tmp_path / "run" / "curve.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    plot_curve({"validation": [1e40]}, [1.0], tmp_path / "x.png", "huge", "perplexity", log=True)
    assert (tmp_path / "x.png").read_bytes() != content


def test_the_best_model_collapses_to_the_same_perplexity(data, tmp_path):
    model = train_language(recipe(symm_ih="1010", epochs=6, lr=10.0), data, tmp_path / "run", device="cpu")
    plain = zoo.reparameterize(model)
    assert type(plain.rnn) is nn.LSTM
    text = load_text(data)
    one, other = (perplexity(m.double(), text.splits["test"], text.words.index(EOS)) for m in (model, plain))
    assert one.perplexity < 0.7 * len(text.words), "it has learned something"
    assert other.perplexity == pytest.approx(one.perplexity, rel=1e-6)
    layer = plain.rnn.weight_hh_l0.detach()
    for gate in layer.chunk(4):
        assert torch.equal(gate, gate.T), "the collapsed gates are symmetric"


def test_a_damaged_run_is_one_clear_sentence(data, tmp_path):
    train_language(recipe(epochs=1), data, tmp_path / "run", device="cpu")
    run = tmp_path / "run"
    good = {name: (run / name).read_bytes() for name in ("recipe.json", "model.safetensors", "vocabulary.txt")}
    for name, content, message in (
        ("model.safetensors", good["model.safetensors"][:-9], "is damaged"),
        ("recipe.json", b"{", "is damaged"),
        ("recipe.json", b"[]", "not the run of a language model"),
        ("recipe.json", good["recipe.json"].replace(b"epochs", b"epoch"), "did you mean epochs"),
        ("vocabulary.txt", b"caf\xe9\n", "is damaged"),
        ("vocabulary.txt", b"one\n", "not of the network"),
    ):
        (run / name).write_bytes(content)
        with pytest.raises(zoo.ZooError, match=message):
            load_best_model(run)
        (run / name).write_bytes(good[name])
    load_best_model(run)


# Recipes and commands


def test_every_language_recipe_fits_its_counts_and_the_papers_setting():
    counts = {}
    for name in recipe_names("language"):
        loaded = load_language_recipe(name)
        with torch.device("meta"):
            model = loaded.build(TEXT_DATASETS[loaded.dataset].vocabulary)
        counts[name] = sum(p.numel() for p in model.rnn.parameters())
        assert name.endswith(loaded.dataset.replace("-", "")), "the name says the data set"
        if "small" in name:
            continue
        free = {"tied", "symm_hh", "symm_ih", "dataset"} | ({"cell", "lr"} if "gru" in name else set())
        defaults = asdict(LanguageRecipe())
        assert {k: v for k, v in asdict(loaded).items() if k not in free} == {
            k: v for k, v in defaults.items() if k not in free
        }
    assert counts == {
        "lstm_wikitext2": 6_770_400,
        "symm_lstm_wikitext2": 5_083_000,
        "symm_lstm_hh_wikitext2": 5_083_000,
        "symm_lstm_both_wikitext2": 3_395_600,
        "lstm_ptb": 6_770_400,
        "symm_lstm_hh_ptb": 5_083_000,
        "symm_lstm_both_ptb": 3_395_600,
        "gru_wikitext2": 5_077_800,
        "symm_gru_hh_wikitext2": 3_812_250,
        "lstm_small_wikitext2": 264_192,
        "symm_lstm_hh_small_wikitext2": 199_168,
    }
    small = [load_language_recipe(f"{name}lstm{side}_small_wikitext2") for name, side in (("", ""), ("symm_", "_hh"))]
    assert {k for k, v in asdict(small[0]).items() if v != asdict(small[1])[k]} == {"symm_hh"}, "twins but for symmetry"


@pytest.mark.parametrize("name", recipe_names("language"))
def test_every_language_recipe_starts(data, tmp_path, name):
    small = {"embedding_size": 8, "hidden_size": 8, "epochs": 1, "steps": 9, "columns": 4}
    train_language(load_language_recipe(name, small), data, tmp_path / "run", device="cpu", budget=1e-9)
    assert checkpoint(tmp_path / "run")["step"] == 1


@pytest.mark.parametrize(
    ("name", "overrides", "hint"),
    [
        ("symm_lstm_wikitext", {}, "symm_lstm_wikitext2"),
        ("symm_lstm_wikitext2", {"hidden": 3}, "hidden_size"),
        ("symm_lstm_wikitext2", {"dataset": "wikitext"}, "wikitext-2"),
        ("symm_lstm_wikitext2", {"epochs": "many"}, "epochs is a whole number, not 'many'"),
        ("symm_lstm_wikitext2", {"tied": 1}, "tied is true or false"),
        ("symm_lstm_wikitext2", {"lr": "high"}, "lr is a number"),
        ("symm_lstm_wikitext2", {"symm_hh": 1111}, "Quote it"),
        ("symm_lstm_wikitext2", {"columns": 0}, "columns must be at least 1"),
        ("symm_lstm_wikitext2", {"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ("symm_lstm_wikitext2", {"sched": "step"}, "plateau, cosine"),
        ("symm_lstm_wikitext2", {"lr": 0}, "lr must be above 0"),
        ("symm_lstm_wikitext2", {"lr": ".nan"}, "lr is a number"),
        ("symm_lstm_wikitext2", {"hidden_size": 0}, "hidden_size must be at least 1"),
        ("symm_lstm_wikitext2", {"checkpoint_every": -1}, "checkpoint_every must be at least 0"),
        ("lrunet1_fmnist", {}, "not the recipe of a language model"),
    ],
)
def test_mistakes_in_recipes_are_one_clear_sentence(name, overrides, hint):
    with pytest.raises(zoo.ZooError, match=hint):
        load_language_recipe(name, overrides)


def test_numbers_may_be_written_in_any_way():
    loaded = load_language_recipe("symm_lstm_wikitext2", {"lr": "1e1", "clip": 1, "symm_hh": "0110"})
    assert (loaded.lr, loaded.clip, loaded.symm_hh) == (10.0, 1.0, "0110")
    assert isinstance(loaded.clip, float)


def test_the_commands(data, tmp_path, capsys, caplog):
    sizes = {"embedding_size": 12, "hidden_size": 12, "epochs": 2, "steps": 9, "columns": 4, "lr": 5}
    settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    common, run = ("--data", data, "--device", "cpu"), tmp_path / "run"
    run_command("train", "symm_lstm_wikitext2", *common, "--output", run, *settings)
    assert "The train split has 1,020 words, that of WikiText-2 has 2,088,628" in caplog.text
    run_command("train", "symm_lstm_wikitext2", *common, "--output", run, *settings, "--resume")
    model, words, loaded = load_best_model(run)
    assert (words, loaded.epochs, model.rnn.hidden_size) == (load_text(data).words, 2, 12)
    capsys.readouterr()
    measured = []
    for flags in ((), ("--collapse",)):
        run_command("perplexity", run, *common, "--split", "valid", "--json", *flags)
        measured.append(json.loads(capsys.readouterr().out))
    best = min(line["valid_perplexity"] for line in checkpoint(run)["position"]["log"])
    assert measured[0]["perplexity"] == pytest.approx(best, rel=1e-3)
    assert measured[1]["perplexity"] == pytest.approx(measured[0]["perplexity"], rel=1e-5)

    run_command("perplexity", run, *common)
    results = tmp_path / "figures.json"
    names = (run, run / "model.safetensors")
    run_command("validate", *names, "--dataset", "wikitext-2", *common, "--results", results)
    first, second, third = (line for line in capsys.readouterr().out.splitlines() if "part of wikitext-2" in line)
    rows = json.loads(results.read_text())
    assert [row["name"] for row in rows] == [str(name) for name in names]
    assert {(row["split"], row["n"], row["whole"], row["columns"]) for row in rows} == {("test", 153, False, 10)}
    assert rows[0]["perplexity"] == rows[1]["perplexity"]
    assert all(f"{rows[0]['perplexity']:.2f}" in line for line in (first, second, third))
    assert rows[0]["sha256"] == hashlib.sha256(names[1].read_bytes()).hexdigest()


def test_mistakes_in_the_commands(data, tmp_path, capsys):
    train_language(recipe(epochs=1), data, tmp_path / "run", device="cpu")
    words = write_text(tmp_path / "other", "an other text\n", "an\n", "other\n")
    capsys.readouterr()
    for command, message in (
        (("perplexity", tmp_path, "--data", data), "has no recipe.json"),
        (("validate", tmp_path, "--dataset", "wikitext-2", "--data", data), "has no recipe.json"),
        (("validate", tmp_path / "run", "--dataset", "ptb", "--data", data), "with --dataset wikitext-2, not ptb"),
        (("validate", tmp_path / "run", "--dataset", "wikitext-2", "--data", words), "not in the vocabulary"),
        (("validate", tmp_path / "run", "--dataset", "wikitext-2", "--data", tmp_path / "no"), "No such folder"),
        (("validate", tmp_path / "run", "--dataset", "wikitext-2", "--data", data, "--results", "x.csv"), "as .json"),
        (("validate", tmp_path / "run", "--dataset", "wikitext-2", "--data", data, "--batch-size", 0), "at least one"),
    ):
        assert main([str(word) for word in command]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, "one line"


# Real text


@pytest.fixture
def wikitext2():
    """Folder of WikiText-2 under ZOO_TEST_DATA."""
    folder = data_folder()
    for place in () if folder is None else (folder / "wikitext-2", folder / "data" / "wikitext-2"):
        if (place / "train.txt").is_file():
            return place
    return pytest.skip("set ZOO_TEST_DATA to the folder that holds data/wikitext-2")


def test_wikitext2_has_its_known_size(wikitext2):
    text, facts = load_text(wikitext2), TEXT_DATASETS["wikitext-2"]
    assert len(text.words) == facts.vocabulary
    assert tuple(len(tokens) for tokens in text.splits.values()) == facts.tokens


def test_a_slice_of_wikitext2_is_learned(wikitext2, tmp_path):
    parts = [
        "".join((wikitext2 / f"{split}.txt").read_text(encoding="utf-8").splitlines(True)[:lines])
        for split, lines in (("train", 200), ("valid", 60), ("test", 60))
    ]
    folder = write_text(tmp_path / "slice", *parts)
    settings = recipe(embedding_size=32, hidden_size=32, num_layers=1, steps=20, columns=10, epochs=2, lr=20.0)
    model = train_language(settings, folder, tmp_path / "run", device="cpu")
    text = load_text(folder)
    first = text.words.index(EOS)
    untrained = perplexity(settings.build(len(text.words)), text.splits["test"], first).perplexity
    trained = perplexity(model, text.splits["test"], first).perplexity
    assert trained < 0.4 * untrained
