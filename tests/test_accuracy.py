"""Measured accuracies are the manifest's, to the image. Full test sets; the long ones are marked slow."""

import pytest
import timm

import zoo
from conftest import data_folder
from zoo.cli.demo import SAMPLE
from zoo.data.images import image_folder_loader
from zoo.evaluation.validate import validate, wilson
from zoo.weights.manifest import weights
from zoo.weights.verify import sha256_of

QUICK = ("lrunet1_100.zoo_fmnist",)
FIRST = {"lru_mobilenet_025.okankop_fmnist": 910, "lrunet1_100.okankop_fmnist": 917}
"""Right answers among the first 1,000 images, counted when those of the whole set were the manifest's."""


def measured(dataset: str) -> list[str]:
    return [name for name, entry in weights().items() if entry["results"] and entry["dataset"] == dataset]


def correct(name: str, data, monkeypatch, tmp_path) -> int:
    """Right answers on the whole test set; the authors' weights come from the released folder."""
    entry = weights()[name]
    if entry["origin"] != "zoo":
        released = data_folder()
        if released is None or not (released / "checkpoints" / "lrunet").is_dir():
            pytest.skip("set ZOO_TEST_DATA to the folder that holds checkpoints/lrunet")
        files = (released / "checkpoints" / "lrunet").glob("*.safetensors")
        file = next(path for path in files if sha256_of(path) == entry["sha256"])
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").symlink_to(file)
        monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    model = zoo.create_model(name, pretrained=True)
    return validate(model, entry["dataset"], data, device="cpu").correct


@pytest.mark.parametrize("name", QUICK)
def test_fashion_mnist(name, fashion_mnist, monkeypatch, tmp_path):
    assert correct(name, fashion_mnist, monkeypatch, tmp_path) == weights()[name]["results"][0]["correct"]


@pytest.mark.parametrize("name", FIRST)
def test_fashion_mnist_begins(name, monkeypatch, tmp_path):
    assert correct(name, SAMPLE, monkeypatch, tmp_path) == FIRST[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in measured("fashion-mnist") if n not in QUICK])
def test_fashion_mnist_all(name, fashion_mnist, monkeypatch, tmp_path):
    assert correct(name, fashion_mnist, monkeypatch, tmp_path) == weights()[name]["results"][0]["correct"]


@pytest.mark.slow
@pytest.mark.parametrize("name", measured("cifar10"))
def test_cifar10(name, cifar10, monkeypatch, tmp_path):
    assert correct(name, cifar10, monkeypatch, tmp_path) == weights()[name]["results"][0]["correct"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in measured("cifar10") if weights()[n].get("collapsed", {}).get("path")])
def test_cifar10_collapsed(name, cifar10):
    model = zoo.load_collapsed(name)
    assert validate(model, "cifar10", cifar10, device="cpu").correct == weights()[name]["results"][0]["correct"]


def test_the_authors_figures_are_what_was_measured():
    """On the sets at hand their released files give the accuracies they claim, to the image."""
    theirs = [e for e in weights().values() if e["origin"] == "okankop" and e["results"]]
    assert len(theirs) == 12
    assert all(e["results"][0]["top1"] == e["paper_result"]["top1"] for e in theirs)


def test_figures_of_a_result_agree_with_each_other():
    for name, entry in weights().items():
        for result in entry["results"]:
            assert result["top1"] == pytest.approx(100 * result["correct"] / result["n"], abs=1e-3), name
            assert tuple(result["interval95"]) == wilson(result["correct"], result["n"]), name


def test_wilson_interval_of_known_numbers():
    """Worked by hand: p = 0.9, n = 100 gives 82.56 to 94.48 %."""
    assert wilson(90, 100) == (82.56, 94.48)
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(27.75, abs=0.01)


def test_every_image_counts_once_whatever_the_batch_size():
    model = zoo.create_model("lrunet1_100.zoo_fmnist", pretrained=True)
    results = [
        validate(model, "fashion-mnist", SAMPLE, batch_size=size, limit=300, device="cpu") for size in (7, 256, 300)
    ]
    assert {(r.n, r.correct) for r in results} == {(300, results[0].correct)}
    assert results[0].correct > 255


def test_imagenet_folder_of_real_photographs(tmp_path):
    """Ten classes of a thousand: labels stay the 1000-way ones, every image is delivered once, in order."""
    data = data_folder()
    if data is None or not (data / "data" / "imagenette2-val" / "images").is_dir():
        pytest.skip("set ZOO_TEST_DATA to the folder that holds data/imagenette2-val")
    for folder in sorted((data / "data" / "imagenette2-val" / "images").iterdir()):
        (tmp_path / "val" / folder.name).mkdir(parents=True)
        for image in sorted(folder.iterdir())[:3]:
            (tmp_path / "val" / folder.name / image.name).symlink_to(image)
    model = timm.create_model("pd_a_resnet18", width=0.125).eval()
    config = timm.data.resolve_data_config(model=model)
    batches = list(image_folder_loader(tmp_path, config, 8))
    labels = [int(label) for _, target in batches for label in target]
    assert labels == [label for label in (0, 217, 482, 491, 497, 566, 569, 571, 574, 701) for _ in range(3)]
    assert batches[0][0].shape == (8, 3, 224, 224)
    result = validate(model, "imagenet", tmp_path, batch_size=8, device="cpu")
    assert result.n == 30


def test_a_folder_that_is_not_imagenet(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(zoo.DataError, match="cats is no ImageNet class"):
        image_folder_loader(tmp_path, {}, 1)
    with pytest.raises(zoo.DataError, match="class folder"):
        image_folder_loader(tmp_path / "cats", {}, 1)
