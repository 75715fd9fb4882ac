"""Collapsed forms of staged weights: files of their own, verified like the weights, the same function."""

import ast
import json
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.utils.model import reparameterize_model
from torch.nn.utils import parametrize

import zoo
from conftest import ROOT
from loopback import running
from loopback_hub import Hub
from zoo.checkpoints import read_network
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.models.lrunet import ReuseBlock
from zoo.reparam.export import export
from zoo.reparam.record import input_size_of
from zoo.weights.fetch import fetch
from zoo.weights.manifest import collapsed_facts, weights

COLLAPSED = [name for name, entry in weights().items() if (entry.get("collapsed") or {}).get("path")]
NAME = "lrunet1_100.zoo_fmnist"


def test_every_weight_of_ours_says_what_became_of_its_collapsed_form():
    ours = [name for name, entry in weights().items() if entry["origin"] == "zoo"]
    assert ours
    for name in ours:
        form = weights()[name]["collapsed"]
        assert form["path"] or form["reason"], name


@pytest.mark.parametrize("name", COLLAPSED)
def test_the_collapsed_file_is_the_same_function_in_plain_layers(name):
    model, plain = zoo.create_model(name, pretrained=True).eval(), zoo.load_collapsed(name)
    assert not plain.training
    assert not any(parametrize.is_parametrized(m) or isinstance(m, ReuseBlock) for m in plain.modules())
    assert {type(m) for m in plain.modules() if next(m.parameters(recurse=False), None) is not None} <= {
        torch.nn.Conv2d,
        torch.nn.BatchNorm2d,
        torch.nn.Linear,
    }
    x = torch.randn(2, *input_size_of(model), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, scores = model.double()(x.double()), plain.double()(x.double())
    # the file has float32: kernels of several branches, or with a batch norm folded in, are rounded once
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


def test_other_bytes_are_refused_and_the_way_out_is_named(entries, own_cache, tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    shutil.copytree(ROOT / "hub" / NAME, folder / NAME)
    monkeypatch.setenv("ZOO_HUB", str(folder))
    zoo.load_collapsed(NAME)
    path = folder / NAME / "model.collapsed.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(zoo.HashMismatchError, match="sha256"):
        zoo.load_collapsed(NAME)
    shutil.copy(folder / NAME / "model.safetensors", path)
    with pytest.raises(zoo.HashMismatchError, match="sha256"):
        zoo.load_collapsed(NAME)  # not the other file of the same weight either
    entries[NAME]["collapsed"] = {"path": None, "reason": "30,000,000 bytes, and a staged file has at most 25,000,000"}
    with pytest.raises(zoo.WeightError, match=r"30,000,000 bytes.*zoo\.reparameterize"):
        zoo.load_collapsed(NAME)
    with pytest.raises(zoo.WeightError, match=r"none has been made.*zoo\.reparameterize"):
        zoo.load_collapsed("lrunet1_100.okankop_fmnist")
    with pytest.raises(zoo.UnknownNameError, match="lrunet1_100"):
        zoo.load_collapsed("lrunet1_100.zoo_fmnits")


def test_it_comes_from_the_hub_where_the_weight_comes_from(entries, own_cache, tmp_path, monkeypatch):
    """Nothing staged: the file beside the weight's in the repository, once; damaged on the way, it is refused."""
    content = (ROOT / "hub" / NAME / "model.collapsed.safetensors").read_bytes()
    commit = "0123456789abcdef0123456789abcdef01234567"
    entries[NAME]["sources"] = [{"kind": "hub", "repo": "org/weight", "revision": commit, "file": "model.safetensors"}]
    monkeypatch.setattr("zoo.weights.fetch.shipped_hub", lambda: tmp_path / "none")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "none"))
    with running(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files["org/weight/model.collapsed.safetensors"] = bytes(len(content))
        with pytest.raises(zoo.WeightError, match="sha256"):
            zoo.load_collapsed(NAME)
        server.files["org/weight/model.collapsed.safetensors"] = content
        zoo.load_collapsed(NAME)
        found, asked = fetch(NAME, collapsed=True), len(server.requests)
        zoo.load_collapsed(NAME)
        assert len(server.requests) == asked
    assert found.path.read_bytes() == content
    assert found.sha256 == collapsed_facts(NAME)["sha256"] != entries[NAME]["sha256"]


def test_verify_and_validate_know_it(entries, tmp_path, monkeypatch, capsys):
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--limit", "300"]
    assert main(words) == 0
    plain = capsys.readouterr().out.splitlines()[-1].split()
    assert main([*words, "--collapsed"]) == 0
    collapsed = capsys.readouterr().out.splitlines()[-1].replace(" (collapsed)", "").split()
    assert collapsed[:-1] == plain[:-1], "all but the speed"

    folder = tmp_path / "hub"
    shutil.copytree(ROOT / "hub" / NAME, folder / NAME)
    monkeypatch.setenv("ZOO_HUB", str(folder))
    assert main(["verify", NAME]) == 0
    assert "staged, collapsed" in capsys.readouterr().out
    path = folder / NAME / "model.collapsed.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", NAME]) == 1
    assert f"{path}: " in capsys.readouterr().err


# ---- a collapsed network comes back from the folder it is saved to ----

FORMS = [  # network, its arguments, options of the pass, architecture that the folder names
    ("swrn_28_1_2", {}, {}, "wrn_28_1"),
    ("swrn_16_1_2", {"num_classes": 7, "in_chans": 2}, {"batch_norm": "fold"}, "swrn_16_1_2"),
    ("symm_wrn_16_1", {"num_classes": 7, "in_chans": 2}, {}, "wrn_16_1"),
    ("symm_wrn_bottleneck_16_1", {}, {}, "symm_wrn_bottleneck_16_1"),
    ("swrn", {"depth": 16, "width": 3}, {}, "wrn"),
    ("sparse_wrn_16_1", {"reparam": "tied"}, {}, "wrn_16_1"),
    ("sparse_mlp_300_100", {"num_classes": 7}, {"batch_norm": "fold"}, "sparse_mlp_300_100"),
    ("pd_a_resnet18_half_cifar", {"in_chans": 1, "width": 1 / 8}, {}, "pd_a_resnet18_half_cifar"),
    (
        "pd_b_resnet18_half_cifar",
        {"num_classes": 7, "width": 0.125},
        {"batch_norm": "fold"},
        "pd_b_resnet18_half_cifar",
    ),
    ("lrunet2_100", {"num_classes": 7}, {"batch_norm": "fold", "reuse": "unroll"}, "lrunet2_100"),
    ("wrn_16_1", {}, {"batch_norm": "fold"}, "wrn_16_1"),
]


def random_network(name, **arguments):
    """A network whose batch norms and coefficients are not those that every network begins with."""
    torch.manual_seed(0)
    model = zoo.create_model(name, **arguments).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() < 2 else 0))
    return model


def gap(model, other, size=None):
    channels, *sides = input_size_of(model)
    x = torch.randn(2, model._model_args.get("in_chans", channels), *(size or sides)).double()
    with torch.no_grad():
        expected, found = model.double()(x), other.double().eval()(x)
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("name", "arguments", "options", "architecture"), FORMS)
def test_a_folder_says_what_was_collapsed_and_comes_back(name, arguments, options, architecture, tmp_path):
    model = random_network(name, **arguments)
    plain = zoo.reparameterize(zoo.reparameterize(model), **options)  # twice is once
    for turn in ("first", "again"):
        save_for_hf(plain, tmp_path / turn, safe_serialization=True)
        config = json.loads((tmp_path / turn / "config.json").read_text())
        assert any(note.startswith(f"collapsed from {name}: ") for note in config["pretrained_cfg"]["notes"])
        plain = timm.create_model(f"local-dir:{tmp_path / turn}", pretrained=True).eval()
        assert not any(parametrize.is_parametrized(m) for m in plain.modules())
        assert gap(model, plain) < 1e-6  # kernels are rounded to float32
    if "batch_norm" not in options or name != "swrn_16_1_2":  # which is a wrn_16_1 first
        assert config["architecture"] == architecture
    assert ("collapsed" in config["model_args"]) == (not architecture.startswith("wrn") or bool(options))
    other = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True, num_classes=3)
    assert other.num_classes == 3
    assert torch.equal(next(other.parameters()), next(plain.float().parameters()))


def test_a_stock_network_needs_no_code_of_ours(tmp_path):
    model = random_network("symm_resnet50", num_classes=5)
    save_for_hf(zoo.reparameterize(model), tmp_path, safe_serialization=True)
    x = torch.randn(2, 3, 64, 64)
    torch.save((x, model(x).detach()), tmp_path / "scores.pt")
    code = "import sys, timm, torch; folder = sys.argv[1]; x, y = torch.load(folder + '/scores.pt');"
    code += "found = timm.create_model('local-dir:' + folder, pretrained=True).eval()(x);"
    code += "assert 'zoo' not in sys.modules; print(float((found - y).abs().max() / y.abs().max()))"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 1e-5
    model = random_network("pd_a_resnet18_half_cifar", width=1 / 16, in_chans=1)
    save_for_hf(zoo.to_stock(model), tmp_path / "half", safe_serialization=True)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert (config["architecture"], config["model_args"]["width"]) == ("resnet18_cifar", 1 / 16)
    assert gap(model, timm.create_model(f"local-dir:{tmp_path / 'half'}", pretrained=True)) < 1e-6


def test_another_function_gets_no_plain_name():
    with torch.device("meta"):
        for arguments in ({"act_layer": "gelu"}, {"output_stride": 8}, {"avg_down": True}):
            plain = zoo.reparameterize(timm.create_model("symm_resnet50", **arguments).eval())
            assert plain.pretrained_cfg["architecture"] == "symm_resnet50", arguments


def test_a_collapsed_file_that_does_not_say_so_names_the_argument(tmp_path):
    model = random_network("swrn_16_1_2")
    save_for_hf(reparameterize_model(model), tmp_path, safe_serialization=True)  # timm's walk
    with pytest.raises(zoo.WeightError, match=r"add the argument collapsed=\{'batch_norm': 'keep'\}") as caught:
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert "\n" not in str(caught.value)
    found = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, collapsed={"batch_norm": "keep"})
    assert gap(model, found) < 1e-6
    with pytest.raises(zoo.ZooError, match="collapsed holds options"):
        zoo.create_model("swrn_16_1_2", collapsed={"fold": True})


def test_an_exported_file_is_read_again(tmp_path):
    model = random_network("sparse_mlp_300_100")
    export(model, tmp_path / "x.safetensors", "safetensors", batch_norm="fold")
    assert gap(model, read_network(tmp_path / "x.safetensors", "sparse_mlp_300_100").model) < 1e-6


def test_every_batch_norm_that_can_be_is_folded():
    for name in ("swrn_28_1_2.zoo_c10", "pd_a_resnet18_half_cifar.zoo_e6_c10"):
        for choice in ({}, {"batch_norm": "keep"}):
            plain = zoo.load_collapsed(name, **choice)
            further = zoo.reparameterize(plain, batch_norm="fold")
            assert (plain.state_dict().keys() == further.state_dict().keys()) == (not choice)
    with pytest.raises(zoo.ZooError, match="'keep' or 'fold'"):
        zoo.load_collapsed(name, batch_norm="drop")


@pytest.mark.parametrize("name", ["wrn_16_1.zoo_c10", "symm_wrn_16_1.zoo_c10", "lrunet1_100.zoo_fmnist"])
def test_a_folder_with_nothing_but_the_collapsed_file_says_how_to_read_it(name, tmp_path):
    """With batch norms gone and counters of steps missing, as with kernels made once; and what it says works."""
    for file in ("config.json", "model.collapsed.safetensors"):
        shutil.copy(ROOT / "hub" / name / file, tmp_path)
    with pytest.raises(zoo.ZooError, match="does not say so: add the argument collapsed=") as said:
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    options = ast.literal_eval(str(said.value).partition("collapsed=")[2].removesuffix("."))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, collapsed=options).eval()
    x = torch.randn(2, *input_size_of(model), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(model(x), zoo.load_collapsed(name)(x), rtol=1e-4, atol=1e-4)
