"""``zoo import``: the papers' containers, and files that try to do harm."""

import collections
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import zoo
from conftest import ROOT
from golden import load_golden
from protocol import close
from zoo.cli import main
from zoo.weights.importers import read_checkpoint

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Write a checkpoint in both of torch's containers."""

    def write(content) -> Path:
        path = tmp_path / "checkpoint.pth.tar"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


@pytest.fixture
def stray():
    """An object of a class that exists when the file is written, and not when it is read."""
    module = types.ModuleType("training_script_utils")

    class Recorder:
        def __init__(self):
            self.history = [1.0, 2.0]
            self.tensor = torch.zeros(3)

    Recorder.__module__, Recorder.__qualname__ = "training_script_utils", "Recorder"
    module.Recorder = Recorder
    sys.modules["training_script_utils"] = module
    yield Recorder()
    sys.modules.pop("training_script_utils", None)


STATE = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}


@pytest.mark.parametrize("prefix", ["", "module.", "module.1.", "1."])
@pytest.mark.parametrize("key", ["state_dict", "net", None])
def test_containers_and_prefixes(save, prefix, key):
    inner = collections.OrderedDict((prefix + name, tensor) for name, tensor in STATE.items())
    path = save(inner if key is None else {"epoch": 3, "arch": "x", key: inner, "best_prec1": 70.1})
    read = read_checkpoint(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_half_precision_becomes_single(save):
    read = read_checkpoint(save({"state_dict": {name: tensor.half() for name, tensor in STATE.items()}}))
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


def test_parameters_and_statistics_are_joined(save):
    read = read_checkpoint(save({"params": {"conv0": STATE["a.weight"]}, "stats": {"bn.running_mean": torch.ones(2)}}))
    assert read.keys() == {"conv0", "bn.running_mean"}


def test_stray_objects_are_left_behind_without_their_class(save, stray):
    path = save({"state_dict": STATE, "recorder": stray, "optimizer": {"scaler": stray}})
    del sys.modules["training_script_utils"]
    assert read_checkpoint(path).keys() == STATE.keys()
    assert "training_script_utils" not in sys.modules


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evil:
    """Calls eval when it is unpickled."""

    def __reduce__(self):
        return eval, ("__import__('os').mkdir('/tmp/zoo-import-evil')",)


def test_code_in_a_checkpoint_is_not_run(save, tmp_path):
    with pytest.raises(zoo.WeightError, match="refused"):
        read_checkpoint(save({"state_dict": STATE, "recorder": Harm(tmp_path / "executed")}))
    path = save({"state_dict": STATE, "recorder": Evil()})
    try:
        read_checkpoint(path)
    except zoo.WeightError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "executed").exists()
    assert not Path("/tmp/zoo-import-evil").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"<html>sign in</html>",
        b"\x80\x02.",
        b"cos\nsystem\n(S'true'\ntR.",
        pickle.dumps([1, 2]),
        pickle.dumps({"state_dict": {}}),
        pickle.dumps({"state_dict": {"a": 1}}),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(zoo.WeightError, match=r"x\.pth") as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(zoo.WeightError, match="No such file"):
        read_checkpoint(tmp_path / "missing")


@pytest.mark.parametrize(
    ("file", "arch", "settings"),
    [
        ("sharing/swrn_16_2_bank2", "swrn_16_2_2", []),
        ("symmetry/resnet_bottleneck_16_4_tri", "symm_wrn_bottleneck_16_4", ["--set", "symm_type=tri"]),
        ("sparse/wrn28_2_s90", "sparse_wrn_28_2", []),
        ("lrunet/lrunet8_1x_fmnist", "lrunet8_100", []),
        ("paradise/pd_a_resnet18", "pd_a_resnet18", []),
    ],
)
def test_the_command_converts_a_checkpoint_of_each_paper(tmp_path, capsys, stray, file, arch, settings):
    g = load_golden(GOLDEN / f"{file}.safetensors")
    content = {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in g.state.items()}, "recorder": stray}
    torch.save(content, tmp_path / "model_best.pth.tar")
    del sys.modules["training_script_utils"]
    output = tmp_path / "x.safetensors"
    assert main(["import", str(tmp_path / "model_best.pth.tar"), "--as", arch, *settings, "-o", str(output)]) == 0
    assert "checkpoint_path" in capsys.readouterr().out
    kwargs = {"symm_type": "tri"} if settings else {}
    model = timm.create_model(arch, num_classes=g.logits.shape[1], in_chans=g.input.shape[1], **kwargs).eval()
    model.load_state_dict(load_file(output), strict=True)
    close(model(g.input), g.logits, 1e-4)


def test_a_checkpoint_of_another_network_names_the_keys(tmp_path):
    torch.save({"state_dict": STATE}, tmp_path / "x.pth")
    run = subprocess.run(
        [sys.executable, "-m", "zoo", "import", str(tmp_path / "x.pth"), "--as", "wrn_16_1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1
    assert "missing keys: conv_3x3.weight" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
