"""Prediction, validation and training read the same pixels as timm; no file is passed over, no error loses its file."""

import io
import json
import multiprocessing
import os
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
from image_making import exif, picture
from zoo.cli import main
from zoo.data import images as image_files
from zoo.data.images import ImageFolder, image_folder_loader, load_image
from zoo.device import choose_device
from zoo.evaluation.predict import label_names, predict
from zoo.evaluation.validate import validate
from zoo.training.folders import Transformed

NAME = "lrunet1_100.zoo_fmnist"


# ---- one reader for all ----


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos" / "n01440764"
    place.mkdir(parents=True)
    return place


def pictures(folder: Path) -> None:
    """An image turned by EXIF, a wide one and one with alpha."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((90, 60))
    photo.save(folder / "turned.JPEG", exif=exif(6))
    Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)).save(folder / "wide.PNG")
    rgba = np.dstack([np.asarray(photo), np.asarray(photo)[..., 0]])
    Image.fromarray(rgba).save(folder / "alpha.webp", lossless=True)


def by_hand(path: Path, config: dict) -> torch.Tensor:
    """Pillow, timm's transform and nothing of ours."""
    with Image.open(path) as opened:
        if path.name == "wide.PNG":
            image = Image.fromarray(np.rint(np.asarray(opened) / 257).astype(np.uint8)).convert("RGB")
        elif path.name == "alpha.webp":
            white = Image.new("RGBA", opened.size, "white")
            image = Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB")
        else:
            image = opened.transpose(Image.Transpose.ROTATE_270)
    return timm.data.create_transform(**config, is_training=False)(image)


class Recorder(nn.Module):
    """Keeps what it is given; tells that it is not in eval mode by other scores."""

    num_classes = 1000
    pretrained_cfg = {
        "input_size": (3, 48, 48),
        "mean": (0.3, 0.4, 0.5),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.8,
        "interpolation": "bicubic",
    }

    def __init__(self):
        super().__init__()
        self.drop, self.seen = nn.Dropout(0.5), []

    def forward(self, images):
        self.seen += list(images)
        assert not self.training and not self.drop.training
        return self.drop(images.flatten(1)[:, :1000])


@pytest.mark.parametrize("workers", [0, 2])
def test_prediction_and_validation_prepare_images_as_timm_does(folder, monkeypatch, workers):
    monkeypatch.setattr(image_files, "usable_cores", lambda: workers)
    pictures(folder)
    model = Recorder().train()
    config = timm.data.resolve_data_config(model=model)
    assert (config["crop_pct"], config["interpolation"]) == (0.8, "bicubic")
    paths = sorted(folder.iterdir())
    expected = [by_hand(path, config) for path in paths]
    found = predict(model, paths, top=2)
    for given, guesses, image in zip(model.seen, found, expected, strict=True):
        assert torch.equal(given, image)
        best = image.flatten()[:1000].softmax(0).topk(2)
        assert [k for k, _ in guesses] == best.indices.tolist()
        assert [p for _, p in guesses] == pytest.approx(best.values.tolist())
    model.seen.clear()
    model.train()
    right = sum(image.flatten()[:1000].argmax() == 0 for image in expected)
    assert validate(model, "imagenet", folder.parent, batch_size=2, device="cpu").correct == right
    assert all(map(torch.equal, model.seen, expected))
    assert len(model.seen) == 3


def test_prediction_of_a_zoo_network_is_a_forward_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60), np.uint8)).save(tmp_path / "a.jpg", exif=exif(8))
    model = zoo.create_model(NAME, pretrained=True).train()
    ((label, probability),) = predict(model, [tmp_path / "a.jpg"], top=1)[0]
    image = Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_90)
    image = image.resize((28, 42), Image.Resampling.BILINEAR).crop((0, 7, 28, 35))
    pixels = (torch.from_numpy(np.array(image))[None, None] / 255 - 0.2860) / 0.3530
    plain = zoo.create_model(NAME, pretrained=True).eval()
    with torch.inference_mode():
        best = plain(pixels).softmax(1)[0].max(0)
    assert label == best.indices
    assert probability == pytest.approx(best.values.item(), abs=1e-5)


def test_arrays_are_normalised_and_measured_in_eval_mode(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
    np.concatenate([np.full((5, 1), 3, np.uint8), images], 1).tofile(tmp_path / "test_batch.bin")
    model = Recorder().train()
    model.num_classes = 10
    validate(model, "cifar10", tmp_path, batch_size=2, device="cpu")
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = (torch.from_numpy(images).reshape(-1, 3, 32, 32) / 255 - mean) / std
    assert torch.allclose(torch.stack(model.seen), expected, atol=1e-6)


def broken(image):
    raise MemoryError("too much")


def test_training_reads_the_same_images(folder):
    pictures(folder)
    dataset = ImageFolder(folder.parent)
    transformed = Transformed(dataset, np.asarray, seed=0)
    for index, (path, _) in enumerate(dataset.samples):
        assert np.array_equal(transformed[index, 0][0], load_image(path, 3))
    with pytest.raises(zoo.DataError, match=r"alpha\.webp: .*too much"):
        Transformed(dataset, broken, seed=0)[0, 0]


def test_grey_networks_read_grey(folder):
    pictures(folder)
    config = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear", "crop_pct": 1.0}
    assert next(iter(image_folder_loader(folder.parent, config, 3)))[0].shape == (3, 1, 28, 28)
    with pytest.raises(zoo.DataError, match="1 or 3 channels"):
        load_image(folder / "wide.PNG", 4)


# ---- folders ----


def test_every_file_is_measured_or_named(folder, caplog):
    red = Image.new("RGB", (40, 40), "red")
    (folder / "deep" / "deeper").mkdir(parents=True)
    measured = ["a.JPEG", "b.webp", "c.BMP", "d.tiff", "deep/e.Png", "deep/deeper/f.avif", "g.jp2", "h.ppm", "i.gif"]
    for name in measured:
        red.save(folder / name)
    left = ["notes.txt", ".DS_Store", "Thumbs.db", "._a.JPEG", "deep/photo", "movie.mpg", "a.JPEG.bak"]
    for name in left:
        (folder / name).write_bytes(b"no image")
    red.save(folder.parent / "beside.png")
    (folder.parent / ".git").mkdir()
    (folder / "deep" / "circle").symlink_to(folder)
    dataset = ImageFolder(folder.parent)
    assert [str(Path(p).relative_to(folder)) for p, _ in dataset.samples] == sorted(measured)
    assert {label for _, label in dataset.samples} == {0}
    assert dataset.left_out == sorted(["beside.png", *(f"n01440764/{name}" for name in left)])
    model = timm.create_model("lru_mobilenetv2_025", num_classes=1000, in_chans=3)
    result = validate(model, "imagenet", folder.parent, batch_size=4, device="cpu")
    assert (result.n, result.left_out) == (9, 8)
    assert "8 of 17 files are not measured" in result.warning
    assert "beside.png" in result.warning
    assert result.warning in caplog.text


def test_files_left_out_are_in_output_and_result_file(folder, tmp_path, capsys):
    for name in ("a.JPEG", "b.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    (folder / "notes.txt").touch()
    model = timm.create_model("wrn_16_1", num_classes=1000)
    facts = {"architecture": "wrn_16_1", "model_args": '{"num_classes": 1000}'}
    save_file(model.state_dict(), tmp_path / "x.safetensors", facts)
    words = ["validate", "wrn_16_1", "--dataset", "imagenet", "--data", str(folder.parent), "--device", "cpu"]
    for ending in ("json", "csv"):
        file = tmp_path / f"r.{ending}"
        assert main([*words, "--checkpoint", str(tmp_path / "x.safetensors"), "--results", str(file)]) == 0
        assert "1 of 3 files are not measured" in capsys.readouterr().out
        assert "n01440764/notes.txt" in file.read_text()
    row = json.loads((tmp_path / "r.json").read_text())[0]
    assert (row["n"], row["left_out"], row["data_sha256"]) == (2, 1, {})


def test_a_class_folder_in_another(folder):
    (folder / "n01443537").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "n01443537" / "a.png")
    with pytest.raises(zoo.DataError, match="which class is meant"):
        ImageFolder(folder.parent)


# ---- errors of workers ----


CONFIG = {"input_size": (3, 32, 32), "mean": (0,) * 3, "std": (1,) * 3, "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_name_the_file(folder, monkeypatch, workers):
    monkeypatch.setattr(image_files, "usable_cores", lambda: workers)
    bad = bytearray(picture("avif"))
    place = bad.index(b"mdat") + 4
    bad[place : place + 16] = bytes(16)
    file = folder / "DataError: a.JPEG"
    file.write_bytes(bad)
    with pytest.raises(zoo.DataError) as raised:
        list(image_folder_loader(folder.parent, CONFIG, 1))
    assert multiprocessing.active_children() == [], "workers that wait to be collected hold that up by seconds"
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    assert "memory" not in str(raised.value)
    file.write_bytes(picture("png"))
    loader = image_folder_loader(folder.parent, CONFIG, 1)

    loader.dataset.transform = broken
    with pytest.raises(zoo.DataError, match=r"a\.JPEG: .*too much"):
        list(loader)


@pytest.mark.parametrize(("number", "advice"), [(9, "memory"), (11, "damaged image|memory")])
def test_the_end_of_a_worker(folder, monkeypatch, number, advice):
    monkeypatch.setattr(image_files, "usable_cores", lambda: 1)
    (folder / "a.png").write_bytes(picture("png"))
    loader = image_folder_loader(folder.parent, CONFIG, 1)
    loader.dataset.transform = lambda image: os.kill(os.getpid(), number)
    with pytest.raises(zoo.DataError, match=advice) as raised:
        list(loader)
    assert ("Segmentation" in str(raised.value)) == ("memory" not in str(raised.value))


# ---- the command line ----


def test_one_bad_file_among_good_ones(tmp_path, capsys):
    for number in (0, 2):
        Image.new("L", (28, 28), number * 90).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").touch()
    files = [str(tmp_path / f"{number}.png") for number in range(4)]
    assert main(["predict", NAME, *files]) == 1
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [files[0], files[2]]
    assert len(printed.err.splitlines()) == 2
    assert all(files[k] in line for k, line in zip((1, 3), printed.err.splitlines(), strict=True))
    assert main(["predict", NAME, *files, "--json"]) == 1
    printed = capsys.readouterr()
    assert [row["image"] for row in json.loads(printed.out)] == [files[0], files[2]]
    assert len(printed.err.splitlines()) == 2
    with pytest.raises(zoo.DataError, match=r"1\.png"):
        predict(zoo.create_model(NAME, pretrained=True), files)


def test_names_that_are_not_utf_8(tmp_path, monkeypatch):
    good, bad = (str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9.png", b"caf\xea.png"))
    Image.new("L", (28, 28)).save(good, "png")
    Path(bad).touch()
    for encoding in ("utf-8", "ascii"):
        for more in ([], ["--json"]):
            streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in "oe"]
            monkeypatch.setattr(sys, "stdout", streams[0])
            monkeypatch.setattr(sys, "stderr", streams[1])
            assert main(["predict", NAME, good, bad, *more]) == 1
            out, err = (stream.seek(0) or stream.read() for stream in streams)
            assert "udce9.png" in out
            assert len(err.splitlines()) == 1
            assert "udcea.png" in err
            assert not more or json.loads(out)[0]["image"] == good


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "npu", "foo", "meta", "xpu", "cpu:x", "privateuseone"])
def test_a_device_that_is_not_here(device, tmp_path, capsys):
    with pytest.raises(zoo.ZooError, match=r"There is no device .* choose cpu"):
        choose_device(device)
    words = ["train", "lrunet1_fmnist", "--data", "x", "--output", str(tmp_path / "run")]
    assert main([*words, "--device", device]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert choose_device("cpu") == torch.device("cpu")


def test_class_names():
    model = nn.Module()
    model.num_classes = 10
    assert label_names(model, "fashion-mnist")[9] == "Ankle boot"
    assert label_names(model, "imagenet") == label_names(model) == [str(k) for k in range(10)]
    model.pretrained_cfg = {"label_names": [f"class {k}" for k in range(10)]}
    assert label_names(model, "fashion-mnist")[9] == "class 9"
    model.num_classes = 9
    assert label_names(model)[8] == "8"
