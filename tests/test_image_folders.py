"""Training on image folders: the augmentation is each image's own, runs resume to the bit, mistakes are named."""

import json
import os
import random
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from interruption import Stopped, crash_at, same
from zoo.cli.demo import SAMPLE
from zoo.data.images import ImageFolder, image_folder_loader
from zoo.evaluation.validate import validate
from zoo.reparam.export import export
from zoo.training import checkpoint, loop
from zoo.training.data import load_splits
from zoo.training.distributed import Processes
from zoo.training.folders import held_out_transform, train_transform
from zoo.training.learner import Learner, build_network, load_run
from zoo.training.recipe import RECIPES, Recipe, load_recipe, read_recipe
from zoo.training.schedule import rate_table

ROOT = Path(__file__).resolve().parent.parent
WNIDS = {"n01440764": 0, "n02102040": 217, "n03888257": 701}
ALONE = Processes(torch.device("cpu"))
STRONG = {"scale": [0.3, 1.0], "hflip": 0.5, "color_jitter": 0.4, "auto_augment": "augmix-m5-w3-d2"}
"""Draws from Python's, NumPy's and torch's generators."""


@pytest.fixture
def photos(tmp_path):
    """Ten images of three classes for training, a few others in ``val``; no two alike."""
    rng = np.random.default_rng(0)
    for split, each in (("train", (4, 3, 3)), ("val", (1, 1, 1))):
        for (wnid, _), count in zip(WNIDS.items(), each, strict=True):
            folder = tmp_path / "photos" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                size = rng.integers(40, 70, 2)
                pixels = rng.integers(0, 256, (5, 5, 3), np.uint8)
                Image.fromarray(pixels).resize(size.tolist()).save(folder / f"{wnid}_{i}.JPEG")
    return tmp_path / "photos"


def recipe(**changes) -> Recipe:
    values = {"image_size": 28, "epochs": 2, "batch_size": 3, "lr": 0.01, "workers": 0, "augment": STRONG}
    return Recipe(**{"weight": "lrunet1_100.test_in1k", "dataset": "imagenet", **values, **changes})


def epoch(split, number: int = 0, first: int = 0, order=None) -> dict[int, torch.Tensor]:
    """The images of an epoch by position in the split."""
    order = torch.arange(len(split)) if order is None else order
    batches = list(split.epoch(number, order, torch.Generator(), first, ALONE))
    images = torch.cat([images for images, *_ in batches])
    return dict(zip(order[first * split.recipe.batch_size :].tolist(), images, strict=True))


def test_augmentation_depends_on_seed_epoch_and_image_only(photos):
    def training(**changes):
        return load_splits(recipe(**changes), photos, ALONE.device)[0]["train"]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = checkpoint.random_state()
    plain = epoch(training())
    after = checkpoint.random_state()
    assert torch.equal(before["torch"], after["torch"]), "dropout's randomness is its own"
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["python"] == after["python"]
    assert len(plain) == 10
    assert plain[0].shape == (3, 28, 28)
    torch.rand(3), random.random(), np.random.rand(5)
    others = {
        "workers": epoch(training(workers=2)),
        "batches": epoch(training(batch_size=4)),
        "order": epoch(training(), order=torch.arange(10).flip(0)),
        "beginning": epoch(training(), first=2),
    }
    assert set(others["beginning"]) == {6, 7, 8, 9}
    for what, images in others.items():
        assert all(torch.equal(image, plain[index]) for index, image in images.items()), what
    for what, images in {"epoch": epoch(training(), 1), "seed": epoch(training(seed=1))}.items():
        assert not any(torch.equal(image, plain[index]) for index, image in images.items()), what
    first = photos / "train" / "n01440764" / "n01440764_0.JPEG"
    shutil.copy(first, first.with_name("n01440764_00.JPEG"))  # next to it in the order
    twins = epoch(training(held_out_from="last"))  # as they lie in the folder
    assert not torch.equal(twins[0], twins[1]), "each image draws for itself"
    still = epoch(training(held_out_from="last", augment={"scale": [1, 1], "ratio": [1, 1], "hflip": 0}))
    assert torch.equal(still[0], still[1]), "but for that they are alike"


def test_batches_are_normalised_uint8_with_thousand_way_labels(photos):
    splits, digest = load_splits(recipe(held_out=3, augment={}), photos, ALONE.device)
    assert (len(splits["train"]), len(splits["held-out"])) == (7, 3)
    chosen = [splits[name].chosen.tolist() for name in ("train", "held-out")]
    assert sorted(chosen[0] + chosen[1]) == list(range(10))
    again, same = load_splits(recipe(held_out=3), photos, ALONE.device)
    assert again["held-out"].chosen.tolist() == chosen[1]
    assert same == digest
    folder = ImageFolder(photos, inside=("train",))
    images, labels = next(iter(splits["held-out"].part(ALONE)))
    for image, label, index in zip(images, labels, chosen[1], strict=True):
        path, expected = folder.samples[index]
        assert label == expected == WNIDS[Path(path).parent.name]
        pixels = held_out_transform(recipe())(Image.open(path)).float()
        mean, std = (torch.tensor(v)[:, None, None] * 255 for v in recipe().normalisation())
        assert torch.allclose(image, (pixels - mean) / std, atol=1e-5)
    parts = [len(labels) for rank in (0, 1) for _, labels in splits["held-out"].part(Processes(ALONE.device, rank, 2))]
    assert parts == [2, 1], "no image twice, none left out"
    extra = photos / "train" / "n01440764" / "more.JPEG"
    shutil.copy(folder.samples[0][0], extra)
    assert load_splits(recipe(), photos, ALONE.device)[1] != digest


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_is_exact(photos, tmp_path, monkeypatch, workers):
    changes = {"mixup": 0.2, "ema": 0.9, "model_args": {"drop_rate": 0.3}, "held_out": 1, "batch_size": 2}
    r = recipe(workers=workers, checkpoint_every=2, **changes)
    whole = loop.train(r, photos, tmp_path / "whole", device="cpu")
    undo = crash_at(monkeypatch, 9)  # of 5 steps an epoch
    with pytest.raises(Stopped):
        loop.train(r, photos, tmp_path / "parts", device="cpu")
    undo()
    state = checkpoint.load(tmp_path / "parts" / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (1, 2)
    torch.rand(7), random.random(), np.random.rand(2)
    r.workers = 2 - workers  # changes nothing but the time
    parts = loop.train(r, photos, tmp_path / "parts", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())
    logs = [[json.loads(line) for line in (tmp_path / f / "log.jsonl").open()] for f in ("whole", "parts")]
    figures = [[(line["loss"], line["held_out_top1"]) for line in log] for log in logs]
    assert figures[0] == figures[1]
    (photos / "train" / "n01440764" / "n01440764_0.JPEG").unlink()
    with pytest.raises(zoo.ZooError, match="on other data"):
        loop.train(r, photos, tmp_path / "parts", resume=True, device="cpu")


RECORDING = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from test_image_folders import recorded_main
torch.save(recorded_main(sys.argv[3:]), sys.argv[1] + os.environ["RANK"])
"""


def recorded_main(words: list[str]) -> list:
    """Run a command; returns what each step was given: sums over the images, labels, size of the global batch."""
    from zoo.cli import main

    real, seen = Learner.step, []

    def recorded(self, images, labels, epoch, step, count=0):
        seen.append((images.sum((1, 2, 3)), labels, count))
        return real(self, images, labels, epoch, step, count)

    Learner.step = recorded
    try:
        assert main(words) == 0
    finally:
        Learner.step = real
    return seen


@pytest.mark.slow
def test_two_processes_see_the_batches_of_one(photos, tmp_path):
    """With a network whose last parameters have no part in small maps, as gather-excite's at any size.

    The two are started as torchrun starts them; torchrun itself is in the tests of small images.
    """
    script = tmp_path / "recording.py"
    script.write_text(RECORDING)
    sets = ["image_size=64", "epochs=1", "batch_size=4", "workers=0", "amp=''", "lr=0.001", "held_out=2", "keep=best"]
    sets.append("model_args.width=0.125")
    words = ["train", "ge_resnet18_in1k", "--data", str(photos), "--device", "cpu"]
    words += [word for setting in sets for word in ("--set", setting)]
    one = recorded_main([*words, "--output", str(tmp_path / "one")])
    command = [sys.executable, str(script), str(tmp_path / "two-"), str(Path(__file__).parent), *words]
    command += ["--output", str(tmp_path / "two")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    environments = [{**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    children = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in environments]
    for child in children:
        _, said = child.communicate(timeout=300)
        assert child.returncode == 0, said[-2000:]
    two = [torch.load(tmp_path / f"two-{rank}", weights_only=True) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1]) == 2
    for whole, first, second in zip(one, *two, strict=True):
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        assert torch.equal(whole[1], torch.cat([first[1], second[1]]))
        assert whole[2] == first[2] == second[2] == 4
        assert len(first[1]) == len(second[1]) == 2, "each reads its own only"
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("one", "two")]
    lines = [json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("one", "two")]
    assert all(line["held_out_top1"] in (0, 50, 100) for line in lines)
    assert states[0]["identity"]["data"] == states[1]["identity"]["data"]
    assert states[1]["best"]["epoch"] == 1


def spoil(photos, how: str) -> Path:
    path = photos / "train" / "n02102040" / "n02102040_1.JPEG"
    content = path.read_bytes()
    path.write_bytes({"no image": b"hello", "truncated": content[: len(content) // 2], "empty": b""}[how])
    return path


@pytest.mark.parametrize(("workers", "how"), [(0, "no image"), (1, "truncated"), (0, "empty")])
def test_a_file_that_is_no_image_is_named(photos, tmp_path, workers, how):
    path = spoil(photos, how)
    with pytest.raises(zoo.DataError, match=r"cannot be read as an image") as raised:
        loop.train(recipe(workers=workers), photos, tmp_path / "run", device="cpu")
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value), "one sentence, no traceback of a worker"
    config = {
        "input_size": (3, 28, 28),
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "crop_pct": 1,
        "interpolation": "bilinear",
    }
    with pytest.raises(zoo.DataError, match=path.name):  # timm would go on with the next image
        list(image_folder_loader(photos / "train", config, 2))


def test_missing_folders_and_empty_classes_are_named(photos, tmp_path):
    def refused(folder, message):
        with pytest.raises(zoo.DataError, match=message):
            load_splits(recipe(), folder, ALONE.device)

    refused(tmp_path / "nowhere", "nowhere: there is no class folder")
    (photos / "train" / "n03888257").rename(tmp_path / "aside")
    (photos / "train" / "n03888257").mkdir()
    refused(photos, r"train/n03888257: no image file")
    (photos / "train" / "n03888257").rmdir()
    (photos / "train" / "cats").mkdir()
    refused(photos, "cats is no ImageNet class")
    shutil.rmtree(photos / "train")
    refused(photos, "val is no ImageNet class.*in train below it")
    assert len(load_splits(recipe(), photos / "val", ALONE.device)[0]["train"]) == 3, "unless it is named"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"pad": 4}}, "augment.pad"),
        ({"augment": {"scale": 3}}, "timm cannot make a transform"),
        ({"augment": {"interpolation": "blinear"}}, "blinear"),
        ({"workers": -1}, "must be at least 0"),
        ({"keep": "best"}, "set held_out"),
        ({"keep": "first"}, "'last', 'best'"),
    ],
)
def test_wrong_settings_are_refused(photos, changes, message):
    with pytest.raises(zoo.ZooError, match=message):
        load_splits(recipe(**changes), photos, ALONE.device)


def test_image_size_is_for_photographs():
    with pytest.raises(zoo.ZooError, match=r"augment\.crop"):
        load_recipe("lrunet1_fmnist", {"image_size": 32})
    with pytest.raises(zoo.UnknownNameError, match=r"augment\.scale"):
        load_recipe("lrunet1_fmnist", {"augment.scale": [0.1, 1]})


def test_the_best_epoch_is_kept_beside_the_last(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for path in SAMPLE.glob("*.gz"):
        (data / path.name.replace("t10k", "train")).symlink_to(path)
    r = Recipe("lrunet1_100.zoo_fmnist", "fashion-mnist", epochs=4, batch_size=12, held_out=952, keep="best")
    networks, figures = [], [50.0, 70.0, 70.0, 60.0]

    def measured(model, *_):
        networks.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        return figures[len(networks) - 1]

    monkeypatch.setattr(loop, "accuracy", measured)
    whole = loop.train(r, data, tmp_path / "whole", device="cpu")
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").open()]
    assert [line["best_epoch"] for line in log] == [1, 2, 2, 2], "the first of equals"
    best = checkpoint.load(tmp_path / "whole" / "best.pt")
    assert (best["epoch"], best["held_out_top1"]) == (2, 70.0)
    assert same(best["model"], networks[1])
    assert same(whole.state_dict(), networks[1]), "the result"
    last = checkpoint.load(tmp_path / "whole" / "checkpoint.pt")
    assert same(last["model"], networks[3])
    assert last["epoch"] == 4
    assert same(load_run(tmp_path / "whole").state_dict(), networks[3])
    assert same(load_run(tmp_path / "whole", best=True).state_dict(), networks[1])
    networks.clear()
    undo = crash_at(monkeypatch, 15)  # in the fourth epoch, of 4 steps
    with pytest.raises(Stopped):
        loop.train(r, data, tmp_path / "parts", device="cpu")
    undo()
    (tmp_path / "parts" / "best.pt").unlink()  # as if it was killed before this file was written
    parts = loop.train(r, data, tmp_path / "parts", resume=True, device="cpu")
    assert same(whole.state_dict(), parts.state_dict())
    assert same(checkpoint.load(tmp_path / "parts" / "best.pt")["model"], best["model"])
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").open()]
    assert [line["best_epoch"] for line in lines] == [1, 2, 2, 2]


def test_a_run_on_photographs_is_validated_collapsed_and_exported(photos, tmp_path):
    changes = {"weight": "pd_a_resnet18.test_in1k", "model_args": {"width": 0.125}, "augment": {"scale": [0.5, 1.0]}}
    r = recipe(image_size=32, epochs=1, batch_size=5, **changes)
    loop.train(r, photos, tmp_path / "run", device="cpu")
    model = load_run(tmp_path / "run")
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    plain = zoo.reparameterize(model)
    results = [validate(network, "imagenet", photos, device="cpu") for network in (model, plain)]
    assert [(r.n, r.correct) for r in results] == [(3, results[0].correct)] * 2, "the photographs in val"
    assert len(plain.state_dict()) < len(model.state_dict())
    export(model, tmp_path / "collapsed.safetensors", "safetensors", "test")
    size, branches = (tmp_path / "collapsed.safetensors").stat().st_size, sum(p.numel() for p in model.parameters())
    assert size < 4 * branches / 1.5, "one kernel in the place of several"
    with pytest.raises(zoo.ZooError, match="no such file"):
        load_run(tmp_path)


PUBLISHED = sorted(path.stem for path in RECIPES.glob("*.yaml") if read_recipe(path)[1].get("dataset") == "imagenet")


def test_the_settings_of_the_papers():
    families = [f"{kind}_resnet{depth}" for kind in ("pd_a", "pd_b", "ac", "se", "ge") for depth in (18, 50)]
    for arch in families:
        r = load_recipe(f"{arch}_in1k")
        assert r.weight == f"{arch}.zoo_in1k"
        assert rate_table(r) == pytest.approx({0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001})
        assert (r.epochs, r.batch_size, r.opt, r.weight_decay, r.decay_all) == (100, 256, "momentum", 1e-4, True)
        assert (r.amp, r.label_smoothing, r.mixup, r.ema, r.warmup_epochs) == ("float16", 0, 0, 0, 0)
        assert (r.augment["scale"], r.augment["ratio"]) == ([0.1, 1.0], [0.8, 1.25])
    for percent in (80, 90):
        r = load_recipe(f"sparse_resnet50_dsr_s{percent}_in1k")
        assert r.model_args["sparsity"] == percent / 100
        assert r.method_options["period"] == {0: 1000, 25: 2000, 50: 4000, 75: 8000}
        assert (r.method, r.method_options["target"], r.method_options["stop_epoch"]) == ("dynamic", 400_000, 95)
    assert len(PUBLISHED) == len(families) + 4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if "resnet18" in name else pytest.mark.slow) for name in PUBLISHED]
)
def test_every_imagenet_recipe_takes_a_step(photos, name):
    r = load_recipe(name, {"image_size": 64, "batch_size": 2, "workers": 0, "amp": "", "model_args.width": 0.125})
    assert r.weight.endswith("_in1k")
    assert train_transform(load_recipe(name))(Image.new("RGB", (300, 260))).shape == (3, 224, 224)
    splits, _ = load_splits(r, photos, ALONE.device)
    learner = Learner(r, 5, ALONE, build_network(r, ALONE.device))
    images, labels, count = next(iter(splits["train"].epoch(0, torch.arange(10), torch.Generator(), 0, ALONE)))
    assert images.shape == (2, 3, 64, 64)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    assert torch.isfinite(learner.step(images, labels, 0, 0, count))
    assert any(not torch.equal(*pair) for pair in zip(before, learner.model.parameters(), strict=True))


def test_branches_are_arguments():
    r = load_recipe("pd_b_resnet18_in1k", {"model_args.branches": ["standard1", "skeleton"]})
    r.model_args["num_classes"] = 5
    model = build_network(r, ALONE.device)
    assert {tuple(conv.branches) for conv in model.pd_convs().values()} == {("standard1", "skeleton")}


def test_the_share_of_the_steps_is_measured(photos, capsys, monkeypatch):
    script = ROOT / "benchmarks" / "training_share.py"
    words = ["pd_a_resnet18_in1k", "--data", str(photos), "--seconds", "0.01", "--device", "cpu"]
    words += ["--set", "image_size=32", "--set", "batch_size=4", "--set", "amp=''", "--set", "workers=0"]
    words += ["--set", "model_args.width=0.125"]
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    runpy.run_path(str(script), run_name="__main__")
    share = re.fullmatch(r"pd_a_resnet18_in1k: ([\d.]+) % in steps, .*\n", capsys.readouterr().out)
    assert 0 < float(share[1]) <= 100


@pytest.mark.slow
def test_the_rehearsal_script(photos, tmp_path):
    script = ROOT / "scripts" / "rehearse_imagenet.py"
    sets = ["image_size=64", "epochs=2", "batch_size=2", "checkpoint_every=1", "lr=0.001"]
    words = [word for setting in sets for word in ("--set", setting)]
    subprocess.run([sys.executable, str(script), str(photos / "train"), str(tmp_path / "out"), *words], check=True)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (figures["train"], figures["val"]) == (5, 5)
    assert figures["trained"] == figures["collapsed"]
    assert len(figures["log"]) == 2
