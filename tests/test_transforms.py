"""``zoo.transform``: each kind on a small network of timm's, what it computes, what it says, and the way back."""

import argparse
import copy
import functools
import gzip
import io
import json
import re

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3, ParseKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import zoo
from children import after_import
from conftest import ROOT
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.cli.transform import OPTIONS
from zoo.named import load_named
from zoo.transforms import kinds

SMALL = {"layers": (3, 1, 1, 1), "channels": (8, 8, 12, 12), "num_classes": 5}
GATED = ("pd_b:reduction=4,layers=layer1",)
EXACT = ("pd_a", "ac:layers=layer1", "share:templates=9", "pd_a:layers=layer1+share:99", *GATED)
SPECS = (
    *EXACT,
    "share:1,layers=layer1",
    "symmetrize:tri+spa",
    "symmetrize:pdpt",
    "sparsify:0.8,unit=kernel,density=erk",
    "tie:0.5",
    "reuse:layers=layer1+lowrank:2,layers=layer3",
    "symmetrize:tri+sparsify:0.8",
    "share:2+sparsify:0.5",
    "pd_a:layers=layer1+symmetrize:tri+sparsify:0.5",
)
ONE_EACH = ("share:2", "symmetrize:tri", "sparsify:0.8", "tie:0.5", "lowrank:0.25", "reuse", "pd_a", *GATED)


def randomised(model):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias, std=0.1)
            norm.running_mean.normal_(std=0.1), norm.running_var.uniform_(0.5, 1.5)
    return model


@functools.cache
def base():
    return randomised(timm.create_model("resnet18", **SMALL)).double().eval()


@functools.cache
def made(spec):
    return zoo.transform(base(), spec)


def images(size=24, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size)).double()


def same(one, other, atol=1e-10):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_it_is_what_was_planned_and_collapses_into_the_architecture_it_was(spec):
    before = copy.deepcopy(base().state_dict())
    model = zoo.transform(base(), spec)
    planned, report = zoo.plan(base(), spec), model.zoo_report
    assert type(model) is type(base()) and report.changed and not model.training
    assert [(c.name, c.changed, c.note) for c in planned.changes] == [
        (c.name, c.changed, c.note) for c in report.changes
    ]
    assert (planned.before, planned.after, planned.collapsed) == (report.before, report.after, report.collapsed)
    assert report.after.parameters == sum(p.numel() for p in model.parameters())
    assert all(reason for reason in report.left_alone.values())
    assert zoo.plan(base(), report.transform).transform == report.transform
    json.dumps(report.to_dict())

    plain = zoo.reparameterize(model)
    for size in (24, 33):
        same(plain(images(size)), model(images(size)))
        if spec in EXACT:
            same(model(images(size)), base()(images(size)))
    assert report.exact == (spec in EXACT)
    if spec not in GATED:
        assert type(plain) is type(base()) and list(plain.state_dict()) == list(before)
        timm.create_model("resnet18", **SMALL).double().load_state_dict(plain.state_dict(), strict=True)
        assert report.collapsed.parameters == report.before.parameters
    assert before.keys() == base().state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in base().state_dict().items())


@pytest.mark.parametrize("spec", [*EXACT, "symmetrize:tri"])
@torch.no_grad()
def test_it_trains_from_the_same_function(spec):
    """Batch statistics too: in train mode it gives the same, and moves the same running averages."""
    theirs, ours = copy.deepcopy(base()).train(), copy.deepcopy(made(spec)).train()
    agree = torch.allclose(ours(images()), theirs(images()), rtol=1e-8)
    assert agree == (spec in EXACT)
    if spec in EXACT:
        same(ours.eval()(images(33)), theirs.eval()(images(33)))


@pytest.mark.parametrize("spec", ONE_EACH)
def test_it_learns_and_lives_on(spec):
    """Every parameter gets a gradient; copies, pickles, averages, other types and recorded graphs say the same."""
    model = copy.deepcopy(made(spec)).float()
    model.train().set_grad_checkpointing(True)
    optimizer = torch.optim.SGD(zoo.layers.decay_groups(model, 0.01), lr=0.01)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(images().float()).square().sum().backward()
    asked = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in asked.items() if p.grad is None or not p.grad.isfinite().all()] == []
    ema, averaged = ModelEmaV3(model, decay=0.0), AveragedModel(model)
    optimizer.step()
    changed = [name for name, p in asked.items() if not torch.equal(p, before[name])]
    assert len(changed) > len(asked) / 2
    ema.update(model), averaged.update_parameters(model)
    model.set_grad_checkpointing(False)
    model.eval()
    with torch.no_grad():
        wanted, buffer = model(images().float()), io.BytesIO()
        torch.save(model, buffer)
        others = {
            "copy": copy.deepcopy(model),
            "pickle": torch.load(io.BytesIO(buffer.getvalue()), weights_only=False),
            "ema": ema.module.eval(),
            "averaged": averaged.module.eval(),
            "plain": zoo.reparameterize(model),
        }
        for word, other in others.items():
            torch.testing.assert_close(other(images().float()), wanted, rtol=1e-3, atol=1e-3, msg=word)
        low = copy.deepcopy(model).bfloat16()
        assert low(images().bfloat16()).isfinite().all()
        assert zoo.reparameterize(low)(images().bfloat16()).dtype == torch.bfloat16
        half = copy.deepcopy(model).half()
        assert {p.dtype for p in half.parameters()} == {torch.float16}
        if spec in ("share:2", *GATED):
            exported = torch.export.export(model, (images().float(),)).module()
            torch.testing.assert_close(exported(images().float()), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", ["share:2", "pd_a+sparsify:0.5"])
def test_by_name_with_features(spec):
    model = zoo.create_model("resnet18", transform=spec, in_chans=1, features_only=True, out_indices=(1, 3), **SMALL)
    maps = model(torch.randn(1, 1, 32, 32))
    assert [m.shape[1] for m in maps] == model.feature_info.channels() == [8, 12]
    if spec == "share:2":
        compiled = torch.compile(zoo.create_model("resnet18", transform=spec, **SMALL).eval(), backend="eager")
        assert compiled(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_saved_ones_come_back_and_collapsed_ones_without_this_package(tmp_path):
    codes = []
    specs = (
        "share:2",
        "reuse:layers=layer1+tie:0.5,layers=layer3",
        "symmetrize:tri+sparsify:0.8",
        "pd_a:layers=layer1+lowrank:0.25,layers=layer3",
        *GATED,
    )
    for number, spec in enumerate(specs):
        folder, model = tmp_path / str(number), copy.deepcopy(made(spec)).float()
        with torch.no_grad():
            model.fc.bias.normal_()  # trained since
            save_for_hf(model, folder, safe_serialization=True)
            again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert type(again) is type(model) and list(again.state_dict()) == list(model.state_dict()), spec
            assert torch.equal(again(images().float()), model(images().float())), spec
            assert again.zoo_report.transform == model.zoo_report.transform
            twice = zoo.reparameterize(again)
            save_for_hf(twice, tmp_path / f"{number}plain", safe_serialization=True)
            back = timm.create_model(f"local-dir:{tmp_path / f'{number}plain'}", pretrained=True).eval()
            assert torch.equal(back(images().float()), twice(images().float())), spec
            torch.save(twice(images().float()), tmp_path / f"{number}.pt")
        if "pd_b" not in spec:
            codes.append(
                f"m = timm.create_model('local-dir:{tmp_path}/{number}plain', pretrained=True).eval()\n"
                f"x = torch.load('{tmp_path}/x.pt')\n"
                f"assert torch.equal(m(x), torch.load('{tmp_path}/{number}.pt')), {spec!r}\n"
            )
    torch.save(images().float(), tmp_path / "x.pt")
    imports = f"import sys, timm, torch\ntorch.set_num_threads({torch.get_num_threads()})\n"
    code = imports + "".join(codes) + "assert 'zoo' not in sys.modules\nprint('all', end='')"
    assert after_import("import timm, torch", [code]) == [("all", 0)]


def test_a_part_that_was_cut_out_keeps_its_shift():
    """A convolution leaves its shift to the batch norm behind it, if that comes along."""
    model = made("pd_a").eval().double()
    name = model.zoo_report.changed[0].name
    conv = model.get_submodule(name)
    x = torch.randn(2, conv.in_channels, 9, 9, dtype=torch.float64)
    assert conv.fold()[1].sum(0).abs().max() > 0.01
    plain = zoo.reparameterize(conv)
    assert type(plain) is nn.Conv2d
    torch.testing.assert_close(plain(x), conv(x), rtol=1e-10, atol=1e-10)


def test_the_weights_that_are_named_are_those_it_begins_with(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "zoo.transforms.registered.network_of",
        lambda name, pretrained, **kwargs: seen.update(kwargs) or timm.create_model(name),
    )
    zoo.create_model("test_resnet", pretrained=True, transform="ac", pretrained_cfg="other_tag")
    assert seen["pretrained_cfg"] == "other_tag"


class Own(nn.Module):
    """A user's network, which has no configuration."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("spec", ONE_EACH)
def test_nothing_qualifies(spec):
    """A depthwise stem and a linear layer: an unchanged copy, whose report gives the reason for each layer."""
    model = Own(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    twin = zoo.transform(model.eval(), spec.partition(",layers")[0], input_size=(3, 8, 8))
    report = twin.zoo_report
    assert twin is not model and report.changed == () and report.before == report.after and report.exact
    assert list(report.left_alone) == ["body.0"] and "unchanged" in str(report)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("shear", {}, ["share", *ONE_EACH[0].split(":")[:1], "pd_b", "lowrank"]),
        ("share:templats=2", {}, ["templats", "templates", "layers"]),
        ("share", {"ranks": 2}, ["ranks", "templates"]),
        ("share:0", {}, ["templates", "integer from 1"]),
        ("sparsify", {}, ["sparsity", "sparsify:0.9"]),
        ("sparsify:1.5", {}, ["1.5"]),
        ("sparsify:0.9,density=even", {}, ["uniform", "erk"]),
        ("sparsify:0.9,unit=plane", {}, ["plane", "weight"]),
        ("symmetrize:round", {}, ["round", "tri"]),
        ("symmetrize:tri,rank=2", {}, ["pdpt"]),
        ("pd_a:branches=skeleton", {}, ["standard1"]),
        ("pd_a:branches=standard1|sideways", {}, ["sideways", "skeleton"]),
        ("pd_b:reduction=0", {}, ["reduction"]),
        ("reuse:1", {}, ["times"]),
        ("lowrank", {}, ["rank"]),
        ("share:2,3", {}, ["OPTION=VALUE", "templates"]),
        ("share:2,templates=3", {}, ["twice"]),
        ("share:layers=nowhere", {}, ["nowhere"]),
        ("", {}, ["share:templates=2"]),
        ("share:2+", {}, ["share"]),
        ("share:2+symmetrize:tri", {"templates": 3}, ["string"]),
        ("symmetrize:tri+share:2", {}, ["cannot be combined", "SymmetricWeight"]),
        ("sparsify:0.5+sparsify:0.5", {}, ["cannot be combined"]),
        ("tie:0.5+pd_a", {}, ["cannot be combined", "first"]),
        ("share:2+sparsify:0.5,density=erk", {}, ["density=uniform"]),
    ],
)
def test_mistakes_are_one_line_that_names_what_is_valid(spec, options, words):
    before = [*base().state_dict()]
    for call in (zoo.transform, zoo.plan):
        with pytest.raises(zoo.ZooError) as error:
            call(base(), spec, **options)
        assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value
    assert before == [*base().state_dict()]


def test_names_that_do_not_exist():
    for call in (zoo.transform, zoo.plan):
        with pytest.raises(zoo.UnknownNameError, match="resnet18"):
            call("resnet_18", "pd_a")
    with pytest.raises(zoo.ZooError, match="list"):
        zoo.transform([], "pd_a")
    with pytest.raises(zoo.UnknownNameError, match="resnet18"):
        zoo.create_model("resnet_18", transform="pd_a")


def test_each_kind_says_what_it_is():
    for name, kind in kinds().items():
        planned = zoo.plan(base(), kind.example)
        assert kind.about and planned.transform.startswith(name) and planned.changed, name


def zoo_says(capsys, *words):
    """Exit code and all that a command says."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_command_plans_and_writes(tmp_path, capsys):
    small = ("test_resnet", "--kind", "share", "--templates")
    code, said = zoo_says(capsys, "transform", *small, "2", "--plan")
    assert code == 0 and "first layer" in said and "multiply-adds" in said and "templates for" in said
    code, said = zoo_says(capsys, "transform", "test_resnet", "share:templates=1,layers=layer1", "--json")
    facts = json.loads(said)
    assert code == 0 and facts["after"]["parameters"] < facts["before"]["parameters"]
    both = (
        "transform",
        "test_resnet",
        "--kind",
        "pd_a",
        "--branches",
        "standard1,skeleton",
        "--layers",
        "layer1,layer2",
    )
    code, said = zoo_says(capsys, *both, "-o", tmp_path / "made")
    assert code == 0 and sorted(p.name for p in (tmp_path / "made").iterdir()) == ["config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True)
    assert model.zoo_report.transform == "pd_a:standard1|skeleton,layers=layer1|layer2"
    code, said = zoo_says(capsys, "transform", tmp_path / "made", "sparsify:0.5", "--plan")
    assert code == 0 and "pd_a" in said
    for words, wanted in (
        ((*both, "-o", tmp_path / "made"), "there already"),
        ((*both, "--templates", "2"), "branches, layers"),
        (("transform", "test_resnet", "shear"), "share"),
        (("transform", "test_resnet", "pd_a", "--plan", "-o", tmp_path / "no"), "--plan"),
        (("transform", "test_resnet", "pd_a", "--layers", "x"), "--kind"),
        (("transform", "test_resnet"), "SPEC"),
        (("transform", "test_resnet", "reuse", "-o", tmp_path / "no"), "no layer qualifies"),
        (("transform", "tset_resnet", "pd_a"), "test_resnet"),
        (("transform", "test_resnet", "pd_a", "--input-size", "3,9"), "3,224,224"),
    ):
        code, said = zoo_says(capsys, *words)
        assert code == 1 and wanted in said and len(said.splitlines()) == 1, said
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_flags_are_the_options_of_the_kinds():
    assert {option for kind in kinds().values() for option in kind.options} == {*OPTIONS}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A hundred images of Fashion-MNIST as a data set."""
    folder = tmp_path_factory.mktemp("data")
    for path in SAMPLE.glob("*.gz"):
        content, start, size = gzip.decompress(path.read_bytes()), *((16, 784) if "images" in path.name else (8, 1))
        content = content[:4] + (100).to_bytes(4, "big") + content[8 : start + 100 * size]
        for name in (path.stem, path.stem.replace("t10k", "train")):
            (folder / name).write_bytes(content)
    return folder


def test_a_run_is_transformed_and_comes_back(few, tmp_path, capsys):
    """By a recipe's key or the option: trained, gone on with, measured, collapsed, exported, transformed once more."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "weight: resnet18.mine_fmnist\ndataset: fashion-mnist\nmodel_args: {layers: [2, 1, 1, 1], "
        "channels: [8, 8, 8, 8]}\nepochs: 1\nbatch_size: 50\ntransform: sparsify:0.5\n"
    )
    run = tmp_path / "run"
    train = ("train", recipe, "--data", few, "--output", run, "--transform", "share:templates=2", "--set", "epochs=2")
    assert zoo_says(capsys, *train, "--budget", "0.01")[0] == 0
    code, said = zoo_says(capsys, *train, "--resume")
    assert code == 0 and "finished: 2 of 2 epochs" in said
    model = load_named(str(run)).model
    assert model.zoo_report.transform == "share" and model.zoo_report.changed
    score = re.compile(r"fashion-mnist +([\d.]+) +[\d.]+ +100 ")
    data = ("--dataset", "fashion-mnist", "--data", few)
    ways = (
        ("validate", run, *data),
        ("validate", run, *data, "--collapsed"),
        ("validate", "resnet18", *data, "--transform", "share:templates=2", "--checkpoint", run / "checkpoint.pt"),
    )
    found = [zoo_says(capsys, *words) for words in ways]
    assert [code for code, _ in found] == [0, 0, 0], found
    assert len({score.search(said)[1] for _, said in found}) == 1
    words = ("--transform", "sparsify:0.9", "--format", "safetensors", "-o", tmp_path / "run.safetensors")
    code, said = zoo_says(capsys, "export", run, *words)
    assert code == 0 and '"max_absolute": 0.0' in said
    code, said = zoo_says(capsys, "stage", run, "--data", few)
    assert code == 1 and "transformed (share:templates=2)" in said
    code, said = zoo_says(capsys, "train", recipe, "--data", few, "--output", tmp_path / "x", "--transform", "shear")
    assert code == 1 and "Kinds: share" in said and not (tmp_path / "x").exists()


def test_the_tutorial_runs_as_written(tmp_path, monkeypatch, capsys):
    """Fifteen lines from a resnet18 to the exported twin; every spec and every zoo line of the page is one."""
    page = (ROOT / "docs" / "transform.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    first, lines = (found.strip() for found in re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    assert len([line for line in (code + first).splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "transform.md", "exec"), {})
    assert "13 layers changed, 7 left alone" in capsys.readouterr().out
    assert zoo_says(capsys, *first.split()[1:])[0] == 0 and (tmp_path / "twin.pt2").is_file()
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["architecture"] == "resnet18"
    plan = lines.splitlines()[0].split()[1:]
    assert zoo_says(capsys, *plan)[0] == 0
    for spec in re.findall(r'`"([a-z_]+[:+][^"`]*)"`', page):
        assert zoo.plan("resnet18", spec).changed, spec


def test_timms_scripts_name_it_by_their_own_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    words = ["base=test_resnet", "transform=share:templates=2+sparsify:0.5,layers=layer1"]
    given = parser.parse_args(["--model-kwargs", *words]).model_kwargs
    model = timm.create_model(
        "transformed", pretrained=False, in_chans=3, num_classes=4, drop_rate=0.1, global_pool=None, **given
    )
    assert model.zoo_report.changed and model.num_classes == 4 and model.drop_rate == 0.1
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == timm.create_model("test_resnet").pretrained_cfg["input_size"]


@pytest.mark.parametrize("spec", ["share:2", "pd_a:layers=layer1", "symmetrize:tri"])
def test_each_layer_has_timms_rate(spec):
    """As timm gives them to the plain network, by the layers' names; decay is spared as without rates."""
    plain, model = base(), made(spec)

    def by_name(network, groups):
        names = {id(p): name for name, p in network.named_parameters()}
        return {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}

    theirs = by_name(plain, param_groups_layer_decay(plain, 0.1, layer_decay=0.5))
    ours = by_name(model, zoo.layers.decay_groups(model, 0.1, layer_decay=0.5))
    assert ours.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert by_name(plain, zoo.layers.decay_groups(plain, 0.1, layer_decay=0.5)) == theirs
    rate = {name.rpartition(".")[0]: scale for name, (scale, _) in theirs.items()}
    for name, (scale, _) in ours.items():
        owner = next(part for part in rate if name.startswith(f"{part}."))
        assert scale == rate[owner], name
    spared = {id(p) for p in zoo.layers.decay_groups(model, 0.1)[0]["params"]}
    assert {name for name, (_, decay) in ours.items() if not decay} == {
        name for name, p in model.named_parameters() if id(p) in spared
    }
    with pytest.raises(zoo.ZooError, match="layer_decay"):
        zoo.layers.decay_groups(model, 0.1, layer_decay=1.5)


def _two(rank, spec, place):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    model = zoo.create_model("resnet18", transform=spec, **SMALL)
    twin = DistributedDataParallel(model)
    twin(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(rank))).square().sum().backward()
    mine = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    both = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    assert torch.equal(*both) and mine.isfinite().all()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("spec", ONE_EACH)
def test_two_processes_agree(spec, tmp_path):
    torch.multiprocessing.spawn(_two, (spec, tmp_path / "store"), nprocs=2)
