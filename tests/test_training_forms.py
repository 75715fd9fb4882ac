"""Faster forms of layers against the plain ones: the same outputs, gradients and running statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from zoo.layers import paradise
from zoo.layers.paradise import BRANCHES, ACConv2d, MixedConv2d, PDAConv2d, PDBConv2d
from zoo.makers.symmetric import SymmetricWeight

SUBSETS = [[name for i, name in enumerate(BRANCHES) if bits >> i & 1] for bits in (1, 2, 4, 8, 6, 11, 15)]
"""Each branch alone, and two, three and all of them."""


@pytest.fixture
def stacking(monkeypatch):
    """Calls of the stacked form, which is chosen whatever the device."""
    calls = []
    form = paradise.stacked_conv_bn

    def counted(x, pairs, factors=None):
        calls.append(len(pairs))
        return form(x, pairs, factors)

    monkeypatch.setattr(paradise, "pays", lambda x: True)
    monkeypatch.setattr(paradise, "stacked_conv_bn", counted)
    return calls


def layer_of(kind: type, *args) -> nn.Module:
    """A float64 layer with batch norms that are each different."""
    torch.manual_seed(0)
    layer = kind(*args).double()
    with torch.no_grad():
        for bn in layer.batch_norms():
            for tensor, low in ((bn.weight, 0.5), (bn.bias, -1), (bn.running_mean, -1), (bn.running_var, 0.5)):
                tensor.uniform_(low, 2)
    return layer


def run(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers after two passes."""
    x = x.clone().requires_grad_()
    for factor in (1, 2):
        y = layer(factor * x)
    torch.manual_seed(1)
    (y * torch.randn(y.shape, dtype=y.dtype)).sum().backward()
    grads = {f"gradient of {n}": p.grad for n, p in layer.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in layer.parameters() if not p.requires_grad)
    return {"y": y.detach(), "x": x.grad, **grads, **dict(layer.named_buffers())}


def compare(layer: nn.Module, apart: nn.Module, x: torch.Tensor, stacking: list, stacked: bool) -> None:
    """A layer as it is, against an equal one with its branches apart."""
    apart._stacks = lambda x: False
    before = len(stacking)
    ours, expected = run(layer, x), run(apart, x)
    assert len(stacking) == before + (2 if stacked else 0)
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: n + text)


@pytest.mark.parametrize(
    ("kind", "stride", "batch", "training"),
    [(PDAConv2d, 1, 1, True), (PDBConv2d, 2, 4, True), (PDBConv2d, (1, 1), 3, False), (PDAConv2d, 2, 2, True)],
)
def test_stacked_branches_are_the_branches(kind, stride, batch, training, stacking):
    for branches in SUBSETS:
        layers = [layer_of(kind, 4, 8, stride, branches).train(training) for _ in range(2)]
        stacked = len(branches) > 1 or branches == ["skeleton"]
        compare(*layers, torch.randn(batch, 4, 3, 4, dtype=torch.double), stacking, stacked)


def bn_of(layer: PDAConv2d) -> nn.BatchNorm2d:
    return layer.batch_norms()[0]


def replace_bn(layer: PDAConv2d, **arguments) -> None:
    layer.branches["standard1"].bn = nn.BatchNorm2d(8, **arguments).double()


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


CHANGES = {  # what is changed, and whether the stacked form still computes it
    "frozen kernel": (lambda m: m.branches["group"].conv.requires_grad_(False), True),
    "frozen branch": (lambda m: m.branches["skeleton"].requires_grad_(False), True),
    "all momenta": (lambda m: [setattr(bn, "momentum", 0.3) for bn in m.batch_norms()], True),
    "all in eval mode": (lambda m: [bn.eval() for bn in m.batch_norms()], True),
    "channels last": (lambda m: m.to(memory_format=torch.channels_last), True),
    "another count": (lambda m: bn_of(m).num_batches_tracked.fill_(7), True),
    "cumulative": (lambda m: [setattr(bn, "momentum", None) for bn in m.batch_norms()], False),
    "one momentum": (lambda m: setattr(bn_of(m), "momentum", 0.3), False),
    "one eps": (lambda m: setattr(bn_of(m), "eps", 0.3), False),
    "one in eval mode": (lambda m: bn_of(m).eval(), False),
    "no affine": (lambda m: replace_bn(m, affine=False), False),
    "no statistics": (lambda m: replace_bn(m, track_running_stats=False), False),
    "pruned": (lambda m: prune.l1_unstructured(m.branches["standard1"].conv, "weight", 0.5), False),
    "parametrized": (lambda m: parametrizations.weight_norm(m.branches["standard1"].conv), False),
    "own class": (lambda m: setattr(m.branches["group"].conv, "__class__", Doubled), False),
    "own forward": (lambda m: setattr(bn_of(m), "forward", lambda x: x * 2), False),
    "dilated": (lambda m: vars(m.branches["standard1"].conv).update(dilation=(2, 2), padding=(2, 2)), False),
    "circular": (lambda m: m.branches.update({"standard1": circular()}), False),
    "another branch": (lambda m: m.branches.update({"standard2": circular().conv}), False),
}


def circular() -> paradise.ConvBranch:
    torch.manual_seed(1)
    branch = paradise.ConvBranch(4, 8, 1).double()
    branch.conv = nn.Conv2d(4, 8, 3, padding=1, bias=False, padding_mode="circular").double()
    return branch


@pytest.mark.parametrize("change", CHANGES)
def test_changed_branches(change, stacking):
    make, stacked = CHANGES[change]
    for kind in (PDAConv2d, PDBConv2d):
        layers = [layer_of(kind, 4, 8) for _ in range(2)]
        for layer in layers:
            make(layer)
        compare(*layers, torch.randn(3, 4, 5, 5, dtype=torch.double), stacking, stacked)


@pytest.mark.parametrize("hook", ["forward_pre", "forward", "full_backward_pre", "full_backward"])
@pytest.mark.parametrize("where", ["standard1", "skeleton", "skeleton.vertical", "group.conv", "standard2.bn"])
def test_hooks_of_branches_are_called(where, hook, stacking):
    layer = layer_of(PDAConv2d, 4, 8)
    called = []
    handle = getattr(layer.branches.get_submodule(where), f"register_{hook}_hook")(lambda *_: called.append(1))
    x = torch.randn(2, 4, 5, 5, dtype=torch.double, requires_grad=True)
    layer(x).sum().backward()
    assert called
    assert not stacking
    handle.remove()
    layer(x)
    assert stacking


def test_global_hooks_and_recorded_graphs_see_the_branches(stacking, monkeypatch):
    layer = layer_of(ACConv2d, 4, 8).eval()
    x = torch.randn(2, 4, 5, 5, dtype=torch.double)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    layer(x)
    handle.remove()
    assert seen.count(nn.BatchNorm2d) == 3
    assert not stacking
    monkeypatch.undo()
    from zoo.layers import stacked

    monkeypatch.setattr(stacked.Tensor, "is_cuda", property(lambda _: True))
    assert stacked.pays(x)
    assert not stacked.pays(x[0]), "three axes are an error of the batch norm"
    expected = layer(x)
    for recorded in (
        torch.fx.symbolic_trace(layer),
        torch.export.export(layer, (x,), strict=False).module(),
    ):
        assert str(recorded.graph).count("conv") >= 3
        torch.testing.assert_close(recorded(x), expected)


@pytest.mark.parametrize("kind", [PDAConv2d, PDBConv2d])
def test_stacked_form_in_surroundings(kind, stacking):
    layer = layer_of(kind, 4, 8)
    x = torch.randn(3, 4, 5, 5, dtype=torch.double)
    other = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    apart = copy.deepcopy(layer)
    apart._stacks = lambda x: False
    torch.testing.assert_close(*(torch.func.functional_call(m, other, x) for m in (layer, apart)))
    last = x.to(memory_format=torch.channels_last)
    outputs = [module(last) for module in (layer, apart)]
    torch.testing.assert_close(*outputs)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)
    halves = []
    for module in (layer.float(), apart.float()):
        with torch.autocast("cpu", torch.bfloat16):
            halves.append(module(x.float()))
    torch.testing.assert_close(*halves, rtol=0.05, atol=0.05)
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(x.float()), apart.eval()(x.float()))
    assert len(stacking) == 4


# Collapsed PD-B


@pytest.mark.parametrize(("cache", "calls"), [(2**20, 1), (18432, 6), (9216, 12), (6912, 4), (1, 8)])
def test_mixed_kernels_in_parts(cache, calls, monkeypatch):
    """All at once, some images at a time, one at a time, some outputs at a time, one output at a time."""
    torch.manual_seed(0)
    layer = layer_of(PDBConv2d, 4, 8).eval().fuse()
    assert isinstance(layer, MixedConv2d)
    x = torch.randn(12, 4, 5, 5, dtype=torch.double)
    whole = copy.deepcopy(layer)
    whole._part = lambda x: (0, 0)
    counted = []
    mix = layer._mix_kernels
    layer._mix_kernels = lambda *parts: counted.append(1) or mix(*parts)
    monkeypatch.setattr(paradise, "_CACHE", cache)
    ours, expected = run(layer, x), run(whole, x)
    assert len(counted) == 2 * calls
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-10)
    layer._mix_kernels = mix
    traced = torch.jit.trace(layer.float(), x.float())
    torch.testing.assert_close(traced(x.float()), whole.float()(x.float()))


# Symmetric kernels


@pytest.mark.parametrize("kind", ["tri", "quar", "eight", "block4", "spa", "tri+spa", "chunk_2_3"])
def test_symmetric_kernels_are_contiguous(kind):
    for centre in ("single", "reference"):
        maker = SymmetricWeight((5, 5, 3, 3), kind, centre)
        learned = torch.randn(maker.stored, dtype=torch.double, requires_grad=True)
        taps, pairs, factor = maker.maps.on(learned.device)
        values = learned if taps is None else learned[taps]
        values = values if pairs is None else values[:, pairs]
        values = values if factor is None else values * factor.double()
        expected, kernel = values.t().reshape(5, 5, 3, 3), maker(learned)
        assert kernel.is_contiguous()
        assert torch.equal(kernel, expected)
        factors = torch.randn(5, 5, 3, 3, dtype=torch.double)
        gradients = [torch.autograd.grad((made * factors).sum(), learned)[0] for made in (kernel, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [PDAConv2d, PDBConv2d])
def test_ensembles_of_torch_func_have_their_branches_apart(kind, stacking):
    layers = [layer_of(kind, 8, 8).eval() for _ in range(2)]
    tensors = torch.func.stack_module_state(layers)
    x = torch.randn(3, 8, 5, 5, dtype=torch.double)
    both = torch.func.vmap(lambda p, b: torch.func.functional_call(layers[0], (p, b), (x,)))(*tensors)
    assert not stacking
    torch.testing.assert_close(both, torch.stack([layer(x) for layer in layers]))


def test_a_trace_of_mixed_kernels_takes_any_batch():
    layer = layer_of(PDBConv2d, 5, 6).eval().fuse()
    x = torch.randn(3, 5, 9, 8, dtype=torch.double)
    traced = torch.jit.trace(layer, x)
    for part in (x, x[:1], torch.cat([x, x])):
        torch.testing.assert_close(traced(part), layer(part))
