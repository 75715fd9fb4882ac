"""Collapsed forms of staged weights: files of their own, verified like the weights, the same function."""

import shutil

import pytest
import torch
from torch.nn.utils import parametrize

import zoo
from conftest import ROOT
from loopback import running
from loopback_hub import Hub
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.models.lrunet import ReuseBlock
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
    x = torch.randn(4, *input_size_of(model), generator=torch.Generator().manual_seed(3))
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
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE)]
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
