"""LruNet and its four baselines: protocol, parity with the paper's code, parameter counts, argument checks."""

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import zoo
from golden import load_golden
from protocol import randomise
from testers import FamilyTester
from zoo.models.lrunet import ReuseBlock
from zoo.reparam.export import export

GOLDEN = sorted((Path(__file__).parent / "golden" / "lrunet").glob("*.safetensors"))


class TestFamily(FamilyTester):
    family = "lrunet"
    small = (
        "lrunet2_100",
        "lru_mobilenet_025",
        "lru_mobilenetv2_025",
        "lru_shufflenet_g3_025",
        "lru_shufflenetv2_025",
    )
    counts = {
        "lrunet": 171_722,
        "lrunet1_100": 131_402,
        "lrunet2_100": 137_162,
        "lrunet8_100": 171_722,
        "lrunet10_100": 183_242,
        "lrunet14_100": 206_282,
        "lrunet1_200": 467_786,
        "lrunet14_200": 617_546,
        "lru_mobilenet_025": 215_642,
        "lru_mobilenet_040": 530_317,
        "lru_mobilenet_100": 3_217_226,
        "lru_mobilenetv2_025": 249_122,
        "lru_mobilenetv2_040": 487_958,
        "lru_mobilenetv2_100": 2_236_682,
        "lru_mobilenetv2_140": 4_307_510,
        "lru_shufflenet_g3_025": 63_568,
        "lru_shufflenet_g3_050": 228_565,
        "lru_shufflenet_g3_075": 494_743,
        "lru_shufflenet_g3_100": 862_480,
        "lru_shufflenet_g8_100": 860_810,
        "lru_shufflenet_g8_200": 3_278_346,
        "lru_shufflenetv2_025": 211_082,
        "lru_shufflenetv2_050": 352_042,
        "lru_shufflenetv2_075": 476_158,
        "lru_shufflenetv2_100": 1_263_854,
        "lru_shufflenetv2_150": 2_488_874,
        "lru_shufflenetv2_200": 5_338_026,
    }


def golden(path: Path):
    if path.stem.startswith("released"):
        from conftest import data_folder

        if data_folder() is None or not (data_folder() / "checkpoints" / "lrunet").is_dir():
            pytest.skip("set ZOO_TEST_DATA to the folder that holds checkpoints/lrunet")
        return load_golden(path, data_folder() / "checkpoints" / "lrunet")
    return load_golden(path)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parity(path):
    g = golden(path)
    model = zoo.load_reference(zoo.create_reference(g.family, g.arch, **g.args), g.state).double().eval()
    scores = model(g.input.double())
    assert (scores - g.logits).abs().max() <= 1e-6 * g.logits.abs().max()
    if "learnable_parameters" in g.metadata:
        assert sum(p.numel() for p in model.parameters()) == int(g.metadata["learnable_parameters"])


def test_golden_files_are_there():
    assert len(GOLDEN) == 14


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference_state_dict_with_and_without_wrapper(prefix):
    g = load_golden(GOLDEN[0].parent / "lrunet2_2x_cifar10.safetensors")
    state = {prefix + key: value for key, value in g.state.items() if not key.endswith("num_batches_tracked")}
    model = zoo.load_reference(zoo.create_reference("lrunet", "lrunet", **g.args), state)
    assert torch.equal(model.stages[3].block.dw.weight, g.state["stage4.dw.weight"])


def test_wrong_reference_state_dicts_are_refused_by_key():
    g = load_golden(GOLDEN[0].parent / "lrunet2_2x_cifar10.safetensors")
    model = zoo.create_reference("lrunet", "lrunet", **g.args)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    missing = {key: value for key, value in g.state.items() if key != "stage3.pw_bn_list.1.bias"}
    with pytest.raises(zoo.WeightError, match=r"missing keys: stage3\.pw_bn_list\.1\.bias"):
        zoo.load_reference(model, missing)
    with pytest.raises(zoo.WeightError, match=r"unexpected keys: stage5\.dw\.weight"):
        zoo.load_reference(model, {**g.state, "stage5.dw.weight": torch.zeros(1)})
    with pytest.raises(zoo.WeightError, match=r"wrong shapes: classifier\.4\.bias \(9,\) instead of \(10,\)"):
        zoo.load_reference(model, {**g.state, "classifier.4.bias": torch.zeros(9)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_structural_errors_would_show():
    """The parity test fails for a network that shares one batch norm or skips the swap: it can fail."""
    g = load_golden(GOLDEN[0].parent / "lrunet8_1x_fmnist.safetensors")
    model = zoo.load_reference(zoo.create_reference("lrunet", "lrunet", **g.args), g.state).double().eval()
    model.stages[0].block.pw_bns[1] = model.stages[0].block.pw_bns[0]
    assert (model(g.input.double()) - g.logits).abs().max() > 5e-3 * g.logits.abs().max()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("lrunet", "lrunet", {"width_mult": 1.5}), "width_mult 1 and 2"),
        (("lrunet", "lrunet", {"layer_reuse": 0}), "from 1"),
        (("lrunet", "lrunet", {"depth": 3}), "layer_reuse"),
        (("lrunet", "resnet", {}), "shufflenetv2"),
        (("lru", "lrunet", {}), "lrunet"),
        (("lrunet", "shufflenet", {"groups": 4}), "3"),
        (("lrunet", "shufflenetv2", {"width_mult": 0.3}), "0.25"),
    ],
)
def test_unknown_reference_words_list_the_valid_ones(args, message):
    family, arch, kwargs = args
    with pytest.raises(zoo.ZooError, match=message):
        zoo.create_reference(family, arch, **kwargs)


@pytest.mark.parametrize("side", [17, 28, 32])
def test_lrunet_accepts_17_to_32_pixels(side):
    assert zoo.create_model("lrunet2_100").eval()(torch.zeros(1, 3, side, side)).shape == (1, 10)


@pytest.mark.parametrize("side", [16, 33, 64])
def test_lrunet_refuses_other_sizes_instead_of_more_scores(side):
    with pytest.raises(zoo.ZooError, match="17 to 32 pixels"):
        zoo.create_model("lrunet2_100").eval()(torch.zeros(1, 3, side, side))


def test_initialisation_is_kaiming_fan_out_without_groups():
    torch.manual_seed(0)
    weight = zoo.create_model("lrunet1_100").stages[3].block.dw.weight  # 1024 outputs of 3x3
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (1024 * 9)), rel=0.05)


def test_repeated_channels_make_the_convolution_with_a_multiplier():
    from zoo.layers import repeat_channels

    weight, x = torch.randn(18, 1, 3, 3, dtype=torch.double), torch.randn(2, 6, 5, 7, dtype=torch.double)
    multiplied = torch.nn.functional.conv2d(x, weight, padding=1, groups=6)
    ordinary = torch.nn.functional.conv2d(repeat_channels(x, 3), weight, padding=1, groups=18)
    torch.testing.assert_close(ordinary, multiplied, rtol=1e-12, atol=1e-12)


def test_authors_files_hold_the_architectures_of_their_names(released):
    paths = sorted(released.glob("*.safetensors"))
    assert len(paths) == 18
    for path in paths:
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        model = zoo.create_reference("lrunet", meta["arch"], **json.loads(meta["args"]))
        state = load_file(path)
        zoo.load_reference(model, state)
        first = next(name for name in model.state_dict() if name.startswith("stem"))
        assert torch.equal(model.state_dict()[first], state[model.reference_key(first)])


def test_paper_arguments_reach_the_generic_entry():
    model = timm.create_model("lrunet", layer_reuse=3, width_mult=2, drop_rate=0.25, num_classes=7)
    assert len(model.stages[0].block.dw_bns) == 3
    assert model.head.drop.p == 0.25
    assert model.head.fc.out_channels == 7


def test_onnx_files_of_unrolled_blocks_hold_plain_depthwise_convolutions_of_the_same_function(tmp_path):
    """Engines run these several times as fast as one of a repeated map; all kernels are constants of their own."""
    onnx = pytest.importorskip("onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession
    x = torch.randn(2, 256, 4, 4)  # kernels of more entries than torch makes constants of
    model = randomise(torch.nn.Sequential(ReuseBlock(256, 2))).eval()
    file = tmp_path / "model.onnx"
    export(model, file, "onnx", example=x, batch_norm="fold", reuse="unroll")
    nodes = onnx.load(file).graph.node
    constants = {tensor.name for tensor in onnx.load(file).graph.initializer}
    convs = [node for node in nodes if node.op_type == "Conv"]
    assert len(convs) == 2 * 4
    assert all(set(node.input[1:]) <= constants for node in convs)
    (found,) = session(file).run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-4, atol=1e-5)
