"""Language models: text folders, perplexity, and training that learns, resumes to the bit and collapses."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

import zoo
from conftest import data_folder
from zoo.cli import language as commands
from zoo.data.text import EOS, PADDING, TEXT_DATASETS, as_columns, get_text_dataset, load_split, load_text
from zoo.evaluation.perplexity import perplexity
from zoo.training import language
from zoo.training.language import LanguageRecipe, load_language_recipe, load_run, train_language
from zoo.training.recipe import RECIPES

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
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args([str(word) for word in words])
    options.run(options)


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


def same_state(one: nn.Module, other: nn.Module) -> bool:
    other = other.state_dict()
    return all(torch.equal(tensor, other[key]) for key, tensor in one.state_dict().items())


def checkpoint(run) -> dict:
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for line in state["log"]:
        line.pop("seconds")
    return state


def test_resume_is_exact(data, tmp_path, monkeypatch):
    settings = recipe(dropout=0.5, epochs=4)
    whole = train_language(settings, data, tmp_path / "whole", device="cpu")

    class Stopped(Exception):
        pass

    real = nn.utils.clip_grad_norm_
    left = [60]  # steps; an epoch has 29

    def stop_in_third_epoch(*args, **kwargs):
        left[0] -= 1
        if left[0] < -5:
            raise Stopped
        return real(*args, **kwargs)

    monkeypatch.setattr(language.nn.utils, "clip_grad_norm_", stop_in_third_epoch)
    with pytest.raises(Stopped):
        train_language(settings, data, tmp_path / "parts", device="cpu")
    monkeypatch.setattr(language.nn.utils, "clip_grad_norm_", real)
    assert len(checkpoint(tmp_path / "parts")["log"]) == 2
    with pytest.raises(zoo.ZooError, match="--resume"):
        train_language(settings, data, tmp_path / "parts", device="cpu")
    torch.rand(7)  # whatever else the process draws
    parts = train_language(settings, data, tmp_path / "parts", resume=True, device="cpu")
    assert same_state(whole, parts)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.equal(tensor, other["model"][key]) for key, tensor in one["model"].items())
    assert (one["log"], one["optimizer"], one["about"]) == (other["log"], other["optimizer"], other["about"])
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 4


def test_another_run_is_not_resumed(data, tmp_path, monkeypatch):
    train_language(recipe(epochs=1), data, tmp_path / "run", device="cpu")

    def resume(**changes):
        train_language(recipe(epochs=1, **changes), data, tmp_path / "run", resume=True, device="cpu")

    resume()
    with pytest.raises(zoo.ZooError, match=r"lr was 5\.0, is 1\.0; clip was 0\.25, is 1\.0"):
        resume(lr=1.0, clip=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(language, "__version__", "99")
        with pytest.raises(zoo.ZooError, match=r"zoo version was '.*', is '99'"):
            resume()
    with monkeypatch.context() as patch:
        patch.setattr(language, "_CODE", (*language._CODE, "errors.py"))
        with pytest.raises(zoo.ZooError, match=r"code of errors\.py was None"):
            resume()
    (data / "train.txt").write_text(LINE * 59)
    with pytest.raises(zoo.ZooError, match="the text in --data is another one"):
        resume()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK half")
    with pytest.raises(zoo.ZooError, match="is damaged"):
        resume()


def test_the_rate_falls_and_the_best_model_is_kept(data, tmp_path, monkeypatch):
    losses, states = iter([3.0, 2.0, 2.0, 1.5, 1.6]), []
    real = language.perplexity

    def scripted(model, *args, **kwargs):
        states.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        result = real(model, *args, **kwargs)
        loss = next(losses)
        return type(result)(math.exp(loss), loss, result.n, result.words_per_second)

    monkeypatch.setattr(language, "perplexity", scripted)
    best = train_language(recipe(epochs=5, lr=8.0), data, tmp_path / "run", device="cpu")
    log = checkpoint(tmp_path / "run")["log"]
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
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    language._epoch(model, optimizer, settings, text.splits["train"], text.words.index(EOS), 0)
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

    monkeypatch.setattr(language.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(zoo.ZooError, match=r"loss is nan at epoch 2, step 1[23]"):
        train_language(recipe(), data, tmp_path / "run", device="cpu")
    state = checkpoint(tmp_path / "run")
    assert len(state["log"]) == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_full_disk_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    real, calls = language.write_atomically, []

    def full(content, path):
        calls.append(path.name)
        if calls.count("checkpoint.pt") == 2:
            raise OSError(28, "No space left on device")
        real(content, path)

    monkeypatch.setattr(language, "write_atomically", full)
    with pytest.raises(zoo.ZooError, match=r"No space left on device.*--resume"):
        train_language(recipe(), data, tmp_path / "run", device="cpu")
    assert len(checkpoint(tmp_path / "run")["log"]) == 1
    monkeypatch.setattr(language, "write_atomically", real)
    parts = train_language(recipe(), data, tmp_path / "run", resume=True, device="cpu")
    assert same_state(parts, train_language(recipe(), data, tmp_path / "whole", device="cpu"))


# Recipes and commands


def test_every_language_recipe_is_the_papers_setting_and_fits_its_counts():
    counts = {}
    for path in RECIPES.glob("*wikitext2.yaml"):
        loaded = load_language_recipe(path.stem)
        with torch.device("meta"):
            model = loaded.build(TEXT_DATASETS[loaded.dataset].vocabulary)
        counts[path.stem] = sum(p.numel() for p in model.rnn.parameters())
        free = {"tied", "symm_hh", "symm_ih"}
        defaults = asdict(LanguageRecipe())
        assert {k: v for k, v in asdict(loaded).items() if k not in free} == {
            k: v for k, v in defaults.items() if k not in free
        }
    assert counts == {
        "lstm_wikitext2": 6_770_400,
        "symm_lstm_wikitext2": 5_083_000,
        "symm_lstm_hh_wikitext2": 5_083_000,
        "symm_lstm_both_wikitext2": 3_395_600,
    }


@pytest.mark.parametrize(
    ("name", "overrides", "hint"),
    [
        ("symm_lstm_wikitext", {}, "symm_lstm_wikitext2"),
        ("symm_lstm_wikitext2", {"hidden": 3}, "hidden_size"),
        ("symm_lstm_wikitext2", {"dataset": "wikitext"}, "wikitext-2"),
        ("symm_lstm_wikitext2", {"epochs": "many"}, "epochs takes a value of type int, not 'many'"),
        ("symm_lstm_wikitext2", {"tied": 1}, "type bool"),
        ("symm_lstm_wikitext2", {"lr": "high"}, "lr takes a value of type float"),
        ("symm_lstm_wikitext2", {"symm_hh": 1111}, "Quote it"),
        ("symm_lstm_wikitext2", {"columns": 0}, "columns must be above 0"),
        ("symm_lstm_wikitext2", {"dropout": 1.0}, "dropout must be in"),
        ("lrunet1_fmnist", {}, "use.*zoo train|with zoo train"),
    ],
)
def test_mistakes_in_recipes_are_one_clear_sentence(name, overrides, hint):
    with pytest.raises(zoo.ZooError, match=hint):
        load_language_recipe(name, overrides)


def test_numbers_may_be_written_in_any_way():
    loaded = load_language_recipe("symm_lstm_wikitext2", {"lr": "1e1", "clip": 1, "symm_hh": "0110"})
    assert (loaded.lr, loaded.clip, loaded.symm_hh) == (10.0, 1.0, "0110")
    assert isinstance(loaded.clip, float)


def test_the_commands(data, tmp_path, capsys):
    sizes = {"embedding_size": 12, "hidden_size": 12, "epochs": 2, "steps": 9, "columns": 4, "lr": 5}
    settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    common = ("--data", data, "--device", "cpu")
    run_command("train-language", "symm_lstm_wikitext2", *common, "--output", tmp_path / "run", *settings)
    run_command("train-language", "symm_lstm_wikitext2", *common, "--output", tmp_path / "run", *settings, "--resume")
    model, words, loaded = load_run(tmp_path / "run")
    assert (words, loaded.epochs, model.rnn.hidden_size) == (load_text(data).words, 2, 12)
    capsys.readouterr()
    measured = []
    for flags in ((), ("--collapse",)):
        run_command("perplexity", tmp_path / "run", *common, "--split", "valid", "--json", *flags)
        measured.append(json.loads(capsys.readouterr().out))
    best = min(line["valid_perplexity"] for line in checkpoint(tmp_path / "run")["log"])
    assert measured[0]["perplexity"] == pytest.approx(best, rel=1e-3)
    assert measured[1]["perplexity"] == pytest.approx(measured[0]["perplexity"], rel=1e-5)
    run_command("perplexity", tmp_path / "run", *common)
    assert "perplexity" in capsys.readouterr().out
    with pytest.raises(zoo.ZooError, match=r"has no recipe\.json"):
        run_command("perplexity", tmp_path, *common)


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
