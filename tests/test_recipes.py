"""Recipes: bases and differences, and every one that ships can be run."""

import functools
import itertools
import json
import math
import re
from importlib.resources import files

import pytest
import torch
import yaml

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.data import get_dataset
from zoo.language.recipe import load_language_recipe
from zoo.training.comparison import comparison, published_of, twins_of
from zoo.training.data import Images
from zoo.training.distributed import Processes
from zoo.training.learner import Learner, build_network
from zoo.training.recipe import Recipe, load_recipe, recipe_names, task_of
from zoo.training.schedule import make_optimizer, make_schedule, momentum_restarts
from zoo.training.sparsity import METHODS
from zoo.training.sparsity.options import read_options
from zoo.weights.manifest import weights


@pytest.fixture
def written(tmp_path):
    """Writes YAML files into a folder; returns the path of the last."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / f"{name}.yaml"

    return write


def test_a_recipe_gives_only_its_differences_from_a_base(written):
    base = "weight: lrunet1_100.a_fmnist\ndataset: fashion-mnist\nepochs: 3\naugment: {pad: 4, flip: true}\nlr: 0.2\n"
    child = "base: one.yaml\nweight: lrunet1_100.b_fmnist\nepochs: 5\naugment.pad: 2\n"
    grandchild = "base: two.yaml\naugment: {cutout: 8}\nmodel_args.drop_rate: 0.3\n"
    r = load_recipe(written(one=base, two=child, three=grandchild))
    assert (r.weight, r.epochs, r.lr) == ("lrunet1_100.b_fmnist", 5, 0.2)
    assert r.augment == {"cutout": 8}, "a whole mapping replaces the base's"
    assert r.model_args == {"drop_rate": 0.3}
    assert load_recipe(written(two=child)).augment == {"pad": 2, "flip": True}, "a dotted key replaces one entry"
    assert load_recipe(written(two=child), {"epochs": 7}).epochs == 7
    assert "base" not in json.dumps(r.to_dict()), "a run records resolved values"


def test_shipped_recipes_are_bases_of_anybodys(written):
    own = load_recipe(written(own="base: lrunet1_fmnist\nweight: lrunet1_100.mine_fmnist\n"))
    assert own.to_dict() == {**load_recipe("lrunet1_fmnist").to_dict(), "weight": "lrunet1_100.mine_fmnist"}


def test_language_recipes_have_bases_too(written):
    path = written(own="base: lstm_wikitext2\nepochs: 2\n")
    assert task_of(path) == "language"
    assert load_language_recipe(path).epochs == 2
    assert load_language_recipe(path).hidden_size == load_language_recipe("lstm_wikitext2").hidden_size
    with pytest.raises(zoo.ZooError, match="not for classifying"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "base: b.yaml\n", "b": "base: c.yaml\n", "c": "base: a.yaml\n"}, "leads back to it"),
        ({"a": "base: a.yaml\n"}, "leads back to it"),
        ({"a": "base: lrunet1_fmnst\n"}, "the base is missing.*lrunet1_fmnist"),
        ({"a": "base: [lrunet1_fmnist]\n"}, "base is the name of another recipe"),
        ({"a": "base: lrunet1_fmnist\ntask: language\n"}, "not a recipe for the task 'language'"),
        ({"a": "base: lrunet1_fmnist\nepoch: 3\n"}, "did you mean epochs"),
        ({"a": "base: lrunet1_fmnist\naugment.pat: 3\n"}, "did you mean augment.pad"),
    ],
)
def test_a_wrong_base_is_refused(written, files, message):
    written(**files)
    with pytest.raises(zoo.ZooError, match=message):
        load_recipe(written(a=files["a"]))


def test_names_by_task():
    assert "lrunet1_fmnist" in recipe_names("")
    assert "lstm_wikitext2" in recipe_names("language")
    assert sorted(recipe_names("") + recipe_names("language")) == recipe_names()


def test_what_a_paper_says_of_a_setting_is_no_part_of_the_run(written):
    base = written(one="base: lrunet1_fmnist\npublished: {top1: 90, source: table 2}\n")
    child = written(two="base: one.yaml\nepochs: 2\n")
    assert published_of(base) == {"top1": 90, "source": "table 2"}
    assert published_of(child) == {}, "another setting"
    assert load_recipe(base) == load_recipe("lrunet1_fmnist")
    for wrong in ("{top1: 90}", "90", "{source: a, top5: 3}"):
        with pytest.raises(zoo.ZooError, match="published is a mapping with source"):
            published_of(written(one=f"base: lrunet1_fmnist\npublished: {wrong}\n"))


IMAGE_RECIPES = recipe_names("")
SMALL_SETS = [name for name in IMAGE_RECIPES if not load_recipe(name).is_folder()]
"""The others take their steps in test_image_folders.py."""
SCHEMA = json.loads(files("zoo.weights").joinpath("manifest.schema.json").read_text())
PATTERN = SCHEMA["properties"]["weights"]["propertyNames"]["pattern"]
BEFORE_THE_RULE = {"lrunet1_fmnist": "lrunet1_100_fmnist", "lrunet10_fmnist": "lrunet10_100_fmnist"}
"""Recipes of weights that were trained before the rule for names."""


@functools.cache
def on_meta(arch: str, dataset: str, arguments: str) -> torch.nn.Module:
    with torch.device("meta"):
        r = Recipe(f"{arch}.x", dataset, model_args=json.loads(arguments), channels_last=False)
        return build_network(r, torch.device("meta"))


@pytest.mark.parametrize("name", IMAGE_RECIPES)
def test_recipe_is_valid(name):
    r, info = load_recipe(name), get_dataset(load_recipe(name).dataset)
    assert re.match(PATTERN, r.weight)
    assert r.weight.endswith(f"_{info.suffix}")
    assert r.weight.replace(".zoo_", "_", 1) == BEFORE_THE_RULE.get(name, name), "ARCH_SETTING_DATA"
    assert bool(published_of(name)) == ("_published_" in name) or info.suffix == "in1k"
    assert r.held_out == 0
    assert not r.start, "a folder of somebody's"
    model = on_meta(r.weight.split(".")[0], r.dataset, json.dumps(r.model_args))
    optimizer = make_optimizer(model, r)
    spared = model.no_weight_decay() if name.startswith("swrn") else set()
    assert bool(spared) == name.startswith("swrn")
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert decay[id(parameter)] in (0, r.weight_decay)
        assert not r.decay_all or decay[id(parameter)] == (0 if key in spared else r.weight_decay), key
    updates = math.ceil(50_000 / r.batch_size)
    schedule, peaks = make_schedule(optimizer, r, updates), []
    for part in range(10 * r.epochs):
        schedule.step_update(part * updates // 10 + updates // 20)
        peaks.append(optimizer.param_groups[0]["lr"])
    assert max(peaks) == pytest.approx(max(r.lr_table.values()) if r.lr_table else r.lr, rel=0.07)
    assert peaks[-1] < 0.05 * max(peaks), "it ends with small steps"
    assert r.restart_momentum == any(momentum_restarts(r, epoch) for epoch in range(r.epochs))
    if r.method:
        options = read_options(r.method, r.method_options, METHODS[r.method].options)
        assert options.get("end_iteration", 0) < r.epochs * updates
        assert (options.get("stop_epoch") or 0) < r.epochs


def test_every_weight_has_one_recipe():
    made = [load_recipe(name).weight for name in IMAGE_RECIPES]
    assert len(set(made)) == len(made)


def kind(name: str) -> tuple:
    """What decides the code that a recipe runs through: the kind of network, the sparse method, the form of images."""
    r = load_recipe(name)
    return re.match("[a-z]+", r.weight)[0], r.method, get_dataset(r.dataset).input_size


def shortest_of_each_kind() -> set[str]:
    found: dict[tuple, str] = {}
    for name in sorted(SMALL_SETS, key=lambda name: (load_recipe(name).epochs, name)):
        found.setdefault(kind(name), name)
    return set(found.values())


STEPPED = shortest_of_each_kind()


@pytest.mark.parametrize(
    "name", [name if name in STEPPED else pytest.param(name, marks=pytest.mark.slow) for name in SMALL_SETS]
)
def test_recipe_takes_two_steps(name):
    """The shortest recipe of each kind for small images; the others with ``-m slow``."""
    r, alone = load_recipe(name), Processes(torch.device("cpu"))
    info = get_dataset(r.dataset)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, *info.input_size), generator=generator, dtype=torch.uint8)
    split = Images(images, torch.arange(4), *r.normalisation())
    learner = Learner(r, 2, alone, build_network(r, alone.device))
    before = {key: tensor.clone() for key, tensor in learner.model.named_parameters()}
    for step, (x, y) in enumerate(split.batches(torch.arange(4), 2, generator, **r.augment)):
        if "lrunet" in name:
            x = x[:, :, :17, :17]  # the smallest it takes; whole images are slow
        elif "mlp" not in name:
            x = x[:, :, ::4, ::4]
        assert torch.isfinite(learner.step(x, y, 0, step))
    moved = [key for key, tensor in learner.model.named_parameters() if not torch.equal(tensor, before[key])]
    assert bool(moved) == (learner.lr > 0)  # pruning begins with a rate of zero
    learner.end_epoch(0)


def test_recipes_ship_with_the_weights_they_made():
    for name, entry in weights().items():
        if entry["recipe"]:
            loaded = load_recipe(entry["recipe"])
            assert loaded.weight == name
            assert loaded.held_out == 0
            run = json.loads((zoo.weights.paths.shipped_hub() / name / "recipe.json").read_text())
            values = json.loads(json.dumps(loaded.to_dict()))  # JSON knows no keys but words
            assert run == {key: values[key] for key in run}, "the recipe is that of the run"
            defaults = Recipe(loaded.weight, loaded.dataset).to_dict()
            assert all(values[key] == defaults[key] for key in values.keys() - run.keys()), "as before the key existed"


def test_every_recipe_stands_in_the_docs():
    text = (ROOT / "docs" / "recipes.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert listed == recipe_names(), "run: python scripts/update_docs.py"


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes", "sparse_wrn_28_2_set_s?0_published_c10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[-1].split() == ["sparse_wrn_28_2_set_s90_published_c10", "cifar10", "200", "set", "93.28", "±", "0.12"]
    assert main(["recipes", "swrn_28_10_2_cutout_published_c10", "--show"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["augment"] == {"pad": 4, "flip": True, "cutout": 16}
    assert Recipe(**shown) == load_recipe("swrn_28_10_2_cutout_published_c10")
    assert main(["recipes", "lstm_wikitext2", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["recipe"]["task"]) == ("lstm_wikitext2", "language")
    assert entry["published"]["perplexity"] == 94.47
    assert main(["recipes", "nothing"]) == 1
    assert "No recipe matches 'nothing'" in capsys.readouterr().err


def test_twins_are_trained_alike(written):
    one = written(one="base: lrunet1_fmnist\nepochs: 3\n")
    two = written(two="base: one.yaml\nweight: lrunet2_100.x_fmnist\nmodel_args: {drop_rate: 0}\ntwins: [one.yaml]\n")
    assert twins_of(two) == [str(one)]
    assert twins_of(written(three="base: two.yaml\n")) == [], "not inherited"
    with pytest.raises(zoo.ZooError, match="is no twin, it differs in epochs, lr"):
        twins_of(written(four="base: one.yaml\nepochs: 4\nlr: 1\ntwins: [one.yaml]\n"))
    with pytest.raises(zoo.ZooError, match="twins is a list"):
        twins_of(written(five="base: one.yaml\ntwins: one.yaml\n"))
    with pytest.raises(zoo.UnknownNameError, match="No recipe 'nobody'"):
        twins_of(written(six="base: one.yaml\ntwins: [nobody]\n"))


def test_what_ships_names_true_twins_and_staging_records_them():
    named = {name: twins_of(name) for name in recipe_names("")}
    assert sum(map(bool, named.values())) > 30
    facts = comparison(load_recipe("swrn_16_1_2_c10"), "swrn_16_1_2_c10", weights())
    assert facts["twins"] == ["wrn_16_1.zoo_c10"]
    assert facts["epochs"] == load_recipe("wrn_16_1_c10").epochs
    assert facts["remark"].startswith("The paper has no network this small")
    assert "twins" not in comparison(load_recipe("wrn_16_1_c10"), "wrn_16_1_c10", weights())


def test_a_recipe_is_what_it_says_and_no_more(tmp_path):
    """Aliases that stand for 9**10 values, deep nesting, impossible dates: one line at once."""
    levels = "abcdefghijk"
    text = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(levels))
    for content in (text, "a: *b", "a: " + "[" * 100_000, "a: 2026-99-99", "a: &a [*a]", "a: " + "x" * (2 << 20)):
        (tmp_path / "r.yaml").write_text(content)
        with pytest.raises(zoo.ZooError, match=r"r\.yaml: ") as caught:
            load_recipe(tmp_path / "r.yaml")
        assert "\n" not in str(caught.value)
