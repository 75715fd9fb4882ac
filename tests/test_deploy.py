"""``zoo deploy``: a folder that runs alone says what the network says; what cannot be made is one line."""

import functools
import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import zoo
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.deploy import deploy as deploying
from zoo.deploy import engines, quantized
from zoo.deploy.calibration import _spread
from zoo.deploy.fused import fuse_convolutions
from zoo.deploy.run_script import run_script
from zoo.evaluation.predict import label_names, predict
from zoo.named import load_named

NAME = "lrunet1_100.zoo_fmnist"
COLOUR = "symm_wrn_16_1.zoo_c10"
STAGED = sorted(path.parent for path in (Path(__file__).parent.parent / "hub").glob("*/predictions.npz"))
ENGINES = [name for name, engine in engines.ENGINES.items() if engines.missing(engine) is None]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Image files of several forms: grey, colour and not square, transparent, turned by the camera, small."""
    folder, made = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pixels = np.kron(made.integers(0, 256, (9, 11, 4)), np.ones((9, 9, 1))).astype(np.uint8)
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels[..., :3]).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(pixels).save(folder / "transparent.png")
    Image.fromarray(pixels[:9, :40, :3]).save(folder / "wide.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save(folder / "palette.png")
    return sorted(folder.iterdir())


@pytest.fixture
def quick(monkeypatch):
    """Without timing."""
    row = {"batch": 1, "threads": 1, "limit": 0.1, "ratios": {"plain": {"median": 1, "low": 1, "high": 1}}}
    monkeypatch.setattr(deploying, "speeds", lambda *words: [row])


def deploy(*words):
    """Exit code of the verb in this process."""
    return main(["deploy", *map(str, words)])


def one_line(capsys):
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1, printed
    return printed.err


def said_alone(folder, paths, engine):
    """What ``run.py`` prints in a process of its own that can import neither the zoo nor timm."""
    barred = ["zoo", "timm", "torchvision", *(["torch"] if engine != "torch" else [])]
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({barred})); runpy.run_path(sys.argv[0], {{}}, '__main__')"
    )
    start = f"import sys; sys.argv = sys.argv[1:]; {code}"
    words = [sys.executable, "-I", "-c", start, str(folder / "run.py"), *map(str, paths)]
    run = subprocess.run(words, cwd=folder.parent, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize(("engine", "name"), [(e, COLOUR if e == "onnxruntime" else NAME) for e in ENGINES])
def test_a_folder_alone_says_what_the_network_says(engine, name, images, tmp_path, quick, capsys):
    folder = tmp_path / "made"
    assert deploy(name, "--engine", engine, "-o", folder, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((folder / "network.json").read_text())
    assert facts["scores"]["max_relative"] < 1e-4 and facts["engine"] == engine and facts["licence"] == "Apache-2.0"
    assert {path.name for path in folder.iterdir()} == {facts["file"], "network.json", "run.py", "README.md"}
    assert len((folder / "run.py").read_text().splitlines()) < 50
    found = load_named(name)
    names = label_names(found.model, found.dataset)
    guesses = predict(found.model, images, 3)
    for path, line, best in zip(images, said_alone(folder, images, engine), guesses, strict=True):
        said = [part.rsplit(" ", 2) for part in line.removeprefix(f"{path}: ").removesuffix(" %").split(" %, ")]
        assert said[0][0] == names[best[0][0]], line
        assert [float(part[-1]) for part in said] == pytest.approx([100 * p for _, p in best], abs=0.11), line


def test_accuracy_is_compared_image_by_image(tmp_path, monkeypatch, capsys):
    """By the fastest of all engines but one, which is said to be missing."""
    lacks = lambda engine, precision: "openvino" if "openvino" in engine.needs else None  # noqa: E731
    monkeypatch.setattr(engines, "missing", lacks)
    monkeypatch.setattr(deploying, "speeds", functools.partial(deploying.speeds, rounds=1))
    engine = "auto"
    folder = tmp_path / "made"
    assert deploy(NAME, "--engine", engine, "--accuracy", "--data", SAMPLE, "-o", folder) == 0
    found = json.loads((folder / "network.json").read_text())
    accuracy, card = found["accuracy"], (folder / "README.md").read_text()
    assert accuracy["n"] == accuracy["same_guess"] == 1000 and accuracy["before"] == accuracy["after"] > 900
    assert f"the file gets {accuracy['after']:,} (" in card and capsys.readouterr().out.strip() in card
    medians = {e: found["speed"][0]["ratios"][engines.ENGINES[e].title]["median"] for e in ("torch", "onnxruntime")}
    assert found["engine"] == min(medians, key=medians.get) and list(found["left_out"]) == ["openvino"]
    assert f"took {engines.ENGINES[found['engine']].title}" in card and "repara-zoo[openvino]" in card
    assert [row["batch"] for row in found["speed"]] == [1, 32] and "| 32 |" in card
    assert all(row["ratios"]["plain network, eager"]["median"] == 1 for row in found["speed"])


def test_what_a_file_gets_wrong_is_in_the_card(tmp_path, quick, monkeypatch):
    """A file whose scores are shifted by a class."""
    module = deploying._module("torch")
    load = module.load

    def shifted(*words):
        run = load(*words)
        return lambda x: np.roll(run(x), 1, 1)

    monkeypatch.setattr(module, "load", shifted)
    assert deploy(NAME, "--engine", "torch", "--accuracy", "--data", SAMPLE, "-o", tmp_path / "made") == 0
    found = json.loads((tmp_path / "made" / "network.json").read_text())
    accuracy = found["accuracy"]
    assert accuracy["only_first"] > 800 > 100 > accuracy["after"] and accuracy["same_guess"] == 0
    assert found["scores"]["max_relative"] > 0.1


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "onnxruntime"])
def test_bfloat16_differs_as_its_digits_do(engine, tmp_path, quick, monkeypatch):
    if engine == "openvino" and not engines._has_bfloat16():
        pytest.skip("OpenVINO computes in float32 where the CPU has no bfloat16")
    monkeypatch.setattr(engines, "_has_bfloat16", lambda: True)
    assert deploy(COLOUR, "--engine", engine, "--precision", "bf16", "-o", tmp_path / "made") == 0
    facts = json.loads((tmp_path / "made" / "network.json").read_text())
    assert 1e-4 < facts["scores"]["max_relative"] < 0.05


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Fashion-MNIST images under the names of the training split; the test split is missing."""
    folder = tmp_path_factory.mktemp("training")
    for path in SAMPLE.glob("t10k-*.gz"):
        with gzip.open(path) as file:
            (folder / path.name.replace("t10k", "train").removesuffix(".gz")).write_bytes(file.read())
    return folder


@pytest.mark.skipif("openvino" not in ENGINES, reason="needs OpenVINO")
def test_int8_says_how_it_was_calibrated_and_stays_near(training, tmp_path, quick, monkeypatch, capsys):
    pytest.importorskip("nncf")
    monkeypatch.setattr(engines, "_has_int8", lambda: True)
    monkeypatch.setattr(deploying, "CALIBRATION", 36)
    monkeypatch.setattr(quantized, "CALIBRATION", 36)
    found = {}
    for engine in ("onnxruntime", "openvino"):
        folder = tmp_path / engine
        assert deploy(NAME, "--engine", engine, "--precision", "int8", "--data", training, "-o", folder, "--json") == 0
        found[engine] = facts = json.loads(capsys.readouterr().out)
        assert {path.name for path in folder.iterdir()} == {"model.onnx", "network.json", "run.py", "README.md"}
        made, card = facts["quantized"], (folder / "README.md").read_text()
        assert (made["calibration"], made["apart"]) == (36, 512) and set(made["tried"]) == set(_settings(engine))
        assert (
            made["tried"][made["setting"]]["divergence"] < 0.01 and made["tried"][made["setting"]]["same_guess"] > 500
        )
        assert 1e-3 < facts["scores"]["max_relative"] < 0.3 and "512 training" in card and made["setting"] in card
        run = deploying._module(engine).load(folder / "model.onnx", 1, "int8")
        assert run(np.zeros((2, 1, 28, 28), np.float32)).shape == (2, 10)
    assert found["openvino"]["versions"].keys() >= {"openvino", "nncf"} and found["openvino"]["bytes"] < 350_000


def _settings(engine):
    return deploying._module(engine).SETTINGS


def test_the_nearest_setting_is_taken_and_a_little_nearer_is_not_enough(tmp_path):
    """A quantizer that adds to the first class: three ways, of which the middle one is nearest, the last a little."""

    class Engine:
        SETTINGS = ("far", "near", "a little nearer")

        def quantized(name, path, target, images):
            target.write_text({"far": "0.9", "near": "0.1", "a little nearer": "0.099"}[name])

        def load(path, threads, precision):
            shift = float(path.read_text())
            return lambda x: np.stack([x.mean((1, 2, 3)) + shift, x[:, 0, 0, 0]], 1)

    path = tmp_path / "network"
    path.write_text("0")
    images = np.random.default_rng(0).standard_normal((30, 1, 4, 4), dtype=np.float32)
    _, facts = quantized.quantize(Engine, path, images, 1)
    assert facts["quantized"]["setting"] == "near" and path.read_text() == "0.1" and list(tmp_path.iterdir()) == [path]
    assert facts["quantized"]["calibration"] == facts["quantized"]["apart"] == 15
    assert facts["scores"]["max_absolute"] == pytest.approx(0.1, rel=1e-5)


class _Joins(torch.nn.Module):
    """Convolutions before a ReLU, a sum, a sum that spreads, and two with one kernel."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Conv2d(4, 4, 3, padding=1, groups=g, bias=g > 1) for g in (1, 2, 4))
        self.wide = torch.nn.Conv2d(4, 4, 3, stride=2, dilation=2)

    def forward(self, x):
        x = self.a(x).relu()
        x = (self.b(x) + x).relu()
        x = self.c(x) + x.mean((2, 3), keepdim=True)
        return self.wide(x), torch.conv2d(self.wide(x), self.a.weight), x.clamp(0) + 1


def test_joined_convolutions_compute_the_same():
    network = _Joins().eval().requires_grad_(False)
    images = torch.randn(3, 4, 12, 12)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    fuse_convolutions(program)
    found = [str(node.target) for node in program.graph.nodes]
    assert found.count("mkldnn._convolution_pointwise.binary") == 1
    assert found.count("mkldnn._convolution_pointwise.default") == 1
    assert found.count("aten.conv2d.default") == 4, "those whose kernel is read twice"
    for n in (1, 3):
        for a, b in zip(network(images[:n]), program.module()(images[:n]), strict=True):
            torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A saved network of four classes, and one without a class."""
    folder, how = tmp_path_factory.mktemp("saved"), {"layers": (1, 1, 1, 1), "channels": (8,) * 4}
    for name, classes in (("net", 4), ("maps", 0)):
        sizes = {"num_classes": classes, "pretrained_cfg_overlay": {"input_size": (3, 32, 32)}}
        save_for_hf(timm.create_model("resnet18", **how, **sizes), folder / name, safe_serialization=True)
    return folder


def test_a_network_is_transformed_first(small, tmp_path, quick, capsys):
    words = ("--transform", "sparsify:0.5", "--engine", "torch", "-o", tmp_path / "made", "--json")
    assert deploy(small / "net", *words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "resnet18.net-sparsify_0.5" and facts["scores"]["max_relative"] < 1e-4
    found = load_named(str(small / "net"), transform="sparsify:0.5")
    images = torch.randn(2, 3, 32, 32)
    scores = deploying._module("torch").load(tmp_path / "made" / facts["file"], 1, "fp32")(images.numpy())
    torch.testing.assert_close(torch.from_numpy(scores), found.model(images).detach(), rtol=1e-3, atol=1e-4)
    assert deploy(small / "maps", "--engine", "torch", "-o", tmp_path / "none") == 1
    assert "no classes" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_run_says_which_file_is_no_image(content, tmp_path):
    script = run_script("import math\n\n\ndef load():\n    return None\n", "nothing")
    (tmp_path / "run.py").write_text(script)
    (tmp_path / "network.json").write_text('{"input_size": [3, 4, 4]}')
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    prepare = runpy.run_path(str(tmp_path / "run.py"))["prepare"]
    with pytest.raises(SystemExit, match=r"x\.png: cannot be read as an image"):
        prepare(tmp_path / "x.png")


def test_one_training_image_is_too_few():
    with pytest.raises(zoo.DataError, match="two at least"):
        _spread("data", 1, 768)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [path.name for path in STAGED])
def test_every_staged_weight_runs_alone(engine, name, images, tmp_path, quick, capsys):
    test_a_folder_alone_says_what_the_network_says(engine, name, images, tmp_path, quick, capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "torch", "--precision", "int8"], "--engine onnxruntime or openvino"),
        (["--engine", "auto", "--precision", "int8"], "on training images add --data DIR"),
        (["--engine", "auto", "--precision", "int8", "--data", str(SAMPLE)], "train split"),
        (["--engine", "auto", "--precision", "int8", "--data", str(SAMPLE), "--dataset", "cifar100"], "--dataset"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "--engine torch"),
        (["--engine", "torch", "--accuracy"], "--data DIR"),
        (["--engine", "torch", "--accuracy", "--data", "nowhere"], "nowhere"),
        (["--engine", "torch", "--accuracy", "--data", str(SAMPLE), "--dataset", "cifar100"], "classes"),
        (["--engine", "torch", "-o", "."], "new folder"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(words, says, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert deploy(NAME, *words) == 1
    assert says in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "change", "says"),
    [
        (["onnxruntime"], ("missing", lambda *of: "onnxscript"), "pip install 'repara-zoo[export]'"),
        (["openvino", "--precision", "int8"], ("missing", lambda *of: "nncf"), "pip install 'repara-zoo[int8]'"),
        (["onnxruntime", "--precision", "int8"], ("_has_int8", lambda: False), "--precision fp32"),
        (["torch", "--precision", "bf16"], ("_has_bfloat16", lambda: False), "--precision fp32"),
    ],
)
def test_what_this_machine_lacks_is_one_line(words, change, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, *change)
    assert deploy(NAME, "-o", tmp_path / "made", "--engine", *words) == 1
    assert says in one_line(capsys) and list(tmp_path.iterdir()) == []


def test_only_its_own_folder_is_replaced(tmp_path, quick, monkeypatch, capsys):
    def make(found, part, *words):
        (part / "model.pt2").write_text("a network")
        return None, {
            "file": "model.pt2",
            "bytes": 9,
            "versions": {},
            "scores": {"images": "", "max_absolute": 0, "max_relative": 0},
        } | {"speed": deploying.speeds()}

    monkeypatch.setattr(deploying, "_make", make)
    folder = tmp_path / "made"
    folder.mkdir()
    for _ in range(2):  # an empty one, and its own
        assert deploy(NAME, "--engine", "torch", "-o", folder) == 0
    before = (folder / "network.json").read_bytes()
    monkeypatch.setattr(deploying, "card", lambda facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        deploy(NAME, "--engine", "torch", "-o", folder)
    assert (folder / "network.json").read_bytes() == before and list(tmp_path.iterdir()) == [folder]
    capsys.readouterr()
    (folder / "notes.txt").write_text("mine")
    assert deploy(NAME, "--engine", "torch", "-o", folder) == 1
    assert "did not write" in one_line(capsys) and (folder / "notes.txt").read_text() == "mine"
