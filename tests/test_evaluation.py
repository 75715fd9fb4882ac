"""How an evaluation computes: other precisions, several processes, and what then says so."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data import images as photographs
from zoo.data.images import evaluation_transform, image_folder_loader
from zoo.evaluation import measure as measuring
from zoo.evaluation.corruptions import Corruption
from zoo.evaluation.validate import validate

NAME = "lrunet1_100.zoo_fmnist"


class Recorder(nn.Module):
    """A linear network that notes in what form its images come and its scores go."""

    num_classes = 10
    pretrained_cfg = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.25,)}

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 5, 4), nn.Linear(4 * 36, 10)
        self.seen = []

    def forward(self, x):
        scores = self.linear(self.conv(x).relu().flatten(1))
        last = x.is_contiguous(memory_format=torch.channels_last) and self.conv.weight.stride(1) == 1
        self.seen.append((x.dtype, scores.dtype, last))
        return scores


@pytest.mark.parametrize("amp", ["", "bfloat16", "float16"])
def test_a_precision_takes_effect_and_is_said(amp):
    found = validate(Recorder(), "fashion-mnist", SAMPLE, name="x", device="cpu", limit=9, amp=amp)
    model = Recorder()
    result = validate(model, "fashion-mnist", SAMPLE, name="x", device="cpu", limit=9, amp=amp, channels_last=True)
    kind = getattr(torch, amp or "float32")
    assert {seen[:2] for seen in model.seen} == {(torch.float32, kind)}
    assert (result.precision, result.name) == (amp or "float32", f"x ({amp})" if amp else "x")
    assert (result.channels_last, found.channels_last, result.device, result.processes) == (True, False, "cpu", 1)


def test_channels_last_reaches_the_network_and_changes_nothing():
    config = {"input_size": (3, 8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.1)}
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    plain, last = (photographs.normalised(images, config, channels_last=flag) for flag in (False, True))
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


@pytest.mark.parametrize("amp", ["float64", "half", "bfloat"])
def test_another_precision_is_one_line(amp):
    with pytest.raises(zoo.ZooError, match="choose bfloat16 or float16"):
        validate(Recorder(), "fashion-mnist", SAMPLE, device="cpu", amp=amp)


def test_a_precision_that_a_device_lacks_is_one_line(monkeypatch):
    def refuse(*_):
        raise RuntimeError('"slow_conv2d" not implemented\nfor Half')

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(zoo.ZooError, match=r"^cpu cannot compute in float16 \(.*for Half\): try bfloat16"):
        validate(Recorder(), "fashion-mnist", SAMPLE, device="cpu", amp="float16")


def test_the_command_line_says_what_it_computed_in(tmp_path, capsys):
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--device", "cpu", "--limit", "50"]
    files = [tmp_path / "a.csv", tmp_path / "a.npz"]
    assert main([*words, "--amp", "--results", str(files[0]), "--predictions", str(files[1])]) == 0
    assert f"{NAME} (bfloat16)" in capsys.readouterr().out
    (row,) = csv.DictReader(files[0].open())
    assert (row["precision"], row["channels_last"]) == ("bfloat16", "False")
    assert np.load(files[1])["name"] == f"{NAME} (bfloat16)"
    assert main([*words, "--amp-dtype", "float16"]) == 1
    assert capsys.readouterr().err.strip() == "zoo: --amp-dtype is of --amp: add that."


# ---- photographs ----


def test_batches_of_bytes_give_the_transform_of_each_image(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "usable_cores", lambda: 0)
    rng = np.random.default_rng(0)
    folder = tmp_path / "val" / "n01440764"
    folder.mkdir(parents=True)
    for n, size in enumerate([(60, 80), (90, 33), (40, 40), (200, 150), (31, 31)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{n}.png")
    config = {"input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875}
    loader = image_folder_loader(tmp_path, config, 2, channels_last=True)
    transform = evaluation_transform(config)
    expected = torch.stack([transform(Image.open(path)) for path, _ in loader.dataset.samples])
    assert torch.equal(torch.cat([x for x, _ in loader]), expected)
    parts = [image_folder_loader(tmp_path, config, 2, part=slice(rank, None, 2)) for rank in (0, 1)]
    assert [[len(y) for _, y in part] for part in parts] == [[2, 1], [2]]


# ---- several processes ----

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]


WORK = """
import sys
from zoo.cli import main
from zoo.distributed import together
from zoo.errors import ZooError
assert main(sys.argv[1:]) == 0
try:
    with together("cpu") as processes:
        for step in processes.in_turn(iter(range(processes.rank, 9, 2)), 5):
            if step == 3 and processes.rank == 1:
                raise ZooError("a damaged photograph")
        print("went on")
except ZooError as error:
    print(f"said: {error}", flush=True)
    sys.exit(1)
"""


def test_two_processes_and_an_odd_number_give_the_result_of_one_and_one_that_fails_ends_both(tmp_path, capsys):
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--device", "cpu", "--limit", "101"]
    words += ["--batch-size", "21", "--per-class"]
    files = {n: ["--results", f"{tmp_path}/{n}.json", "--predictions", f"{tmp_path}/{n}.npz"] for n in (1, 2)}
    assert main([*words, *files[1]]) == 0
    printed = capsys.readouterr().out.splitlines()
    (tmp_path / "work.py").write_text(WORK)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *TORCHRUN, str(tmp_path / "work.py"), *words, *files[2]]
    both = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    *lines, last = both.stdout.splitlines()
    assert [line.split()[:7] for line in lines] == [line.split()[:7] for line in printed], both.stderr
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    one, two = (json.loads((tmp_path / f"{n}.json").read_text())[0] for n in (1, 2))
    assert (one.pop("processes"), two.pop("processes"), one["n"]) == (1, 2, 101)
    assert one.pop("images_per_second") and two.pop("images_per_second")
    assert one == two
    assert (both.returncode, last) == (1, "said: process 1 of 2: a damaged photograph")


# ---- progress ----


def test_corruptions_show_how_far_they_are(monkeypatch, capsys):
    bars = []

    def bar(items, **options):
        bars.append((len(items), options["desc"], options["disable"]))
        return items

    monkeypatch.setattr(measuring, "tqdm", bar)
    monkeypatch.setattr(Corruption, "__call__", lambda self, images, start=0: images)
    monkeypatch.setattr(Corruption, "to_dict", lambda self: {"name": self.name})
    found = [Corruption("snow", 1), Corruption("frost", 2)]
    measuring.measure([NAME], "fashion-mnist", SAMPLE, device="cpu", limit=3, corruptions=found)
    measuring.measure([NAME], "fashion-mnist", SAMPLE, device="cpu", limit=3)
    assert bars[0] == (2, f"{NAME} corrupted", None)
    assert bars[1][::2] == (0, True)
