"""``zoo.transform`` on networks that read, write and hold more than the usual ones do, and odd options."""

import logging
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import zoo
from zoo import plugins
from zoo.cli import main
from zoo.makers import learned_of
from zoo.training import loop
from zoo.training.learner import build_network, goes_on
from zoo.training.recipe import Recipe
from zoo.transforms import kinds
from zoo.transforms.kinds import _found

SMALL = {"layers": (2, 1, 1, 1), "channels": (8, 8, 12, 12), "num_classes": 5}
PD = "pd_a:standard1|skeleton,layers=a"
SIZE = {"input_size": (3, 12, 12)}


class Net(nn.Module):
    """Two 3x3 convolutions with batch norms, of which the first is what tests change."""

    def __init__(self, body=None, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.na = conv(8, 8, 3, padding=1), norm(8)
        self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body = body or (lambda net, x: net.na(net.a(x)))

    def forward(self, x):
        x = self.body(self, self.stem(x).relu()).relu()
        return self.nb(self.b(x)).mean((2, 3))


def ready(model):
    """In float64, with batch norms that have seen something, in eval mode."""
    torch.manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1), norm.running_var.uniform_(0.5, 1.5)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias, std=0.1)
    return model.double().eval()


def images(size=12, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(size)).double()


def same(one, other, atol=1e-9):
    torch.testing.assert_close(one, other, rtol=1e-8, atol=atol)


def hooked(net):
    net.a.register_forward_hook(lambda layer, inputs, output: output * 2)
    return net


@torch.jit.script
def scripted(x: torch.Tensor):
    return x.mul(2.0).sigmoid()


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


def kept(net, x):
    net.last = net.a(x)
    return net.na(net.last)


READ_TWICE = {
    "a scripted function": lambda net, x: (y := net.a(x), net.na(y) + scripted(y))[1],
    "a function of autograd": lambda net, x: (y := net.a(x), net.na(y) + Tripled.apply(y))[1],
    "a checkpoint": lambda net, x: (y := net.a(x), net.na(y) + checkpoint(torch.tanh, y, use_reentrant=True))[1],
    "training only": lambda net, x: (y := net.a(x), net.na(y) + (y.tanh() if net.training else 0))[1],
    "the kernel": lambda net, x: net.na(net.a(x)) + F.conv2d(x, net.a.weight, padding=1),
    "the kernel's data": lambda net, x: net.na(net.a(x)) + F.conv2d(x, net.a.weight.data, padding=1),
    "an attribute": kept,
    "in place": lambda net, x: net.na(net.a(x).mul_(2)),
}
OTHERWISE = {
    "dropout before the norm": lambda net, x: net.na(F.dropout(net.a(x), 0.5, net.training)),
    "the norm's weight": lambda net, x: net.na(net.a(x)) * net.na.weight.mean(),
}


@pytest.mark.parametrize("case", [*READ_TWICE, *OTHERWISE, "a hook"])
def test_branches_see_who_else_reads_what_is_between_convolution_and_batch_norm(case):
    """Left alone with the reason; else the function would be another, and some only in training."""
    net = ready(hooked(Net()) if case == "a hook" else Net((READ_TWICE | OTHERWISE)[case]))
    twin = zoo.transform(net, "pd_a:standard1|group", **SIZE)
    word = "elsewhere" if case in READ_TWICE else "hook" if case == "a hook" else "no batch norm behind"
    assert word in twin.zoo_report.left_alone["a"] and [c.name for c in twin.zoo_report.changed] == ["b"]
    for mode in (False, True):
        outputs = []
        for network in (net, twin):
            torch.manual_seed(0)
            with torch.no_grad():
                outputs.append(network.train(mode)(images()))
        same(*outputs)


@torch.no_grad()
def test_a_network_that_reads_attributes_of_a_layer_is_told_so():
    net = ready(Net(lambda net, x: net.na(net.a(x.to(net.a.weight.dtype)))))
    with pytest.raises(zoo.ZooError, match="reads more of a layer"):
        zoo.transform(net, PD, **SIZE)
    assert zoo.transform(net, "symmetrize:tri,layers=a", **SIZE).zoo_report.changed


def test_layers_in_plain_lists_are_replaced_too():
    net = Net(lambda net, x: net.steps[1](net.steps[0](x)))
    net.steps = [net.a, net.na]
    twin = zoo.transform(ready(net), PD, **SIZE).train()
    twin(images()).sum().backward()
    assert all(p.grad is not None for p in twin.a.parameters())
    same(zoo.reparameterize(twin.eval())(images()), twin(images()))


class Masked(nn.Conv2d):
    """As PixelCNN's: sees only what is above and to the left."""

    def forward(self, x):
        self.weight.data[:, :, 1:, 1:] = 0
        return super().forward(x)


class Normalised(nn.Conv2d):
    def forward(self, x):
        self.weight.data = F.normalize(self.weight.data, dim=1)
        return super().forward(x)


@pytest.mark.parametrize("conv", [Masked, Normalised])
def test_a_convolution_that_writes_to_its_kernel_is_left_alone(conv):
    for kind in ("symmetrize:tri", "sparsify:0.5", "lowrank:2", "pd_a"):
        report = zoo.plan(Net(conv=conv), kind, **SIZE)
        assert "changes its kernel" in report.left_alone["a"] and "b" not in report.left_alone


def test_tied_kernels_are_planned_as_what_they_are():
    net = Net()
    net.b.weight = net.a.weight
    planned, report = zoo.plan(net, "symmetrize:tri", **SIZE), zoo.transform(net, "symmetrize:tri", **SIZE).zoo_report
    assert planned.before.parameters == report.before.parameters == sum(p.numel() for p in net.parameters())
    assert planned.left_alone == report.left_alone and "elsewhere" in planned.left_alone["a"]


def test_torchs_own_parametrizations_are_left_alone():
    net = Net()
    nn.utils.parametrizations.weight_norm(net.a)
    for kind in ("share:2,layers=a", "pd_a:layers=a", "sparsify:0.5,layers=a"):
        assert "_WeightNorm" in zoo.transform(net, kind, **SIZE).zoo_report.left_alone["a"]


def test_the_first_layer_is_found_in_wrappers():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = timm.create_model("resnet18", **SMALL)
            self.pretrained_cfg = self.backbone.pretrained_cfg

        def forward(self, x):
            return self.backbone(x)

    features = timm.create_model("test_convnext", features_only=True)
    for model, name in ((nn.DataParallel(Wrapper()), "module.backbone.conv1"), (features, "stem_0")):
        assert zoo.plan(model, "lowrank:2", input_size=(3, 32, 32)).left_alone[name] == "first layer"


def test_a_hook_on_branches_sees_the_same_after_the_collapse():
    for place in ("a", "na"):
        twin = zoo.transform(ready(Net()), PD, **SIZE)
        if place == "a":
            twin.a.register_forward_hook(lambda layer, inputs, output: output * 2)
        else:
            twin.na.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * 2,))
        same(zoo.reparameterize(twin)(images()), twin(images()))


def test_batch_norms_of_branches_are_like_the_one_they_take_the_place_of():
    twin = zoo.transform(Net(norm=nn.SyncBatchNorm).eval(), PD, **SIZE)
    assert {type(norm) for norm in twin.a.batch_norms()} == {nn.SyncBatchNorm}
    net = ready(Net()).bfloat16()
    net.na.float()
    twin = zoo.transform(net, PD, **SIZE)
    assert {norm.weight.dtype for norm in twin.a.batch_norms()} == {torch.float32}
    assert zoo.reparameterize(twin).na.running_mean.dtype == torch.float32
    twin.train().na.eval()  # by the name that it had
    assert not any(norm.training for norm in twin.a.batch_norms())


def test_frozen_layers_stay_frozen():
    net = Net().requires_grad_(False)
    for kind in ("share:1", "share:1+sparsify:0.5", "symmetrize:tri", "tie:0.5", "lowrank:2", "pd_a"):
        twin = zoo.transform(net, kind, **SIZE)
        assert twin.zoo_report.changed and not any(p.requires_grad for p in twin.parameters()), kind
    net.b.requires_grad_(True)
    with pytest.raises(zoo.ZooError, match="a is frozen and would share its kernel with b"):
        zoo.transform(net, "share:1", **SIZE)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3)) for _ in range(3)]
    twin = zoo.transform(nn.Sequential(nn.Conv2d(3, 4, 1), *blocks).requires_grad_(False), "reuse", **SIZE)
    assert twin.zoo_report.changed and not any(p.requires_grad for p in twin.parameters())


def test_random_kernels_keep_their_size_and_zero_ones_a_gradient():
    spec = "tie:0.9,layers=layer1+lowrank:2,layers=layer3"
    plain, model = timm.create_model("resnet18", **SMALL), zoo.create_model("resnet18", transform=spec, **SMALL)
    for change in model.zoo_report.changed:
        sizes = [network.get_submodule(change.name).weight.std().item() for network in (plain, model)]
        assert 0.6 < sizes[0] / sizes[1] < 1.6, change
    net = ready(Net())
    nn.init.zeros_(net.a.weight)
    twin = zoo.transform(net, "lowrank:2,layers=a", **SIZE)
    twin(images()).square().sum().backward()
    assert learned_of(twin.a).grad.abs().sum() > 0


def test_biases_of_repeated_blocks_do_not_decay():
    model = zoo.transform(timm.create_model("test_convnext", depths=(1, 2, 4, 2)), "reuse")
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for p in zoo.layers.decay_groups(model, 0.1)[1]["params"]}
    assert not [name for name in decayed if "bias" in name]
    assert any(name.endswith("weight.0.bank.templates") for name in decayed)


@pytest.mark.parametrize(
    ("kind", "options", "spec"),
    [
        ("share", {"templates": "3"}, "share:3"),
        ("share", {"layers": ["a", "b"]}, "share:layers=a|b"),
        ("share", {"layers": "a,b"}, "share:layers=a|b"),
        ("share", {"layers": {"b", "a"}}, "share:layers=a|b"),
        ("share", {"layers": ["a"]}, "share:layers=a"),
        ("pd_a", {"branches": "standard1,skeleton"}, "pd_a:standard1|skeleton"),
        ("lowrank", {"rank": "0.25"}, "lowrank:0.25"),
        ("share", {"layers": ["[a,b]"]}, None),
        ("share", {"layers": []}, None),
        ("sparsify", {"sparsity": float("nan")}, None),
    ],
)
def test_options_are_read_alike_from_python_and_from_strings(kind, options, spec):
    if spec is None:
        with pytest.raises(zoo.ZooError) as error:
            zoo.plan(Net(), kind, **SIZE, **options)
        assert "\n" not in str(error.value)
    else:
        planned = zoo.plan(Net(), kind, **SIZE, **options)
        assert planned.transform == spec and planned == zoo.plan(Net(), spec, **SIZE)


def test_what_surrounds_the_call_has_no_effect():
    net = Net().eval()
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        twins = [zoo.transform(net, spec, **SIZE) for spec in ("share:1+sparsify:0.5", "tie:0.5", "pd_a")]
    for twin in twins:
        twin(images().float()).sum().backward()
        assert {(p.dtype, p.device.type) for p in twin.parameters()} == {(torch.float32, "cpu")}


def test_the_command_says_that_values_are_random(tmp_path, capsys):
    assert main(["transform", "test_resnet", "sparsify:0.5", "-o", str(tmp_path / "made")]) == 0
    assert "random, --pretrained" in capsys.readouterr().err
    assert main(["transform", str(tmp_path / "made"), "share:2", "-o", ""]) == 1
    assert "there already" in capsys.readouterr().err


def test_layers_that_have_numbers_for_names():
    model = nn.Sequential(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(12))))
    for kind, options in (("share:layers=0.1|0.10", {}), ("share", {"layers": ["0.1", "0.10"]})):
        assert [c.name for c in zoo.plan(model, kind, **SIZE, **options).changed] == ["0.1", "0.10"]
    assert len(zoo.plan(model[0], "share", layers=[1, 2], **SIZE).changed) == 2


def test_a_network_much_larger_than_its_file_comes_back(tmp_path):
    model = zoo.transform(timm.create_model("resnet18", channels=(96,) * 4, num_classes=2), "lowrank:1").eval()
    save_for_hf(model, tmp_path / "small", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True).eval()
    assert torch.equal(again(images().float()), model(images().float()))
    with pytest.raises(zoo.ZooError, match="larger than this machine"):
        timm.create_model("transformed", base="resnet18", transform="share", base_args={"channels": [10**6] * 4})


def test_what_was_transformed_and_folded_is_transformed_again_and_says_so():
    branched = zoo.transform(timm.create_model("resnet18", **SMALL).eval(), "ac:layers=layer1.0.conv1")
    model = zoo.transform(zoo.reparameterize(branched, batch_norm="fold"), "lowrank:2,layers=layer2")
    with torch.device("meta"):  # as a saved one is made again
        again = timm.create_model(model.pretrained_cfg["architecture"], num_classes=5, **model._model_args)
    shapes, others = ({k: v.shape for k, v in network.state_dict().items()} for network in (model, again))
    assert shapes == others and "layer1.0.conv1.bias" in shapes
    with pytest.raises(zoo.ZooError, match="transformed again"):
        timm.create_model("transformed", base="transformed", transform="share")


def test_a_wrapper_for_several_processes_comes_after_the_transformation(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(Net())
        for call in (zoo.transform, zoo.plan):
            with pytest.raises(zoo.ZooError, match="then wrap it"):
                call(wrapped, "share")
    finally:
        torch.distributed.destroy_process_group()


def test_a_broken_kind_stops_no_other(monkeypatch, caplog):
    points = {
        plugins.TRANSFORMS: (
            EntryPoint("mirror", "labzoo_that_is_not.kinds:MIRROR", plugins.TRANSFORMS),
            EntryPoint("loads", "json:loads", plugins.TRANSFORMS),
            EntryPoint("second", "zoo.transforms.weights:KINDS", plugins.TRANSFORMS),
        )
    }
    monkeypatch.setattr(plugins, "found", lambda group: points.get(group, ()))
    _found.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "zoo"):
            assert main(["list", "lrunet1_100"]) == 0
            assert zoo.plan(Net(), "symmetrize", **SIZE).changed and "mirror" not in kinds()
        told = [record.message for record in caplog.records]
        assert len(told) == 3 and all("left out" in line and "\n" not in line for line in told)
        for name, reason in (("mirror", "labzoo_that_is_not"), ("loads", "no zoo.transforms.Kind")):
            with pytest.raises(zoo.ZooError, match=reason):
                zoo.plan(Net(), name, **SIZE)
    finally:
        _found.cache_clear()


def test_a_run_begins_with_a_trained_network_transformed(tmp_path, monkeypatch):
    def few(*_):
        pixels = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return pixels.numpy(), torch.arange(8).numpy()

    monkeypatch.setattr("zoo.training.data.load_arrays", few)
    settings = {"epochs": 1, "batch_size": 8, "lr": 1e-12, "weight_decay": 0.0, "warmup_epochs": 0}
    recipe = Recipe("wrn_16_1.test_c10", "cifar10", transform="pd_a:layers=stages.0.0", **settings)
    recipe.start = "wrn_16_1.zoo_c10"
    model = loop.train(recipe, tmp_path, tmp_path / "run", device="cpu")
    plain = zoo.create_model("wrn_16_1.zoo_c10", pretrained=True)
    kernel = model.stages[0][0].conv1.branches["standard1"].conv.weight
    torch.testing.assert_close(kernel, plain.stages[0][0].conv1.weight)
    torch.testing.assert_close(model.head.fc.weight, plain.head.fc.weight)
    assert goes_on(replace(recipe, start=str(tmp_path / "run")))
    assert not goes_on(replace(recipe, start=str(tmp_path / "run"), transform="share"))
    with pytest.raises(zoo.ZooError, match="other tensors"):
        build_network(replace(recipe, start="lrunet1_100.zoo_fmnist"), torch.device("cpu"), begin=True)
