"""Warm starts: timm's own weights, from a Hub that pins and verifies them, in the train form of a network of ours.

The base is made here, random weights and random statistics of its batch norms behind a loopback Hub: an eighth of the
width of timm's resnet18, so that much can be tried, and once timm's own class in full.
"""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from timm.models import generate_default_cfgs, get_pretrained_cfg, save_for_hf

import zoo
from conftest import ROOT
from loopback import COMMIT, Hub, running
from protocol import close, randomise
from zoo.cli import main
from zoo.layers.paradise import MixedConv2d, PDAConv2d
from zoo.models._plain_resnet import PlainResNet
from zoo.overview import model_overview
from zoo.publishing.repository import choose
from zoo.weights.fetch import cached_file
from zoo.weights.manifest import manifest, timm_cfgs, warm_starts
from zoo.weights.manifest_check import check_manifest
from zoo.weights.warm_start import Pin, pin

BASE = "resnet18.a1_in1k"
FILE = f"timm/{BASE}/model.safetensors"
NAMES = [f"{kind}_resnet18.from_a1_in1k" for kind in ("pd_a", "pd_b", "ac")]
PD_A = NAMES[0]
OTHER = "f" * 40
WIDTH = 0.125


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return randomise(PlainResNet(18, WIDTH)).eval()


@pytest.fixture(scope="module")
def content(base):
    return save(base.state_dict(), {"format": "pt"})


@pytest.fixture(scope="module")
def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def hub(own_cache, monkeypatch, content):
    monkeypatch.setattr("zoo.weights.download._pause", lambda seconds: None)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ZOO_HUB"):
        monkeypatch.delenv(variable, raising=False)
    with running(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files[FILE] = content
        yield server


@pytest.fixture
def fetched(hub, sha256):
    """The Hub after ``zoo fetch``."""
    assert main(["fetch", PD_A, "--revision", COMMIT, "--sha256", sha256]) == 0
    return hub


def create(name, **kwargs):
    torch.manual_seed(3)
    return timm.create_model(name, **{"pretrained": True, "width": WIDTH, **kwargs})


def double(name, **kwargs):
    return create(name, **kwargs).double().eval()


def files(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


# ---- what is said about them ----


def test_names_kinds_and_bases_agree():
    """Every PD and AC network for ImageNet has one; name, base and kind say the same; timm knows the base."""
    expected = {n for n in zoo.list_models() if n.startswith(("pd_", "ac_")) and "cifar" not in n}
    assert {name.split(".")[0] for name in warm_starts()} == expected
    for name, entry in warm_starts().items():
        arch, tag = entry["base"].split(".")
        assert name == f"{entry['kind']}_{arch}.from_{tag}"
        assert get_pretrained_cfg(entry["base"]).hf_hub_id == f"timm/{entry['base']}"


def test_timm_resolves_the_tag_and_does_not_call_it_pretrained():
    assert not [name for name in timm.list_pretrained() if ".from_" in name]
    for name, entry in warm_starts().items():
        cfg, theirs = get_pretrained_cfg(name), get_pretrained_cfg(entry["base"])
        for field in ("num_classes", "mean", "std", "interpolation", "crop_pct", "input_size", "license", "classifier"):
            assert getattr(cfg, field) == getattr(theirs, field)
        assert cfg.num_classes == 1000
        assert not cfg.has_weights
        assert "identical function before fine-tuning" in cfg.description
        assert (cfg.architecture, cfg.tag) == tuple(name.split("."))
        plain = get_pretrained_cfg(name.split(".")[0])
        assert plain.tag is None, "the architecture's own configuration stays the default"
        assert plain.crop_pct == 0.875


def test_the_manifest_has_both_numbers_or_neither():
    for change in ({"revision": COMMIT}, {"sha256": "0" * 64}, {"revision": "main", "sha256": "0" * 64}):
        broken = copy.deepcopy(manifest())
        broken["warm_starts"][BASE].update(change)
        with pytest.raises(zoo.WeightError, match="warm_starts"):
            check_manifest(broken, "x")


def test_info_and_list(hub, sha256, capsys, monkeypatch):
    monkeypatch.setattr("zoo.cli.listing.model_costs", lambda name: {})  # multiply-adds, which take seconds
    assert main(["info", PD_A]) == 0
    shown = capsys.readouterr().out
    assert f"timm's {BASE}, the identical function before fine-tuning" in shown
    assert f"zoo fetch {PD_A}\n" in shown
    assert main(["fetch", PD_A, "--revision", COMMIT, "--sha256", sha256]) == 0
    capsys.readouterr()
    row = model_overview(PD_A)
    assert (row["revision"], row["sha256"]) == (COMMIT, sha256)
    assert (row["fetch"], row["pretrained"]) == (f"zoo fetch {PD_A}", False)
    assert main(["list", "ac_resnet18"]) == 0
    assert "warm start" in capsys.readouterr().out
    assert main(["list", "--pretrained", "pd_a*", "--json"]) == 0
    assert not [row for row in json.loads(capsys.readouterr().out) if ".from_" in row["name"]]


def test_it_is_no_weight_to_pass_on():
    for action in (lambda: choose([PD_A]), lambda: zoo.load_collapsed(PD_A)):
        with pytest.raises(zoo.WeightError, match="no weight of this zoo but a warm start"):
            action()


# ---- first use: the Hub announces commit and sha256 ----

HEAD, GET = (f"{verb} /timm/{BASE}/resolve/{r}/model.safetensors" for verb, r in (("HEAD", "main"), ("GET", COMMIT)))


@pytest.mark.parametrize(
    "load",
    [
        lambda: timm.create_model(PD_A, pretrained=True, width=WIDTH),
        lambda: zoo.create_model(PD_A, pretrained=True, width=WIDTH),
        lambda: torch.hub.load(
            str(ROOT), "pd_a_resnet18", source="local", pretrained=True, tag="from_a1_in1k", width=WIDTH
        ),
        lambda: main(["fetch", PD_A]),
    ],
    ids=["timm", "zoo", "torch.hub", "zoo fetch"],
)
def test_the_hub_is_asked_once_and_believed_ever_after(hub, load, own_cache, sha256, base, images, caplog):
    load()
    assert hub.requests == [HEAD, GET]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "zoo"]
    assert COMMIT in line
    assert sha256 in line
    assert "\n" not in line
    assert pin(BASE) == Pin(COMMIT, sha256, "record")
    close(double(PD_A)(images), copy.deepcopy(base).double()(images), 1e-12)
    assert len(hub.requests) == 2, "later loads ask for nothing, those of other networks with this base neither"
    create(NAMES[1])
    hub.files[FILE] = save(PlainResNet(18, WIDTH).state_dict(), {"format": "pt"})
    cached_file(BASE, {"sha256": sha256}).unlink()
    with pytest.raises(zoo.WeightError, match="sha256 mismatch"):
        create(PD_A)
    assert pin(BASE) == Pin(COMMIT, sha256, "record"), "what the Hub has now does not become the record"


def test_without_weights_nobody_is_asked(hub, own_cache):
    assert create(PD_A, pretrained=False).num_classes == 1000
    assert (hub.requests, files(own_cache)) == ([], [])


def test_other_bytes_than_announced_are_refused(hub, own_cache):
    honest = hub.headers_for
    hub.headers_for = lambda path, content: honest(path, content) | {"X-Linked-Etag": '"' + "0" * 64 + '"'}
    with pytest.raises(zoo.WeightError, match="sha256 mismatch: expected 0000"):
        create(PD_A)
    assert files(own_cache) == []
    assert pin(BASE) is None


@pytest.mark.parametrize(
    ("lie", "hint"),
    [
        ({"X-Repo-Commit": "main"}, "announces no commit"),
        ({"X-Linked-Etag": '"abc"'}, "announces no commit and sha256"),
    ],
)
def test_an_announcement_that_is_none(hub, own_cache, lie, hint):
    honest = hub.headers_for
    hub.headers_for = lambda path, content: honest(path, content) | lie
    with pytest.raises(zoo.WeightError, match=hint) as caught:
        create(PD_A)
    assert "\n" not in str(caught.value)
    assert (pin(BASE), files(own_cache)) == (None, [])


@pytest.mark.parametrize("fault", ["status:404", "status:401", "status:500", "hang-up"])
def test_a_hub_that_does_not_answer(hub, own_cache, fault):
    hub.fault = fault
    with pytest.raises(zoo.WeightError, match=f"Hub timm/{BASE}") as caught:
        create(PD_A)
    assert "\n" not in str(caught.value)
    assert (pin(BASE), files(own_cache)) == (None, [])


def test_offline_before_first_use(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(zoo.WeightError, match=r"HF_HUB_OFFLINE is set.*--revision COMMIT --sha256 HEX") as caught:
        create(PD_A)
    assert "\n" not in str(caught.value)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "requests", "how"),
    [
        (["--revision", COMMIT, "--sha256", "SHA256"], [GET], "given"),
        (["--sha256", "SHA256"], [HEAD, GET], "announced"),
        (["--revision", COMMIT], [HEAD.replace("main", COMMIT), GET], "announced"),
    ],
)
def test_what_the_user_gives_is_pinned(hub, words, requests, how, sha256, own_cache):
    assert main(["fetch", PD_A, *[word.replace("SHA256", sha256) for word in words]]) == 0
    assert hub.requests == requests
    assert pin(BASE) == Pin(COMMIT, sha256, "record")
    (record,) = (own_cache / "trusted").glob("*.json")
    assert json.loads(record.read_text())["how"] == how


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--sha256", "a" * 64], "sha256 mismatch"),
        (["--revision", "main", "--sha256", "a" * 64], "40 hexadecimal digits, not 'main'"),
        (["--revision", COMMIT, "--sha256", "abc"], "64 hexadecimal digits, not 'abc'"),
        (["--revision", "", "--sha256", "a" * 64], "40 hexadecimal digits, not ''"),
        (["--trust-first-use"], "the Hub announces that"),
    ],
)
def test_words_of_zoo_fetch(hub, words, hint, capsys, own_cache):
    assert main(["fetch", PD_A, *words]) == 1
    printed = capsys.readouterr()
    assert hint in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""
    assert [request for request in hub.requests if request != HEAD] == []
    assert (pin(BASE), files(own_cache)) == (None, [])


def test_export_and_predict_take_it(hub, tmp_path, capsys, monkeypatch):
    exported = []  # measuring how equal the two are takes a minute, and is tried elsewhere

    def export(model, path, *words, **options):
        exported.append(zoo.reparameterize(model))
        raise zoo.ZooError("as far as this")

    monkeypatch.setattr("zoo.cli.convert.export", export)
    torch.manual_seed(0)
    plain = timm.create_model("resnet18")
    plain.fc.bias.data[7] = 100
    hub.files[FILE] = save(plain.state_dict(), {"format": "pt"})
    assert main(["export", PD_A, "--format", "safetensors", "-o", str(tmp_path / "plain.safetensors")]) == 1
    assert capsys.readouterr().err == "zoo: as far as this\n"
    assert torch.equal(exported[0].fc.weight, plain.fc.weight)
    Image.new("RGB", (80, 60), (40, 90, 30)).save(tmp_path / "one.png")
    assert main(["predict", PD_A, str(tmp_path / "one.png")]) == 0
    assert "cock" in capsys.readouterr().out
    assert hub.requests == [HEAD, GET]


def test_a_revision_is_for_warm_starts(hub, capsys):
    assert main(["fetch", "lrunet1_100.zoo_fmnist", "--revision", COMMIT]) == 1
    assert f"such as {PD_A}, not for lrunet1" in capsys.readouterr().err
    assert main(["fetch", "pd_a_resnet18"]) == 1
    assert f"Did you mean {PD_A}?" in capsys.readouterr().err
    with pytest.raises(zoo.WeightError, match=f"to begin with there is {PD_A}"):
        timm.create_model("pd_a_resnet18", pretrained=True)


# ---- the identical function ----


@pytest.mark.parametrize("name", NAMES)
def test_the_function_is_the_bases(fetched, name, base, images):
    """In float64, in eval and in train mode, before and after collapsing; one request for all that have the base."""
    model, plain = double(name), copy.deepcopy(base).double()
    assert all(isinstance(b.conv1, PDAConv2d) for b in model.residual_blocks())
    expected = plain(images)
    close(model(images), expected, 1e-12)
    collapsed = zoo.reparameterize(model)
    assert not any(isinstance(m, PDAConv2d) for m in collapsed.modules())
    close(collapsed(images), expected, 1e-12)
    if name.startswith("pd_b"):
        assert any(isinstance(m, MixedConv2d) for m in collapsed.modules()), "the gate stays"
    else:
        ours, theirs = (zoo.reparameterize(m, batch_norm="fold").state_dict() for m in (zoo.to_stock(model), plain))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            close(ours[key], tensor, 1e-12)
    close(model.train()(images), plain.train()(images), 1e-12)
    assert fetched.requests == [f"GET /timm/{BASE}/resolve/{COMMIT}/model.safetensors"]


def test_it_is_what_zoo_expand_gives(fetched, base):
    ours = create(PD_A).state_dict()
    theirs = zoo.expand(base, "pd_a").model.state_dict()
    assert ours.keys() == theirs.keys()
    drawn = [key for key in ours if ".branches." in key and ".standard1." not in key and key.endswith("conv.weight")]
    assert len(drawn) == 16 * 4
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key not in drawn)
    assert all(ours[key].std() > 0 for key in drawn), "the other branches' kernels are drawn at random"


def test_timm_adapts_it_to_other_classes_and_channels(fetched, base, images):
    plain = copy.deepcopy(base).double()
    features = plain.forward_features(images)
    model = double(PD_A, num_classes=7)
    assert model(images).shape == (2, 7)
    close(model.forward_features(images), features, 1e-12)
    close(double(PD_A, num_classes=0)(images), plain.forward_head(features, pre_logits=True), 1e-12)
    levels = double("pd_b_resnet18.from_a1_in1k", features_only=True)(images)
    close(levels[-1], features, 1e-12)
    grey = images[:, :1]  # timm sums the kernel over the colours
    close(double(PD_A, in_chans=1)(grey), plain(grey.expand(-1, 3, -1, -1)), 1e-6)


def test_a_fine_tuned_network_is_the_users_own(fetched, tmp_path):
    """timm saves it with its tag; it is loaded as it stands, from a folder or file, also with other classes."""
    own = create(PD_A, num_classes=5)
    with torch.no_grad():
        own.layer1[0].conv1.branches["group"].bn.weight.fill_(0.25)
    save_for_hf(own, str(tmp_path / "mine"), model_args={"width": WIDTH}, safe_serialization=True)
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["pretrained_cfg"]["tag"] == "from_a1_in1k"
    overlay = {"file": str(tmp_path / "mine" / "model.safetensors"), "num_classes": 5}
    for again in (
        timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True),
        create(PD_A, pretrained_cfg_overlay=overlay),
    ):
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in own.state_dict().items())


def test_timms_own_class_in_full(hub, capsys):
    """Strictly the file that timm's resnet18 writes, and back to it by zoo.to_stock."""
    torch.manual_seed(0)
    plain = randomise(timm.create_model("resnet18")).eval()
    hub.files[FILE] = save(plain.state_dict())
    sha = hashlib.sha256(hub.files[FILE]).hexdigest()
    assert main(["fetch", PD_A, "--revision", COMMIT, "--sha256", sha]) == 0
    model = timm.create_model(PD_A, pretrained=True).eval()
    x = torch.randn(1, 3, 32, 32)
    close(model(x), plain(x), 1e-5)
    stock = zoo.to_stock(model)
    assert type(stock) is type(plain)
    close(stock(x), plain(x), 1e-5)


# ---- recorded once, verified always ----


def test_zoo_validate_measures_it(hub, tmp_path, capsys):
    """The base sees a tench everywhere, which is right for one photograph of two, before and after collapsing."""
    torch.manual_seed(0)
    plain = timm.create_model("resnet18")
    plain.fc.bias.data[0] = 100
    hub.files[FILE] = save(plain.state_dict(), {"format": "pt"})
    words = ["--revision", COMMIT, "--sha256", hashlib.sha256(hub.files[FILE]).hexdigest()]
    assert main(["fetch", PD_A, *words]) == 0
    for folder, color in (("n01440764", 40), ("n02102040", 200)):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.new("RGB", (80, 60), (color, 90, 30)).save(tmp_path / "photos" / folder / "one.png")
    capsys.readouterr()
    for more in ([], ["--collapsed"]):
        file = tmp_path / f"figures{len(more)}.json"
        words = [
            "validate",
            PD_A,
            "--dataset",
            "imagenet",
            "--data",
            str(tmp_path / "photos"),
            "--results",
            str(file),
            *more,
        ]
        assert main(words) == 0
        found = json.loads(file.read_text())[0]
        assert (found["n"], found["correct"], found["name"].split()[0]) == (2, 1, PD_A)


def test_a_fresh_process_needs_no_request(fetched, sha256, base, images):
    fetched.fault = "status:500"
    code = (
        "import socket; socket.socket.connect = None; import sys, timm, torch, zoo;"
        f"model = timm.create_model({PD_A!r}, pretrained=True, width={WIDTH}).double().eval();"
        "x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64);"
        "print(model(x).sum().item(), sorted(n for n in timm.list_pretrained('pd_*')))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    total, _, listed = run.stdout.strip().partition(" ")
    assert float(total) == pytest.approx(copy.deepcopy(base).double()(images).sum().item(), rel=1e-9)
    assert ".from_" not in listed
    assert len(fetched.requests) == 1


def test_offline_it_is_found_or_says_why_not(fetched, own_cache, sha256, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    create(PD_A)
    cached_file(BASE, {"sha256": sha256}).unlink()
    with pytest.raises(zoo.WeightError, match="HF_HUB_OFFLINE is set, so no request was made"):
        create(PD_A)
    assert len(fetched.requests) == 1
    monkeypatch.delenv("HF_HUB_OFFLINE")
    create(PD_A)
    assert len(fetched.requests) == 2, "the recorded commit is asked for again, without arguments"


def test_a_file_put_into_the_staged_folder_is_verified_too(fetched, own_cache, sha256, content, tmp_path, monkeypatch):
    cached_file(BASE, {"sha256": sha256}).unlink()
    (tmp_path / "staged" / BASE).mkdir(parents=True)
    path = tmp_path / "staged" / BASE / "model.safetensors"
    path.write_bytes(content)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "staged"))
    create(PD_A)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(zoo.HashMismatchError, match="staged"):
        create(PD_A)
    assert len(fetched.requests) == 1


@pytest.mark.parametrize("fault", ["flip", "short", "html", "status:404"])
def test_other_bytes_are_refused_and_leave_nothing(hub, fault, sha256, own_cache, capsys):
    hub.fault = fault
    words = ["fetch", PD_A, "--revision", COMMIT, "--sha256", sha256]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert f"{BASE} could not be had: Hub timm/{BASE}" in message
    assert len(message.strip().splitlines()) == 1
    assert files(own_cache) == [], "neither a record nor a part"
    assert pin(BASE) is None
    hub.fault = ""
    assert main(words) == 0
    assert pin(BASE).sha256 == sha256


def test_a_damaged_file_in_the_cache_is_never_loaded(fetched, sha256, base, images, capsys):
    path = cached_file(BASE, {"sha256": sha256})
    with open(path, "r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x55")
    fetched.fault = "flip"
    with pytest.raises(zoo.WeightError, match="sha256 mismatch"):
        create(PD_A)
    assert not path.exists()
    fetched.fault = ""
    close(double(PD_A)(images), copy.deepcopy(base).double()(images), 1e-12)


def test_contradictions_are_refused_with_the_way_to_forget(fetched, hub, sha256, own_cache, capsys):
    requests = len(hub.requests)
    for words in (["--sha256", "0" * 64], ["--revision", OTHER], ["--revision", OTHER, "--sha256", sha256]):
        assert main(["fetch", "ac_resnet18.from_a1_in1k", *words]) == 1
        message = capsys.readouterr().err
        assert "If the change is wanted, delete" in message
    assert len(hub.requests) == requests
    assert main(["fetch", PD_A, "--revision", COMMIT.upper(), "--sha256", sha256.upper()]) == 0, "no contradiction"
    record = message.split("delete ")[1].split(" and fetch")[0]
    Path(record).unlink()
    assert pin(BASE) is None
    assert main(["fetch", PD_A, "--revision", OTHER, "--sha256", sha256]) == 0
    assert pin(BASE).revision == OTHER


@pytest.mark.parametrize("change", [{"revision": "main"}, {"sha256": None}, None])
def test_a_damaged_record_does_not_count_as_none(fetched, own_cache, change):
    (record,) = (own_cache / "trusted").glob("*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | change) if change else "{")
    with pytest.raises(zoo.WeightError, match=r"damaged\. Delete it to decide anew"):
        create(PD_A)


def test_a_verified_file_that_is_another_network_is_refused(hub, capsys):
    for wrong in (PlainResNet(34, WIDTH).state_dict(), {"weight": torch.zeros(3)}):
        hub.files[FILE] = save(wrong)
        name, sha = NAMES[2], hashlib.sha256(hub.files[FILE]).hexdigest()
        assert main(["fetch", name, "--revision", COMMIT, "--sha256", sha]) == 0
        with pytest.raises(zoo.WeightError, match="plain ResNet"):
            create(name, num_classes=3)
        assert main(["fetch", name, "--sha256", "0" * 64]) == 1
        Path(capsys.readouterr().err.split("delete ")[1].split(" and fetch")[0]).unlink()


# ---- once the manifest has the numbers ----


@pytest.fixture
def filled(monkeypatch, sha256):
    """A manifest in which someone with internet has filled in the numbers."""
    changed = copy.deepcopy(manifest())
    changed["warm_starts"][BASE].update(revision=COMMIT, sha256=sha256)
    check_manifest(changed, "x")
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)


def test_a_filled_manifest_needs_no_zoo_fetch(hub, filled, base, images, own_cache, capsys):
    close(double(PD_A)(images), copy.deepcopy(base).double()(images), 1e-12)
    assert not (own_cache / "trusted").exists()
    assert main(["fetch", PD_A]) == 0
    assert main(["fetch", PD_A, "--sha256", "0" * 64]) == 1
    assert "The manifest has both" in capsys.readouterr().err
    assert len(hub.requests) == 1


def test_a_filled_manifest_makes_it_pretrained_but_never_the_default(filled):
    arch = PD_A.split(".")[0]
    default = generate_default_cfgs(timm_cfgs([arch], {"first_conv": "conv1"}))[arch]
    assert list(default.tags) == ["", "from_a1_in1k"]
    assert default.cfgs["from_a1_in1k"].hf_hub_id == f"timm/{BASE}@{COMMIT}"
    assert default.cfgs["from_a1_in1k"].has_weights
    assert not default.cfgs[""].has_weights


def test_a_trained_weight_stays_the_default(filled, monkeypatch):
    content = copy.deepcopy(manifest())
    content["warm_starts"][BASE].update(revision=COMMIT, sha256="0" * 64)
    own = copy.deepcopy(next(entry for entry in content["weights"].values() if entry["origin"] == "zoo"))
    hub = {"kind": "hub", "repo": "org/x", "revision": COMMIT, "file": "model.safetensors"}
    arch = PD_A.split(".")[0]
    content["weights"] = {f"{arch}.zoo_in1k": {**own, "sources": [hub]}, f"{arch}.zoo_two_in1k": own}
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: content)
    default = generate_default_cfgs(timm_cfgs([arch], {"first_conv": "conv1"}))[arch]
    assert default.tags[0] == "zoo_in1k"
    assert set(default.tags) == {"zoo_in1k", "zoo_two_in1k", "from_a1_in1k"}
