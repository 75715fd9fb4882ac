"""Soft parameter sharing: protocol, parity with the paper's code, counts, the layers in a user's CNN, analysis."""

import copy
import math
from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
from timm.models import load_checkpoint, save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

import zoo
from golden import load_golden
from protocol import close, randomise
from testers import FamilyTester
from zoo.analysis import (
    cluster_layers,
    coefficient_spectrum,
    compress_banks,
    fold_layers,
    layer_clusters,
    layer_similarity,
    recurrent_runs,
)
from zoo.layers import SharedConv2d, TemplateBank, share_weights, sharing_groups
from zoo.layers.sharing import coefficient_names
from zoo.makers import learned_of, maker_of, set_learned
from zoo.models.swrn import SharedWideResNet, swrn_from_plain
from zoo.models.swrn_imagenet import SharedResNet

GOLDEN = sorted((Path(__file__).parent / "golden" / "sharing").glob("*.safetensors"))


class TestFamily(FamilyTester):
    family = "sharing"
    small = ("swrn_16_1_2", "wrn_16_1")
    counts: ClassVar[dict[str, int]] = {
        "wrn": 36_479_194,
        "wrn_28_10": 36_479_194,
        "wrn_16_2": 691_674,
        "swrn": 17_125_630,
        "swrn_28_10_1": 12_287_212,
        "swrn_28_10_2": 17_125_630,
        "swrn_28_10_4": 26_802_466,
        "swrn_28_10_6": 36_479_302,
        "swrn_28_14_2": 33_537_790,
        "swrn_28_14_6": 71_470_918,
        "swrn_28_18_2": 55_414_014,
        "swrn_28_18_6": 118_119_750,
        "swrn_28_4_1": 1_978_348,
        "swrn_40_4_3": 3_530_292,
        "swrn_40_4_10": 8_949_510,
        "swrn_40_8_2": 10_975_766,
        "swrn_22_2_4": 1_079_690,
        "swrn_16_4_2": 2_748_902,
        "swrn_16_2_2": 691_686,
        "swrn_16_1_2": 175_078,
        "swrn_50_2": 68_883_282,
    }


class ReadmeCnn(nn.Module):
    """The CNN of the paper's README, with any number of templates."""

    def __init__(self, num_templates: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=3, stride=1, padding=0)
        self.bank = TemplateBank(num_templates=num_templates, in_planes=10, out_planes=10, kernel_size=3)
        self.conv2 = SharedConv2d(bank=self.bank, stride=1, padding=1)
        self.conv3 = SharedConv2d(bank=self.bank, stride=1, padding=1)
        self.conv4 = SharedConv2d(bank=self.bank, stride=1, padding=1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return F.relu(self.conv4(x))


def readme_cnn(*rows: list[float]) -> ReadmeCnn:
    """In float64, with given coefficients of conv2, conv3 and conv4."""
    torch.manual_seed(0)
    model = ReadmeCnn(len(rows[0]) if rows else 3).double()
    for conv, row in zip((model.conv2, model.conv3, model.conv4), rows, strict=False):
        set_learned(conv, torch.tensor(row, dtype=torch.float64))
    return model


def network(*args, **kwargs) -> SharedWideResNet:
    """A randomised network in float64 and eval mode."""
    torch.manual_seed(0)
    return randomise(SharedWideResNet(*args, **kwargs)).double().eval()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GREY = IMAGES[:, :1, :9, :9]


# ----------------------------------------------------------------------------------------------- the paper's own code


def test_golden_files_are_there():
    assert len(GOLDEN) == 4


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parity(path):
    g = load_golden(path)
    model = zoo.load_reference(zoo.create_reference(g.family, g.arch, **g.args), g.state).eval()
    assert size(model) == int(g.metadata["parameters"])
    close(model(g.input), g.logits, 100 * float(g.metadata["relative_float32_noise"]))
    close(model.double()(g.input.double()), g.logits, 1e-6)


def test_swapped_coefficients_would_show():
    """The tolerance of the parity test is far below what an exchange of two layers' coefficients changes."""
    g = load_golden(GOLDEN[0].parent / "swrn_16_2_bank2.safetensors")
    state = dict(g.state)
    a, b = "stage_3.1.conv1.coefficients", "stage_3.1.conv2.coefficients"
    state[a], state[b] = state[b], state[a]
    model = zoo.load_reference(zoo.create_reference(g.family, g.arch, **g.args), state).double().eval()
    change = (model(g.input.double()) - g.logits).abs().max() / g.logits.abs().max()
    expected = float(g.metadata["relative_change_if_last_two_coefficient_vectors_are_swapped"])
    assert change.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("aliases", [True, False])
def test_reference_state_dict_with_and_without_wrapper_and_aliases(prefix, aliases):
    g = load_golden(GOLDEN[0].parent / "swrn_16_1_bank2.safetensors")
    state = {prefix + k: v for k, v in g.state.items() if aliases or not k.endswith(".bank.templates")}
    assert len(state) == len(g.state) - (0 if aliases else 9)
    model = zoo.load_reference(zoo.create_reference("sharing", "swrn", **g.args), state)
    assert torch.equal(model.banks[2].templates, g.state["bank_3.templates"])
    learned = learned_of(model.stages[0][1].conv2)
    assert torch.equal(learned, g.state["stage_1.1.conv2.coefficients"].flatten())
    assert not any("bank." in name for name in model.state_dict())


def test_wrong_reference_state_dicts_are_refused_by_key():
    g = load_golden(GOLDEN[0].parent / "swrn_16_1_bank2.safetensors")
    model = zoo.create_reference("sharing", "swrn", **g.args)
    before = copy.deepcopy(model.state_dict())

    def refused(change: dict, message: str) -> None:
        state = {k: v for k, v in {**g.state, **change}.items() if v is not None}
        with pytest.raises(zoo.WeightError, match=message):
            zoo.load_reference(model, state)

    bank, alias, coefficients = "bank_2.templates", "stage_2.1.conv1.bank.templates", "stage_2.1.conv1.coefficients"
    refused({"stage_3.0.convShortcut.weight": None}, r"missing keys: stage_3\.0\.convShortcut\.weight")
    refused({bank: None}, r"missing keys: bank_2\.templates")
    refused({coefficients: None}, r"missing keys: stage_2\.1\.conv1\.coefficients")
    refused({"stage_1.0.convShortcut.weight": torch.zeros(1)}, r"unexpected keys: stage_1\.0\.convShortcut\.weight")
    refused({"stage_2.0.bank.templates": g.state[bank]}, r"unexpected keys: stage_2\.0\.bank\.templates")
    refused({alias: g.state[bank] * 1.001}, r"stage_2\.1\.conv1\.bank\.templates.*differ")
    refused({bank: g.state[bank] * 1.001}, r"stage_2\.1\..*bank\.templates.*differ")
    refused({coefficients: torch.zeros(3, 1, 1, 1, 1)}, r"stage_2\.1\.conv1\.coefficients \(3,\) instead of \(2,\)")
    refused({coefficients: torch.zeros(2)}, r"stage_2\.1\.conv1\.coefficients.*\(T, 1, 1, 1, 1\)")
    refused({"classifier.bias": torch.zeros(9)}, r"wrong shapes: classifier\.bias \(9,\) instead of \(10,\)")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"depth": 10, "num_templates": 2}, "nothing to share"),
        ({"depth": 10}, "nothing to share"),
        ({"depth": 18, "num_templates": 2}, "6n \\+ 4"),
        ({"num_templates": 0}, "integer from 1"),
        ({"num_templates": -2}, "integer from 1"),
        ({"num_templates": 1.5}, "integer from 1"),
        ({"width": 1.5, "num_templates": 2}, "integers"),
        ({"depth": "28", "num_templates": 2}, "integers"),
        ({"width": 0, "num_templates": 2}, "larger"),
        ({"bank_size": 2}, "num_templates"),
    ],
)
def test_wrong_arguments_are_refused(args, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.create_reference("sharing", "swrn", **args)


def test_the_plain_network_may_have_one_block_per_stage():
    with torch.device("meta"):
        assert len(zoo.create_reference("sharing", "wrn", depth=10, width=1, num_classes=3).stages[0]) == 1


# ------------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize(
    ("depth", "width", "templates", "classes", "expected"),
    [(28, 10, 1, 100, 12_344_902), (28, 10, 2, 100, 17_183_320), (28, 10, 6, 100, 36_536_992), (22, 3, 9, 5, None)],
)
def test_counts_follow_the_closed_form(depth, width, templates, classes, expected):
    with torch.device("meta"):
        plain = zoo.create_reference("sharing", "wrn", depth=depth, width=width, num_classes=classes)
        shared = zoo.create_reference(
            "sharing", "swrn", depth=depth, width=width, num_templates=templates, num_classes=classes
        )
    layers = 2 * ((depth - 4) // 6 - 1)
    squares = sum((16 * width * 2**s) ** 2 for s in range(3))
    assert size(shared) == size(plain) + (templates - layers) * 9 * squares + 3 * layers * templates
    assert size(shared) == (expected or size(shared))


def test_num_templates_left_out_means_as_many_as_layers():
    with torch.device("meta"):
        assert size(zoo.create_reference("sharing", "swrn", depth=16, width=4)) == 2_748_902


def test_sharing_the_first_blocks_second_convolution_saves_its_kernels():
    with torch.device("meta"):
        usual, more = (zoo.create_model("swrn_28_10_2", share_second=flag) for flag in (False, True))
    assert size(usual) - size(more) == 4_838_400 - 3 * 2
    assert [len(group.convs) for group in sharing_groups(more)] == [7, 7, 7]


def test_bank_sizes_may_differ_between_stages():
    model = zoo.create_model("swrn_16_1_2", bank_size=[1, 3, 2])
    assert [bank.num_templates for bank in model.banks] == [1, 3, 2]
    with pytest.raises(zoo.ZooError, match="list of three"):
        zoo.create_model("swrn_16_1_2", bank_size=[1, 2])


def test_what_is_shared():
    model = zoo.create_model("swrn_22_2_4")
    groups = sharing_groups(model)
    assert [group.name for group in groups] == ["banks.0", "banks.1", "banks.2"]
    for stage, group in enumerate(groups):
        assert list(group.convs) == [f"stages.{stage}.{b}.conv{c}" for b in (1, 2) for c in (1, 2)]
        assert group.bank.templates.shape == (4, 32 * 2**stage, 32 * 2**stage, 3, 3)
    assert sharing_groups(zoo.create_model("wrn_16_1")) == []


@pytest.mark.parametrize("templates", [2, 4, 7])
def test_initialisation(templates):
    torch.manual_seed(0)
    model = SharedWideResNet(22, 2, templates)
    before = model.banks[2].templates.clone()
    model.reset_parameters()
    assert not torch.equal(before, model.banks[2].templates)
    for group in sharing_groups(model):
        rows = group.coefficients
        product = rows.T @ rows if templates <= 4 else rows @ rows.T
        torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)
        fan_in = group.bank.templates[0, 0].numel()
        assert group.bank.templates.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)


def test_weight_decay_leaves_the_coefficients_out():
    model = zoo.create_model("swrn_16_1_2")
    names = model.no_weight_decay()
    assert len(names) == 6
    assert all(name.endswith("parametrizations.weight.original") for name in names)
    parameters = dict(model.named_parameters())
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=5e-4, filter_bias_and_bn=False)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in parameters.items() if decay[id(p)] == 0} == names
    assert zoo.create_model("wrn_16_1").no_weight_decay() == set()


def test_pruned_networks_lose_the_banks_they_no_longer_use():
    features = timm.create_model("swrn_16_1_2", features_only=True, out_indices=(0, 1))
    assert len(features.model.banks) == 2
    imagenet = SharedResNet(1, num_classes=0)
    imagenet.prune_intermediate_layers([0, 1, 2])
    assert list(imagenet.banks) == ["layer1_conv2", "layer2_conv2"]
    sum(level.sum() for level in imagenet.forward_intermediates(torch.randn(2, 3, 32, 32), [0, 1, 2])[1]).backward()
    assert all(p.grad is not None for p in imagenet.parameters())


@pytest.mark.parametrize(
    ("templates", "roles", "expected"),
    [
        (1, "3x3", 48_681_780),
        (2, "3x3", 61_215_552),
        (3, "3x3", 64_164_680),
        (5, "3x3", 68_883_282),
        (1, "all", 39_703_372),
        (2, "all", 57_807_728),
        (3, "all", 62_067_592),
        (5, "all", 68_883_366),
        (9, "all", 68_883_366),
    ],
)
def test_imagenet_counts(templates, roles, expected):
    with torch.device("meta"):
        assert size(zoo.create_model("swrn_50_2", bank_size=templates, roles=roles)) == expected


def test_imagenet_arguments_are_checked():
    for wrong in ({"roles": "1x1"}, {"bank_size": 0}, {"bank_size": [1, 2]}):
        with pytest.raises(zoo.ZooError, match=r"3x3, all|integer from 1"):
            SharedResNet(**wrong)


# ------------------------------------------------------------------------------------------- layers and reparameterize


def test_readme_cnn_lists_the_bank_once():
    model = ReadmeCnn()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {
        "conv1.weight": (10, 1, 3, 3),
        "conv1.bias": (10,),
        "bank.templates": (3, 10, 10, 3, 3),
        **{f"conv{i}.parametrizations.weight.original": (3,) for i in (2, 3, 4)},
    }
    assert {name for name, _ in model.named_parameters()} == set(shapes)
    assert coefficient_names(model) == {name for name in shapes if name.endswith("original")}
    assert all(isinstance(conv, nn.Conv2d) and conv.bias is None for conv in (model.conv2, model.conv3, model.conv4))


def test_shared_kernel_is_the_weighted_sum():
    model = readme_cnn([0.5, -2.0, 3.0])
    b = model.bank.templates
    torch.testing.assert_close(model.conv2.weight, 0.5 * b[0] - 2 * b[1] + 3 * b[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.bank(torch.tensor([0.5, -2, 3]).double().view(3, 1, 1, 1, 1)), model.conv2.weight)
    x = torch.randn(2, 10, 8, 8, dtype=torch.float64)
    strided = SharedConv2d(model.bank, stride=2, padding=0)
    torch.testing.assert_close(strided(x), F.conv2d(x, strided.weight, stride=2))


def test_deep_copy_ties_the_copy_to_its_own_bank():
    model = readme_cnn()
    expected = model(GREY).detach()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(GREY), expected)
    assert {maker_of(conv).bank for conv in (twin.conv2, twin.conv3, twin.conv4)} == {twin.bank}
    nn.init.zeros_(twin.bank.templates)
    assert twin(GREY).abs().max() == 0
    assert torch.equal(model(GREY), expected)


def test_bank_follows_the_network():
    model = readme_cnn().float().to(memory_format=torch.channels_last)
    assert model.conv2.weight.dtype == torch.float32
    close(model(GREY.float()), readme_cnn()(GREY), 1e-5)
    empty = model.to("meta").to_empty(device="cpu")
    assert empty.bank.templates.shape == (3, 10, 10, 3, 3)
    empty.load_state_dict(readme_cnn().float().state_dict(), assign=True)
    close(empty(GREY.float()), readme_cnn()(GREY), 1e-5)
    assert model.to(torch.bfloat16)(GREY.to(torch.bfloat16)).dtype == torch.bfloat16


def test_bank_learns_from_every_layer():
    model = readme_cnn([1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0])
    model(GREY).square().sum().backward()
    gradient = model.bank.templates.grad
    assert gradient[:2].abs().amax((1, 2, 3, 4)).min() > 0
    assert torch.equal(gradient[2], torch.zeros_like(gradient[2]))
    assert learned_of(model.conv2).grad.abs().min() > 0  # also for the template it does not use yet


def test_readme_cnn_exports_and_traces():
    model = readme_cnn().eval()
    assert torch.equal(torch.fx.symbolic_trace(model)(GREY), model(GREY))
    exported = torch.export.export(model, (GREY,), strict=False)
    assert len({tensor.data_ptr() for name, tensor in exported.state_dict.items() if "templates" in name}) == 1
    close(exported.module()(GREY), model(GREY), 1e-12)


def test_maker_round_trips():
    model = readme_cnn([0.5, -2.0, 3.0])
    maker, kernel = maker_of(model.conv2), model.conv2.weight.detach()
    torch.testing.assert_close(maker.right_inverse(kernel), learned_of(model.conv2).detach(), rtol=1e-12, atol=1e-12)
    once = maker(maker.right_inverse(torch.randn_like(kernel)))
    torch.testing.assert_close(maker(maker.right_inverse(once)), once, rtol=1e-12, atol=1e-12)
    other = torch.randn_like(kernel)
    residual = (other - maker(maker.right_inverse(other))).flatten()
    assert (model.bank.templates.flatten(1) @ residual).abs().max() < 1e-10  # the closest combination
    model.conv3.weight = kernel
    torch.testing.assert_close(model.conv3.weight, kernel, rtol=1e-12, atol=1e-12)


def test_right_inverse_with_dependent_templates_is_the_shortest_solution():
    model = readme_cnn()
    with torch.no_grad():
        model.bank.templates[1] = 2 * model.bank.templates[0]
    found = maker_of(model.conv2).right_inverse(5 * model.bank.templates[0])
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 0.0]).double(), rtol=1e-9, atol=1e-9)


def test_reparameterized_readme_cnn_is_plain():
    model = readme_cnn()
    plain = reparameterize_model(model)
    close(plain(GREY), model(GREY), 1e-10)
    assert type(plain.conv3) is nn.Conv2d
    assert set(plain.state_dict()) == {"conv1.weight", "conv1.bias", *(f"conv{i}.weight" for i in (2, 3, 4))}
    again = reparameterize_model(plain)
    assert torch.equal(again(GREY), plain(GREY))
    nn.init.zeros_(plain.conv2.weight)
    assert model.conv2.weight.abs().max() > 0


@pytest.mark.parametrize("templates", [1, 2, 3])
def test_reparameterized_swrn_is_the_plain_wrn(templates):
    model = network(16, 2, templates)
    collapsed = reparameterize_model(model)
    close(collapsed(IMAGES), model(IMAGES), 1e-10)
    plain = SharedWideResNet(16, 2, None).double().eval()
    plain.load_state_dict(collapsed.state_dict(), strict=True)
    close(plain(IMAGES), model(IMAGES), 1e-10)


def test_reparameterized_imagenet_network_is_wide_resnet50_2():
    torch.manual_seed(0)
    model = randomise(SharedResNet(1, "all", num_classes=10)).eval()
    collapsed = reparameterize_model(model)
    x = IMAGES.float()
    close(collapsed(x), model(x), 1e-6)
    with torch.device("meta"):
        plain = timm.create_model("wide_resnet50_2", num_classes=10)
    plain.load_state_dict(collapsed.state_dict(), strict=True, assign=True)
    close(plain.eval()(x), model(x), 1e-6)


def test_sharing_needs_one_shape():
    with pytest.raises(zoo.ZooError, match="one square kernel shape"):
        share_weights([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)], 2)
    with pytest.raises(zoo.ZooError, match="one square kernel shape"):
        share_weights([nn.Conv2d(4, 4, (3, 1))], 2)
    with pytest.raises(zoo.ZooError, match="from 1"):
        TemplateBank(0, 4, 4, 3)


def test_a_bank_that_no_attribute_holds_belongs_to_its_first_layer():
    bank = TemplateBank(2, 4, 4, 3)
    model = nn.Sequential(SharedConv2d(bank), nn.ReLU(), SharedConv2d(bank))
    (group,) = sharing_groups(model)
    assert group.bank is bank and list(group.convs) == ["0", "2"]
    assert [key for key in model.state_dict() if "templates" in key] == [f"{group.name}.templates"]
    assert sum(p is bank.templates for p in model.parameters()) == 1


def test_swrn_from_plain_is_exact():
    plain = randomise(SharedWideResNet(22, 2, None, num_classes=7, in_chans=1)).eval()
    shared = swrn_from_plain(plain)
    x = IMAGES[:, :1].float()
    assert torch.equal(shared(x), plain(x))
    assert [bank.num_templates for bank in shared.banks] == [4, 4, 4]
    assert not any(t.data_ptr() in {p.data_ptr() for p in plain.parameters()} for t in shared.parameters())


def test_swrn_from_plain_says_what_it_cannot_take():
    with pytest.raises(zoo.ZooError, match="reparameterize"):
        swrn_from_plain(network(16, 1, 2))
    with pytest.raises(zoo.ZooError, match="WideResNet"):
        swrn_from_plain(nn.Conv2d(1, 1, 1))
    with pytest.raises(zoo.ZooError, match="nothing to share"):
        swrn_from_plain(SharedWideResNet(10, 1, None))


# ----------------------------------------------------------------------------------------------------------- analysis


def test_similarity_matrix():
    s = layer_similarity(readme_cnn([1, 0, 0], [-3, 0, 0], [1, 1, 0]))["bank"]
    assert s.layers == ("conv2", "conv3", "conv4")
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, 1, half], [1, 1, half], [half, half, 1]], dtype=torch.float64)
    torch.testing.assert_close(s.matrix, expected, rtol=1e-12, atol=0)


def test_similarity_of_fresh_and_single_template_networks():
    torch.manual_seed(0)
    fresh = layer_similarity(SharedWideResNet(22, 1, 4))
    assert list(fresh) == ["banks.0", "banks.1", "banks.2"]
    for s in fresh.values():
        torch.testing.assert_close(s.matrix, torch.eye(4).double(), rtol=0, atol=1e-5)
    for s in layer_similarity(SharedWideResNet(22, 1, 1)).values():
        torch.testing.assert_close(s.matrix, torch.ones(4, 4).double(), rtol=0, atol=1e-12)


def test_zero_coefficients_are_similar_to_nothing_and_stay():
    model = readme_cnn([0, 0, 0], [1, 2, 3], [0, 0, 0])
    assert torch.equal(layer_similarity(model)["bank"].matrix, torch.eye(3).double())
    for threshold in (1e-15, 1):
        folded = fold_layers(model, threshold)
        assert folded.bank.num_templates == 1
        assert learned_of(folded.conv2).item() == learned_of(folded.conv4).item() == 0
        close(folded(GREY), model(GREY), 1e-12)
    nothing = readme_cnn([0, 0, 0], [0, 0, 0], [0, 0, 0])
    assert fold_layers(nothing, 1).bank.num_templates == 3
    assert compress_banks(nothing).bank.num_templates == 1


def test_clusters_need_every_pair():
    chain = torch.tensor([[1, 0.9, 0.2], [0.9, 1, 0.8], [0.2, 0.8, 1]])
    assert cluster_layers(chain, 0.75) == [[0, 1], [2]]  # single linkage would join all three
    assert cluster_layers(chain, 0.95) == [[0], [1], [2]]
    assert cluster_layers(chain, 0.2) == [[0, 1, 2]]
    late = torch.tensor([[1, 0.7, 0.1, 0.1], [0.7, 1, 0.9, 0.1], [0.1, 0.9, 1, 0.1], [0.1, 0.1, 0.1, 1]])
    assert cluster_layers(late, 0.5) == [[0], [1, 2], [3]]  # the most similar pair first
    assert cluster_layers(torch.ones(4, 4), 1) == [[0, 1, 2, 3]]
    for wrong in (0, -0.5, 1.01, math.nan):
        with pytest.raises(zoo.ZooError, match="threshold"):
            cluster_layers(chain, wrong)


def test_threshold_one_ties_proportional_layers_only():
    tilt = 1.5e-3  # 1 - cosine is about 1e-6: float32 or a wide margin would take it for parallel
    model = readme_cnn([1, 0, 0], [-2 / 3, 0, 0], [1, tilt, 0])
    assert layer_clusters(model, 1) == {"bank": [["conv2", "conv3"], ["conv4"]]}
    folded = fold_layers(model, 1)
    close(folded(GREY), model(GREY), 1e-10)
    assert folded.bank.num_templates == 2
    rounded = readme_cnn([0.1, 0.7, -0.3], [0.1 * 3, 0.7 * 3, -0.3 * 3]).float()  # parallel but for float32 rounding
    assert layer_clusters(rounded, 1)["bank"][0] == ["conv2", "conv3"]


def test_folding_projects_on_the_leading_direction():
    a, b = [3.0, 0.5, 0.0], [-1.0, -0.1, 0.2]
    model = readme_cnn(a, b, [0.0, 0.0, 1.0])
    templates = model.bank.templates.clone()
    folded = fold_layers(model, 0.9)
    assert torch.equal(model.bank.templates, templates)
    assert learned_of(model.conv2).tolist() == a
    columns = torch.tensor([a, b], dtype=torch.float64).T
    u = torch.linalg.svd(columns).U[:, 0]
    u = u * torch.sign(u @ columns[:, 0])
    scales = u @ columns
    assert scales[0] > 0 > scales[1]
    torch.testing.assert_close(learned_of(folded.conv2).detach(), torch.stack([scales[0], 0 * scales[0]]))
    torch.testing.assert_close(learned_of(folded.conv3).detach(), torch.stack([scales[1], 0 * scales[0]]))
    torch.testing.assert_close(learned_of(folded.conv4).detach(), torch.tensor([0.0, 1.0]).double())
    torch.testing.assert_close(folded.conv3.weight, scales[1] * folded.bank.templates[0])
    torch.testing.assert_close(folded.bank.templates[0], model.bank(u))


def test_folding_keeps_the_templates_where_the_kernels_are_not_fewer():
    model = readme_cnn([1.0, 0.1], [1.0, -0.1], [0.0, 2.0])
    folded = fold_layers(model, 0.9)
    assert torch.equal(folded.bank.templates, model.bank.templates)
    rows = sharing_groups(folded)[0].coefficients
    torch.testing.assert_close(rows, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).double())


def test_folding_a_whole_network_at_one_changes_nothing():
    model = network(22, 1, 4)
    for group in sharing_groups(model):  # conv1 like conv1 and conv2 like conv2 but for scale and sign
        a, b = group.coefficients[:2]
        group.replace(group.bank.templates, torch.stack([a, b, 0.5 * a, -2 * b]))
    folded = fold_layers(model, 1)
    close(folded(IMAGES), model(IMAGES), 1e-10)
    assert [bank.num_templates for bank in folded.banks] == [2, 2, 2]
    close(reparameterize_model(folded)(IMAGES), model(IMAGES), 1e-10)
    runs = recurrent_runs(model, 1)
    assert [run.blocks for run in runs] == [(f"stages.{s}.1", f"stages.{s}.2") for s in range(3)]
    assert runs[1].layers == ("stages.1.1.conv1", "stages.1.1.conv2")
    torch.testing.assert_close(runs[0].scales[1] / runs[0].scales[0], torch.tensor([0.5, -2]).double())
    assert runs[0].scales[0].min() > 0
    for run in runs:  # the body's kernels times the scales are the blocks' kernels
        for block, scales in zip(run.blocks, run.scales, strict=True):
            for layer, name, scale in zip(run.layers, ("conv1", "conv2"), scales, strict=True):
                body = folded.get_submodule(layer).weight / learned_of(folded.get_submodule(layer)).abs().max()
                close(scale * body, model.get_submodule(f"{block}.{name}").weight, 1e-10)


def test_runs_are_maximal_and_need_both_layers():
    model = network(40, 1, 3)
    e = torch.eye(3, dtype=torch.float64)
    first, second, third = sharing_groups(model)
    pairs = [(0, 1), (0, 1), (0, 1), (0, 2), (0, 2)]  # blocks 1 to 5: a run of three, then one of two
    first.replace(first.bank.templates, torch.stack([e[i] for pair in pairs for i in pair]))
    pairs = [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)]  # alternating: no run
    second.replace(second.bank.templates, torch.stack([e[i] for pair in pairs for i in pair]))
    third.replace(third.bank.templates, torch.zeros(10, 3))  # nothing is similar to nothing
    runs = recurrent_runs(model, 1)
    assert [run.blocks for run in runs] == [
        ("stages.0.1", "stages.0.2", "stages.0.3"),
        ("stages.0.4", "stages.0.5"),
    ]
    assert recurrent_runs(SharedWideResNet(22, 1, None), 1) == []


def test_blocks_with_convolutions_of_their_own_are_no_loop():
    with torch.device("meta"):
        partly, wholly = SharedResNet(1, "3x3"), SharedResNet(1, "all")
    for model in (partly, wholly):
        for group in sharing_groups(model):
            group.replace(torch.empty(1, 1, 1, 1, 1), torch.ones(len(group.convs), 1))
            for conv in group.convs.values():
                conv.parametrizations["weight"].original = nn.Parameter(torch.ones(1))
    assert recurrent_runs(partly, 1) == []
    assert [len(run.blocks) for run in recurrent_runs(wholly, 1)] == [2, 3, 5, 2]
    bank = TemplateBank(1, 4, 4, 3)
    blocks = [nn.Sequential(SharedConv2d(bank), nn.ReLU()) for _ in range(3)]
    blocks[1].append(nn.Sequential(nn.Conv2d(4, 4, 1)))
    assert recurrent_runs(nn.ModuleDict({"bank": bank, "body": nn.Sequential(*blocks)}), 1) == []
    (run,) = recurrent_runs(nn.ModuleDict({"bank": bank, "body": nn.Sequential(*blocks[::2])}), 1)
    assert run.blocks == ("body.0", "body.1")


def test_lossless_rank_is_found():
    model = readme_cnn([1, 2, 3], [2, 4, 6], [0, 1, 0])
    small = compress_banks(model)
    assert small.bank.num_templates == 2
    close(small(GREY), model(GREY), 1e-10)
    assert model.bank.num_templates == 3
    assert compress_banks(readme_cnn()).bank.num_templates == 3


def test_truncation_is_the_best_of_its_rank():
    model = readme_cnn([1.0, 2, 3], [2.0, -4, 6], [0.5, 1, 0])
    rows = sharing_groups(model)[0].coefficients
    left, values, right = torch.linalg.svd(rows)
    torch.testing.assert_close(coefficient_spectrum(model)["bank"], values)
    small = compress_banks(model, 1)
    assert small.bank.num_templates == 1
    kernels = torch.stack([conv.weight for conv in sharing_groups(small)[0].convs.values()])
    best = values[0] * torch.outer(left[:, 0], right[0])
    torch.testing.assert_close(kernels, torch.einsum("lt,t...->l...", best, model.bank.templates))
    assert torch.equal(compress_banks(model, 5).bank.templates, model.bank.templates)
    for wrong in (0, -1, 1.5):
        with pytest.raises(zoo.ZooError, match="rank"):
            compress_banks(model, wrong)


def test_more_templates_than_layers_can_always_be_removed():
    model = network(16, 1, 5)
    small = compress_banks(model)
    assert [bank.num_templates for bank in small.banks] == [2, 2, 2]
    close(small(IMAGES), model(IMAGES), 1e-10)


def test_analysis_of_plain_networks():
    plain = SharedWideResNet(16, 1, None)
    assert layer_similarity(plain) == {}
    for make_smaller in (lambda: fold_layers(plain, 1), lambda: compress_banks(plain)):
        with pytest.raises(zoo.ZooError, match="no template bank"):
            make_smaller()


@pytest.mark.parametrize("name", ["swrn_16_1_2", "swrn_22_2_4"])
def test_compressed_networks_are_saved_and_built_again(name, tmp_path):
    model = randomise(timm.create_model(name)).eval()
    small = compress_banks(model, 1)
    save_for_hf(small, tmp_path, safe_serialization=True)
    restored = timm.create_model(f"local-dir:{tmp_path}").eval()  # with the arguments in config.json
    load_checkpoint(restored, str(tmp_path / "model.safetensors"))
    x = IMAGES.float()
    assert torch.equal(restored(x), small(x))
    assert [bank.num_templates for bank in restored.banks] == [1, 1, 1]
    assert [bank.num_templates for bank in model.banks] != [1, 1, 1]
