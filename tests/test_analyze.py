"""``zoo analyze``: numbers of small networks that are known, what is drawn and what not, and the folder."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.analysis.branches import BINS, branch_norms, gate_histograms
from zoo.analysis.density import density_history, layer_densities
from zoo.analysis.sharing import sharing_facts
from zoo.analysis.spectrum import kernel_spectra
from zoo.analysis.symmetry import symmetry_patterns
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.layers import PDAConv2d, PDBConv2d, SharedConv2d, TemplateBank, make_sparse
from zoo.makers import learned_of, make_weight
from zoo.makers.lowrank import LowRankWeight
from zoo.makers.masked import MaskedWeight
from zoo.makers.symmetric import make_symmetric


def test_loops_follow_from_similarity():
    bank = TemplateBank(2, 3, 3, 3)
    model = nn.Sequential(*(nn.Sequential(SharedConv2d(bank)) for _ in range(3)))
    for block, row in zip(model, ([3.0, 0.0], [-2.0, 0.0], [1.0, 1.0]), strict=True):
        learned_of(block[0]).data = torch.tensor(row)
    facts = sharing_facts(model)
    ((name, matrix),) = facts["similarity"].items()
    half = math.sqrt(0.5)
    np.testing.assert_allclose(matrix, [[1, 1, half], [1, 1, half], [half, half, 1]], atol=1e-7)
    assert facts["loops"]["0.999"] == [["0", "1"]] and facts["loops"]["0.5"] == [["0", "1", "2"]]
    np.testing.assert_allclose(np.square(facts["spectrum"][name]).sum(), 9 + 4 + 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "learned", "served"),
    [("tri", 90, {"1": 36, "2": 54}), ("spa", 96, {"1": 48, "2": 48}), ("chunk_0_2", 72, {"2": 72})],
)
def test_which_entries_are_one_value(kind, learned, served):
    conv = make_symmetric(nn.Conv2d(4, 4, 3), kind)
    found = symmetry_patterns(conv)
    (layer,), (pattern,) = found["layers"], found["patterns"]
    assert (layer["entries"], layer["learned"], layer["served"]) == (144, learned, served)
    numbers = np.array(pattern["channels"]), np.array(pattern["taps"])
    values = conv.weight.detach()[:, :, 0, 0].numpy(), conv.weight.detach()[0, 1].numpy()
    for number, value in zip(numbers, values, strict=True):
        same = number[..., None, None] == number
        assert (same == (value[..., None, None] == value)).all(), "equal entries have one number, others have others"
    np.testing.assert_allclose(pattern["kernel"], conv.weight.detach()[:, :, 1, 1], rtol=1e-4)


def test_density_and_how_it_moved():
    model = nn.Sequential(nn.Conv2d(2, 5, 1, bias=False), nn.Conv2d(5, 4, 1, bias=False))
    make_sparse(model[1], 0.75)
    layers = layer_densities(model)
    assert layers == [{"layer": "1", "active": 5, "entries": 20, "density": 0.25}]
    records = ({}, {"active": {"1": 10}, "moved": 3}, {"active": {"1": 5}})
    log = [{"epoch": k + 1, "sparse": record} for k, record in enumerate(records)]
    assert density_history(log, layers) == {"epochs": [2, 3], "density": {"1": [0.5, 0.25]}, "moved": [3, 0]}
    assert not density_history([{"epoch": 1, "sparse": {"active": {"other": 1}}}], layers)["epochs"]
    both = make_symmetric(nn.Conv2d(4, 4, 3), "tri")
    both.parametrizations.weight.insert(0, MaskedWeight((9, 10), 0.5))
    assert layer_densities(both)[0]["entries"] == 90, "of what is learned"


def test_norms_and_gates_of_branches():
    layer = PDBConv2d(2, 2, branches="standard1,skeleton").eval()
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(2.0)
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(4 - module.eps)
        nn.init.zeros_(layer.gate.fc2.weight)
        layer.gate.fc2.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    (found,) = branch_norms(nn.Sequential(layer))
    # each entry is 2 / 2; the skeleton's cross has four arms of 1 and a centre of 2
    assert found["norms"] == pytest.approx({"standard1": math.sqrt(2 * 2 * 9), "skeleton": math.sqrt(2 * 2 * 8)})
    plain = zoo.reparameterize(nn.Sequential(layer).eval())
    assert list(branch_norms(plain)[0]["norms"].values()) == pytest.approx(list(found["norms"].values()))
    for model in (nn.Sequential(layer), plain):
        (gates,) = gate_histograms(model, lambda model=model: [model(torch.randn(3, 2, 4, 4)) for _ in range(2)])
        assert gates["images"] == 6
        assert list(gates["mean"].values()) == pytest.approx([0.75, 0.25])
        assert [sum(c) for c in gates["counts"].values()] == [6, 6] and len(gates["counts"].popitem()[1]) == BINS
        assert not any(m._forward_hooks for m in model.modules())


def test_singular_values():
    conv, low = nn.Conv2d(2, 3, 1), make_weight(nn.Conv2d(4, 6, 3), LowRankWeight((6, 4, 3, 3), 2))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[:, :, None, None])
    first, second, third = kernel_spectra(nn.Sequential(conv, low, PDAConv2d(4, 4)).eval())
    assert first["values"] == [3, 1] and (first["rank"], first["rank_90"], first["rank_99"]) == (2, 1, 2)
    assert second["rank"] == 2 and second["makers"] == ["LowRankWeight"] and len(second["values"]) == 6
    assert third["shape"] == [4, 4, 3, 3] and third["makers"] == ["PDAConv2d"]
    with torch.no_grad():
        conv.weight.zero_()
    assert kernel_spectra(conv)[0]["rank_90"] == 0
    nn.init.constant_(conv.weight, math.nan)
    with pytest.raises(zoo.ZooError, match="1: the kernel has values that are not finite"):
        kernel_spectra(nn.Sequential(nn.ReLU(), conv))


def test_a_staged_sparse_weight_and_a_folder_that_is_replaced(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    name, folder = "sparse_wrn_16_1.zoo_dsr_s90_c10", tmp_path / "new" / "seen"
    assert main(["analyze", name, "-o", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "density_in_training.png" in out and "not drawn: gates" in err and "is made" not in err
    facts = json.loads((folder / "analysis.json").read_text())
    assert {p.name for p in folder.iterdir()} == {*facts["files"], "analysis.json"}
    for subject in ("density", "density_in_training", "singular_values"):
        assert (folder / f"{subject}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (folder / f"{subject}.svg").read_text()[-20:]
        assert subject in facts and subject not in facts["left_out"]
    at_last = {name: values[-1] for name, values in facts["density_in_training"]["density"].items()}
    assert at_last == {layer["layer"]: layer["density"] for layer in facts["density"]["layers"]}
    assert main(["analyze", "wrn_16_1.zoo_c10", "-o", str(folder)]) == 0
    assert "no kernel of this network is made" in capsys.readouterr().err
    assert {p.name for p in folder.iterdir()} == {"analysis.json", "singular_values.png", "singular_values.svg"}
    (folder / "mine.txt").write_text("kept")
    for words, part in (
        (["-o", str(folder)], "did not write"),
        (["-o", str(tmp_path / "x"), "--dataset", "cifar10"], "--data"),
        (["-o", str(tmp_path / "x"), "--limit", "0"], "--limit"),
    ):
        assert main(["analyze", "wrn_16_1.zoo_c10", *words]) == 1
        err = capsys.readouterr().err
        assert part in err and err.count("\n") == 1
    assert (folder / "mine.txt").read_text() == "kept" and not (tmp_path / "x").exists()


def test_a_saved_transformed_network_with_gates(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    model = zoo.transform(timm.create_model("wrn_16_1", in_chans=1), "pd_b", layers="stages.0.*")
    model.pretrained_cfg |= {"mean": (0.5,), "std": (0.5,), "input_size": (1, 28, 28)}
    timm.models.save_for_hf(model, tmp_path / "net", safe_serialization=True)
    words = ["analyze", str(tmp_path / "net"), "-o", str(tmp_path / "a")]
    assert main([*words, "--data", str(SAMPLE)]) == 1
    assert "--dataset NAME" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert main([*words, "--data", str(SAMPLE), "--dataset", "fashion-mnist", "--limit", "8"]) == 0
    facts = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert {"gates.png", "branch_norms.svg"} <= set(facts["files"])
    assert len(facts["gates"]["layers"]) == len(facts["branch_norms"]["layers"]) > 1
    for layer in facts["gates"]["layers"]:
        assert layer["images"] == 8 and list(layer["mean"].values()) == pytest.approx([0.25] * 4)
