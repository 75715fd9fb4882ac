"""Sparse and tied networks: protocol, parity with the paper's code, its tables of sizes, makers, pruning, refusals."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

import zoo
from golden import load_golden
from protocol import randomise
from testers import FamilyTester
from zoo.makers import is_made, learned_of, make_weight, maker_of
from zoo.makers.masked import MaskedWeight, entries_on
from zoo.makers.tied import TiedWeight
from zoo.models._sparse import erk_counts, sparse_from_plain
from zoo.models._wide_resnet import WideResNet
from zoo.models.sparse_mlp import SparseMlp
from zoo.models.sparse_resnet import SparseResNet
from zoo.models.sparse_wrn import SparseWideResNet
from zoo.reparam.counts import density_report

FOLDER = Path(__file__).parent / "golden" / "sparse"
GOLDEN = sorted(FOLDER.glob("*.safetensors"))


class TestFamily(FamilyTester):
    family = "sparse"
    small = ("sparse_wrn_16_1", "sparse_mlp_300_100")
    counts = {  # learnable tensors, whatever the masks
        "sparse_wrn": 1_467_610,
        "sparse_wrn_16_1": 175_066,
        "sparse_wrn_16_2": 691_674,
        "sparse_wrn_28_2": 1_467_610,
        "sparse_wrn_28_2_thin075": 209_130,
        "sparse_resnet50": 25_557_032,
        "sparse_resnet50_thin054": 8_167_095,
        "sparse_resnet50_thin046": 5_771_217,
        "sparse_mlp_300_100": 784 * 300 + 300 * 100 + 100 * 10 + 2 * 410,
    }
    exceptions = {
        ("sparse_mlp_300_100", check): "a multilayer perceptron has no convolution, no map to pool and no levels"
        for check in ("default_cfg", "features", "intermediates")
    }


def reference(path: Path):
    g = load_golden(path)
    return g, zoo.load_reference(zoo.create_reference(g.family, g.arch, **g.args), g.state).eval()


def distance(scores: torch.Tensor, expected: torch.Tensor) -> float:
    return ((scores.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parity_and_size(path):
    g, model = reference(path)
    with torch.no_grad():
        assert distance(model(g.input), g.logits) <= 100 * float(g.metadata["relative_float32_noise"])
        assert distance(model.double()(g.input.double()), g.logits) <= 1e-6
    assert density_report(model).model_size == g.metadata["model_size"]


def test_golden_files_are_there():
    assert len(GOLDEN) == 9


def test_a_forgotten_mask_would_show():
    g, model = reference(FOLDER / "wrn28_2_s90.safetensors")
    maker_of(model.stages[2][3].conv2).mask.fill_(True)
    assert distance(model(g.input), g.logits) > 1e-2


def test_reference_weights_outside_the_mask_are_kept_but_without_effect():
    g, model = reference(FOLDER / "wrn28_2_s90.safetensors")
    layer = model.stages[0][0].conv1
    maker, learned = maker_of(layer), learned_of(layer)
    assert maker.mask.dtype == torch.bool
    assert learned[~maker.mask].abs().min() > 0
    before = model(g.input)
    learned.data[~maker.mask] = 7.0
    assert torch.equal(model(g.input), before)


def fold(key: str, state: dict, shape: tuple[int, ...]) -> torch.Tensor:
    """The kernel that a reference state dict stands for, written apart from the package's own code."""
    if f"{key}.d_tensor.bank" in state:
        bank, positions = state[f"{key}.d_tensor.bank"], state[f"{key}.d_tensor.weight_alloc"]
        return torch.from_numpy(np.take(bank.numpy(), positions.numpy(), axis=0).reshape(shape))
    weight, mask = state[f"{key}.d_tensor.s_tensor"], state[f"{key}.d_tensor.mask"]
    while mask.dim() < weight.dim():
        mask = mask[..., None]
    return weight * mask.expand(weight.shape)


def reference_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The network's own state under the reference's keys and in its types: float masks, 64-bit maps."""
    state = {}
    for name, tensor in model.state_dict().items():
        key = model.reference_key(name)
        if key.endswith(".mask"):
            tensor = tensor.float()
        state[key] = tensor.long() if key.endswith(".weight_alloc") else tensor.clone()
    return state


CASES = [
    ("cifar10_WideResNet", {"depth": 10, "widen_factor": width, "granularity": granularity, "tied": tied, **p})
    for width, granularity, tied, p in (
        (1, 1, False, {"sparsity_conv": 0.5}),
        (0.98, 3, False, {"sparsity_conv": 0.7, "sparsity_fc": 0.98}),
        (1.5, 2, False, {"sparsity_conv": 0.0}),
        (1.0, 0, True, {"sparsity_conv": 0.9}),
        (0.75, 2, True, {"sparsity_conv": 0.6}),
    )
] + [
    ("imagenet_resnet50", {"widen_factor": 0.25, "granularity": granularity, "tied": tied, **p})
    for granularity, tied, p in (
        (2, False, {"sparsity_conv": 0.8, "sparsity_fc": 0.0, "sparse_downsample": True}),
        (4, True, {"sparsity_conv": 0.9, "sparsity_fc": 0.5, "sparse_downsample": True}),
    )
]


@pytest.mark.parametrize(
    ("arch", "args"), CASES, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_reference_forms_without_a_golden_file(arch, args):
    """Masked, folded by the dense network, and folded by hand: three ways to the same scores."""
    torch.manual_seed(0)
    model = randomise(zoo.create_reference("sparse", arch, **args)).double().eval()
    state = reference_state(model)
    side = 32 if arch.startswith("cifar") else 64
    x = torch.randn(2, 3, side, side, dtype=torch.double)
    zoo.load_reference(model, {f"module.{key}": tensor for key, tensor in state.items()})
    expected = model(x)

    shape = {"width": args["widen_factor"], "sparsity": 0.0}
    shape |= {"depth": 10} if arch.startswith("cifar") else {"sparse_downsample": True}
    dense = type(model)(**shape).double().eval()
    assert not any(is_made(layer) for layer in dense.modules())
    assert distance(zoo.load_reference(dense, state)(x), expected) < 1e-12

    by_hand = type(model)(**shape).double().eval()
    own = {}
    for name, tensor in by_hand.state_dict().items():
        key = by_hand.reference_key(name)
        layer = key.removesuffix(".weight")
        own[name] = state[key] if key in state else fold(layer, state, tuple(tensor.shape))
    by_hand.load_state_dict(own)
    assert distance(by_hand(x), expected) < 1e-12


def test_reference_mask_and_bank_have_the_published_shapes():
    for granularity, expected in ((1, (32,)), (2, (32, 16)), (3, (32, 16, 3)), (4, (32, 16, 3, 3))):
        model = zoo.create_reference("sparse", "cifar10_WideResNet", depth=10, granularity=granularity)
        shapes = {key: tuple(t.shape) for key, t in reference_state(model).items()}
        assert shapes["block1.layer.0.conv1.d_tensor.mask"] == expected
    model = zoo.create_reference("sparse", "cifar10_WideResNet", depth=10, granularity=0, tied=True)
    shapes = {key: tuple(t.shape) for key, t in reference_state(model).items()}
    assert shapes["block1.layer.0.conv1.d_tensor.bank"] == (51, 3, 3)
    assert shapes["block1.layer.0.conv1.d_tensor.weight_alloc"] == (512,)


def test_wrong_reference_state_dicts_are_refused_by_key():
    model = zoo.create_reference("sparse", "cifar10_WideResNet", depth=10, widen_factor=1)
    state = reference_state(model)
    mask = "block2.layer.0.conv2.d_tensor.mask"
    tied = zoo.create_reference("sparse", "cifar10_WideResNet", depth=10, widen_factor=1, tied=True)
    tied_state = reference_state(tied)
    alloc = "block1.layer.0.conv1.d_tensor.weight_alloc"
    rows = len(tied_state["block1.layer.0.conv1.d_tensor.bank"])
    for net, wrong, message in (
        (model, {k: v for k, v in state.items() if k != mask}, f"missing keys: {mask}"),
        (model, {**state, "block4.bn1.weight": torch.ones(1)}, "unexpected keys: block4.bn1.weight"),
        (model, {**state, mask: state[mask][..., 0]}, rf"wrong shapes: {mask} \(32, 32, 3\)"),
        (model, {**state, mask: state[mask] * 0.5}, f"{mask} is not a mask"),
        (model, tied_state, "missing keys: block1.layer.0.conv1.d_tensor.s_tensor"),
        (tied, {**tied_state, alloc: tied_state[alloc] + 1}, f"{alloc} is not a map into a bank of {rows} rows"),
        (tied, {**tied_state, alloc: tied_state[alloc].float()}, f"{alloc} is not a map"),
    ):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(zoo.WeightError, match=message):
            zoo.load_reference(net, wrong)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.create_model("sparse_wrn_16_1", sparsity=1.0), "from 0 to below 1"),
        (lambda: zoo.create_model("sparse_wrn_16_1", sparsity="0.9"), "from 0 to below 1"),
        (lambda: zoo.create_model("sparse_wrn_16_1", sparse_unit="block"), "weight, row, kernel, filter"),
        (lambda: zoo.create_model("sparse_wrn_16_1", sparsity=0.0, sparse_unit="block"), "weight, row, kernel, filter"),
        (lambda: zoo.create_model("sparse_wrn_16_1", reparam="dense"), "'sparse' or 'tied'"),
        (lambda: zoo.create_model("sparse_wrn_16_1", density="er"), "'uniform' or 'erk'"),
        (lambda: zoo.create_model("sparse_wrn_16_1", reparam="tied", density="erk"), "reparam 'sparse'"),
        (lambda: zoo.create_model("sparse_wrn_16_1", reparam="tied", sparse_unit="row"), "weight and kernel"),
        (lambda: zoo.create_model("sparse_wrn", depth=27), "6n"),
        (lambda: zoo.create_model("sparse_resnet50", width=0.001), "choose 1/64"),
        (lambda: zoo.create_reference("sparse", "cifar10_WideResNet", granularity=0), "1, 2, 3, 4"),
        (lambda: zoo.create_reference("sparse", "cifar10_WideResNet", granularity=5, tied=True), "0, 1, 2, 3, 4"),
        (lambda: zoo.create_reference("sparse", "cifar10_WideResNet", sparse_downsample=True), "sparsity_conv"),
        (lambda: zoo.create_reference("sparse", "mnist_cnn"), "imagenet_resnet50"),
        (lambda: TiedWeight((2, 2), 0.99), "choose a lower one"),
        (lambda: zoo.create_model("sparse_mlp_300_100", features_only=True), "no feature maps"),
        (lambda: zoo.create_model("sparse_mlp_300_100", global_pool="max"), "nothing to pool"),
        (lambda: zoo.create_model("sparse_mlp_300_100")(torch.zeros(2, 1, 32, 32)), "1x28x28, not 1x32x32"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(make, message):
    with pytest.raises(zoo.ZooError, match=message):
        make()


# nominal sparsity: active by weights, total, active by kernels, thin width, thin total (paper's code, its accounting)
WRN_SIZES = {
    0.9: (145_139, 161_229, 145_053, 0.75, 209_130),
    0.8: (290_294, 306_384, 290_178, 0.98, 356_376),
    0.7: (435_442, 451_532, 435_366, 1.15, 491_845),
    0.6: (580_597, 596_687, 580_491, 1.33, 652_093),
    0.5: (725_760, 741_850, 725_760, 1.47, 795_477),
}


@pytest.mark.parametrize("sparsity", WRN_SIZES)
def test_wrn_28_2_sizes(sparsity):
    active, total, by_kernel, thin_width, thin_total = WRN_SIZES[sparsity]
    report = density_report(zoo.create_model("sparse_wrn_28_2", sparsity=sparsity))
    assert report.model_size == {"sparse": active, "tied": 0, "fixed": 16_090, "learnable": total}
    assert (report.active, report.total) == (total, 1_467_610)
    kernels = density_report(zoo.create_model("sparse_wrn_28_2", sparsity=sparsity, sparse_unit="kernel"))
    assert kernels.model_size["sparse"] == by_kernel
    with torch.device("meta"):
        thin = zoo.create_model("sparse_wrn", width=thin_width, sparsity=0.0)
    assert sum(p.numel() for p in thin.parameters()) == thin_total == density_report(thin).active


def test_widths_are_rounded_half_to_even():
    assert [s[-1].conv2.out_channels for s in SparseWideResNet(10, 0.98, 0.0).stages] == [16, 31, 63]
    assert [s[-1].conv2.out_channels for s in SparseWideResNet(10, 1.53125, 0.0).stages] == [24, 49, 98]
    assert [s[-1].conv2.out_channels for s in SparseWideResNet(10, 1.59375, 0.0).stages] == [26, 51, 102]
    assert SparseWideResNet(10, 0.98, 0.0).stages[0][0].shortcut is None


@pytest.mark.parametrize(
    ("downsample", "total", "true_sparsity"), [(False, 5_104_861, 80.0), (True, 2_612_853, 89.8)], ids=["usual", "all"]
)
def test_resnet50_sizes_at_90(downsample, total, true_sparsity):
    """The golden files hold the sizes at 0.8."""
    report = density_report(zoo.create_model("sparse_resnet50", sparse_downsample=downsample))
    assert (report.active, report.total, report.nominal_sparsity) == (total, 25_557_032, 0.9)
    assert round(100 * (1 - report.density), 1) == true_sparsity


def test_density_report_never_gives_the_nominal_sparsity_alone():
    model = SparseResNet(0.25, sparsity=0.5, fc_sparsity=0.75, num_classes=20)
    report = density_report(model)
    as_dict = json.loads(json.dumps(report.as_dict()))
    assert as_dict["nominal_sparsity"] == 0.5
    assert as_dict["true_sparsity"] == pytest.approx(1 - report.active / report.total)
    assert as_dict["true_sparsity"] < 0.5
    layers = {layer["name"]: layer for layer in as_dict["tensors"]}
    assert layers["fc.weight"] == {
        "name": "fc.weight",
        "kind": "sparse",
        "active": 512 * 5,
        "total": 512 * 20,
        "density": 0.25,
    }
    assert len(layers) == 48 + 1
    masked = sum(int((m.mask if isinstance(m, MaskedWeight) else torch.zeros(1)).sum()) for m in model.modules())
    assert report.model_size["sparse"] == masked == sum(layer["active"] for layer in as_dict["tensors"])
    assert report.total == sum(p.numel() for p in model.parameters())
    maker_of(model.fc).mask[0] = True
    assert density_report(model).active > report.active
    collapsed = density_report(reparameterize_model(model))
    assert (collapsed.density, collapsed.total) == (1.0, report.total)


@pytest.mark.parametrize(("unit", "trailing"), [("weight", 1), ("row", 3), ("kernel", 9), ("filter", 54)])
def test_masked_weight(unit, trailing):
    torch.manual_seed(0)
    shape, entries = (10, 6, 3, 3), 540 // trailing
    maker = MaskedWeight(shape, 0.7, unit)
    assert maker.mask.shape == shape[: maker.granularity]
    assert maker.mask.sum() == math.floor(0.3 * entries + 0.1) == entries_on(entries, 0.7)
    assert maker.active == maker.mask.sum() * trailing
    learned = torch.randn(shape, dtype=torch.double, requires_grad=True)
    kernel = maker(learned)
    on = torch.stack([m.expand(trailing) for m in maker.mask.flatten()]).view(shape)
    assert torch.equal(kernel, torch.where(on, learned, 0.0))
    assert torch.equal(maker(maker.right_inverse(kernel)), kernel)
    kernel.square().sum().backward()
    assert not learned.grad[~on].any()
    assert learned.grad[on].all()
    scores = learned.detach().abs().flatten().view(-1, trailing).mean(1).view(maker.mask.shape)
    torch.testing.assert_close(maker.scores(learned), scores)
    maker.keep_largest_(learned, 4 if unit != "filter" else 2)
    assert scores[maker.mask].min() > scores[~maker.mask].max()


def test_masks_are_drawn_anew_uniformly_and_from_the_seed():
    torch.manual_seed(3)
    first, second = (MaskedWeight((50, 40), 0.5).mask for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(MaskedWeight((50, 40), 0.5).mask, first)
    assert not torch.equal(first, second)
    mean = torch.stack([MaskedWeight((4, 5), 0.8).mask for _ in range(4000)]).double().mean(0)
    assert (mean - 0.2).abs().max() < 5 * math.sqrt(0.16 / 4000)


def test_linear_masks_are_always_by_weight():
    assert MaskedWeight((10, 20), 0.5, "filter").mask.shape == (10, 20)
    assert TiedWeight((10, 20), 0.5, "kernel").rows == 100


@pytest.mark.parametrize(("unit", "positions", "trailing"), [("weight", 540, (1,)), ("kernel", 60, (3, 3))])
def test_tied_weight(unit, positions, trailing):
    torch.manual_seed(0)
    maker = TiedWeight((10, 6, 3, 3), 0.87, unit)
    assert maker.rows == round(0.13 * positions)
    uses = torch.bincount(maker.index.long())
    assert len(uses) == maker.rows
    assert set(uses.tolist()) <= {positions // maker.rows, -(-positions // maker.rows)}
    assert maker.repeats == pytest.approx(uses.double().mean().item())
    assert not torch.equal(maker.index, (torch.arange(positions) % maker.rows).int())
    bank = torch.randn(maker.rows, *trailing, dtype=torch.double)
    kernel = maker(bank)
    assert torch.equal(kernel.reshape(positions, -1)[7], bank[maker.index[7]].flatten())
    torch.testing.assert_close(maker.right_inverse(kernel), bank, rtol=1e-14, atol=1e-14)
    other = torch.randn(10, 6, 3, 3, dtype=torch.double)
    projected = maker(maker.right_inverse(other))
    torch.testing.assert_close(maker(maker.right_inverse(projected)), projected, rtol=1e-14, atol=1e-14)
    assert (maker(torch.randn_like(bank)) * (other - projected)).sum().abs() < 1e-12  # orthogonal: the nearest


@pytest.mark.parametrize(
    "model",
    [
        lambda: SparseWideResNet(16, 1, 0.8, "kernel"),
        lambda: SparseWideResNet(10, 0.98, 0.9, reparam="tied"),
        lambda: SparseWideResNet(10, 1, 0.7, "row", density="erk"),
        lambda: SparseResNet(0.25, 0.8, num_classes=9, sparse_downsample=True),
        lambda: SparseResNet(0.3, 0.8, 0.5, "kernel", "tied", num_classes=9),
        lambda: SparseMlp(0.9, batch_norm=False),
    ],
)
def test_collapse_is_exact_and_leaves_the_network_alone(model):
    torch.manual_seed(0)
    model = randomise(model()).double().eval()
    for layer in model.sparse_layers().values():  # also where the mask is off
        learned_of(layer).data += 0.01
    x = torch.randn(2, *((1, 28, 28) if isinstance(model, SparseMlp) else (3, 32, 32)), dtype=torch.double)
    expected = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    collapsed = reparameterize_model(model)
    assert distance(collapsed(x), expected) <= 1e-10
    assert not any(is_made(layer) for layer in collapsed.modules())
    assert distance(reparameterize_model(collapsed)(x), expected) <= 1e-10
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert distance(model(x), expected) == 0


def test_collapsed_networks_have_the_ordinary_keys():
    ours = reparameterize_model(SparseResNet(0.25, sparse_downsample=True)).state_dict()
    with torch.device("meta"):
        assert set(ours) == set(timm.create_model("resnet50").state_dict())
        plain = WideResNet(16, 2)
    sparse = reparameterize_model(SparseWideResNet(16, 2))
    assert {k: v.shape for k, v in sparse.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_dense_entries_have_plain_layers_and_reference_networks_masks():
    assert not any(is_made(layer) for layer in zoo.create_model("sparse_wrn_28_2_thin075").modules())
    model = zoo.create_reference("sparse", "cifar10_WideResNet", depth=10, sparsity_conv=0.0)
    assert all(maker_of(layer).mask.all() for layer in model.sparse_layers().values())


def test_initial_values_are_the_published_ones():
    torch.manual_seed(0)
    model = SparseResNet(0.5, 0.9, sparse_downsample=True)
    for layer in (model.conv1, model.layer2[0].downsample[0], model.layer3[1].conv2):
        variance = 2 / (math.prod(layer.kernel_size) * layer.out_channels)
        assert learned_of(layer).std().item() == pytest.approx(math.sqrt(variance), rel=0.05)
    bound = 1 / math.sqrt(model.fc.in_features)
    assert 0.99 * bound < learned_of(model.fc).abs().max() <= bound
    assert not model.fc.bias.any()
    assert all((block.bn3.weight == 1).all() for block in model.layer2)
    tied = SparseMlp(0.9, "tied", batch_norm=False)
    bank = learned_of(tied.fc1)
    assert bank.shape == (23_520, 1)
    assert bank[0] == 0
    assert 0.99 / 28 < bank.abs().max() <= 1 / 28
    assert not tied.fc3.bias.any()
    bank = learned_of(SparseWideResNet(10, 2, 0.9, reparam="tied").stages[2][0].conv2)
    assert bank.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.05)


def test_erk_keeps_the_total_and_favours_small_layers():
    uniform = density_report(SparseWideResNet(16, 2, 0.9))
    model = SparseWideResNet(16, 2, 0.9, density="erk")
    report = density_report(model)
    assert report.model_size == uniform.model_size
    density = {t.name: t.density for t in report.tensors if t.kind == "sparse"}
    first, last = density["stages.0.1.conv2.weight"], density["stages.2.1.conv2.weight"]
    expected = ((32 + 32 + 6) / (32 * 32 * 9)) / ((128 + 128 + 6) / (128 * 128 * 9))
    assert first / last == pytest.approx(expected, rel=1e-3)
    counts = erk_counts({"a": (4, 4), "b": (400, 400), "c": (100, 300)}, dict.fromkeys("abc", 0.97))
    assert counts["a"] == 16  # its share would exceed 1
    assert sum(counts.values()) == sum(entries_on(n, 0.97) for n in (16, 160_000, 30_000))
    assert (counts["c"] / 30_000) / (counts["b"] / 160_000) == pytest.approx((400 / 30_000) / (800 / 160_000), rel=1e-3)
    counts = erk_counts({"a": (8, 8, 3, 3), "b": (16, 8, 1, 1)}, dict.fromkeys("ab", 0.0), "kernel")
    assert counts == {"a": 64, "b": 128}


def test_sparse_from_plain_is_exact_at_zero_and_prunes_by_magnitude():
    torch.manual_seed(0)
    plain = randomise(WideResNet(10, 2, num_classes=7, in_chans=1)).eval()
    x = torch.randn(2, 1, 32, 32)
    sparse, error = sparse_from_plain(plain, 0.0)
    assert error == 0
    assert torch.equal(sparse(x), plain(x))
    assert all(maker_of(layer).mask.all() for layer in sparse.sparse_layers().values())

    sparse, error = sparse_from_plain(plain, 0.8)
    squares = kept = 0.0
    for name, layer in sparse.sparse_layers().items():
        kernel = plain.get_submodule(name).weight.detach()
        mask = maker_of(layer).mask
        assert mask.sum() == entries_on(mask.numel(), 0.8)
        assert kernel[mask].abs().min() >= kernel[~mask].abs().max()
        assert torch.equal(learned_of(layer), kernel)
        squares, kept = squares + kernel.square().sum().item(), kept + kernel[mask].square().sum().item()
    assert error == pytest.approx(math.sqrt(1 - kept / squares), rel=1e-4)
    assert not sparse.training
    tied, error = sparse_from_plain(plain, 0.5, "kernel", "tied")
    assert 0 < error < 1
    assert tied(x).shape == (2, 7)


def test_sparse_from_plain_takes_dense_networks_of_this_family_and_any_resnet50():
    torch.manual_seed(0)
    thin = zoo.create_model("sparse_wrn", depth=10, width=0.98, sparsity=0.0)
    sparse, _ = sparse_from_plain(thin, 0.5)
    assert isinstance(sparse, SparseWideResNet)
    assert not any(is_made(layer) for layer in thin.modules())
    mlp, _ = sparse_from_plain(reparameterize_model(SparseMlp(0.9, batch_norm=False)), 0.9)
    assert maker_of(mlp.fc1).active == 23_520
    plain = timm.create_model("resnet50", num_classes=10).eval()
    sparse, error = sparse_from_plain(plain, 0.0, sparse_downsample=True)
    x = torch.randn(1, 3, 64, 64)
    assert error == 0
    assert torch.equal(sparse(x), plain(x))
    assert len(sparse.sparse_layers()) == 48 + 4 + 1


def test_sparse_from_plain_refuses_what_it_cannot_copy():
    other = WideResNet(10, 1)
    other.final.act = nn.GELU()
    for model, message in (
        (nn.Linear(2, 2), "no sparse form"),
        (other, "computes something else"),
        (WideResNet(10, 1.62), r"stages\.0\.0\.bn2.* differ"),
        (SparseWideResNet(10, 1, 0.5), "collapse the network first"),
    ):
        with pytest.raises(zoo.ZooError, match=message):
            sparse_from_plain(model, 0.5)
    with pytest.raises(zoo.ZooError, match="already"):
        sparse_from_plain(SparseWideResNet(10, 1, 0.0), 0.5, num_classes=3)


@pytest.mark.parametrize(
    ("make", "classifier"),
    [
        (lambda **kwargs: SparseResNet(0.25, 0.8, **kwargs), "fc"),
        (lambda **kwargs: SparseMlp(0.8, **kwargs), "fc3"),
        (lambda **kwargs: SparseMlp(0.8, "tied", batch_norm=False, **kwargs), "fc3"),
    ],
)
def test_sparse_classifiers_are_replaced_by_sparse_ones(make, classifier):
    model = make(num_classes=10)
    model.reset_classifier(20)
    learned = learned_of(model.get_classifier())
    active = sum(t.active for t in density_report(model).tensors if t.name == f"{classifier}.weight")
    assert active == entries_on(20 * model.num_features, 0.8)
    assert learned.requires_grad
    collapsed = reparameterize_model(model)
    collapsed.reset_classifier(3)
    assert not is_made(collapsed.get_classifier())
    # timm's way to load a checkpoint with another number of classes: drop weight and bias, then load without strictness
    state = {k: v for k, v in make(num_classes=10).state_dict().items() if k != f"{classifier}.bias"}
    missing = make(num_classes=5).load_state_dict(state, strict=False).missing_keys
    assert missing
    assert all(name.startswith((classifier, "bn3")) for name in missing)
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(num_classes=5).load_state_dict(state)


def test_makers_go_on_any_layer():
    layer = make_weight(nn.Conv2d(8, 6, 3, groups=2), MaskedWeight((6, 4, 3, 3), 0.5))
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original", "parametrizations.weight.0.mask"]
    layer = make_weight(nn.Linear(8, 6), TiedWeight((6, 8), 0.5))
    assert learned_of(layer).shape == (24, 1)
    assert layer(torch.zeros(1, 8)).shape == (1, 6)


@pytest.mark.parametrize("addition", ["hook", "pre-hook", "second maker", "cache"])
def test_what_torch_lets_one_add_to_a_made_weight_is_never_passed_over(addition):
    layer = make_weight(nn.Conv2d(4, 4, 3), MaskedWeight((4, 4, 3, 3), 0.5))
    kernel, made = layer.weight.detach(), layer.parametrizations.weight
    assert torch.equal(kernel, learned_of(layer) * layer.parametrizations.weight[0].mask)
    if addition == "hook":
        made.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif addition == "pre-hook":
        made.register_forward_pre_hook(lambda module, inputs: doubled(module.original))
    elif addition == "second maker":
        nn.utils.parametrize.register_parametrization(layer, "weight", Double())
    else:
        with nn.utils.parametrize.cached():
            assert layer.weight is layer.weight
        assert layer.weight is not layer.weight
        return
    assert torch.equal(layer.weight, 2 * kernel)


def doubled(tensor):
    tensor.data.mul_(2)  # and None: the inputs stay


class Double(nn.Module):
    def forward(self, kernel):
        return 2 * kernel
