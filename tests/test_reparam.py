"""The pass: the same function, plain layers only, nothing shared with the original; stock networks and the way back."""

import copy
import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.utils import reparameterize_model
from torch import nn

import zoo
from protocol import close, images, make, randomise
from zoo.cli import main
from zoo.makers import is_made
from zoo.reparam.export import FORMATS, export
from zoo.reparam.fold import fold_into

SMALLEST = {
    "lrunet": (
        "lrunet2_100",
        "lru_mobilenet_025",
        "lru_mobilenetv2_025",
        "lru_shufflenet_g3_025",
        "lru_shufflenetv2_025",
    ),
    "sharing": ("swrn_16_1_2", "wrn_16_1"),
    "symmetry": ("symm_wrn_16_1", "symm_wrn_bottleneck_16_1"),
    "sparse": ("sparse_wrn_16_1", "sparse_mlp_300_100"),
    "paradise": ("pd_a_resnet18_half_cifar", "pd_b_resnet18_half_cifar", "ac_resnet18_cifar", "ge_resnet18_cifar"),
}
NAMES = [name for names in SMALLEST.values() for name in names]
PLAIN = {
    *("Conv2d", "Linear", "BatchNorm2d", "BatchNorm1d", "ReLU", "ReLU6", "Sigmoid", "Identity", "Dropout", "Flatten"),
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"),
}


def double(name: str) -> tuple[nn.Module, torch.Tensor]:
    model = make(name).double()
    return model, images(model, 3).double()


def leaves(model: nn.Module) -> set[str]:
    return {
        type(m).__name__
        for m in model.modules()
        if not list(m.children()) and not isinstance(m, nn.ModuleList | nn.Sequential)
    }


def test_every_family_is_covered():
    assert set(SMALLEST) == set(zoo.models.FAMILIES)


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
@pytest.mark.parametrize("name", NAMES)
def test_same_function_of_plain_layers(name, batch_norm):
    model, x = double(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(x)
    plain = zoo.reparameterize(model, batch_norm=batch_norm)
    close(plain(x), expected, 1e-10)
    allowed = PLAIN | {"MixedConv2d"} if name.startswith("pd_b") else PLAIN
    # what attention computes from the data stays as it is
    assert {leaf for leaf in leaves(plain) if not leaf.startswith(("GatherExcite", "Squeeze"))} <= allowed
    assert not any(is_made(m) for m in plain.modules())
    assert not any(word in key for key in plain.state_dict() for word in ("parametrizations", "mask", "templates"))
    assert torch.equal(model(x), expected), "the original is as it was"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    ours = {t.untyped_storage().data_ptr() for t in [*plain.parameters(), *plain.buffers()] if t.numel()}
    theirs = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()] if t.numel()}
    assert not ours & theirs
    again = zoo.reparameterize(plain, batch_norm=batch_norm)
    close(again(x), plain(x), 1e-12)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert torch.equal(zoo.reparameterize(model, batch_norm=batch_norm)(x), plain(x)), "a second call gives the same"


@pytest.mark.parametrize("name", NAMES)
def test_timms_own_walker_gives_the_same_function(name):
    model, x = double(name)
    close(reparameterize_model(model)(x), model(x), 1e-10)


@pytest.mark.parametrize("name", ["lrunet2_100", "lrunet14_100", "lrunet2_200"])
def test_reuse_stays_shared_or_is_unrolled(name):
    """Through 14 runs of random weights scores are large, and errors with them: compared in relative terms."""
    model, x = double(name)
    forms = {
        (bn, reuse): zoo.reparameterize(model, batch_norm=bn, reuse=reuse)
        for bn in ("keep", "fold")
        for reuse in ("shared", "unroll")
    }
    for plain in forms.values():
        close(plain(x), model(x), 1e-10)
    counts = {form: sum(p.numel() for p in plain.parameters()) for form, plain in forms.items()}
    assert counts["keep", "shared"] == sum(p.numel() for p in model.parameters())
    assert counts["fold", "unroll"] == zoo.count_parameters(model)["inference"]
    assert counts["fold", "shared"] < counts["keep", "shared"] < counts["keep", "unroll"]
    assert "BatchNorm2d" not in leaves(forms["fold", "unroll"]) | leaves(forms["fold", "shared"])


def test_training_mode_is_refused_by_name():
    model = make("swrn_16_1_2")
    model.stages[1].train()
    with pytest.raises(zoo.ZooError, match=r"stages\.1.*eval\(\)"):
        zoo.reparameterize(model)
    with pytest.raises(zoo.ZooError, match="keep"):
        zoo.reparameterize(model.eval(), batch_norm="maybe")


class Bigger(nn.Module):
    """A user's network around two backbones, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = make("swrn_16_1_2", num_classes=0), make("pd_a_resnet18_half_cifar", num_classes=0)
        self.head = nn.Linear(64 * 2 + 64, 3)

    def forward(self, x):
        return self.head(torch.cat([self.a(x), self.a(x.flip(3)), self.b(x)], 1))


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_nested_in_a_bigger_network(batch_norm):
    model = Bigger().double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    plain = zoo.reparameterize(model, batch_norm=batch_norm)
    close(plain(x), model(x), 1e-10)
    assert leaves(plain) <= PLAIN
    close(reparameterize_model(model)(x), model(x), 1e-10)


def test_one_layer_under_two_parents_is_replaced_by_one():
    conv = zoo.layers.SharedConv2d(zoo.layers.TemplateBank(2, 4, 4, 3).double())
    model = nn.Sequential(nn.Sequential(conv), nn.Sequential(conv)).double().eval()
    plain = zoo.reparameterize(model)
    assert plain[0][0] is plain[1][0]
    x = torch.randn(1, 4, 5, 5, dtype=torch.double)
    close(plain(x), model(x), 1e-12)


def test_a_layer_that_is_the_whole_model():
    conv = zoo.layers.SharedConv2d(zoo.layers.TemplateBank(2, 4, 4, 3)).eval()
    plain = zoo.reparameterize(conv)
    assert type(plain) is nn.Conv2d
    assert torch.equal(plain.weight, conv.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["symm_wrn_16_1", "pd_a_resnet18_half_cifar", "sparse_wrn_16_1"])
def test_data_type_is_kept(name, dtype):
    plain = zoo.reparameterize(make(name).to(dtype), batch_norm="fold")
    assert {p.dtype for p in plain.parameters()} == {dtype}


def test_symmetric_recurrent_layers_become_torchs_own():
    from zoo.language import SymmGRU, SymmLSTM

    for cls, plain_cls in ((SymmLSTM, nn.LSTM), (SymmGRU, nn.GRU)):
        rnn = cls(12, 12, num_layers=2).double().eval()
        plain = zoo.reparameterize(rnn)
        assert type(plain) is plain_cls
        x = torch.randn(5, 3, 12, dtype=torch.double)
        close(plain(x)[0], rnn(x)[0], 1e-12)


# ---- the tests can fail ----


def test_a_broken_fold_is_noticed(monkeypatch):
    """With the shift forgotten, or the variance's epsilon, the comparison of the tests above fails."""
    model, x = double("wrn_16_1")

    def broken(layer, bn):
        folded = fold_into(layer, bn)
        folded.bias = nn.Parameter(torch.zeros_like(folded.bias))
        return folded

    monkeypatch.setattr("zoo.reparam.fold.fold_into", broken)
    with pytest.raises(AssertionError):
        close(zoo.reparameterize(model, batch_norm="fold")(x), model(x), 1e-10)

    def without_epsilon(layer, bn):
        bn = copy.deepcopy(bn)
        bn.eps = 0.0
        return fold_into(layer, bn)

    monkeypatch.setattr("zoo.reparam.fold.fold_into", without_epsilon)
    with pytest.raises(AssertionError):
        close(zoo.reparameterize(model, batch_norm="fold")(x), model(x), 1e-10)


def test_a_wrong_kernel_is_in_the_record():
    model = make("swrn_16_1_2")
    plain = zoo.reparameterize(model)
    plain.stages[2][1].conv1.weight.data[0, 0] += 1
    record = zoo.equivalence_record(model, plain)
    assert all(d.max_relative > 1e-4 for d in record.differences)


def test_default_statistics_would_hide_a_forgotten_batch_norm():
    """Why the tests randomise: with the defaults, dropping a branch's running statistics changes nothing."""
    model = timm.create_model("wrn_16_1").eval()
    bn = model.stages[0][0].bn2
    bn.eps = 1e-12  # torch 2.11 computes none with 0
    x = images(model)
    expected = model(x)
    model.stages[0][0].bn2 = nn.Identity()
    close(model(x), expected, 1e-6)
    model.stages[0][0].bn2 = randomise(copy.deepcopy(bn))
    with pytest.raises(AssertionError):
        close(model(x), expected, 1e-6)


# ---- record ----


def test_record_counts_and_compares():
    model = make("pd_a_resnet18_half_cifar")
    real = torch.rand(5, 3, 32, 32)
    plain, record = zoo.reparameterize(model, return_record=True)
    assert record.before.parameters > 2 * record.after.parameters
    assert record.before.macs > record.after.macs
    assert record.after.bytes == sum(t.numel() * t.element_size() for t in plain.state_dict().values())
    more = zoo.equivalence_record(model, plain, real)
    assert [(d.input, d.dtype, d.n) for d in more.differences] == [
        ("random", "float64", 8),
        ("real", "float64", 5),
        ("random", "float32", 8),
        ("real", "float32", 5),
    ]
    assert all(d.top1_agreement == 100 and d.max_relative < 1e-5 for d in more.differences)
    assert json.loads(json.dumps(more.to_dict()))["after"]["parameters"] == record.after.parameters
    with pytest.raises(zoo.ZooError, match="input_size"):
        zoo.equivalence_record(nn.Linear(3, 3), nn.Linear(3, 3))


def test_record_in_double_precision_is_exact():
    model, _ = double("symm_wrn_16_1")
    _, record = zoo.reparameterize(model, batch_norm="fold", return_record=True)
    assert record.differences[0].dtype == "float64"
    assert record.differences[0].max_relative < 1e-12


# ---- stock networks ----


@pytest.mark.parametrize("name", ["pd_a_resnet18", "ac_resnet18", "symm_resnet50", "sparse_resnet50", "pd_a_resnet34"])
def test_stock_networks_load_into_torchvision(name):
    model = make(name, num_classes=7).double()
    x = torch.randn(2, 3, 40, 40, dtype=torch.double)  # maps of two by two at the end
    stock = zoo.to_stock(model)
    assert type(stock) is timm.models.ResNet
    close(stock(x), model(x), 1e-10)
    depth = name.split("resnet")[1]
    theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=7).double().eval()
    theirs.load_state_dict(stock.state_dict(), strict=True)
    close(theirs(x), model(x), 1e-10)
    assert stock.conv1.weight.dtype == torch.float64


def test_small_image_forms_become_timms_class():
    model = make("pd_a_resnet18_half_cifar", width=0.5).double()
    x = images(model).double()
    stock = zoo.to_stock(model)
    assert isinstance(stock, timm.models.ResNet)
    close(stock(x), model(x), 1e-10)
    timm.create_model("resnet18_half_cifar").load_state_dict(stock.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["pd_b_resnet18_half_cifar", "ge_resnet18_cifar", "swrn_16_1_2"])
def test_networks_without_a_stock_form_say_so(name):
    with pytest.raises(zoo.ZooError, match="stock"):
        zoo.to_stock(make(name))


# ---- the way back ----


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", ["pd_a", "pd_b", "ac"])
def test_expansion_to_branches_is_exact_in_both_modes(kind, mode):
    source = make("resnet18_half_cifar").double().train(mode == "train")
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    expansion = zoo.expand(source, kind)
    assert expansion.exact
    assert expansion.model.training == source.training
    assert torch.equal(expansion.model(x), source(x))


def test_expansion_of_pd_a_to_pd_b():
    source = make("pd_a_resnet18_half_cifar").double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    close(zoo.expand(source, "pd_b").model(x), source(x), 1e-12)


def test_expansion_to_a_bank_of_as_many_templates():
    source, x = double("wrn_16_1")
    close(zoo.expand(source, "swrn").model(x), source(x), 1e-12)


def test_inexact_expansions_report_their_error():
    source, x = double("wrn_16_1")
    symmetric = zoo.expand(source, "symmetric", symm_type="tri")
    assert not symmetric.exact
    assert 0.1 < symmetric.kernel_error < 1
    once_more = zoo.expand(zoo.reparameterize(symmetric.model), "symmetric", symm_type="tri")
    assert once_more.exact, "symmetric kernels are their own projection"
    close(once_more.model(x), symmetric.model(x), 1e-10)
    assert zoo.expand(source, "sparse", sparsity=0.0).exact
    assert 0 < zoo.expand(source, "sparse", sparsity=0.5).kernel_error < 0.5


def test_expansion_mistakes():
    with pytest.raises(zoo.UnknownNameError, match="pd_a"):
        zoo.expand(make("wrn_16_1"), "pd_c")
    with pytest.raises(zoo.ZooError, match="ResNet-18"):
        zoo.expand(make("wrn_16_1"), "pd_a")
    with pytest.raises(zoo.ZooError, match="banana"):
        zoo.expand(make("wrn_16_1"), "sparse", sparsity=0.5, banana=1)


# ---- files ----


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("name", ["swrn_16_1_2", "pd_b_resnet18_half_cifar"])
def test_exported_files_compute_the_same(tmp_path, name, form):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = make(name)
    path = tmp_path / f"x{FORMATS[form]}"
    record = export(model, path, form, name)
    assert path.stat().st_size > 100_000
    assert record.differences[0].max_relative < 1e-5
    if form == "safetensors":
        plain = zoo.reparameterize(model)
        plain.load_state_dict(load_file(path), strict=True)
        close(plain(images(model)), model(images(model)), 1e-5)


def test_a_file_that_does_not_compute_the_same_is_not_written(tmp_path, monkeypatch):
    def broken(model, **options):
        plain = zoo.reparameterize(model, **options)
        plain.stem.conv.weight.data.neg_()
        return plain

    monkeypatch.setattr("zoo.reparam.export.reparameterize", broken)
    with pytest.raises(zoo.ZooError, match="would differ"):
        export(make("wrn_16_1"), tmp_path / "x.safetensors", "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_export_command(tmp_path, capsys):
    words = ["export", "lrunet1_100.zoo_fmnist", "--format", "safetensors", "--batch-norm", "fold"]
    assert main([*words, "--reuse", "unroll", "-o", str(tmp_path / "x.safetensors")]) == 0
    assert "equivalence" not in capsys.readouterr().err
    assert load_file(tmp_path / "x.safetensors")["stem.conv.bias"].shape == (64,)


def test_four_counts():
    """Shared weights are stored once and used often; masked ones are stored and not used; branches are summed."""
    shared = zoo.count_parameters(make("swrn_16_1_2"))
    assert shared["stored"] == shared["unique"] == 175_078
    sparse = zoo.count_parameters(make("sparse_wrn_16_1"))
    assert sparse["stored"] == 175_066
    assert sparse["nonzero"] == zoo.density_report(make("sparse_wrn_16_1")).active - 10, "the classifier's bias is zero"
    branches = zoo.count_parameters(make("pd_a_resnet18_half_cifar", width=0.5))
    assert branches["inference"] == 2_795_210 < branches["stored"] / 2
    plain = make("wrn_16_1")
    folded = sum(p.numel() for p in zoo.reparameterize(plain, batch_norm="fold").parameters())
    assert shared["inference"] == sparse["inference"] == folded
