"""Weight symmetry: makers against the closed forms, networks against the golden files, counts, collapse and errors."""

import copy
import itertools
from pathlib import Path

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from golden import load_golden
from protocol import randomise
from testers import FamilyTester
from zoo.errors import WeightError, ZooError
from zoo.language import SymmGRU, SymmLSTM, SymmRNNLanguageModel
from zoo.makers.base import is_made, learned_of, make_weight, maker_of
from zoo.makers.lowrank import LowRankSymmetric
from zoo.makers.symmetric import SymmetricGates, SymmetricWeight, make_symmetric
from zoo.models import create_reference, load_reference
from zoo.models._wide_resnet import BottleneckBlock, WideResNet
from zoo.models.symm_resnet import SymmResNet
from zoo.models.symm_wrn import SymmWideResNet, symmetric_from_plain

GOLDEN = sorted((Path(__file__).parent / "golden" / "symmetry").glob("*.safetensors"))
CHANNEL = ("tri", "wwt", "evd", "quar", "eight", "block4")
SQUARE = (*CHANNEL, "spa", "tri+spa", "chunk_0_2", "chunk_1_2", "chunk_2_3", "chunk_3_3", "chunk_0_1")


def closed_form(u: torch.Tensor, kind: str, odd_centre: str = "single") -> torch.Tensor:
    """The kernel, entry by entry, from the table in the paper's terms; ``u`` is the stored full kernel."""
    w = torch.empty_like(u)
    n = u.shape[0]
    double = 2 if odd_centre == "reference" else 1
    for o, i, r, c in itertools.product(*map(range, u.shape)):
        low, high = min(o, i), max(o, i)
        fo, fi = min(o, n - 1 - o), min(i, n - 1 - i)
        if kind in ("tri", "evd"):
            w[o, i, r, c] = u[low, high, r, c]
        elif kind == "wwt":
            w[o, i, r, c] = (u[o, i, r, c] + u[i, o, r, c]) / 2
        elif kind == "quar":
            source = (low, high) if low + high <= n - 1 else (n - 1 - high, n - 1 - low)
            w[o, i, r, c] = u[source][r, c]
        elif kind == "eight":
            w[o, i, r, c] = u[min(fo, fi), max(fo, fi), r, c] * (double if 2 * max(fo, fi) == n - 1 else 1)
        elif kind == "block4":
            scale = (double if 2 * o == n - 1 else 1) * (double if 2 * i == n - 1 else 1)
            w[o, i, r, c] = u[max(o, n - 1 - o), max(i, n - 1 - i), r, c] * scale
        elif kind == "spa":
            w[o, i, r, c] = u[o, i, min(r, c), max(r, c)]
        elif kind == "tri+spa":
            w[o, i, r, c] = u[low, high, min(r, c), max(r, c)]
        else:
            dim, parts = map(int, kind.split("_")[1:])
            at = [o, i, r, c]
            at[dim] %= u.shape[dim] // min(parts, u.shape[dim])
            w[o, i, r, c] = u[tuple(at)]
    return w


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class TestFamily(FamilyTester):
    family = "symmetry"
    small = ("symm_wrn_16_1", "symm_wrn_bottleneck_16_1")
    counts = {
        "symm_wrn": 1_978_778,
        "symm_wrn_16_1": 127_690,
        "symm_wrn_16_4": 1_978_778,
        "symm_wrn_16_4_wwt": 1_978_778,
        "symm_wrn_16_4_spa": 2_232_794,
        "symm_wrn_16_4_tri_spa": 1_719_386,
        "symm_wrn_28_10": 26_822_554,
        "symm_wrn_28_10_tri": 26_822_554,
        "symm_wrn_28_10_spa": 30_027_994,
        "symm_wrn_28_10_tri_spa": 23_590_234,
        "symm_wrn_40_4": 6_638_874,
        "symm_wrn_bottleneck": 172_106,
        "symm_wrn_bottleneck_16_1": 12_358,
        "symm_wrn_bottleneck_16_4": 172_106,
        "symm_wrn_bottleneck_16_4_tri": 172_106,
        "symm_wrn_bottleneck_16_4_wwt": 172_106,
        "symm_wrn_bottleneck_16_4_spa": 187_226,
        "symm_wrn_bottleneck_16_4_tri_spa": 155_642,
        "symm_wrn_bottleneck_16_4_quar": 147_914,
        "symm_wrn_bottleneck_16_4_eight": 135_314,
        "symm_wrn_bottleneck_16_4_block4": 146_906,
        "symm_wrn_bottleneck_28_10": 1_894_154,
        "symm_wrn_bottleneck_40_4": 448_298,
        "symm_resnet50": 19_915_400,
        "symm_resnet101": 33_913_608,
    }


# Golden files


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden(path):
    golden = load_golden(path)
    model = load_reference(create_reference(golden.family, golden.arch, **golden.args), golden.state).eval()
    bound = golden.logits.double().abs().max()
    with torch.no_grad():
        error32 = (model(golden.input).double() - golden.logits).abs().max() / bound
        model.double()
        logits = model(golden.input.double())
        plain = reparameterize_model(model)
        assert not any("parametrizations" in name or "makers" in name for name, _ in plain.named_modules())
        collapsed = plain(golden.input.double())
    assert (logits - golden.logits).abs().max() <= 1e-5 * bound
    assert error32 <= 100 * golden.metadata["relative_float32_noise"]
    assert (collapsed - logits).abs().max() <= 1e-10 * bound


def test_golden_files_are_all_here():
    assert len(GOLDEN) == 15


# Makers


@pytest.mark.parametrize("kind", SQUARE)
@pytest.mark.parametrize("n", [1, 4, 5, 8, 9])
@pytest.mark.parametrize("odd_centre", ["single", "reference"])
def test_closed_form(kind, n, odd_centre):
    if kind in ("chunk_0_2", "chunk_1_2") and n % 2 and n > 1:
        with pytest.raises(ZooError, match="must divide"):
            SymmetricWeight((n, n, 3, 3), kind)
        return
    u = torch.randn(n, n, 3, 3, dtype=torch.float64)
    maker = SymmetricWeight(u.shape, kind, odd_centre).double()
    learned = maker.select(u)
    assert learned.shape == maker.stored
    expected = closed_form(u, kind, odd_centre)
    torch.testing.assert_close(maker(learned), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(maker.right_inverse(maker(learned)), learned, rtol=1e-15, atol=0)
    if n in (5, 9) and kind in ("eight", "block4"):
        assert torch.equal(expected, closed_form(u, kind)) == (odd_centre == "single")


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (2, 8, 5, 5)])
@pytest.mark.parametrize("kind", ["spa", "chunk_0_2", "chunk_2_7", "chunk_3_1"])
def test_closed_form_of_kernels_that_are_not_square(shape, kind):
    u = torch.randn(shape)
    maker = SymmetricWeight(shape, kind)
    torch.testing.assert_close(maker(maker.select(u)), closed_form(u, kind))


@pytest.mark.parametrize("kind", CHANNEL)
@pytest.mark.parametrize("n", [6, 7])
def test_closed_form_of_matrices(kind, n):
    u = torch.randn(n, n)
    maker = SymmetricWeight((n, n), kind, "reference")
    torch.testing.assert_close(maker(maker.select(u)), closed_form(u[..., None, None], kind, "reference")[..., 0, 0])


@pytest.mark.parametrize("kind", SQUARE)
@pytest.mark.parametrize("odd_centre", ["single", "reference"])
def test_projection_is_the_nearest_kernel(kind, odd_centre):
    n = 6 if kind.startswith("chunk") else 7
    kernel = torch.randn(n, n, 3, 3, dtype=torch.float64)
    maker = SymmetricWeight(kernel.shape, kind, odd_centre).double()
    learned = maker.right_inverse(kernel)
    near = maker(learned)
    torch.testing.assert_close(maker(maker.right_inverse(near)), near, rtol=1e-14, atol=1e-14)
    if odd_centre == "single":
        other = maker(torch.randn_like(learned))
        assert abs(((kernel - near) * other).sum()) < 1e-9  # the rest is orthogonal to every symmetric kernel


def test_stored_order_is_taps_then_rows():
    u = torch.randn(5, 5, 3, 3)
    o, i = torch.triu_indices(5, 5)
    assert torch.equal(SymmetricWeight(u.shape, "tri").select(u), u[o, i].flatten(1).t())
    r, c = torch.triu_indices(3, 3)
    assert torch.equal(SymmetricWeight(u.shape, "tri+spa").select(u), u[o, i][:, r, c].t())
    corner = u[2:, 2:].reshape(9, 9).t()
    assert torch.equal(SymmetricWeight(u.shape, "block4").select(u), corner)


def test_off_diagonal_gets_the_gradient_of_both_copies():
    maker = SymmetricWeight((4, 4), "tri")
    learned = torch.randn(1, 10, requires_grad=True)
    gradient = torch.randn(4, 4)
    maker(learned).backward(gradient)
    o, i = torch.triu_indices(4, 4)
    expected = torch.where(o == i, gradient[o, i], gradient[o, i] + gradient[i, o])
    torch.testing.assert_close(learned.grad, expected[None])


def test_low_rank():
    n, k = 7, 3
    maker = LowRankSymmetric((n, n, 3, 3))
    e, v = torch.randn(9, k, dtype=torch.float64), torch.randn(9, n, k, dtype=torch.float64)
    kernel = maker(maker.pack(e, v))
    for s in range(9):
        torch.testing.assert_close(kernel[:, :, s // 3, s % 3], v[s] @ torch.diag(e[s]) @ v[s].T)
    torch.testing.assert_close(maker(maker.right_inverse(kernel)), kernel)
    draw = torch.randn(n, n, 3, 3, dtype=torch.float64)
    near = maker(maker.right_inverse(draw))
    torch.testing.assert_close(maker(maker.right_inverse(near)), near)
    for s in range(9):  # Eckart-Young: what is lost is the smallest eigenvalues of the symmetric part
        tap = draw[:, :, s // 3, s % 3]
        lost = ((tap + tap.T) / 2 - near[:, :, s // 3, s % 3]).norm() ** 2
        eigenvalues = torch.linalg.eigvalsh((tap + tap.T) / 2).abs().sort().values
        torch.testing.assert_close(lost, (eigenvalues[: n - k] ** 2).sum())
    full = LowRankSymmetric((n, n, 3, 3), n)
    symmetric = (draw + draw.transpose(0, 1)) / 2
    torch.testing.assert_close(full(full.right_inverse(draw)), symmetric)
    matrix = LowRankSymmetric((n, n), n)
    torch.testing.assert_close(matrix(matrix.right_inverse(symmetric[..., 0, 0])), symmetric[..., 0, 0])


@pytest.mark.parametrize(("n", "rank"), [(2, 0), (3, 0), (8, 3), (9, 3)])
def test_reference_rank(n, rank):
    maker = LowRankSymmetric((n, n, 3, 3), "reference")
    assert maker.rank == rank
    kernel = maker(maker.right_inverse(torch.randn(n, n, 3, 3)))
    assert kernel.shape == (n, n, 3, 3)
    assert torch.count_nonzero(kernel) == (0 if rank == 0 else kernel.numel())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymmetricWeight((4, 4, 3, 3), "trio"), "'trio'.*tri, wwt, evd, quar, eight, block4, spa.*chunk_0_2"),
        (
            lambda: SymmetricWeight((4, 4, 3, 3), "chunk_D_K"),
            "^Unknown symmetry type 'chunk_D_K'((?!chunk_D).)*chunk_0_2",
        ),
        (lambda: SymmetricWeight((4, 4, 3, 3), "chunk_4_2"), "Unknown symmetry type 'chunk_4_2'"),
        (lambda: SymmetricWeight((4, 4, 3, 3), "chunk_0_0"), "Unknown symmetry type 'chunk_0_0'"),
        (lambda: SymmetricWeight((4, 4, 3, 3), "chunk_2_2"), "must divide"),
        (lambda: SymmetricWeight((4, 4), "chunk_2_2"), "must divide"),
        (lambda: SymmetricWeight((4, 4, 3, 3), "pdpt"), "LowRankSymmetric"),
        (lambda: SymmetricWeight((4, 6, 3, 3), "tri"), "as many input as output"),
        (lambda: SymmetricWeight((4, 6, 3, 3), "tri+spa"), "as many input as output"),
        (lambda: SymmetricWeight((4, 6, 3, 1), "spa"), "as many rows as columns"),
        (lambda: SymmetricWeight((4, 4), "spa"), "as many rows as columns"),
        (lambda: SymmetricWeight((4,), "tri"), "4 dimensions or a matrix"),
        (lambda: SymmetricWeight((4, 4), "tri", "double"), "'single' or 'reference'"),
        (lambda: LowRankSymmetric((4, 6, 3, 3)), "as many input as output"),
        (lambda: LowRankSymmetric((4, 4, 3, 3), 5), "from 1 to 4"),
        (lambda: LowRankSymmetric((4, 4, 3, 3), 0), "from 1 to 4"),
        (lambda: LowRankSymmetric((1, 1, 3, 3), "reference"), "one channel"),
        (lambda: make_symmetric(nn.Conv2d(4, 4, 3), "tri", rank=2), "'pdpt' only"),
    ],
)
def test_makers_refuse(make, message):
    with pytest.raises(ZooError, match=message):
        make()


def test_maker_on_any_layer():
    linear = make_symmetric(nn.Linear(6, 6), "quar")
    assert learned_of(linear).shape == (1, 12)
    torch.testing.assert_close(linear.weight, linear.weight.flip(0, 1))
    plain = linear.fuse()
    x = torch.randn(2, 6)
    assert torch.equal(plain(x), linear(x)) and type(plain) is nn.Linear
    conv = make_weight(nn.Conv2d(4, 4, 3), SymmetricWeight((4, 4, 3, 3), "wwt"))
    assert list(conv.state_dict()) == ["bias", "parametrizations.weight.original"]


@pytest.mark.parametrize("symm_type", ["block4", "pdpt"])
def test_maker_takes_the_layers_device_and_dtype(symm_type):
    odd_centre = "reference" if symm_type == "block4" else "single"
    meta = make_symmetric(nn.Conv2d(5, 5, 3, device="meta"), symm_type, odd_centre)
    assert meta.weight.is_meta and meta.weight.shape == (5, 5, 3, 3)
    with torch.device("meta"):
        real = make_symmetric(nn.Conv2d(5, 5, 3, device="cpu", dtype=torch.bfloat16), symm_type, odd_centre)
    assert real.weight.device.type == "cpu" and real.weight.dtype == torch.bfloat16


def test_random_kernels_keep_their_variance():
    torch.manual_seed(0)
    for symm_type in ("tri", "eight", "spa"):
        model = SymmWideResNet(10, 4, symm_type)
        for _ in range(2):  # as constructed, and drawn anew
            kernel = model.stages[2][0].conv2.weight
            assert 0.95 < kernel.std() / (2 / kernel[0].numel()) ** 0.5 < 1.05, symm_type
            before = kernel.detach().clone()
            model.reset_parameters()
            assert not torch.equal(model.stages[2][0].conv2.weight, before)
    kernel = SymmWideResNet(10, 4, "wwt").stages[2][0].conv2.weight  # averaged: half the variance off the diagonal
    assert 0.65 < kernel.std() / (2 / kernel[0].numel()) ** 0.5 < 0.76


# Networks

BASIC = """16-1 175066 127690 142810 111226 102922
16-4 2748890 1978778 2232794 1719386 1593722
28-1 369498 274746 304986 241818 202602
28-10 36479194 26822554 30027994 23590234 19580074
40-4 8949210 6638874 7400922 5860698 4713594"""
BOTTLENECK = """16-1 15130 12358 13114 11266 10846 9964 10594 12106 10594 11098 11800
16-4 219482 172106 187226 155642 147914 135314 146906 171098 146906 154970 170036
28-1 27226 21682 23194 19498 18658 16894 18154 21178 18154 19162 20566
28-10 2493914 1894154 2090714 1690874 1591754 1438034 1586714 1889114 1586714 1687514 1883966
40-4 590426 448298 493658 398906 375722 337922 372698 445274 372698 396890 442088"""
TYPES = ("None", "tri", "spa", "tri+spa", "quar", "eight", "block4", "chunk_0_2", "chunk_0_4", "chunk_2_3", "pdpt")


@pytest.mark.parametrize("row", BASIC.splitlines(), ids=lambda row: row.split()[0])
def test_basic_counts(row):
    size, *counts = row.split()
    depth, width = map(int, size.split("-"))
    with torch.device("meta"):
        for symm_type, expected in zip(TYPES, counts[:4], strict=False):
            assert count(SymmWideResNet(depth, width, symm_type)) == int(expected), symm_type
        assert count(SymmWideResNet(depth, width, "tri", "square")) == int(counts[4])
        assert count(SymmWideResNet(depth, width, "wwt")) == int(counts[1])


@pytest.mark.parametrize("row", BOTTLENECK.splitlines(), ids=lambda row: row.split()[0])
def test_bottleneck_counts(row):
    size, *counts = row.split()
    depth, width = map(int, size.split("-"))
    with torch.device("meta"):
        for symm_type, expected in zip(TYPES, counts, strict=True):
            rank = "reference" if symm_type == "pdpt" else None
            model = SymmWideResNet(depth, width, symm_type, block="bottleneck", rank=rank)
            assert count(model) == int(expected), symm_type


def test_scopes():
    def made(model):
        return [name for name, conv in model.block_convs().items() if is_made(conv)]

    second = made(SymmWideResNet(16, 1, "tri"))
    assert len(second) == 6 and all(name.endswith("conv2") for name in second)
    square = made(SymmWideResNet(16, 1, "tri", "square"))  # with width 1 group 0 is square throughout
    assert len(square) == 10 and "stages.1.0.conv1" not in square and "stages.0.0.conv1" in square
    everything = SymmWideResNet(16, 1, "spa", "all")
    assert made(everything) == list(everything.block_convs()) and len(made(everything)) == 12
    assert not is_made(everything.stem.conv)
    assert made(SymmWideResNet(16, 1, "None")) == made(SymmWideResNet(16, 1, None)) == []
    with torch.device("meta"):
        resnet = SymmResNet((1, 1, 1, 1))
    convs = [name for name, layer in resnet.named_modules() if is_made(layer)]
    assert convs == [f"layer{i}.0.conv2" for i in (1, 2, 3, 4)]


NETWORKS = [
    *[
        {"width": 1, "symm_type": t, "scope": s}
        for t, s in [("tri", "square"), ("spa", "all"), ("chunk_2_3", "second")]
    ],
    *[{"width": 1.3, "symm_type": t, "block": "bottleneck"} for t in ("wwt", "quar", "eight", "block4", "pdpt")],
    {"width": 1.3, "symm_type": "block4", "block": "bottleneck", "odd_centre": "reference"},
]


def _identifier(arguments):
    return "-".join(str(value) for value in arguments.values())


@pytest.mark.parametrize("arguments", NETWORKS, ids=_identifier)
def test_collapse_and_gradients(arguments):
    torch.manual_seed(0)
    model = randomise(SymmWideResNet(10, **arguments, num_classes=42, in_chans=1)).double()
    model.train()(torch.randn(2, 1, 16, 16, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval()(x)
        plain = reparameterize_model(model)
        again = reparameterize_model(plain)
        copied = copy.deepcopy(model)
        other = SymmWideResNet(10, **arguments, num_classes=42, in_chans=1).double().eval()
        other.load_state_dict(model.state_dict())
        for network in (plain, again, copied, other, model):
            assert (network(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
    block = BottleneckBlock if arguments.get("block") == "bottleneck" else None
    ordinary = WideResNet(10, arguments["width"], **({"block": block} if block else {}), num_classes=42, in_chans=1)
    ordinary.load_state_dict(plain.state_dict())  # the same keys and shapes
    assert any(name.endswith("original") for name in model.state_dict())


def test_resnet_collapses_to_timms():
    torch.manual_seed(0)
    model = randomise(SymmResNet((1, 1, 1, 1), "quar", num_classes=7)).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        plain = reparameterize_model(model)
        ordinary = timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 1, 1, 1), num_classes=7).double().eval()
        ordinary.load_state_dict(plain.state_dict())
        assert (ordinary(x) - model(x)).abs().max() <= 1e-10 * model(x).abs().max()
        before = model.layer1[0].conv2.weight.clone()
        model.init_weights()
    kernel = model.layer1[0].conv2.weight
    assert not torch.equal(kernel, before)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))


def test_export_with_every_kind_of_map():
    for arguments in ({"symm_type": "tri+spa"}, {"symm_type": "block4", "odd_centre": "reference"}):
        model = randomise(SymmWideResNet(10, 1.3, block="bottleneck", **arguments)).eval()
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(torch.export.export(model, (x,), strict=False).module()(x), model(x))
            torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


def test_network_from_the_meta_device():
    with torch.device("meta"):
        model = SymmWideResNet(10, 1, "block4", odd_centre="reference", block="bottleneck")
    model = model.to_empty(device="cpu")
    model.reset_parameters()
    other = SymmWideResNet(10, 1, "block4", odd_centre="reference", block="bottleneck")
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_norm_init():
    ones, uniform = SymmWideResNet(10, 1), SymmWideResNet(10, 1, norm_init="uniform")
    assert (ones.final.bn.weight == 1).all()
    assert uniform.final.bn.weight.std() > 0.2 and uniform.final.bn.weight.max() < 1
    assert (create_reference("symmetry", "resnet_basic").final.bn.weight != 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symm_type": "quart"}, "Unknown symmetry type 'quart': choose one of tri"),
        ({"scope": "first"}, "second, square, all"),
        ({"scope": "all"}, "only 'spa' fits"),
        ({"block": "wide"}, "basic, bottleneck"),
        ({"norm_init": "zero"}, "'ones' or 'uniform'"),
        ({"odd_centre": "double"}, "'single' or 'reference'"),
        ({"rank": 3}, "'pdpt' only"),
        ({"symm_type": "chunk_0_3"}, "must divide"),
        ({"depth": 17}, "6n \\+ 4"),
    ],
)
def test_network_refuses(arguments, message):
    with pytest.raises(ZooError, match=message):
        timm.create_model("symm_wrn", **{"depth": 10, "width": 1, **arguments})


# Projection of an ordinary network


def test_from_plain():
    torch.manual_seed(0)
    plain = randomise(WideResNet(10, 1))
    kept = copy.deepcopy(plain.state_dict())
    model, error = symmetric_from_plain(plain, "wwt")
    assert all(torch.equal(kept[name], tensor) for name, tensor in plain.state_dict().items())
    errors = []
    for stage, ours in zip(plain.stages, model.stages, strict=True):
        kernel = stage[0].conv2.weight
        near = (kernel + kernel.transpose(0, 1)) / 2
        torch.testing.assert_close(ours[0].conv2.weight, near)
        errors.append(((near - kernel).norm() / kernel.norm()).item())
    assert error == pytest.approx(max(errors), rel=1e-5)
    fitting = SymmWideResNet(10, 1, "wwt")
    fitting.load_state_dict(model.state_dict())
    back, none = symmetric_from_plain(reparameterize_model(model), "wwt")
    assert none < 1e-6
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(back.eval()(x), fitting.eval()(x))
    with pytest.raises(ZooError, match=r"stages\.0\.0\.conv2 is made already"):
        symmetric_from_plain(model)


def test_from_plain_resnets():
    resnet = timm.models.resnet
    for block, expected in ((resnet.BasicBlock, 4), (resnet.Bottleneck, 4)):
        plain = resnet.ResNet(block, (1, 1, 1, 1), channels=(8, 8, 16, 16), stem_width=8)
        model, error = symmetric_from_plain(plain, "tri")
        assert sum(is_made(layer) for layer in model.modules()) == expected
        assert 0.5 < error < 0.9  # of a random kernel half the energy is antisymmetric, less on the diagonal
    model, error = symmetric_from_plain(plain, "pdpt", rank=2)
    assert 0.7 < error < 1
    with pytest.raises(ZooError, match="Linear has no 3x3 block convolution"):
        symmetric_from_plain(nn.Linear(2, 2))


# The reference's state dicts


def _reference_and_state(symm_type):
    model = create_reference("symmetry", "symm_resnet_bottleneck", depth=10, width=1, symm_type=symm_type)
    state = {}
    for name, tensor in model.state_dict().items():
        key = model.reference_key(name)
        if name.endswith("original") and symm_type == "pdpt":
            maker = model.get_submodule(name.removesuffix(".original"))[0]
            state[f"{key}.e"], state[f"{key}.V"] = (
                torch.randn(9, maker.rank),
                torch.randn(9, maker.shape[0], maker.rank),
            )
        elif name.endswith("original"):
            n = model.get_submodule(name.removesuffix(".parametrizations.weight.original")).out_channels
            state[key] = torch.randn(n, n, 3, 3)
        else:
            state[key] = tensor
    return model, state


@pytest.mark.parametrize("symm_type", ["tri", "pdpt", "None"])
def test_load_reference_names_what_is_wrong(symm_type):
    model, state = _reference_and_state(symm_type)
    load_reference(model, state)
    made = "group1.block0.conv1" + (".V" if symm_type == "pdpt" else "")
    kept = copy.deepcopy(model.state_dict())
    for key in (made, "conv0", "group0.block0.bn2.running_var", "fc.bias"):
        with pytest.raises(WeightError, match=key):
            load_reference(model, {name: tensor for name, tensor in state.items() if name != key})
        with pytest.raises(WeightError, match=key):
            load_reference(model, {**state, key: state[key][:-1]})
    for extra in ("group1.block0.conv1.e2", "group9.block0.conv1"):
        with pytest.raises(WeightError, match=extra):
            load_reference(model, {**state, extra: torch.zeros(1)})
    if symm_type == "pdpt":
        with pytest.raises(WeightError, match=r"group1\.block0\.conv1 is a whole kernel"):
            load_reference(model, {**state, "group1.block0.conv1": torch.zeros(8, 8, 3, 3)})
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_load_reference_reads_the_canonical_region():
    model, state = _reference_and_state("tri")
    lower = {k: torch.tril(t.permute(2, 3, 0, 1), -1).permute(2, 3, 0, 1) for k, t in state.items() if t.dim() == 4}
    changed = {k: t + 5 * lower[k] if k.endswith("conv1") else t for k, t in state.items()}
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first = load_reference(model, state).eval()(x)
        assert torch.equal(load_reference(model, changed).eval()(x), first)  # the lower triangle has no effect


@pytest.mark.parametrize("width", [0.5, 1.3])
@pytest.mark.parametrize("symm_type", ["pdpt", "eight", "evd", "chunk_3_9"])
def test_reference_of_odd_widths(width, symm_type):
    model = create_reference("symmetry", "resnet_bottleneck", depth=10, width=width, symm_type=symm_type)
    assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()
    quirks = {getattr(maker_of(m), "odd_centre", "reference") for m in model.modules() if is_made(m)}
    assert quirks == {"reference"}


@pytest.mark.parametrize(
    ("arch", "arguments", "message"),
    [
        ("resnet_basic", {"symm_type": "quar", "ALL_CONV_SYMM": False}, "None, tri, evd, spa, tri\\+spa, wwt"),
        ("resnet_basic", {"symm_type": "tri"}, "ALL_CONV_SYMM works with"),
        ("symm_resnet_basic", {"symm_type": "wwt", "ALL_CONV_SYMM": True}, "ALL_CONV_SYMM works with"),
        ("resnet_bottleneck", {"symm_type": "quarter"}, "Unknown symmetry type 'quarter'"),
        ("resnet_bottleneck", {"symm_type": "chunk_2_2"}, "must divide"),
        ("resnet_bottleneck", {"ALL_CONV_SYMM": True}, "Unknown argument ALL_CONV_SYMM"),
        ("symm_lstm", {"symm_type": "block4"}, "wwt, tri, quar, eight"),
        ("symm_gru", {"symm_hh": "1111"}, "3 characters"),
        ("symm_lstm", {"symm_hh": "11x1"}, "4 characters"),
        ("symm_lstm", {"input_size": 8, "hidden_size": 6, "symm_ih": "0100"}, "layer 0 has 8 inputs"),
        (
            "symm_gru",
            {"input_size": 6, "hidden_size": 6, "num_layers": 2, "bidirectional": True, "symm_ih": "100"},
            "layer 1",
        ),
        ("symm_rnn", {}, "resnet_bottleneck.*symm_gru"),
    ],
)
def test_create_reference_refuses(arch, arguments, message):
    with pytest.raises(ZooError, match=message):
        create_reference("symmetry", arch, **arguments)


# Recurrent layers


@pytest.mark.parametrize("symm_type", ["wwt", "tri", "quar", "eight"])
@pytest.mark.parametrize("cls", [SymmLSTM, SymmGRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_rnn_is_torchs_with_symmetric_gates(cls, symm_type, bidirectional):
    arch = {SymmLSTM: "symm_lstm", SymmGRU: "symm_gru"}[cls]
    flags = "1011"[: cls.gates]
    sizes = {"input_size": 5, "hidden_size": 7, "num_layers": 2, "bidirectional": bidirectional}
    model = create_reference("symmetry", arch, **sizes, symm_type=symm_type, symm_hh=flags).double().eval()
    plain = cls.plain_class(**sizes).double()
    load_reference(model, plain.state_dict())
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if "weight_hh" in name:
                for gate, flag in zip(weight.chunk(cls.gates), flags, strict=True):
                    if flag == "1":
                        gate.copy_(closed_form(gate.clone()[..., None, None], symm_type, "reference")[..., 0, 0])
        x = torch.randn(4, 3, 5, dtype=torch.float64)
        output, state = plain(x)
        torch.testing.assert_close(model(x), output)
        ours = model.rnn(x, state)  # from a state that is not zero
        torch.testing.assert_close(ours, plain(x, state))
        collapsed = reparameterize_model(model)
        assert type(collapsed.rnn) is cls.plain_class
        torch.testing.assert_close(collapsed(x), output)
        missing = {name: tensor for name, tensor in plain.state_dict().items() if name != "weight_hh_l1"}
    with pytest.raises(WeightError, match="weight_hh_l1"):
        load_reference(model, missing)
    with pytest.raises(WeightError, match="weight_hh_l1"):
        load_reference(model, {**missing, "weight_hh_l1": torch.zeros(3, 7)})


def test_rnn_without_bias_and_batch_first():
    model = SymmGRU(6, 6, 1, bias=False, batch_first=True, symm_ih="111", symm_hh="000", symm_type="tri")
    assert set(model.state_dict()) == {"weight_ih_l0", "weight_hh_l0"} and model.weight_ih_l0.shape == (1, 63)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(model(x), model.fuse()(x))


def test_rnn_counts():
    with torch.device("meta"):
        assert count(SymmLSTM(650, 650, 2, symm_hh="0000")) == 6770400
        assert count(SymmLSTM(650, 650, 2)) == 5083000
        assert count(SymmLSTM(650, 650, 2, symm_ih="1111")) == 3395600


def test_gates_round_trip():
    maker = SymmetricGates(4, 4, "101", "quar")
    learned = torch.randn(sum(maker.sizes))
    assert learned.shape == (6 + 16 + 6,)
    torch.testing.assert_close(maker.right_inverse(maker(learned)), learned)
    matrix = torch.randn(12, 4)
    near = maker(maker.right_inverse(matrix))
    assert torch.equal(near[4:8], matrix[4:8]) and not torch.equal(near[:4], matrix[:4])
    torch.testing.assert_close(maker(maker.right_inverse(near)), near)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("tied", [False, True])
def test_language_model(cell, tied):
    torch.manual_seed(0)
    model = SymmRNNLanguageModel(11, 6, 6, 2, cell, tied=tied)
    words = torch.randint(11, (5, 3))
    scores, state = model(words)
    assert scores.shape == (5, 3, 11)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert len({t.data_ptr() for t in model.state_dict().values()}) == len(model.state_dict())
    assert ("decoder_weight" in model.state_dict()) != tied
    model.eval()
    with torch.no_grad():
        whole, _ = model(words)
        head, state = model(words[:2])
        tail, _ = model(words[2:], state)
        torch.testing.assert_close(torch.cat([head, tail]), whole)
        plain = reparameterize_model(model)
        assert isinstance(plain.rnn, nn.LSTM if cell == "lstm" else nn.GRU)
        torch.testing.assert_close(plain(words)[0], whole)


def test_language_model_refuses():
    with pytest.raises(ZooError, match="lstm, gru"):
        SymmRNNLanguageModel(11, 6, 6, cell="rnn")
    with pytest.raises(ZooError, match="tied decoder"):
        SymmRNNLanguageModel(11, 5, 6, tied=True)
