"""The pass gives the same wherever it is called: under autocast or inference mode, on pruned, cut or wrapped nets."""

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import zoo
from protocol import build, close, images, make, randomise
from zoo.layers import SharedConv2d, TemplateBank
from zoo.makers import plain_layer
from zoo.reparam.export import FORMATS, export

NAMES = ("swrn_16_1_2", "symm_wrn_16_1", "sparse_wrn_16_1", "pd_a_resnet18_half_cifar", "lrunet2_100")
FOLDED = {"batch_norm": "fold", "reuse": "unroll"}


# ---- kernels that a hook computes ----


def pruned(seed: int, how) -> nn.Module:
    torch.manual_seed(seed)
    model = randomise(build("pd_a_resnet18_half_cifar"), seed).eval()
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            how(layer)
    return model


HOOKS = {
    "prune": (lambda m: prune.l1_unstructured(m, "weight", amount=0.3), lambda m: prune.identity(m, "weight")),
    "twice": (
        lambda m: prune.random_unstructured(prune.l1_unstructured(m, "weight", amount=0.3), "weight", amount=0.2),
        lambda m: prune.identity(m, "weight"),
    ),
    "weight_norm": (weight_norm, weight_norm),
    "spectral_norm": (spectral_norm, spectral_norm),
    "parametrized weight_norm": (parametrizations.weight_norm, parametrizations.weight_norm),
    "orthogonal": (parametrizations.orthogonal, parametrizations.orthogonal),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hook", HOOKS)
def test_the_current_kernel_is_used(hook):
    """A state dict loaded into another network, before any pass that would run the hooks; with gradients on."""
    torch.manual_seed(0)
    first, second = HOOKS[hook]
    trained, loaded = (
        nn.Sequential(how(nn.Conv2d(4, 8, 3)), nn.BatchNorm2d(8), how(nn.Conv2d(8, 8, 1)), nn.Flatten())
        for how in (first, second)
    )
    randomise(trained).eval()
    loaded.eval()
    loaded.load_state_dict(trained.state_dict())
    before = copy.copy(loaded.state_dict())
    x = torch.randn(2, 4, 6, 6)
    for options in ({}, FOLDED):
        plain = zoo.reparameterize(loaded, **options)
        close(plain(x), trained(x), 1e-5)
        assert {type(m) for m in plain} <= {nn.Conv2d, nn.BatchNorm2d, nn.Identity, nn.Flatten}
        assert all(p.is_leaf and p.requires_grad for p in plain.parameters())
        assert not any("_orig" in key or "_mask" in key or "original" in key for key in plain.state_dict())
        copy.deepcopy(plain).load_state_dict(dict(plain.state_dict()))  # as from a file, without torch's notes
    assert loaded.state_dict().keys() == before.keys(), "the network itself is as it was"


@pytest.mark.filterwarnings("ignore")
def test_pruned_branches_expansions_and_stock_networks():
    trained = pruned(0, HOOKS["prune"][0])
    loaded = pruned(1, HOOKS["prune"][1])
    loaded.load_state_dict(trained.state_dict())
    x = torch.randn(2, 3, 32, 32)
    close(zoo.to_stock(loaded)(x), trained(x), 1e-5)
    plain = make("resnet18_half_cifar")
    prune.l1_unstructured(plain.layer1[0].conv1, "weight", amount=0.5)
    close(zoo.expand(plain, "ac").model(x), plain(x), 1e-5)
    assert zoo.count_parameters(plain)["nonzero"] < zoo.count_parameters(make("resnet18_half_cifar"))["nonzero"]
    wrn = make("wrn_16_1")
    prune.l1_unstructured(wrn.stages[0][1].conv1, "weight", amount=0.5)
    for kind, options in (("swrn", {}), ("sparse", {"sparsity": 0.0})):
        close(zoo.expand(wrn, kind, **options).model(x), wrn(x), 1e-5)


def test_what_has_no_kernel_to_read_is_one_line():
    lazy = nn.Sequential(nn.LazyConv2d(4, 3)).eval()
    with pytest.raises(zoo.ZooError, match=r"0 is a lazy layer.*run the network once"):
        zoo.reparameterize(lazy)
    own = nn.Sequential(nn.Conv2d(3, 3, 1)).eval()
    kernel = own[0].weight
    del own[0].weight
    own[0].weight = kernel * 2
    with pytest.raises(zoo.ZooError, match=r"0\.weight is no parameter"):
        zoo.reparameterize(own)
    scripted = torch.jit.trace(nn.Conv2d(3, 3, 1).eval(), torch.randn(1, 3, 4, 4))
    with pytest.raises(zoo.ZooError, match=r"torch\.jit"):
        zoo.reparameterize(scripted)
    with pytest.raises(zoo.ZooError, match="_orig_mod"):
        zoo.reparameterize(torch.compile(nn.Conv2d(3, 3, 1).eval()))


def test_hooks_go_to_the_layer_in_the_place_of_a_hooked_one_and_a_made_layer_alone_loses_them():
    model = make("swrn_16_1_2")
    model.stages[1][1].conv1.register_forward_hook(lambda _, __, y: y + 1)
    x = images(model)
    close(zoo.reparameterize(model)(x), model(x), 1e-5)
    layer = SharedConv2d(TemplateBank(2, 4, 4, 3))
    layer.register_forward_hook(lambda _, __, y: y)
    assert not plain_layer(layer)._forward_hooks


# ---- surroundings ----


@pytest.mark.parametrize("options", [{}, FOLDED])
@pytest.mark.parametrize("name", [*NAMES, "pdpt"])
def test_autocast_and_inference_mode_have_no_effect(name, options):
    model = make("symm_wrn_16_1", symm_type="pdpt") if name == "pdpt" else make(name)
    expected = zoo.reparameterize(model, **options)
    x = images(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, record = zoo.reparameterize(model, return_record=True, **options)
        walked = reparameterize_model(model)
    assert record.differences[1].max_relative < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), expected.parameters(), strict=True))
    assert {p.dtype for p in [*plain.parameters(), *walked.parameters()]} == {torch.float32}
    with torch.inference_mode():
        plain = zoo.reparameterize(model, **options)
    plain.train()(x).square().mean().backward()
    assert all(p.grad is not None for p in plain.parameters())


def test_expansions_stock_networks_and_files_under_autocast(tmp_path):
    source, x = make("wrn_16_1"), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = [zoo.expand(source, "swrn"), zoo.expand(source, "sparse", sparsity=0.0)]
        stock = zoo.to_stock(make("pd_a_resnet18_half_cifar"))
        export(source, tmp_path / "x.safetensors", "safetensors")
    for expansion in made:
        close(expansion.model(x), source(x), 1e-5)
    assert {p.dtype for p in stock.parameters()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, FOLDED, {"batch_norm": "fold"}, {"reuse": "unroll"}])
@pytest.mark.parametrize("name", [*NAMES, "pd_b_resnet18_half_cifar", "symm_wrn_bottleneck_16_1", "sparse_mlp_300_100"])
def test_a_collapsed_network_can_be_saved(tmp_path, name, options):
    plain = zoo.reparameterize(make(name), **options)
    restored = zoo.reparameterize(make(name).to(memory_format=torch.channels_last), **options)
    for network in (plain, restored):
        tensors = list(network.state_dict().values())
        storages = [t.untyped_storage() for t in tensors if t.numel()]
        assert len({s.data_ptr() for s in storages}) == len(storages)
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors)
        last = torch.channels_last if any(not t.is_contiguous() for t in tensors) else torch.contiguous_format
        assert all(t.is_contiguous(memory_format=last) for t in tensors if t.dim() == 4)
    save_file(plain.state_dict(), tmp_path / "x.safetensors")
    for parameter in restored.parameters():
        parameter.data.zero_()
    restored.load_state_dict(load_file(tmp_path / "x.safetensors"))
    close(restored(images(plain)), plain(images(plain)), 1e-6)


@pytest.mark.parametrize("name", ["symm_wrn_16_1", "swrn_16_1_2", "pd_a_resnet18_half_cifar"])
def test_channels_last_is_kept(name):
    model = make(name).to(memory_format=torch.channels_last)
    kernels = [p for p in zoo.reparameterize(model, batch_norm="fold").parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert not all(p.is_contiguous() for p in kernels)


def test_mixed_types_frozen_parts_and_buffers_stay():
    model = make("swrn_16_1_2")
    model.head.fc.to(torch.float64)
    for parameter in model.stages[0].parameters():
        parameter.requires_grad_(False)
    plain = zoo.reparameterize(model)
    assert plain.head.fc.weight.dtype == torch.float64
    assert plain.stages[1][0].conv1.weight.dtype == torch.float32
    assert not any(p.requires_grad for p in plain.stages[0].parameters())
    assert all(p.requires_grad for p in plain.stages[1].parameters())


# ---- parts and wholes ----


@pytest.mark.parametrize("name", NAMES)
def test_cut_traced_and_doubled_networks(name):
    model = make(name).double()
    x = images(model).double()
    parts = [model.stem, *model.stages] if hasattr(model, "stages") else [model.conv1, model.bn1, model.layer1]
    traced = torch.fx.symbolic_trace(model)
    block = model.stages[0] if hasattr(model, "stages") else model.layer1
    for whole, inputs in (
        (nn.Sequential(*parts), x),
        (traced, x),
        (nn.Sequential(model.stem if hasattr(model, "stem") else model.conv1, block), x),
        (nn.ModuleList([model, model]), None),
    ):
        for options in ({}, FOLDED):
            if inputs is None:
                twin = zoo.reparameterize(whole)
                assert twin[0] is twin[1]
                continue
            close(zoo.reparameterize(whole, **options)(inputs), whole(inputs), 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_backbones_have_records_and_files(name, tmp_path):
    model = randomise(build(name, features_only=True)).eval()
    plain, record = zoo.reparameterize(model, batch_norm="fold", return_record=True)
    assert max(d.max_relative for d in record.differences) < 1e-4
    assert record.differences[0].top1_agreement is None
    for a, b in zip(plain(images(model)), model(images(model)), strict=True):
        close(a, b, 1e-4)
    export(model, tmp_path / "x.safetensors", "safetensors")
    assert load_file(tmp_path / "x.safetensors").keys() == zoo.reparameterize(model).state_dict().keys()


class Named(nn.Module):
    """A user's network with a dictionary of outputs and no configuration."""

    def __init__(self):
        super().__init__()
        self.body = make("pd_a_resnet18_half_cifar", in_chans=2, num_classes=0)
        self.heads = nn.ModuleDict({name: nn.Linear(64, 3) for name in ("age", "kind")})

    def forward(self, x):
        y = self.body(x)
        return {name: head(y) for name, head in self.heads.items()}


@pytest.mark.parametrize("form", list(FORMATS))
def test_dictionaries_of_outputs(form, tmp_path):
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = Named().eval()
    with pytest.raises(zoo.ZooError, match="input_size"):
        zoo.reparameterize(model, return_record=True)
    with pytest.raises(zoo.ZooError, match="cannot run"):
        zoo.reparameterize(model, return_record=True, input_size=(3, 32, 32))
    record = export(model, tmp_path / "x", form, input_size=(2, 32, 32))
    assert [d.input for d in record.differences] == ["random"] * 2
    assert all(d.top1_agreement == 100 for d in record.differences)
    record = export(model, tmp_path / "x", form, example=torch.randn(3, 2, 40, 24))
    assert [(d.input, d.n) for d in record.differences] == [("example", 3)] * 2
    if form == "onnx":
        session = onnxruntime.InferenceSession(tmp_path / "x")
        assert [output.name for output in session.get_outputs()] == ["age", "kind"]


def test_backbones_in_every_format(tmp_path):
    model = build("pd_a_resnet18_half_cifar", features_only=True, out_indices=(1, 3)).eval()
    for form in FORMATS:
        if form == "onnx":
            pytest.importorskip("onnxscript")
            pytest.importorskip("onnxruntime")
        export(model, tmp_path / form, form)


def test_a_wrong_output_among_several_is_in_the_record_and_not_written(tmp_path, monkeypatch):
    model = timm.create_model("wrn_16_1", features_only=True).eval()
    plain = zoo.reparameterize(model)
    last = [m for m in plain.modules() if isinstance(m, nn.Conv2d)][-1]
    last.weight.data[0] += 0.1
    assert zoo.equivalence_record(model, plain).differences[0].max_relative > 1e-4
    monkeypatch.setattr("zoo.reparam.export.reparameterize", lambda *_, **__: plain)
    with pytest.raises(zoo.ZooError, match="would differ"):
        export(model, tmp_path / "x", "safetensors")
    assert not list(tmp_path.iterdir())
