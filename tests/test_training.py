"""Training: it learns, resumes to the bit, refuses what does not fit, and leaves good files behind."""

import json

import pytest
import torch
import yaml

import zoo
from zoo.cli.demo import SAMPLE
from zoo.training import loop
from zoo.training.augment import augment
from zoo.training.recipe import RECIPES, Recipe, load_recipe
from zoo.weights.manifest import weights


@pytest.fixture
def data(tmp_path):
    """A training set: the bundled images under the training split's names."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in SAMPLE.glob("*.gz"):
        (folder / path.name.replace("t10k", "train")).symlink_to(path)
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


def test_resume_is_exact(data, tmp_path, monkeypatch):
    whole = loop.train(recipe(), data, tmp_path / "whole", device="cpu")

    class Stopped(Exception):
        pass

    real = loop.augment
    calls = []

    def stop_in_second_epoch(*args, **kwargs):
        calls.append(1)
        if len(calls) == 27:  # of 20 batches an epoch
            raise Stopped
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "augment", stop_in_second_epoch)
    with pytest.raises(Stopped):
        loop.train(recipe(), data, tmp_path / "parts", device="cpu")
    monkeypatch.setattr(loop, "augment", real)
    with pytest.raises(zoo.ZooError, match="--resume"):
        loop.train(recipe(), data, tmp_path / "parts", device="cpu")
    torch.rand(7)  # whatever else the process draws
    parts = loop.train(recipe(), data, tmp_path / "parts", resume=True, device="cpu")
    assert all(torch.equal(a, parts.state_dict()[key]) for key, a in whole.state_dict().items())


def test_another_recipe_is_not_resumed(data, tmp_path):
    loop.train(recipe(epochs=1), data, tmp_path / "run", device="cpu")
    with pytest.raises(zoo.ZooError, match="another recipe"):
        loop.train(recipe(epochs=1, lr=0.01), data, tmp_path / "run", resume=True, device="cpu")


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(data, tmp_path):
    with pytest.raises(zoo.ZooError, match=r"loss is (nan|inf).*lower"):
        loop.train(recipe(lr=1e30), data, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_held_out_images_are_not_trained_on(data):
    r = recipe(held_out=300)
    train, held = (loop.load_split(r, data, split, torch.device("cpu")) for split in ("train", "held-out"))
    assert (len(train), len(held)) == (700, 300)
    everything = loop.load_split(recipe(), data, "train", torch.device("cpu"))
    pixels = torch.cat([train.images, held.images]).flatten(1).sum(1).sort().values
    assert torch.equal(pixels, everything.images.flatten(1).sum(1).sort().values)
    again = loop.load_split(r, data, "held-out", torch.device("cpu"))
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
    holes = (augment(images, generator, cutout=4) == 0).sum((1, 2, 3))
    assert holes.max() == 16
    assert holes.min() >= 4, "clipped at the border, never empty"
    assert augment(images, generator, pad=2, flip=True, cutout=2).dtype == torch.uint8


def test_recipes_ship_with_the_weights_they_made():
    for name, entry in weights().items():
        if entry["recipe"]:
            loaded = load_recipe(entry["recipe"])
            assert loaded.weight == name
            assert loaded.held_out == 0
            run = json.loads((zoo.weights.paths.shipped_hub() / name / "recipe.json").read_text())
            assert run == loaded.to_dict(), "the recipe is that of the run"


def test_every_recipe_is_read():
    for path in RECIPES.glob("*.yaml"):
        loaded = load_recipe(path.stem)
        zoo.registry.check_name(loaded.weight.split(".")[0])


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [({"epoch": 3}, "epochs"), ({"augment.pad": 3, "agument.pad": 1}, "augment"), ({"lr.x": 1}, "lr")],
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
