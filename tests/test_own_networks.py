"""Our layers and makers in networks of the user's own: the page, groups for weight decay, and mistakes."""

import ast
import collections
import copy
import io
import pickle
import re

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

import zoo
from conftest import ROOT
from protocol import close
from zoo import layers
from zoo.checkpoints import ReadNetwork, write_network
from zoo.layers import (
    LowRankSymmetric,
    MaskedWeight,
    PDAConv2d,
    SharedConv2d,
    SharedWeight,
    SymmetricWeight,
    TemplateBank,
    TiedWeight,
    decay_groups,
    make_sparse,
    make_symmetric,
    make_tied,
    make_weight,
    maker_of,
    share_weights,
)
from zoo.makers.symmetric import TYPES
from zoo.reparam.export import export
from zoo.reparam.record import input_size_of
from zoo.sparsity import METHODS, make_method
from zoo.training.sparsity.options import REQUIRED


def conv(*sizes, **options):
    return nn.Conv2d(*(sizes or (4, 4, 3)), **options)


def mask(sparsity=0.5, shape=(4, 4, 3, 3)):
    return MaskedWeight(shape, sparsity)


def generator():
    return torch.Generator().manual_seed(0)


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "own_networks.md").read_text()
    own, timms = ({"__name__": "page"} for _ in range(2))
    for block, names in zip(re.findall(r"```python\n(.*?)```", page, re.DOTALL), (own, timms), strict=True):
        exec(compile(block, "own_networks.md", "exec"), names)
        assert names["record"].differences[0].dtype == "float64"
        assert names["record"].differences[0].max_relative < 1e-13
        assert not any("parametrizations" in key for key in names["plain"].state_dict())
    assert own["report"] is None or own["report"]["active"]["sparse"] == int(0.2 * 576 + 0.1)
    x = torch.randn(2, 1, 12, 12)
    close(own["fresh"].float()(x), own["model"].eval()(x), 1e-6)
    close(own["plain"](x), own["model"](x), 1e-5)
    assert timms["stock"].state_dict().keys() == timm.create_model("resnet18").state_dict().keys()
    save_for_hf(timms["stock"], "stock", safe_serialization=True)
    found = timm.create_model("local-dir:stock", pretrained=True).eval()
    x = torch.randn(1, 1, 32, 32)
    close(found(x), timms["model"].float()(x), 1e-5)
    named = set(re.findall(r"`(?:zoo\.layers\.)?((?:make|share)_\w+|\w+Conv2d|TemplateBank)\(", page))
    assert len(named) >= 7
    assert named <= set(layers.__all__)


PAGE = (ROOT / "docs" / "own_networks.md").read_text()
EXAMPLES = {
    name: (set(re.findall(r"`(\w+)`", needed)), ast.literal_eval(example))
    for names, needed, example in re.findall(r"^\| ((?:`\w+`,? ?)+)\|(.*?)\| `(\{.*?\})`", PAGE, re.MULTILINE)
    for name in re.findall(r"\w+", names)
}


@pytest.mark.parametrize("name", METHODS)
def test_networks_that_a_method_treats_travel_without_it(name):
    """The page's example of each method; what is copied or pickled computes the same and feeds no method."""
    needed, options = EXAMPLES[name]
    assert needed == {key for key, option in METHODS[name].options.items() if option.default is REQUIRED}
    torch.manual_seed(0)
    make, sparsity = (make_tied, 0.5) if name == "tied" else (make_sparse, 0.0 if name == "pruned" else 0.5)
    model = make(nn.Sequential(conv(), nn.BatchNorm2d(4)), sparsity).eval()
    method = make_method(name, model, options, generator())
    x = torch.randn(2, 4, 5, 5)

    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copied = copy.deepcopy(model)
    twins = [copied, *(pickle.loads(pickle.dumps(m)) for m in (model, copied))]
    for twin in [*twins, torch.load(saved, weights_only=False)]:
        twin(x).square().sum().backward()
        assert not getattr(method, "_gradients", None)
        make_method(name, twin, options, generator())
        close(twin(x), copied(x), 0)
    model(x).square().sum().backward()
    assert b"generator" not in pickle.dumps(model)  # an attribute of every method
    assert name != "rigl" or method._gradients.keys() == {"0"}


def test_the_page_says_which_kernels_each_symmetry_fits():
    text = " ".join(PAGE.split())
    square = re.findall(r"`([\w+]+)`", text[text.index("`tri`, `wwt`") : text.index("make a channel matrix")])
    assert {*square, "spa", "chunk_D_K"} == set(TYPES)
    for kind in (*square, "spa", "chunk_0_2", "chunk_1_2", "chunk_2_3", "chunk_3_3"):
        for layer in (conv(4, 8, 3), conv(8, 8, 3, groups=2), conv(4, 4, (3, 1)), conv(4, 4, 3)):
            _, channels, rows, columns = layer.weight.shape
            fits = channels == layer.out_channels or kind not in square
            fits &= rows == columns or "spa" not in kind
            if kind == "chunk_3_3":
                fits &= columns == 3 or columns == 1  # more parts than places: as many as there are
            if fits:
                make_symmetric(layer, kind)
            else:
                with pytest.raises(zoo.ZooError, match=r"^[^\n]+$"):
                    make_symmetric(layer, kind)
    assert make_symmetric(conv(8, 8, 3), "pdpt").parametrizations.weight[0].rank == 4
    for second in (parametrizations.weight_norm, parametrizations.orthogonal):
        with pytest.raises(TypeError):  # torch's own
            second(make_sparse(conv(), 0.5))(torch.randn(1, 4, 5, 5))


def test_folders_of_frozen_gates_name_the_way_out(tmp_path):
    gated = timm.create_model("pd_b_resnet18_half_cifar", num_classes=4).eval()
    x = torch.randn(1, 3, 32, 32)
    static = zoo.approximate_static(gated, [x])
    for form in (static, zoo.reparameterize(static, batch_norm="fold")):
        save_for_hf(form, tmp_path / "static", safe_serialization=True)
        with pytest.raises(zoo.ZooError, match=r"^[^\n]*zoo\.to_stock[^\n]*$"):
            timm.create_model(f"local-dir:{tmp_path / 'static'}", pretrained=True)
    save_for_hf(zoo.to_stock(static), tmp_path / "stock", safe_serialization=True)
    close(timm.create_model(f"local-dir:{tmp_path / 'stock'}", pretrained=True).eval()(x), static(x), 1e-5)


def test_what_has_no_values_is_counted_but_for_what_is_not_zero():
    with torch.device("meta"):
        model = nn.Sequential(make_sparse(conv(), 0.5), nn.BatchNorm2d(4), make_symmetric(conv(), "tri")).eval()
    real = copy.deepcopy(model).to_empty(device="cpu")
    counts = zoo.count_parameters(real)
    assert counts.pop("nonzero") >= 0
    assert zoo.count_parameters(model) == counts
    for call in (zoo.density_report, lambda m: zoo.expand(m, "symmetric")):
        with pytest.raises(zoo.ZooError, match="has no values: load weights first"):
            call(model)
    with pytest.raises(zoo.ZooError, match="has no values: load weights first"):
        zoo.reparameterize(model, return_record=True, input_size=(4, 5, 5))


# ---- groups for weight decay ----


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.bank = TemplateBank(2, 4, 4, 3)
        self.shared = nn.ModuleList([SharedConv2d(self.bank), SharedConv2d(self.bank)])
        self.symmetric = make_symmetric(conv(), "tri")
        self.tied = make_weight(nn.Linear(6, 6), TiedWeight((6, 6), 0.5, "kernel"))  # learned: one axis
        self.masked_norm = make_weight(nn.BatchNorm1d(4), MaskedWeight((4,), 0.5))
        self.pd = PDAConv2d(4, 4, branches="standard1")
        self.weight_norm = parametrizations.weight_norm(nn.Linear(4, 4))
        self.part = nn.Linear(4, 4)
        self.part.no_weight_decay = lambda: {"weight"}
        self.frozen = conv().requires_grad_(False)


SPARED = {
    "shared.0.parametrizations.weight.original",
    "shared.1.parametrizations.weight.original",
    "symmetric.bias",
    "tied.bias",
    "masked_norm.bias",
    "masked_norm.parametrizations.weight.original",
    "pd.branches.standard1.bn.weight",
    "pd.branches.standard1.bn.bias",
    "weight_norm.bias",
    "part.weight",
    "part.bias",
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_kernels_decay_and_all_else_does_not(prefix):
    network = Everything()
    model = nn.DataParallel(network) if prefix else network
    names = {id(p): name.removeprefix(prefix) for name, p in model.named_parameters()}
    spared, decayed = decay_groups(model, 0.1)
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    assert {names[id(p)] for p in spared["params"]} == SPARED
    assert {names[id(p)] for p in decayed["params"]} == {
        *("symmetric.parametrizations.weight.original", "tied.parametrizations.weight.original"),
        *("pd.branches.standard1.conv.weight", next(name for name in names.values() if name.endswith("templates"))),
        *(f"weight_norm.parametrizations.weight.original{i}" for i in (0, 1)),
    }
    assert network.tied.parametrizations.weight.original.dim() == 1
    assert len(spared["params"]) + len(decayed["params"]) == 17


def test_groups_of_ordinary_networks_are_timms():
    for name in ("resnet18", "vit_tiny_patch16_224"):
        with torch.device("meta"):
            model = timm.create_model(name)
        ours = decay_groups(model, 0.1)
        spared = getattr(model, "no_weight_decay", set)()
        timms = param_groups_weight_decay(model, 0.1, no_weight_decay_list=spared)
        assert [list(map(id, g["params"])) for g in ours] == [list(map(id, g["params"])) for g in timms]


# ---- one maker per weight ----

SECONDS = {
    "mask on symmetric": lambda: (make_symmetric(conv(), "tri"), lambda layer: make_sparse(layer, 0.5)),
    "symmetric on mask": lambda: (make_sparse(conv(), 0.5), lambda layer: make_symmetric(layer, "tri")),
    "sharing symmetric": lambda: (make_symmetric(conv(), "tri"), lambda layer: share_weights([conv(), layer], 1)),
    "tied on shared": lambda: (SharedConv2d(TemplateBank(2, 4, 4, 3)), lambda layer: make_tied(layer, 0.5)),
    "after weight norm": lambda: (parametrizations.weight_norm(conv()), lambda layer: make_weight(layer, mask())),
    "after spectral norm": lambda: (parametrizations.spectral_norm(conv()), lambda layer: make_symmetric(layer, "spa")),
    "in a network": lambda: (nn.Sequential(conv(), make_symmetric(conv(), "tri")), lambda net: make_sparse(net, 0.5)),
    "pruned by a hook": lambda: (prune.l1_unstructured(conv(), "weight", 0.5), lambda layer: make_sparse(layer, 0.5)),
    "wrong shape": lambda: (conv(), lambda layer: make_weight(layer, mask(shape=(4, 4, 5, 5)))),
    "wrong tied shape": lambda: (conv(), lambda layer: make_weight(layer, TiedWeight((4, 4, 5, 5), 0.5))),
    "wrong learned shape": lambda: (
        conv(),
        lambda layer: make_weight(layer, SymmetricWeight((4, 4, 3, 3)), start=torch.ones(2, 2)),
    ),
    "twice in one bank": lambda: (conv(), lambda layer: share_weights([layer, layer], 1)),
}


@pytest.mark.parametrize("case", SECONDS)
def test_a_second_or_wrong_maker_is_refused_and_nothing_changes(case):
    layer, put = SECONDS[case]()
    x = torch.randn(1, 4, 7, 7)
    before, keys = layer.eval()(x), layer.state_dict().keys()
    with pytest.raises(zoo.ZooError, match=r"^[^\n]+$"):
        put(layer)
    assert layer.state_dict().keys() == keys
    assert layer(x).equal(before)


def test_torchs_own_may_come_after_ours():
    layer = parametrizations.spectral_norm(make_sparse(conv(bias=False), 0.5))
    model = nn.Sequential(layer).eval()
    learned = layer.parametrizations.weight.original
    moved = make_method("set", model, {"fraction": 0.2, "period": 1}, generator()).after_step(0, 1)
    assert moved["moved"] > 0
    assert zoo.count_parameters(model)["nonzero"] == 72 - moved["moved"]
    assert learned.count_nonzero() < 144
    x = torch.randn(1, 4, 7, 7)
    close(zoo.reparameterize(model)(x), model(x), 1e-6)
    close(pickle.loads(pickle.dumps(model))(x), model(x), 0)
    assert [len(group["params"]) for group in decay_groups(model, 0.1)] == [0, 1]


def test_a_mask_behind_another_maker_is_never_counted_wrongly():
    layer = make_symmetric(conv(bias=False), "tri")
    register_parametrization(layer, "weight", mask())
    for call in (zoo.count_parameters, zoo.density_report, lambda m: make_method("static", m, {}, generator())):
        with pytest.raises(zoo.ZooError, match="one maker on a weight"):
            call(nn.Sequential(layer))


def test_masks_of_other_tensors_are_counted_and_not_silently_left_out():
    model = nn.Sequential(make_weight(nn.GRUCell(4, 4, bias=False), MaskedWeight((12, 4), 0.5), "weight_hh"))
    assert zoo.density_report(model).active == 48 + 24
    assert zoo.count_parameters(model)["nonzero"] == 48 + 24
    with pytest.raises(zoo.ZooError, match=r"0\.weight_hh"):
        make_method("static", model, {}, generator())


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
def test_recurrent_layers_of_torch_may_be_sparse(cls):
    layer = cls(4, 4).eval()
    make_weight(layer, MaskedWeight(layer.weight_hh_l0.shape, 0.5), "weight_hh_l0")
    x = torch.randn(3, 1, 4)
    layer(x)
    with torch.no_grad():
        layer.parametrizations.weight_hh_l0.original.add_(1)
    plain = zoo.reparameterize(layer)
    fresh = cls(4, 4)
    fresh.load_state_dict(plain.state_dict())
    assert fresh.weight_hh_l0.count_nonzero() == fresh.weight_hh_l0.numel() // 2
    close(layer(x)[0], fresh(x)[0], 1e-6)
    close(plain(x)[0], fresh(x)[0], 1e-6)


def test_a_network_with_weight_norm_has_a_density():
    assert zoo.density_report(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))).active == 24


class Doubled(SharedConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_subclasses_of_layers_stay_what_they_are():
    model = nn.Sequential(Doubled(TemplateBank(2, 4, 4, 3)), nn.ReLU()).eval()
    x = torch.randn(1, 4, 5, 5)
    plain = zoo.reparameterize(zoo.reparameterize(model))
    close(plain(x), model(x), 1e-6)
    assert not any("parametrizations" in key for key in plain.state_dict())

    class Fused(nn.Conv2d):
        def fuse(self):
            return nn.Identity()

    class Inherits(Fused):
        pass

    model = nn.Sequential(make_symmetric(Inherits(4, 4, 3), "tri")).eval()
    assert isinstance(zoo.reparameterize(model)[0], nn.Identity)


# ---- what nobody registers ----

HIDDEN = TemplateBank(2, 4, 4, 3)


class Own(nn.Module):
    """A shared convolution as a newcomer may write it; ``kernel`` says where the bank is."""

    def __init__(self, place=None):
        super().__init__()
        self.coefficients = nn.Parameter(torch.ones(2))
        if place:
            place(self)

    def forward(self, x):
        return F.conv2d(x, self.kernel(self.coefficients), padding=1)


class Global(Own):
    def forward(self, x):
        return F.conv2d(x, HIDDEN(self.coefficients), padding=1)


class Helped(Own):
    def kernel(self, coefficients):
        return HIDDEN(coefficients)

    def forward(self, x):
        return F.conv2d(x, self.kernel(self.coefficients), padding=1)


def closed_over():
    bank = TemplateBank(2, 4, 4, 3)

    class Closed(Own):
        def forward(self, x):
            return F.conv2d(x, bank(self.coefficients), padding=1)

    return Closed()


def frozen_bank(module):
    module.banks = [TemplateBank(2, 4, 4, 3).requires_grad_(False)]


UNREGISTERED = {
    "list": lambda: Own(lambda m: setattr(m, "banks", [TemplateBank(2, 4, 4, 3)])),
    "frozen": lambda: Own(frozen_bank),
    "nested": lambda: Own(lambda m: setattr(m, "_banks", {"a": [(TemplateBank(2, 4, 4, 3),)]})),
    "dictionary of attributes": lambda: Own(lambda m: m.__dict__.update(bank=TemplateBank(2, 4, 4, 3))),
    "parameter": lambda: Own(lambda m: setattr(m, "templates", [nn.Parameter(torch.ones(2, 4, 4, 3, 3))])),
    "tensor": lambda: Own(lambda m: setattr(m, "templates", (torch.ones(2, 4, requires_grad=True),))),
    "lambda": lambda: Own(lambda m, bank=HIDDEN: setattr(m, "kernel", lambda c: bank(c) + HIDDEN(c))),
    "method": lambda: Own(lambda m: setattr(m, "kernel", TemplateBank(2, 4, 4, 3).forward)),
    "closure": closed_over,
    "global": Global,
    "helper": Helped,
    "layers": lambda: Own(lambda m: setattr(m, "convs", [SharedConv2d(TemplateBank(2, 4, 4, 3)), conv()])),
}


@pytest.mark.parametrize("case", UNREGISTERED)
def test_what_nobody_registers_is_an_error(case):
    model = nn.Sequential(UNREGISTERED[case]()).eval()
    calls = (zoo.reparameterize, zoo.count_parameters, zoo.density_report, lambda m: decay_groups(m, 0.1))
    for call in calls:
        with pytest.raises(zoo.ZooError, match=r"^0: .*does not register.*$"):
            call(model)


def test_no_file_lacks_what_a_network_hides(tmp_path):
    model = nn.Sequential(UNREGISTERED["list"]()).eval()
    with pytest.raises(zoo.ZooError, match="does not register"):
        write_network(ReadNetwork(model, "resnet18", {}, {}, ()), tmp_path / "x.safetensors")
    with pytest.raises(zoo.ZooError, match="does not register"):
        export(model, tmp_path / "y.safetensors", "safetensors", torch.ones(1, 4, 5, 5))
    assert not list(tmp_path.iterdir())


def test_what_is_registered_or_no_part_of_the_network_is_none():
    model = Own(lambda m: setattr(m, "bank", TemplateBank(2, 4, 4, 3)))
    model.kernel = model.bank.forward
    model.parts = [model.bank, model.coefficients, torch.ones(3), "text"]
    model.teacher = [timm.create_model("resnet18").requires_grad_(False)]
    other = conv()
    model.register_forward_hook(lambda *_: other and None)
    assert zoo.count_parameters(nn.Sequential(model).eval())["unique"] == 2 + 2 * 144
    model.kernel = lambda coefficients: model.bank(coefficients)  # of the original, in every copy
    assert len(decay_groups(model, 0.1)[1]["params"]) == 1
    with pytest.raises(zoo.ZooError, match="does not register"):
        zoo.reparameterize(model.eval())


class Listed(nn.Module):
    """Everything that it uses is registered, and the list that it goes by is not."""

    def __init__(self, place):
        super().__init__()
        bank = TemplateBank(2, 4, 4, 3)
        self.c, self.norm, self.d = SharedConv2d(bank), nn.BatchNorm2d(4), SharedConv2d(bank)
        self.pd, self.tied = PDAConv2d(4, 4), make_tied(conv(4, 4, 3), 0.5)
        self.steps = [self.c, self.norm, self.d, self.pd, self.tied]
        place(self, bank)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


Pair = collections.namedtuple("Pair", "a b")

LISTS = {
    "list": lambda m, bank: setattr(m, "banks", [bank]),
    "dictionary": lambda m, bank: setattr(m, "banks", {"a": bank, "b": {"c": [bank]}}),
    "tuple": lambda m, bank: setattr(m, "banks", (1, (bank, m.c))),
    "named tuple": lambda m, bank: setattr(m, "banks", Pair(bank, [m.norm])),
    "set": lambda m, bank: setattr(m, "banks", {bank, m.d}),
    "attribute": lambda m, bank: m.__dict__.update(bank=bank),
    "of a child": lambda m, bank: setattr(m.c, "banks", [bank, m.pd.branches]),
    "parameters": lambda m, bank: setattr(m, "banks", [bank.templates, *m.parameters()]),
    "itself": lambda m, bank: setattr(m, "banks", [m.steps, [bank]]) or m.banks.append(m.banks),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_registered_parts_hold_what_these_become(case):
    torch.manual_seed(0)
    model = Listed(LISTS[case]).eval()
    x, unique = torch.randn(2, 4, 6, 6), sum(p.numel() for p in model.parameters())
    for options in ({}, {"batch_norm": "fold"}):
        plain, record = zoo.reparameterize(model, **options, return_record=True, example=x)
        assert record.differences[0].max_relative < 1e-6
        assert record.after.parameters == 2 * 144 + 144 + 4 + 148 + (4 if options else 8)
        assert type(plain.steps[0]) is nn.Conv2d
        assert plain.steps[0] is plain.c
        assert not options or type(plain.steps[1]) is nn.Identity
        again = pickle.loads(pickle.dumps(zoo.reparameterize(plain)))
        close(again(x), model(x), 1e-5)
        assert zoo.count_parameters(again)["unique"] == record.after.parameters
        assert not any(name in pickle.dumps(plain) for name in (b"TemplateBank", b"SharedWeight", b"PDAConv2d"))
    assert zoo.count_parameters(model)["unique"] == unique


# ---- sparse networks ----


def test_a_network_is_made_sparse_in_a_line():
    model = make_sparse(nn.Sequential(conv(), nn.ReLU(), nn.Conv1d(4, 6, 5), nn.Linear(5, 5)), 0.75)
    report = zoo.density_report(model)
    assert [t.active for t in report.tensors if t.kind == "sparse"] == [36, 30]
    assert report.model_size["fixed"] == 4 + 6 + 30
    erk = make_sparse(nn.Sequential(conv(8, 8, 3), conv(32, 32, 3)), 0.75, density="erk")
    small, large = (t for t in zoo.density_report(erk).tensors if t.kind == "sparse")
    assert small.density > large.density
    assert small.active + large.active == (576 + 9216) // 4
    tied = make_tied(nn.Sequential(conv(bias=False)), 0.5)
    assert zoo.density_report(tied).model_size["tied"] == 72


@pytest.mark.parametrize("wrap", [nn.Identity, nn.DataParallel])
def test_a_wrapped_network_is_counted_and_folded(wrap):
    bank = TemplateBank(2, 4, 4, 3)
    network = nn.Sequential(SharedConv2d(bank), nn.BatchNorm2d(4), nn.ReLU())
    model = (nn.Sequential(network) if wrap is nn.Identity else wrap(network)).eval()
    assert zoo.count_parameters(model) == {"stored": 298, "unique": 298, "nonzero": 294, "inference": 148}
    x = torch.randn(2, 4, 5, 5)
    close(zoo.reparameterize(model, batch_norm="fold")(x), model(x), 1e-5)


@pytest.mark.parametrize("unit", ["weight", "row", "kernel", "filter"])
@pytest.mark.parametrize("taps", [(5,), (3, 3), (3, 3, 2)])
def test_units_of_convolutions_of_any_dimension(unit, taps):
    cls = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(taps)]
    shape = {"weight": (6, 4, *taps), "row": (6, 4, *taps[:-1]), "kernel": (6, 4), "filter": (6,)}[unit]
    layer = make_sparse(cls(4, 6, taps), 0.5, unit)
    assert layer.parametrizations.weight[0].mask.shape == shape
    assert layer.weight.count_nonzero() == layer.weight.numel() // 2


@pytest.mark.parametrize(("average", "kind", "fine"), [
    (ModelEmaV2, make_sparse, False),
    (ModelEmaV2, make_tied, False),
    (ModelEmaV3, make_sparse, True),
    (ModelEmaV3, make_tied, True),
])  # fmt: skip
def test_averages_of_masks_are_noticed(average, kind, fine):
    model = kind(nn.Sequential(conv(), nn.ReLU(), conv()), 0.5)
    ema = average(model, decay=0.9)
    options = {"fraction": 0.2, "period": 1}
    method = make_method("set", model, options, generator()) if kind is make_sparse else None
    if method:
        method.after_step(0, 1)
    ema.update(model)
    for use in (lambda x: copy.deepcopy(ema.module)(x), ema.module, lambda x: ema.update(model)):
        if fine:
            use(torch.ones(1, 4, 7, 7))
        else:
            with pytest.raises(zoo.ZooError, match="averaged"):
                use(torch.ones(1, 4, 7, 7))
    if method and fine:
        assert maker_of(ema.module[0]).mask.equal(maker_of(model[0]).mask)


def test_masks_may_be_changed_by_their_owner_and_copied_by_hand():
    model, other = (make_sparse(nn.Sequential(conv()), 0.5) for _ in range(2))
    x = torch.randn(1, 4, 5, 5)
    for tensor, value in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        tensor.copy_(value)
    close(model(x), other(x), 0)
    held = model[0].parametrizations.weight[0].mask
    for change in (lambda: held.fill_(True), lambda: held[0].fill_(False), lambda: held.fill_(True)):
        change()
        model(x)
    assert model[0].weight.count_nonzero() == 144


# ---- messages ----

MISTAKES = {
    r"ReLU has no parameter 'weight'": lambda: make_symmetric(nn.ReLU(), "tri"),
    r"ResNet has no parameter 'weight'": lambda: make_symmetric(timm.create_model("resnet18"), "tri"),
    r"lazy layer": lambda: make_sparse(nn.LazyConv2d(4, 3), 0.5),
    r"LazyConv2d.*run the network once": lambda: make_symmetric(nn.LazyConv2d(4, 3), "tri"),
    r"Unknown symmetry type 'mirror'": lambda: make_symmetric(conv(), "mirror"),
    r"Unknown symmetry type 3": lambda: make_symmetric(conv(), 3),
    r"of one group.*\(4, 2, 3, 3\).*'spa'": lambda: make_symmetric(conv(4, 4, 3, groups=2), "tri"),
    r"as many rows as columns": lambda: make_symmetric(conv(4, 4, (3, 1)), "spa"),
    r"4 dimensions or a matrix; this has \(4, 4, 3\)": lambda: make_symmetric(nn.Conv1d(4, 4, 3), "tri"),
    r"on a layer \(an nn.Module\), not on a list": lambda: make_sparse([conv()], 0.5),
    r"Sequential has no convolution": lambda: make_sparse(nn.Sequential(nn.Linear(3, 3)), 0.5),
    r"from 0 to below 1, not 90": lambda: make_sparse(nn.Sequential(conv()), 90),
    r"not 'channel'": lambda: make_tied(nn.Sequential(conv()), 0.5, "channel"),
    r"not 'even'": lambda: make_sparse(nn.Sequential(conv()), 0.5, density="even"),
    r"one square kernel shape, not \[\(4, 4\)\]": lambda: share_weights([nn.Linear(4, 4)], 1),
    r"one square kernel shape, not \[\]": lambda: share_weights([], 1),
    r"one square.*\(4, 4, 3, 3\), \(8, 4, 3, 3\)": lambda: share_weights([conv(), conv(4, 8, 3)], 1),
    r"stride of a PDAConv2d, whose kernel is always 3x3, is 1 or 2, not 3": lambda: PDAConv2d(4, 4, 3),
    r"needs a torch.Generator on the CPU, not None": lambda: make_method("static", make_sparse(conv(), 0.5), {}, None),
    r"leaves no weight of 1, a weight of shape \(1, 1, 1, 1\)": lambda: make_sparse(
        nn.Sequential(conv(), conv(1, 1, 1)), 0.95
    ),
    r"takes a TemplateBank, not a Linear": lambda: SharedConv2d(nn.Linear(3, 3)),
    r"kernel_size of a template bank is an integer from 1, not \(3, 3\)": lambda: TemplateBank(2, 4, 4, (3, 3)),
    r"choose from standard1": lambda: PDAConv2d(4, 4, branches="sobel"),
    r"must name at least one": lambda: PDAConv2d(4, 4, branches=None),
    r"make_weight|function cannot make": lambda: make_weight(conv(), lambda kernel: kernel),
    r"rank 9 must be": lambda: LowRankSymmetric((4, 4, 3, 3), 9),
    r"SharedWeight cannot make the weight of Conv2d": lambda: make_weight(
        conv(4, 8, 3), SharedWeight(TemplateBank(2, 4, 4, 3))
    ),
    r"give its layers some with zoo.layers.make_sparse": lambda: make_method(
        "set", nn.Sequential(conv()), {"fraction": 0.1, "period": 1}, generator()
    ),
    r"zoo.layers.make_sparse\(network, 0.0\)": lambda: make_method(
        "pruned", nn.Sequential(conv()), {"target": 0.9}, generator()
    ),
    r"give its layers some with zoo.layers.make_tied": lambda: make_method("tied", conv(), {}, generator()),
    r"mapping of names to values, not None": lambda: make_method("set", make_sparse(conv(), 0.5), None, generator()),
    r"expand to sparse needs the option sparsity": lambda: zoo.expand(timm.create_model("wrn_16_1"), "sparse"),
    r"no option 'angle' \(it has: symm_type": lambda: zoo.expand(timm.create_model("resnet18"), "symmetric", angle=1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line_about_the_users_network(message):
    with pytest.raises(zoo.ZooError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)
    assert not re.search(r"reparam '|build the network|__init__|keyword|positional|got an", str(error.value))


# ---- records ----


@pytest.mark.parametrize(("make", "size"), [
    (lambda: timm.create_model("resnet18", in_chans=1), (1, 224, 224)),
    (lambda: timm.create_model("resnet18", pretrained_cfg_overlay={"input_size": (3, 40, 48)}), (3, 40, 48)),
    (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64), (3, 64, 64)),
    (lambda: timm.create_model("mixer_s32_224", img_size=(64, 96)), (3, 64, 96)),
    (lambda: nn.Sequential(nn.Identity(), timm.create_model("resnet18", in_chans=2)), (2, 224, 224)),
])  # fmt: skip
def test_the_size_is_the_networks_own(make, size):
    with torch.device("meta"):
        model = make()
    assert input_size_of(model) == size


def test_records_take_a_size_or_an_example_and_say_so():
    model = nn.Sequential(make_symmetric(conv(2, 2, 3), "tri"), nn.Flatten(), nn.Linear(2 * 25, 3)).eval()
    for given in ({"input_size": (2, 7, 7)}, {"input_size": [2, 7, 7]}, {"example": torch.randn(3, 2, 7, 7)}):
        plain, record = zoo.reparameterize(model.double(), return_record=True, **given)
        assert record.differences[0].max_relative < 1e-14
        assert record.after.macs == 25 * 36 + 150
        assert zoo.equivalence_record(model, plain, **given) == record
    wrong = [{}, {"input_size": (7, 7)}, {"input_size": 7}, {"input_size": (2, 7.0, 7)}, {"input_size": (3, 7, 7)}]
    wrong += [{"input_size": (2, 9, 9)}, {"example": [torch.ones(1, 2, 7, 7)]}, {"example": torch.ones(2, 7, 7)}]
    for given in [*wrong, {"example": torch.ones(0, 2, 7, 7)}, {"input_size": (2, 7, 7), "real": torch.ones(2, 9, 9)}]:
        with pytest.raises(zoo.ZooError, match=r"input_size|example|real") as error:
            zoo.equivalence_record(model, model, **given)
        assert "\n" not in str(error.value)


# ---- parts and copies ----


def test_parts_and_copies_keep_their_templates():
    convs = [conv(4, 4, 3, padding=1, bias=False) for _ in range(3)]
    share_weights(convs[:2], 1)
    model = nn.Sequential(*convs)
    x = torch.randn(1, 4, 5, 5)
    cut = nn.Sequential(*list(model)[1:])  # without the layer under whose name the bank stood
    fresh = copy.deepcopy(cut)
    nn.init.zeros_(fresh[0].parametrizations.weight[0].bank.templates)
    fresh.load_state_dict(cut.state_dict())
    close(fresh(x), cut(x), 0)
    alone = copy.deepcopy(model[0])
    with torch.no_grad():
        alone.parametrizations.weight[0].bank.templates.zero_()
    assert alone(x).abs().max() == 0 < model[0](x).abs().max()
    assert zoo.count_parameters(model) == {"stored": 290, "unique": 290, "nonzero": 290, "inference": 432}
    assert zoo.count_parameters(cut)["unique"] == 289
