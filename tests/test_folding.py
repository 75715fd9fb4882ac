"""Which batch norms fold, into what, and which stay: small networks in float64, compared exactly."""

import pytest
import torch
from timm.layers import BatchNormAct2d, freeze_batch_norm_2d
from torch import nn
from torch.nn import functional as F

import zoo
from protocol import close, randomise
from zoo.layers.paradise import PDAConv2d
from zoo.models.lrunet import ReuseBlock


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # biases too, which some layers start at zero
    return randomise(model).double().eval()


def norms(model: nn.Module) -> int:
    return sum("BatchNorm" in type(module).__name__ for module in model.modules())


def check(model: nn.Module, shape: tuple[int, ...], stay: int) -> nn.Module:
    """Folding gives the same function and leaves so many batch norms."""
    x = torch.randn(*shape, dtype=torch.double)
    expected = model(x)
    plain = zoo.reparameterize(model, batch_norm="fold")
    close(plain(x), expected, 1e-12)
    assert norms(plain) == stay
    return plain


FOLDING = {
    "bias": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "no bias": lambda: nn.Conv2d(3, 4, 3, bias=False),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "dilated": lambda: nn.Conv2d(3, 4, 3, dilation=2, stride=2),
    "reflect": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(3, 4, (3, 1), padding=(1, 0), padding_mode="circular", bias=False),
    "same": lambda: nn.Conv2d(3, 4, 3, padding="same"),
}


@pytest.mark.parametrize("convert", [lambda m: m, nn.SyncBatchNorm.convert_sync_batchnorm, freeze_batch_norm_2d])
@pytest.mark.parametrize("conv", FOLDING)
def test_convolutions_of_every_form_fold(conv, convert):
    conv = FOLDING[conv]()
    plain = check(convert(network(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())).eval(), (2, 3, 9, 9), 0)
    assert plain[0].padding_mode == conv.padding_mode


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_fold(bias, affine):
    plain = nn.Sequential(nn.Linear(5, 7, bias=bias), nn.BatchNorm1d(7, affine=affine), nn.Linear(7, 2)).double()
    plain[1].running_mean.normal_()
    plain[1].running_var.uniform_(0.5, 2)
    plain = check(plain.eval(), (4, 5), 0)
    with pytest.raises(zoo.ZooError, match="axes"):  # there the batch norm would be over the second axis
        plain(torch.randn(2, 7, 5, dtype=torch.double))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: (nn.Conv2d(3, 4, 3), BatchNormAct2d(4)),
        lambda: (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
    ],
)
def test_what_is_not_a_convolution_and_its_batch_norm_stays(layers):
    made = [layer.double() for layer in layers()]
    for layer in made:
        if getattr(layer, "running_mean", None) is not None:
            layer.running_mean.normal_()
    check(nn.Sequential(*made).eval(), (2, 3, 8, 8), 1)


def test_a_traced_network_with_an_activating_batch_norm_as_one_call():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, BatchNormAct2d) or super().is_leaf_module(module, name)

    model = network(nn.Conv2d(3, 4, 3), BatchNormAct2d(4))
    check(torch.fx.GraphModule(model, Tracer().trace(model)), (2, 3, 8, 8), 1)


class Net(nn.Module):
    """Two layers and two batch norms of one shape, called as a function says."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.n, self.o = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.call(self, x)


@pytest.mark.parametrize(
    ("call", "stay"),
    [
        (lambda m, x: m.n(m.a(x)) + m.o(m.b(x)), ""),
        (lambda m, x: m.o(m.n(m.a(x))) + m.b(x), "o"),  # the second follows a batch norm
        (lambda m, x: (lambda y: m.n(y) + m.o(y))(m.a(x)) + m.b(x), "no"),  # one output, two batch norms
        (lambda m, x: (lambda y: m.n(y) + y)(m.a(x)) + m.o(m.b(x)), "n"),  # and one that something else reads
        (lambda m, x: m.n(m.a(x)) + m.o(m.a(x.flip(3))), "no"),  # one convolution, two uses
        (lambda m, x: m.n(m.a(m.a(x))) + m.o(m.b(x)), "n"),
        (lambda m, x: m.n(m.a(x)) + m.n(m.b(x)) + m.o(x), "no"),  # one batch norm, two uses
        (lambda m, x: m.n(m.a(x)) + F.conv2d(x, m.a.weight, padding=1) + m.o(m.b(x)), "n"),  # the kernel is read too
        (lambda m, x: m.n(m.a(x)) * m.n.running_var.sum() + m.o(m.b(x)), "n"),
    ],
)
def test_only_what_nothing_else_uses_is_folded(call, stay):
    plain = check(randomise(Net(call)).double().eval(), (2, 4, 7, 7), len(stay))
    assert all(isinstance(getattr(plain, name), nn.BatchNorm2d) for name in stay)


class Aliased(nn.Module):
    """The layers of a sequence under second names."""

    def __init__(self, inner: nn.Sequential):
        super().__init__()
        self.inner, self.conv, self.bn = inner, inner[0], inner[1]

    def forward(self, x):
        return self.bn(self.conv(x))


def test_layers_under_two_names():
    plain = check(Aliased(network(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval(), (2, 3, 8, 8), 0)
    assert plain.conv is plain.inner[0]


@pytest.mark.parametrize("layer", [0, 1])
def test_a_hook_between_keeps_both(layer):
    hooked = network(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    hooked[layer].register_forward_hook(lambda _, __, y: 2 * y)
    check(hooked, (2, 3, 8, 8), 1)


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze_batch_norm_2d])
def test_branches_and_reuse_fold_other_batch_norms_too(convert):
    block = convert(network(PDAConv2d(8, 16, 2), ReuseBlock(16, 2))).eval()
    check(block, (2, 8, 9, 9), 0)


def test_branches_with_a_bias_or_another_padding():
    model = network(PDAConv2d(8, 8, branches=("standard1", "skeleton")))
    branch = model[0].branches["standard1"]
    branch.conv = nn.Conv2d(8, 8, 3, padding=1, bias=True).double().eval()
    check(model, (2, 8, 9, 9), 0)
    branch.conv.padding_mode = "reflect"
    with pytest.raises(zoo.ZooError, match="reflect"):
        zoo.reparameterize(model)
    branch.conv.padding_mode = "zeros"
    branch.bn = nn.GroupNorm(2, 8).double().eval()
    with pytest.raises(zoo.ZooError, match="GroupNorm"):
        zoo.reparameterize(model)


def test_what_is_frozen_stays_frozen_and_channels_last_stays():
    model = network(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), PDAConv2d(8, 8), nn.Conv2d(8, 8, 3, bias=False))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    model = model.to(memory_format=torch.channels_last)
    plain = check(model, (2, 8, 9, 9), 0)
    assert [p.requires_grad for p in plain.parameters()] == [False, False, True, True, True]
    kernels = [p for p in plain.parameters() if p.dim() == 4]
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
