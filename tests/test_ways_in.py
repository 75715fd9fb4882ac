"""Every way in gives the same verified network: timm, zoo, torch.hub, a local folder, the command line."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import timm
import torch
from timm.models import list_models as timm_list_models

import zoo
from children import after_import
from conftest import ROOT
from zoo.cli import main
from zoo.weights.manifest import weights

NAME = "lrunet1_100.zoo_fmnist"
ARCH, TAG = NAME.split(".")
BLOCKED = "import socket; socket.socket.connect = None; "


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items()
    )


@pytest.fixture(scope="module")
def expected():
    return timm.create_model(NAME, pretrained=True)


def test_zoo_and_timm_agree(expected):
    assert same(zoo.create_model(NAME, pretrained=True), expected)
    assert same(zoo.create_model(ARCH, pretrained=True), expected), "ours is the architecture's default weight"
    assert timm.models.is_model_pretrained(NAME)
    assert NAME in timm.list_pretrained("lrunet*")


def test_local_folder_as_timm_reads_it(expected, tmp_path, caplog):
    assert same(timm.create_model(f"local-dir:{ROOT / 'hub' / NAME}", pretrained=True), expected)
    shutil.copytree(ROOT / "hub" / NAME, tmp_path / "copy")
    with open(tmp_path / "copy" / "model.safetensors", "r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x55")
    assert not caplog.records
    assert not same(timm.create_model(f"local-dir:{tmp_path / 'copy'}", pretrained=True), expected)
    assert "unverified" in caplog.text  # a folder of one's own is what it is, and a line says so


def test_a_network_of_the_users_own_is_saved_and_loaded_as_in_timm(tmp_path):
    """timm's save_for_hf and local-dir, with a tag that is none of ours."""
    own = timm.create_model("lrunet2_100", num_classes=4, pretrained_cfg_overlay={"tag": "mine"})
    timm.models.save_for_hf(own, str(tmp_path / "mine"), safe_serialization=True)
    assert same(timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True), own)
    file = {"file": str(tmp_path / "mine" / "model.safetensors"), "tag": "mine", "num_classes": 4}
    assert same(timm.create_model("lrunet2_100", pretrained=True, pretrained_cfg_overlay=file), own)


def test_torch_hub_from_a_folder(expected):
    assert same(torch.hub.load(str(ROOT), ARCH, source="local", pretrained=True), expected)
    assert same(torch.hub.load(str(ROOT), ARCH, source="local", pretrained=True, tag=TAG), expected)


def test_torch_hub_takes_the_tag_and_the_arguments():
    """A weight that is not the architecture's first, and arguments that change the network."""
    first, other = (n for n in weights() if n.startswith("sparse_wrn_16_1.") and "dense" not in n)
    arch, tag = other.split(".")
    by_hub = torch.hub.load(str(ROOT), arch, source="local", pretrained=True, tag=tag)
    assert same(by_hub, timm.create_model(other, pretrained=True))
    assert same(torch.hub.load(str(ROOT), other, source="local", pretrained=True), by_hub), "the dotted name"
    assert not same(by_hub, timm.create_model(first, pretrained=True))
    by_hub = torch.hub.load(str(ROOT), "lrunet", source="local", num_classes=3, in_chans=2, layer_reuse=5)
    assert (by_hub.head.fc.out_channels, by_hub.stem.conv.in_channels) == (3, 2)
    assert len(by_hub.stages[0].block.dw_bns) == 5
    with pytest.raises(zoo.UnknownNameError, match="no weight tagged 'nobody_c10'"):
        torch.hub.load(str(ROOT), arch, source="local", pretrained=True, tag="nobody_c10")


@pytest.mark.parametrize(
    ("name", "tag", "said"),
    [
        (f"{ARCH}.nobody_c10", "", f"no weight tagged 'nobody_c10'. It has {NAME}"),
        (NAME, "okankop_fmnist", "names its weight already"),
        ("lrunet1_10", "", "Did you mean lrunet1_100"),
        ("sys", "", "See: zoo list"),
    ],
)
def test_torch_hub_names_what_is_close(name, tag, said):
    with pytest.raises(zoo.UnknownNameError) as error:
        torch.hub.load(str(ROOT), name, source="local", tag=tag)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


OTHERS = {
    "package": "(there / 'zoo').mkdir(); (there / 'zoo/__init__.py').write_text('')",
    "package with our names": (
        "(there / 'zoo').mkdir(); (there / 'zoo/__init__.py').write_text('def list_models(): return []\\n')"
    ),
    "namespace": "(there / 'zoo').mkdir()",
    "module": "(there / 'zoo.py').write_text('')",
}


def test_another_package_called_zoo_is_named(tmp_path):
    """What torch.hub says in a process that has imported another one, and that the process goes on."""
    load = f"try: torch.hub.load({str(ROOT)!r}, {ARCH!r}, source='local')\nexcept RuntimeError as error: print(error)"
    folders = [tmp_path / kind for kind in OTHERS]
    codes = [
        f"import pathlib, sys, torch; there = pathlib.Path({str(folder)!r}); there.mkdir(); {OTHERS[folder.name]}\n"
        "sys.path = [str(there), *(p for p in sys.path if not (pathlib.Path(p) / 'zoo/__init__.py').is_file())]\n"
        f"import zoo\n{load}"
        for folder in folders
    ]
    part = "part = types.ModuleType('zoo.models'); part.__file__ = '/elsewhere/zoo/models.py'"
    codes.append(f"import sys, torch, types; {part}; sys.modules['zoo.models'] = part\n{load}")
    *found, (of_a_part, _) = after_import("import torch", codes, "-I", cwd=tmp_path)
    for folder, (said, code) in zip(folders, found, strict=True):
        assert code == 0, said
        assert len(said.splitlines()) == 1
        assert f"Another package called zoo is imported in this process ({folder}/zoo" in said
        assert str(ROOT) in said
    assert "(/elsewhere/zoo/models.py)" in of_a_part


def test_torch_hub_from_a_prepared_cache_with_sockets_blocked(tmp_path):
    """The way ``owner/repository:tag`` goes once it is in torch's cache; also its list and help."""
    folder = tmp_path / "owner_repository_v1.0"
    ignore = shutil.ignore_patterns(".git", ".venv", "tests", "out", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=ignore)
    code = BLOCKED + (
        "import sys, torch; torch.hub.set_dir(sys.argv[1]); repo = 'owner/repository:v1.0';"
        "names = torch.hub.list(repo, trust_repo=True);"
        f"model = torch.hub.load(repo, {ARCH!r}, pretrained=True, trust_repo=True);"
        "import json, zoo, timm.models;"
        "print(json.dumps([names, zoo.__file__, zoo.list_models(), torch.hub.help(repo, 'lrunet10_100.zoo_fmnist'),"
        "float(model.head.fc.weight.sum())]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert run.returncode == 0, run.stderr
    names, file, models, text, total = json.loads(run.stdout.splitlines()[-1])
    assert file.startswith(str(folder)), "the copy in torch's cache was used"
    assert sorted(names) == sorted(models), "entry points are the architectures, and nothing else"
    assert "10-LruNet-1x" in text
    assert "pretrained" in text
    assert total == pytest.approx(float(timm.create_model(NAME, pretrained=True).head.fc.weight.sum()))


def test_command_line_fetches_the_same_file(capsys):
    assert main(["fetch", NAME]) == 0
    assert weights()[NAME]["sha256"] in capsys.readouterr().out


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 5), (4, 0)])
def test_pretrained_is_adapted_to_other_channels_and_classes(expected, channels, classes):
    model = timm.create_model(NAME, pretrained=True, in_chans=channels, num_classes=classes).eval()
    assert model.stem.conv.in_channels == channels
    assert torch.equal(model.stages[2].block.pw.weight, expected.stages[2].block.pw.weight)
    if channels == 3:  # timm repeats a one-channel kernel and scales it, so that grey images look the same
        x = torch.rand(2, 1, 28, 28)
        torch.testing.assert_close(model(x.expand(-1, 3, -1, -1)), expected.eval()(x), rtol=1e-4, atol=1e-4)


def test_pretrained_features(expected):
    x = torch.rand(2, 1, 28, 28)
    levels = timm.create_model(NAME, pretrained=True, features_only=True).eval()(x)
    whole = expected.eval().forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(levels, whole, strict=True))


def test_importing_takes_no_name_and_warns_of_nothing_and_reads_no_weight():
    """timm's names are asked for in a process that has not yet imported zoo, which then does."""
    code = (
        "import builtins, io, json, timm; theirs = [timm.list_models(), timm.list_modules()]\n"
        "import socket; socket.socket.connect = None; opened, real = [], io.open\n"
        "def spy(file, *a, **k):\n    opened.append(str(file)); return real(file, *a, **k)\n"
        "builtins.open = io.open = spy\n"
        "import zoo; assert not [f for f in opened if f.endswith('.safetensors')], opened\n"
        "print(json.dumps([*theirs, len(zoo.list_models())]))"
    )
    words = [sys.executable, "-W", "error::UserWarning", "-c", code]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    theirs, modules, count = json.loads(run.stdout)
    assert count > 30
    assert not set(zoo.list_models()) & set(theirs)
    ours = [module for family in zoo.models.FAMILIES.values() for module in family]
    assert not set(ours) & set(modules)
    assert len(set(ours)) == len(ours)
    assert set(theirs) <= set(timm_list_models()), "none of timm's names was taken away"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lrunet11_100", "lrunet10_100"),
        ("lrunet10_100.zoo_c100", "lrunet10_100.zoo_fmnist"),
        ("resnet18", "No model is called"),
    ],
)
def test_unknown_names_show_close_ones(name, hint):
    with pytest.raises(zoo.UnknownNameError, match=hint):
        zoo.create_model(name)


def test_an_unknown_argument_is_one_sentence():
    with pytest.raises(zoo.ZooError, match="banana"):
        zoo.create_model("lrunet2_100", banana=1)


def test_counts_of_a_network_that_runs_a_layer_twice():
    counts = zoo.count_parameters(zoo.create_model("lrunet2_100"))
    kernels = sum(18 * p + p * p // 4 for p in (64, 128, 256, 512))
    biases = sum(3 * p for p in (64, 128, 256, 512))
    head = 27 * 64 + 64 + 512 // 8 * 256 + 256 + 256 * 10 + 10
    assert counts["stored"] == counts["unique"] == 137_162
    assert counts["inference"] == 2 * (kernels + biases) + head
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert zoo.reparam.counts.count_macs(zoo.create_model("lrunet2_100"), (3, 32, 32)) == 5_515_264
