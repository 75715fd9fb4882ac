"""Equal tensors do not make equal functions: what becomes a stock network, or starts from one, is run and compared.

Small networks stand for large ones; a change is made that leaves no trace in the state dict, and must be named.
"""

import copy
import sys

import pytest
import timm
import torch
import torchvision
from timm.layers import BlurPool2d, SelectAdaptivePool2d, freeze_batch_norm_2d
from torch import nn

import zoo
from protocol import close, randomise
from zoo.models._plain_resnet import PlainResNet
from zoo.models._same_function import check_same_function
from zoo.models.sparse_mlp import SparseMlp
from zoo.models.swrn import SharedWideResNet
from zoo.models.symm_wrn import SymmWideResNet
from zoo.reparam.stock import to_stock


def small(**kwargs) -> PlainResNet:
    torch.manual_seed(0)
    return PlainResNet(18, 0.125, num_classes=5, **kwargs).eval()


def set_all(model: nn.Module, cls: type, make) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, cls):
            model.get_submodule(name.rpartition(".")[0])._modules[name.rpartition(".")[2]] = make(module)


def with_(name: str, **attributes):
    def change(model):
        for key, value in attributes.items():
            setattr(model.get_submodule(name), key, value)

    return change


def put(name: str, make):
    def change(model):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make())

    return change


def pad(mode: str):
    def change(model):
        conv = model.layer2[1].conv2
        model.layer2[1].conv2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False, padding_mode=mode)
        model.layer2[1].conv2.weight = conv.weight

    return change


def move_stride(model):
    """The second convolution of a block strides instead of the first."""
    model.layer3[0].conv1.stride, model.layer3[0].conv2.stride = (1, 1), (2, 2)


CHANGES = {
    "max pooling": (
        put("global_pool", lambda: SelectAdaptivePool2d(pool_type="max", flatten=True)),
        "global_pool is max",
    ),
    "avgmax": (
        put("global_pool", lambda: SelectAdaptivePool2d(pool_type="avgmax", flatten=True)),
        "global_pool is avgmax",
    ),
    "all gelu": (lambda m: set_all(m, nn.ReLU, lambda _: nn.GELU()), "act1 is GELU"),
    "one silu": (put("layer4.1.act1", nn.SiLU), r"layer4\.1\.act1 is SiLU"),
    "one leaky": (put("layer1.0.act2", lambda: nn.LeakyReLU(0.01)), r"layer1\.0\.act2 is LeakyReLU"),
    "relu6": (put("layer1.0.act2", nn.ReLU6), r"layer1\.0\.act2 is ReLU6"),
    "dilation": (with_("layer4.1.conv2", dilation=(2, 2), padding=(2, 2)), r"layer4\.1\.conv2\.padding is \(2, 2\)"),
    "stride": (with_("layer4.0.conv1", stride=(1, 1)), r"layer4\.0\.conv1\.stride is \(1, 1\)"),
    "moved stride": (move_stride, r"layer3\.0\.conv1\.stride"),
    "eps": (with_("layer2.0.bn2", eps=1e-3), r"layer2\.0\.bn2\.eps is 0\.001"),
    "small eps": (with_("layer2.0.bn2", eps=1.1e-5), r"layer2\.0\.bn2\.eps"),
    "padding mode": (pad("reflect"), r"layer2\.1\.conv2\.padding_mode is reflect"),
    "ceil": (with_("maxpool", ceil_mode=True), r"maxpool\.ceil_mode"),
    "average stem": (put("maxpool", lambda: nn.AvgPool2d(3, 2, 1)), "maxpool is AvgPool2d"),
    "blur": (put("layer2.0.aa", lambda: BlurPool2d(16, stride=1)), r"layer2\.0\.aa"),
    "attention": (put("layer1.0.se", lambda: nn.Softmax(1)), r"layer1\.0\.se"),
    "pool of the first size": (put("global_pool", lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten())), "global_pool"),
    "hook": (lambda m: m.layer2.register_forward_hook(lambda _, __, y: 1.001 * y), "computes something else"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_a_trace_in_the_state_dict_is_named(change):
    """With last batch norms at zero, as timm's networks begin, the branches are silent; it is named all the same."""
    model = small(zero_init_last=True)
    CHANGES[change][0](model)
    model.eval()
    assert model.state_dict().keys() == small().state_dict().keys()
    with pytest.raises(zoo.ZooError, match=CHANGES[change][1]):
        zoo.to_stock(model)
    with pytest.raises(zoo.ZooError, match=CHANGES[change][1]):
        zoo.expand(model, "pd_a")


def test_the_comparison_runs_also_where_the_modules_look_the_same():
    """Found by numbers alone: every module is that of the plain network, the forward pass is not."""

    class Other(PlainResNet):
        def forward_features(self, x):
            return super().forward_features(x) * 1.00001

    model = Other(18, 0.125, num_classes=5).eval()
    with pytest.raises(zoo.ZooError, match="forward pass"):
        zoo.to_stock(model)
    zoo.to_stock(small())


def test_present_tensors_are_compared_too():
    """A limit that random tensors stay below."""
    model = small()
    nn.init.constant_(model.bn1.weight, 1e6)
    model.act1 = nn.Hardtanh(0, 1e5)
    with pytest.raises(zoo.ZooError, match="act1 is Hardtanh"):
        zoo.to_stock(model.eval())


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: timm.create_model("resnet50d"), "conv1 is Sequential"),
        (lambda: timm.create_model("resnext50_32x4d"), r"layer1\.0\.conv1\.out_channels is 128"),
        (lambda: timm.create_model("wide_resnet50_2"), r"conv1\.out_channels is 128"),
        (lambda: timm.create_model("seresnet50"), r"layer1\.0\.se"),
        (lambda: timm.create_model("ecaresnet50t"), "conv1 is Sequential"),
        (lambda: timm.create_model("resnet18", block_args={"attn_layer": "eca"}), r"layer1\.0\.se"),
        (lambda: timm.create_model("resnet18", global_pool="catavgmax"), "global_pool is catavgmax"),
        (lambda: timm.create_model("resnet18", output_stride=8), r"layer3\.0\.stride is 1"),
        (lambda: timm.create_model("resnet18", aa_layer=BlurPool2d), "maxpool is Sequential"),
        (lambda: timm.create_model("resnet18", act_layer="gelu"), "act1 is GELU"),
        (lambda: timm.create_model("resnet50", block_reduce_first=2), r"layer1\.0\.conv1"),
        (lambda: timm.create_model("resnet10t"), "ResNet-18"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "ResNet-18"),
        (
            lambda: torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]),
            r"layer3\.0\.stride is 1",
        ),
        (lambda: torchvision.models.wide_resnet50_2(), r"conv1\.out_channels"),
        (lambda: timm.create_model("resnet18", features_only=True), "computes something else|lacks"),
    ],
)
def test_sources_that_are_no_plain_resnet(build, told):
    source = build().eval()
    with pytest.raises(zoo.ZooError, match=told):
        zoo.expand(source, "pd_a")


def test_dilated_sources_do_not_become_sparse_or_stock():
    source = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    with pytest.raises(zoo.ZooError, match=r"layer4\.0\.stride is 1"):
        zoo.to_stock(source)
    with pytest.raises(zoo.ZooError, match=r"layer4\.0\.stride is 1"):
        zoo.expand(source, "sparse", sparsity=0.5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.resnet18(num_classes=3),
        lambda: timm.create_model("resnet18", num_classes=0, in_chans=1),
        lambda: timm.create_model("resnet18", drop_rate=0.3, drop_path_rate=0.2, zero_init_last=False).half(),
    ],
)
def test_plain_sources_of_every_make(build):
    source = randomise(build())
    x = torch.randn(2, source.conv1.in_channels, 64, 64)
    expansion = zoo.expand(source, "pd_a")
    assert expansion.exact
    assert expansion.model.training, "as the source"
    assert expansion.model.conv1.weight.dtype == source.conv1.weight.dtype
    assert getattr(expansion.model, "drop_rate", 0) == getattr(source, "drop_rate", 0)
    theirs = [getattr(m, "drop_prob", None) for m in source.modules() if type(m).__name__ == "DropPath"]
    assert [m.drop_prob for m in expansion.model.modules() if type(m).__name__ == "DropPath"] == theirs
    expected = copy.deepcopy(source).eval().double()(x.double())
    close(expansion.model.eval().double()(x.double()), expected, 1e-12)
    close(zoo.to_stock(source.eval()).double()(x.double()), expected, 1e-12)


def test_other_kinds_compare_functions_too():
    wrn = SharedWideResNet(16, 1, None).eval()
    for change, told in (
        (with_("stages.1.0.conv1", stride=(1, 1)), r"stages\.1\.0\.conv1\.stride"),
        (with_("stages.2.1.bn2", eps=1e-3), r"stages\.2\.1\.bn2\.eps"),
        (put("final.act", nn.GELU), r"final\.act is GELU"),
    ):
        model = copy.deepcopy(wrn)
        change(model)
        with pytest.raises(zoo.ZooError, match=told):
            zoo.expand(model, "swrn")
    changed = SymmWideResNet(16, 1, symm_type="tri").eval()
    changed = zoo.reparameterize(changed)
    changed.final.act = nn.SiLU()
    with pytest.raises(zoo.ZooError, match=r"final\.act is SiLU"):
        zoo.expand(changed, "sparse", sparsity=0.0)
    x = torch.randn(2, 3, 32, 32)
    again = zoo.expand(changed, "symmetric", symm_type="tri")  # a copy with other kernels: any function may have it
    close(again.model(x), changed(x), 1e-5)


def test_the_sparse_comparison_sees_small_differences():
    plain = nn.Module.__new__(SparseMlp)
    assert plain.compared_sizes == ((28, 28),)
    model = zoo.reparameterize(SparseMlp(0.9).eval())
    other = SparseMlp(0.0)
    other.bn2.eps = 2e-5
    with pytest.raises(zoo.ZooError, match=r"bn2\.eps"):
        check_same_function(model, other, "plain", 1, other.compared_sizes)


def test_frozen_and_synchronised_batch_norms_are_batch_norms():
    for make in (freeze_batch_norm_2d, nn.SyncBatchNorm.convert_sync_batchnorm):
        model = make(randomise(small())).eval()
        x = torch.randn(2, 3, 64, 64)
        close(to_stock(model)(x), model(x), 1e-6)
        close(zoo.expand(model, "pd_a").model(x), model(x), 1e-6)


def test_networks_without_values_say_so():
    with torch.device("meta"):
        model = PlainResNet(18, 0.125).eval()
    with pytest.raises(zoo.ZooError, match="meta"):
        zoo.expand(model, "pd_a")


def test_no_expansion_is_called_exact_without_having_run(monkeypatch):
    source = SharedWideResNet(16, 1, None).eval()
    module = sys.modules["zoo.reparam.expand"]  # the name itself is the function
    monkeypatch.setattr(module, "swrn_from_plain", lambda _: SharedWideResNet(16, 1, 2).eval())
    with pytest.raises(zoo.ZooError, match="does not compute"):
        zoo.expand(source, "swrn")
