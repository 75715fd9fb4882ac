"""ParaDise and the attention networks it is compared with: parity, counts, folding, warm starts, blocks."""

import copy
import io
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from golden import load_golden
from testers import FamilyTester
from zoo.errors import WeightError, ZooError
from zoo.layers.attention import Cbam, GatherConv, GatherExcite, SqueezeExcite
from zoo.layers.batch_norm import to_plain_bn
from zoo.layers.paradise import (
    BRANCHES,
    BranchGate,
    MixedConv2d,
    PDAConv2d,
    PDBConv2d,
    approximate_static,
    branch_names,
)
from zoo.models import create_reference, load_reference
from zoo.models.attention_resnet import AttentionResNet
from zoo.models.paradise import ParadiseResNet, expand_plain

GOLDEN = sorted((Path(__file__).parent / "golden" / "paradise").glob("*.safetensors"))
SUBSETS = (
    ("standard1",),
    ("standard1", "standard2"),
    ("standard1", "group"),
    ("standard1", "skeleton"),
    ("standard1", "skeleton", "group"),
    BRANCHES,
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def on_meta(create, *args, **kwargs) -> nn.Module:
    with torch.device("meta"):
        return create(*args, **kwargs)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def randomise_bn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and affine values far from their defaults, which would hide an error of the fold."""
    generator = torch.Generator().manual_seed(seed)
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            for tensor, low, high in (
                (bn.weight, 0.2, 0.6),
                (bn.bias, -1, 1),
                (bn.running_mean, -1, 1),
                (bn.running_var, 0.3, 3),
            ):
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))
    return model


def small(kind: str = "pd_a", **kwargs) -> ParadiseResNet:
    torch.manual_seed(0)
    return ParadiseResNet(18, kind, **{"width": 0.25, "small_images": True, "num_classes": 10, **kwargs})


# Parity


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parity(path):
    golden = load_golden(path)
    model = load_reference(create_reference("paradise", golden.arch, **golden.args), golden.state).eval()
    assert count(model) == golden.metadata["parameters_train_form"]
    with torch.no_grad():
        assert relative(model(golden.input), golden.logits) <= 100 * golden.metadata["relative_float32_noise"]
        model.double()
        x = golden.input.double()
        gates = []
        hooks = [
            m.register_forward_hook(lambda _, __, out: gates.append(out))
            for m in model.modules()
            if isinstance(m, BranchGate)
        ]
        logits = model(x)
        for hook in hooks:
            hook.remove()
        assert relative(logits, golden.logits) <= 1e-6
        if gates:
            assert relative(torch.stack(gates, 1), golden.outputs["gates"]) <= 1e-6
        assert bool(gates) == ("gates" in golden.outputs)
        if "deploy_logits" in golden.outputs:
            deployed = reparameterize_model(model)
            assert not any(isinstance(m, PDAConv2d) for m in deployed.modules())
            assert relative(deployed(x), golden.outputs["deploy_logits"]) <= 1e-6
            assert relative(deployed(x), logits) <= 1e-12
        if "train_mode_logits" in golden.outputs:
            assert relative(model.train()(x), golden.outputs["train_mode_logits"]) <= 1e-6


def test_golden_files_are_all_there():
    outputs = {}
    for path in GOLDEN:
        with safe_open(path, "pt") as file:
            outputs[path.stem] = set(file.keys())
    assert len(outputs) == 8
    assert {name for name, keys in outputs.items() if "train_mode_logits" in keys} == {"pd_a_resnet18", "pd_b_resnet18"}
    assert sum("deploy_logits" in keys for keys in outputs.values()) == 5


def test_load_reference_names_what_is_wrong():
    model = create_reference("paradise", "pd_b_resnet18", num_classes=10)
    state = {model.reference_key(k): v for k, v in model.state_dict().items()}
    key = "layer2.0.conv1.ac_convbn.ver_bn.running_mean"
    with pytest.raises(WeightError, match=f"missing keys: {key}"):
        load_reference(model, {k: v for k, v in state.items() if k != key})
    with pytest.raises(WeightError, match=r"unexpected keys: layer1.0.bn1.weight"):
        load_reference(model, state | {"layer1.0.bn1.weight": torch.ones(64)})
    with pytest.raises(WeightError, match=r"layer3.1.conv2.fc.0.weight \(64, 256\) instead of \(16, 256\)"):
        load_reference(model, state | {"layer3.1.conv2.fc.0.weight": torch.zeros(64, 256)})


def test_gate_reduction_of_the_deployment_copy():
    model = on_meta(create_reference, "paradise", "pd_b_resnet18", gate_reduction=4)
    keys = {model.reference_key(k): v.shape for k, v in model.state_dict().items()}
    assert keys["layer3.1.conv2.fc.0.weight"] == (64, 256)
    assert count(model) - 30_273_036 == 287_952 - 72_036


def test_half_precision_file():
    model = create_reference("paradise", "ac_resnet18", num_classes=10)
    state = {f"module.1.{model.reference_key(k)}": v.half() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    load_reference(model, state)
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, state["module.1.fc.weight"].float())


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("pd_a_resnet18", {"branches": ["standard1", "diagonal"]}, "diagonal: choose from standard1, standard2, sk"),
        ("pd_a_resnet18", {"branches": []}, "at least one of standard1"),
        ("pd_a_resnet18", {"branches": ["group", "group"]}, "none twice"),
        ("pd_a_resnet18", {"depth": 20}, "18, 34, 50, 101, 152, not 20"),
        ("pd_a_resnet18", {"kind": "pd_c"}, "pd_a or pd_b"),
        ("pd_b_resnet18", {"gate_reduction": 0}, "integer from 1, not 0"),
        ("se_resnet18", {"reduction": 2.5}, "integer from 1, not 2.5"),
        ("ge_resnet18", {"extent": 3}, "0, 2, 4, 8"),
        ("pd_c_resnet18", {}, "pd_a_..., pd_b_..., ac_..."),
        ("cbam_resnet18", {"branches": ["group"]}, "it takes depth, num_classes, reduction"),
    ],
)
def test_wrong_arguments(arch, args, message):
    with pytest.raises(ZooError) as error:
        on_meta(create_reference, "paradise", arch, **args)
    assert message in str(error.value)


def test_order_of_branches_does_not_matter():
    assert branch_names(["group", "standard1"]) == branch_names("standard1, group") == ("standard1", "group")


# Counts


@pytest.mark.parametrize(
    ("kind", "depth", "train", "entries", "convs", "deploy"),
    [
        ("pd_a", 18, 30_201_000, 506, 16, 11_685_672),
        ("pd_a", 34, 57_331_240, 986, 32, 21_790_120),
        ("pd_a", 50, 44_626_152, 704, 16, 25_553_256),
        ("pd_a", 101, 80_521_448, 1418, 33, 44_541_032),
        ("pd_b", 18, 30_273_036, 570, 16, 44_725_644),
        ("pd_b", 34, 57_474_644, 1114, 32, 85_214_804),
        ("pd_b", 50, 44_705_988, 768, 16, 59_596_164),
        ("pd_b", 101, 80_672_344, 1550, 33, 108_749_080),
    ],
)
def test_counts(kind, depth, train, entries, convs, deploy):
    model = on_meta(timm.create_model, f"{kind}_resnet{depth}")
    assert (count(model), len(model.state_dict()), len(model.pd_convs())) == (train, entries, convs)
    assert count(reparameterize_model(model, inplace=True)) == deploy


@pytest.mark.parametrize(
    ("branches", "counts"),
    [
        (("standard1",), (11_689_512, None, 25_557_032, None)),
        (("standard1", "standard2"), (22_682_664, 22_754_244, 36_881_832, 36_961_164)),
        (("standard1", "group"), (11_868_840, 11_940_420, 25_741_416, 25_820_748)),
        (("standard1", "skeleton"), (19_028_520, 19_100_100, 33_116_968, 33_196_300)),
        (("standard1", "skeleton", "group"), (19_207_848, 19_279_656, 33_301_352, 33_380_936)),
    ],
)
def test_counts_of_subsets(branches, counts):
    models = ((depth, kind) for depth in (18, 50) for kind in ("pd_a", "pd_b"))
    for (depth, kind), expected in zip(models, counts, strict=True):
        assert expected is None or count(on_meta(ParadiseResNet, depth, kind, branches)) == expected


class TestFamily(FamilyTester):
    family = "paradise"
    small = ("pd_b_resnet18_half_cifar", "ge_resnet18_cifar")  # PD-A is PD-B without the gate
    counts = {
        "pd_a_resnet18": 30_201_000,
        "pd_b_resnet18": 30_273_036,
        "ac_resnet18": 19_028_520,
        "ac_resnet50": 33_116_968,
        "se_resnet18": 11_778_592,
        "se_resnet34": 21_958_868,
        "se_resnet50": 28_088_024,
        "se_resnet101": 49_326_872,
        "ge_resnet18": 11_752_872,
        "ge_resnet34": 21_922_280,
        "ge_resnet50": 26_055_464,
        "ge_resnet101": 45_622_056,
        "cbam_resnet18": 11_779_392,
        "cbam_resnet34": 21_960_468,
        "cbam_resnet50": 28_089_624,
        "cbam_resnet101": 49_330_172,
        "resnet18_cifar": 11_689_512 - 64 * 3 * (49 - 9) - 990 * 513,
    }
    # Where the map is 2 or 3 wide the step that would shrink it further is skipped, as in the original.
    # gathering stops where the map is 2 or 3 wide: at 32 pixels without a pool, and at the protocol's 64 with one
    without_gradient = {
        "ge_resnet18_cifar": ("layer3.*.se.gather.2.*", "layer4.*.se.gather.[12].*"),
        "ge_resnet*[0-9]": ("layer2.*.se.gather.2.*", "layer3.*.se.gather.[12].*", "layer4.*.se.gather.*"),
    }


def test_registered_names():
    names = timm.list_models(module="paradise") + timm.list_models(module="attention_resnet")
    assert len(names) == 35
    for name in names:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.input_size == ((3, 32, 32) if name.endswith("cifar") else (3, 224, 224))
        assert cfg.crop_pct == (1.0 if name.endswith("cifar") else 0.875)
    half = on_meta(timm.create_model, "resnet18_half_cifar")
    assert [info["num_chs"] for info in half.feature_info] == [32, 32, 64, 128, 256]
    assert [info["reduction"] for info in half.feature_info] == [1, 1, 2, 4, 8]
    assert half.conv1.weight.shape == (32, 3, 3, 3)


# The PD convolution


@pytest.mark.parametrize("branches", SUBSETS, ids="+".join)
@pytest.mark.parametrize("shape", [(64, 128, 2), (128, 128, 1), (24, 16, 1), (6, 10, 2)])
@pytest.mark.parametrize("layer", [PDAConv2d, PDBConv2d])
def test_fold_is_exact(layer, shape, branches):
    torch.manual_seed(1)
    conv = randomise_bn(layer(*shape, branches)).double().eval()
    fused = conv.fuse()
    assert not hasattr(fused, "fuse")
    with torch.no_grad():
        for batch in (1, 3, shape[1]):  # mixing kernels by broadcasting would pass at batch = out_channels
            x = torch.randn(batch, shape[0], 7, 10, dtype=torch.double)
            assert relative(fused(x), conv(x)) <= 1e-10
    assert not {p.data_ptr() for p in fused.parameters()} & {p.data_ptr() for p in conv.parameters()}


def test_gate_is_per_sample():
    torch.manual_seed(1)
    conv = randomise_bn(PDBConv2d(32, 32)).double().eval()
    x = torch.randn(4, 32, 5, 5, dtype=torch.double) * torch.tensor([1, 5, 25, 125.0])[:, None, None, None]
    gates = conv.gate(x)
    assert torch.allclose(gates.sum(1), torch.ones(4, dtype=torch.double))
    assert gates.std(0).min() > 1e-3
    alone = torch.cat([conv.fuse()(sample[None]) for sample in x])
    assert relative(conv.fuse()(x), alone) <= 1e-12


def test_mixed_convolution_in_files_takes_any_batch():
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(1)
    fused = randomise_bn(PDBConv2d(16, 32, 2)).eval().fuse()
    x = torch.randn(5, 16, 9, 8)
    options = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},)}
    exported = torch.export.export(fused, (x[:4],), strict=False, **options).module()
    buffer = io.BytesIO()
    torch.onnx.export(fused, (x[:4],), dynamo=True, verbose=False, input_names=["x"], **options).save(buffer)
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for images in (x, x[:1]):
            assert relative(exported(images), fused(images)) <= 1e-5
            (onnx,) = session.run(None, {"x": images.numpy()})
            assert relative(torch.from_numpy(onnx), fused(images)) <= 1e-5


def test_pd_b_with_equal_gates_is_scaled_pd_a():
    torch.manual_seed(1)
    pd_b = randomise_bn(PDBConv2d(32, 64, 2)).double().eval()
    pd_a = PDAConv2d(32, 64, 2).double().eval()
    pd_a.branches.load_state_dict(pd_b.branches.state_dict())
    nn.init.zeros_(pd_b.gate.fc2.weight)
    nn.init.zeros_(pd_b.gate.fc2.bias)
    x = torch.randn(2, 32, 8, 8, dtype=torch.double)
    assert relative(4 * pd_b(x), pd_a(x)) <= 1e-12
    pd_b.level_gate()
    assert relative(pd_b(x), pd_a(x)) <= 1e-12


def test_batch_norm_statistics_do_not_see_the_gate():
    torch.manual_seed(1)
    convs = [PDBConv2d(32, 32), PDBConv2d(32, 32)]
    convs[1].branches.load_state_dict(convs[0].branches.state_dict())
    x = torch.randn(4, 32, 5, 5)
    outputs = [conv(x) for conv in convs]
    assert relative(*outputs) > 1e-3
    for one, two in zip(*(conv.batch_norms() for conv in convs), strict=True):
        assert torch.equal(one.running_var, two.running_var)
        assert not torch.equal(one.running_var, torch.ones_like(one.running_var))


def test_groups_and_gate_width():
    assert [PDAConv2d(*c).branches["group"].conv.groups for c in ((64, 128), (512, 512), (32, 64), (48, 36))] == [
        64,
        64,
        32,
        4,
    ]
    assert [PDBConv2d(c, c).gate.fc1.out_features for c in (64, 512, 8)] == [4, 32, 1]


def test_initial_values():
    torch.manual_seed(0)
    conv = PDBConv2d(256, 256)
    for branch, fan_out in (("standard1", 2304), ("group", 2304)):
        assert conv.branches[branch].conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert conv.branches["skeleton"].vertical.conv.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.05)
    assert conv.gate.fc1.weight.abs().max().item() == pytest.approx(1 / 16, rel=0.02)
    model = small()
    assert model.fc.weight.abs().max().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.conv1.weight.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.15)


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_last(depth):
    torch.manual_seed(0)
    model = ParadiseResNet(depth, width=0.25, small_images=True, num_classes=10, zero_init_last=True).eval()
    block = model.layer1[1]
    x = torch.randn(1, 16 if depth == 18 else 64, 4, 4)
    assert torch.equal(block(x), x.relu())
    assert all(bn.weight.min() == 1 for name, c in model.pd_convs().items() if depth == 50 for bn in c.batch_norms())
    assert not torch.equal(ParadiseResNet(18, width=0.25).eval().layer1[1](x[:, :16]), x[:, :16].relu())


# The networks


@pytest.mark.parametrize("kind", ["pd_a", "pd_b"])
def test_fused_network(kind):
    model = randomise_bn(small(kind)).double().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(3, 3, 20, 28, dtype=torch.double)
    with torch.no_grad():
        fused = reparameterize_model(model)
        assert relative(fused(x), model(x)) <= 1e-10
        assert relative(reparameterize_model(fused)(x), model(x)) <= 1e-10
        assert relative(torch.fx.symbolic_trace(fused)(x[:2]), model(x[:2])) <= 1e-10
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    kinds = {type(m) for m in fused.modules()}
    assert MixedConv2d in kinds if kind == "pd_b" else not kinds & {PDAConv2d, MixedConv2d}
    channels_last = copy.deepcopy(fused).to(memory_format=torch.channels_last)
    assert relative(channels_last(x.to(memory_format=torch.channels_last)), fused(x)) <= 1e-10
    assert torch.isfinite(fused.bfloat16()(x.bfloat16())).all()


@pytest.mark.parametrize("kind", ["pd_a", "pd_b"])
def test_every_parameter_learns_and_features(kind):
    model = small(kind, in_chans=1, reduction=1)  # a gate of one hidden unit may be dead by chance
    x = torch.randn(2, 1, 16, 16)
    model(x).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.eval()
    final, levels = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    for level, info in zip(levels, model.feature_info, strict=True):
        assert level.shape[1:] == (info["num_chs"], 16 // info["reduction"], 16 // info["reduction"])


def test_export_to_an_unmodified_resnet():
    torch.manual_seed(0)
    model = randomise_bn(timm.create_model("pd_a_resnet18", num_classes=10)).double().eval()
    fused = reparameterize_model(model)
    for block in fused.residual_blocks():
        for i in "12":
            conv, bn = to_plain_bn(getattr(block, f"conv{i}"))
            assert conv.bias is None
            setattr(block, f"conv{i}", conv)
            setattr(block, f"bn{i}", bn)
    stock = timm.create_model("resnet18", num_classes=10).double().eval()
    stock.load_state_dict(fused.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        assert relative(stock(x), model(x)) <= 1e-10
    assert count(timm.create_model("resnet18")) == 11_689_512


def test_static_approximation():
    model = randomise_bn(small("pd_b")).double().eval()
    batches = [torch.randn(n, 3, 16, 16, dtype=torch.double) for n in (3, 1)]
    with torch.no_grad():
        static, fused = approximate_static(model, batches), reparameterize_model(model)
        assert relative(static(batches[0]), model(batches[0])) > 1e-6  # approximate, as its name says
        assert relative(approximate_static(fused, batches)(batches[0]), static(batches[0])) <= 1e-10
        one = batches[1]
        assert relative(approximate_static(model, [one])(one), model(one)) <= 1e-10
        first = model.layer1[0].conv1
        inner = [model.maxpool(model.act1(model.bn1(model.conv1(x)))) for x in batches]
        mean = torch.cat([first.gate(x) for x in inner]).mean(0)  # over images, not over batches
        assert relative(static.layer1[0].conv1.weight, first.approximate(mean).weight) <= 1e-12
    assert not [m for m in static.modules() if isinstance(m, PDBConv2d | MixedConv2d)]
    for arguments in ((model, []), (small("pd_a"), batches)):
        with pytest.raises(ZooError, match="at least one batch"):
            approximate_static(*arguments)


# Warm starts


def plain_resnet18(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model("resnet18_cifar", width=0.25, drop_path_rate=0.0)
    return randomise_bn(model, seed)


@pytest.mark.parametrize("kind", ["pd_a", "pd_b"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_expand_plain_is_identical(kind, mode):
    plain = plain_resnet18().train(mode)
    model = expand_plain(randomise_bn(small(kind)), plain.state_dict()).train(mode)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    model.train()(x).square().sum().backward()
    for conv in model.pd_convs().values():
        assert all(bn.weight.grad.any() for bn in conv.batch_norms())  # so that the other branches come alive


def test_expand_timm_resnet50_with_three_branches():
    torch.manual_seed(0)
    plain = timm.create_model("resnet50", num_classes=10).eval()
    model = ParadiseResNet(50, "pd_b", ("standard1", "skeleton", "group"), num_classes=10).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert relative(expand_plain(model, plain)(x), plain(x)) <= 1e-5


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_expand_pd_a_to_pd_b(mode):
    pd_a = randomise_bn(small("pd_a")).train(mode)
    pd_b = expand_plain(small("pd_b"), pd_a).train(mode)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert relative(pd_b(x), pd_a(x)) <= 1e-6


def test_expand_refuses():
    model, plain = small("pd_a"), plain_resnet18()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = plain.state_dict()
    with pytest.raises(WeightError, match=r"missing layer1.0.conv1.branches.standard1.bn.bias"):
        expand_plain(model, {k: v for k, v in state.items() if k != "layer1.0.bn1.bias"})
    with pytest.raises(WeightError, match=r"unexpected extra"):
        expand_plain(model, state | {"extra": torch.zeros(1)})
    with pytest.raises(WeightError, match=r"fc.weight \(5, 128\) instead of \(10, 128\)"):
        expand_plain(model, state | {"fc.weight": torch.zeros(5, 128)})
    with pytest.raises(WeightError, match=r"unexpected .*gate"):
        expand_plain(model, small("pd_b"))
    with pytest.raises(WeightError, match=r"missing .*skeleton"):
        expand_plain(small("pd_b"), small("pd_a", branches=["standard1", "group"]))
    with pytest.raises(ZooError, match="lacks: add it to branches"):
        expand_plain(small(branches=["standard2", "group"]), plain)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# Attention


def step(layer: GatherConv, x: torch.Tensor) -> torch.Tensor:
    return layer.act(layer.bn(layer.conv(x)))


@pytest.mark.parametrize(("size", "steps"), [((7, 7), 2), ((4, 4), 1), ((1, 3), 0), ((9, 2), 0), ((3, 1), 3)])
def test_gather_skips_narrow_maps(size, steps):
    torch.manual_seed(0)
    block = randomise_bn(GatherExcite(8)).eval()
    x = torch.randn(2, 8, *size)
    context = x
    for layer in block.gather[:steps]:
        context = step(layer, context)
    expected = x * torch.sigmoid(F.interpolate(context, size=size))
    assert torch.equal(block(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(block)(x), expected)


def test_gather_trace_follows_size_and_mode():
    torch.manual_seed(0)
    block = randomise_bn(GatherExcite(8)).train()
    traced = torch.fx.symbolic_trace(block)
    for mode in (True, False):
        block.train(mode), traced.train(mode)
        for width in (3, 7, 24):
            x = torch.randn(2, 8, 24, width)
            assert torch.equal(traced(x), block(x))
    assert block.gather[0].bn.num_batches_tracked == 4  # twice each of two; the narrow map left it alone


@pytest.mark.parametrize(("extent", "relus"), [(2, [False]), (4, [True, False]), (8, [True, True, False])])
def test_gather_extents(extent, relus):
    block = GatherExcite(8, extent).eval()
    assert [isinstance(layer.act, nn.ReLU) for layer in block.gather] == relus
    x = torch.randn(1, 8, 16, 32)
    assert block.gather(x).shape[-2:] == (16 // extent, 32 // extent)
    pooled = GatherExcite(8, extent, extra_params=False).eval()
    tiles = F.avg_pool2d(x, extent)
    assert (
        relative(pooled(x), x * torch.sigmoid(tiles.repeat_interleave(extent, 2).repeat_interleave(extent, 3))) < 1e-6
    )
    assert not list(pooled.parameters())
    assert pooled(x[..., :1, :1]).shape[-2:] == (1, 1)


def test_global_gather():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    assert relative(GatherExcite(8, 0, extra_params=False)(x), x * torch.sigmoid(x.mean((2, 3), keepdim=True))) < 1e-6
    block = randomise_bn(GatherExcite(8, 0, map_size=6)).eval()
    context = block.gather[0].bn((x * block.gather[0].conv.weight[:, 0]).sum((2, 3), keepdim=True))
    assert relative(block(x), x * torch.sigmoid(context)) < 1e-5
    narrow = x[..., :1]
    assert torch.allclose(block(narrow), narrow * torch.sigmoid(narrow))
    with pytest.raises(ZooError, match="built for maps of 6x6, and its map is 4x6"):
        block(x[:, :, :4])
    model = on_meta(AttentionResNet, 18, "ge", extent=0)
    assert [model.get_submodule(f"layer{i}.0.se.gather.0").conv.kernel_size[0] for i in (1, 2, 3, 4)] == [56, 28, 14, 7]


def test_global_gather_fits_the_checkpoint():
    torch.manual_seed(0)
    built = randomise_bn(AttentionResNet(18, "ge", extent=0, mlp=True, img_size=64, num_classes=10)).eval()
    state = {built.reference_key(k).replace("downop.0.", "downop."): v for k, v in built.state_dict().items()}
    assert "layer1.0.ge.downop.dwconv.weight" in state
    assert state["layer1.0.ge.mlp.0.weight"].shape == (4, 64, 1, 1)
    args = {"depth": 18, "num_classes": 10, "extent": 0, "extra_params": True, "mlp": True}
    model = load_reference(create_reference("paradise", "ge_resnet18", **args), state).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), built(x))


def test_gather_mlp():
    torch.manual_seed(0)
    block = GatherExcite(32, 2, extra_params=False, mlp=True)
    x = torch.randn(1, 32, 4, 4)
    context = block.mlp.fc2(block.mlp.fc1(F.avg_pool2d(x, 2)).relu())
    assert relative(block(x), x * torch.sigmoid(F.interpolate(context, scale_factor=2))) < 1e-6
    assert block.mlp.fc1.weight.shape == (2, 32, 1, 1)


def test_squeeze_excite_and_cbam_values():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 5, 6)
    se = SqueezeExcite(32, 8)
    z = x.mean((2, 3))
    factors = torch.sigmoid(se.fc2(se.fc1(z).relu()))
    assert relative(se(x), torch.einsum("bchw,bc->bchw", x, factors)) < 1e-6
    cbam = randomise_bn(Cbam(32, 8)).eval()
    assert cbam.bn.momentum == 0.01
    mlp = nn.Sequential(cbam.fc1, nn.ReLU(), cbam.fc2)
    gated = x * torch.sigmoid(mlp(z) + mlp(x.flatten(2).max(2).values))[:, :, None, None]
    places = torch.stack([gated.max(1).values, gated.mean(1)], 1)
    assert relative(cbam(x), gated * torch.sigmoid(cbam.bn(cbam.conv(places)))) < 1e-6


@pytest.mark.parametrize("attention", ["se", "ge", "cbam"])
def test_attention_network_gradients(attention):
    """GE's third step, and at 4 x 4 the second, are skipped where the map is narrow: the only idle parameters."""
    torch.manual_seed(0)
    model = AttentionResNet(18, attention, small_images=True, width=0.25, num_classes=10)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    expected = {"layer3": {"2"}, "layer4": {"1", "2"}} if attention == "ge" else {}
    assert idle == {
        name
        for name, _ in model.named_parameters()
        if (s := name.split(".")[0]) in expected
        and name.split(".se.gather.")[-1][0] in expected[s]
        and ".se.gather." in name
    }
    assert len(idle) == (18 if attention == "ge" else 0)
