"""The command line: output forms, exit codes, one line for each mistake."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.suggest import close_names
from zoo.weights.manifest import weights

NAME = "lrunet1_100.zoo_fmnist"


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "zoo", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=180
    )


def test_list_json_is_alone_on_standard_output(capsys):
    assert main(["list", "lrunet1*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "family", "params", "pretrained"} <= set(rows[0])
    assert {row["name"] for row in rows} == {"lrunet1_100", "lrunet1_200", "lrunet10_100", "lrunet10_200"} | {
        "lrunet14_100",
        "lrunet14_200",
    }
    assert next(row for row in rows if row["name"] == "lrunet1_100")["params"] == 131_402


def test_list_pretrained_has_one_object_per_weight(capsys):
    assert main(["list", "--pretrained", "--json", "*.okankop_*"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(n for n in weights() if ".okankop_" in n)
    assert all(row["pretrained"] and row["licence"] == "MIT" for row in rows)


def test_list_and_info_tables(capsys):
    assert main(["list", "lrunet*", "--pretrained"]) == 0
    assert NAME in capsys.readouterr().out
    assert main(["list", "sparse_wrn_16_1.zoo_dsr*", "--pretrained"]) == 0
    assert "175,066  21,614" in capsys.readouterr().out, "what a sparse weight has in all, and not zero"
    assert main(["info", NAME]) == 0
    assert weights()[NAME]["sha256"] in capsys.readouterr().out
    assert main(["info", "lrunet10_100.zoo_fmnist"]) == 0
    shown = capsys.readouterr().out
    assert re.search("^trained_by +this project$", shown, re.MULTILINE)
    assert "182,090" in shown
    assert "22,908,672" in shown, "multiply-accumulates at 28x28, as the paper's authors count them"
    assert main(["info", "sparse_wrn_28_2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["nominal_sparsity"], row["density"]) == (0.9, round(161_229 / 1_467_610, 4))


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_validate_writes_results(tmp_path, capsys, ending):
    file = tmp_path / f"r.{ending}"
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--limit", "200"]
    assert main([*words, "--results", str(file)]) == 0
    assert NAME in capsys.readouterr().out
    row = json.loads(file.read_text())[0] if ending == "json" else next(csv.DictReader(file.open()))
    assert row["name"] == NAME
    assert int(row["n"]) == 200
    assert float(row["top1"]) > 85
    assert float(row["top1"]) < float(row["top5"]) <= 100
    assert row["sha256"] == weights()[NAME]["sha256"]
    assert "torch" in row["versions"]
    assert float(row["images_per_second"]) > 0
    low, high = row["interval"] if ending == "json" else map(float, row["interval"].split("-"))
    assert low < float(row["top1"]) < high


def test_predict_takes_images_of_any_mode_and_size(tmp_path, capsys):
    rng = np.random.default_rng(0)
    modes = {"L": 1, "RGB": 3, "RGBA": 4}
    files = []
    for mode, channels in modes.items():
        pixels = rng.integers(0, 256, (37, 61, channels), np.uint8).squeeze()
        files.append(tmp_path / f"{mode}.png")
        Image.fromarray(pixels).save(files[-1])
    for mode in ("1", "P", "LA", "CMYK", "I;16", "F"):
        files.append(tmp_path / f"{mode.replace(';', '')}.{'tif' if mode in ('CMYK', 'F') else 'png'}")
        source = Image.fromarray(rng.integers(0, 256, (5, 300), np.uint8))
        if mode == "I;16":
            Image.fromarray(rng.integers(0, 65536, (20, 20), np.uint16)).save(files[-1])
        else:
            source.convert("L").convert(mode).save(files[-1])
    assert main(["predict", NAME, *map(str, files), "--json", "--top", "4"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows] == [str(file) for file in files]
    for row in rows:
        assert len(row["guesses"]) == 4
        assert row["guesses"][0]["probability"] >= row["guesses"][1]["probability"]


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    from zoo.data.images import load_image

    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    pixels = np.asarray(load_image(tmp_path / "ramp.png", 1))
    assert abs(int(np.median(pixels)) - 127) <= 1
    assert pixels.min() == 0
    assert pixels.max() == 255


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["info", "lrunet3_100"], "Did you mean"),
        (["fetch", "lrunet2_100"], "No pretrained weight"),
        (["predict", NAME, "missing.png"], "No such image"),
        (["predict", NAME, "pyproject.toml"], "not an image"),
        (["validate", NAME, "--dataset", "fashion-mnist", "--data", "nowhere"], "No such folder"),
        (["validate", NAME, "--dataset", "cifar100", "--data", "."], "100"),
        (["validate", NAME, "--dataset", "cifar10", "--data", "."], "data_batch|test_batch"),
        (
            ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--results", "r.txt"],
            ".json or .csv",
        ),
        (["train", "lrunet11_fmnist", "--data", ".", "--output", "out"], "lrunet10_fmnist"),
        (["train", "lrunet1_fmnist", "--data", ".", "--output", "o", "--set", "epoch=3"], "epochs"),
        (["train", "lrunet1_fmnist", "--data", ".", "--output", "o", "--set", "epochs"], "KEY=VALUE"),
        (["train", "lrunet1_fmnist", "--data", ".", "--output", "o", "--set", "lr=[1"], "not YAML"),
        (["list", "lrunet_*"], "No architecture matches 'lrunet_[*]'. Did you mean lrunet,"),
        (["list", "lrunet3_100.*", "--pretrained", "--json"], "No weight matches .* Did you mean lrunet"),
        (["list", "banana"], "No architecture matches 'banana'. See: zoo list$"),
        (["recipes", "*LRUNET-10*"], "No recipe matches .* Did you mean lrunet10_fmnist"),
        (["bundle", "lrunet1*.zoo-fmnist", "-o", "x.zoo"], "No weight matches .* Did you mean lrunet1_100.zoo_fmnist"),
        (["fetch", "LRUNET1-100.zoo_fmnist"], "Did you mean lrunet1_100.zoo_fmnist"),
        (["demo", "--output", "/proc/nowhere"], "/proc/nowhere"),
        (["import", "pyproject.toml", "--as", "lrunet1_100"], "pyproject.toml: cannot be read as a checkpoint"),
        (["import", "tests", "--as", "lrunet1_100"], "tests: cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(words, hint, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(list(map(str, words))) == 1
    printed = capsys.readouterr()
    assert printed.out == "" or words[0] == "demo"
    errors = [line for line in printed.err.splitlines() if line.startswith("zoo: ")]
    assert len(errors) == 1
    assert errors == printed.err.splitlines() or words[0] == "demo"  # which says before what it has verified
    assert re.search(hint, errors[0])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LRUNET10_100", "lrunet10_100"),
        ("lrunet-10-100", "lrunet10_100"),
        ("lrunet10", "lrunet10_100"),
        ("pd_a_r50", "pd_a_resnet50"),
        ("pda_resnet50", "pd_a_resnet50"),
        ("swrn2810", "swrn_28_10_2"),
        ("wide_resnet28_10", "wrn_28_10"),
        ("sparse_r50", "sparse_resnet50"),
        ("mobilenetv2_025", "lru_mobilenetv2_025"),
        ("lrunet10.zoo_fmnist", "lrunet10_100.zoo_fmnist"),
        ("lrunet10_100.zoo_c100", "lrunet10_100.zoo_fmnist"),
    ],
)
def test_close_names_are_suggested(name, meant):
    with pytest.raises(zoo.UnknownNameError, match=rf"\b{meant}\b"):
        zoo.create_model(name)


def test_nothing_close_is_suggested_where_nothing_is():
    assert close_names("banana", zoo.list_models()) == close_names("*", zoo.list_models()) == []
    assert close_names("wrn_28_10", zoo.list_models())[0] == "wrn_28_10"


def test_an_output_that_takes_nothing_more(tmp_path):
    """A full disk is one line and exit code 1; a reader that has seen enough is no error."""
    command = [sys.executable, "-m", "zoo", "recipes", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=180)
    assert done.returncode == 1
    assert done.stderr == "zoo: standard output: No space left on device.\n"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=180)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_interruption_is_exit_code_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.cli.listing.list_models", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "zoo: interrupted\n"


def test_a_fault_of_the_zoos_own_keeps_its_traceback(monkeypatch):
    def fault(*_, **__):
        raise TypeError("a fault")

    monkeypatch.setattr("zoo.cli.listing.list_models", fault)
    with pytest.raises(TypeError):
        main(["list"])


def test_a_mistake_is_one_line_and_exit_code_1_of_the_process():
    done = run("info", "lrunet3_100")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_command_line_is_exit_code_2():
    assert run("lsit").returncode == 2


def test_demo_runs_offline(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    assert main(["demo", "--output", str(tmp_path)]) == 0
    assert "1000" in capsys.readouterr().out
    with Image.open(tmp_path / "predictions.png") as sheet:
        assert sheet.width > 500


def test_evaluation_scripts_are_the_same_functions(tmp_path, capsys, monkeypatch):
    """One of them in a process of its own, which imports torch: nothing but its line is on standard error."""
    monkeypatch.syspath_prepend(ROOT / "eval")

    def script(dataset, *words):
        monkeypatch.setattr(sys, "argv", [dataset, NAME, "--data", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "eval" / f"validate_{dataset}.py"), run_name="__main__")
        return ended.value.code

    assert script("fashion_mnist", str(SAMPLE), "--results", str(tmp_path / "r.json")) == 0
    assert json.loads((tmp_path / "r.json").read_text())[0]["n"] == 1000
    capsys.readouterr()
    assert script("imagenet", "nowhere") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    words = [sys.executable, "eval/validate_cifar.py", NAME, "--data", "nowhere"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
