"""The manifest, and where weights come from: order of sources, conversion, verification. Faults: test_faults.py."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import zoo
from conftest import ROOT
from loopback import Server, running
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.evaluation.validate import validate
from zoo.training.staged_files import LIMIT
from zoo.weights.card import model_card
from zoo.weights.convert import safetensors_bytes
from zoo.weights.fetch import cached_file, fetch
from zoo.weights.manifest import manifest, paper_of, source, timm_cfgs, weights
from zoo.weights.manifest import problems as manifest_problems
from zoo.weights.manifest_check import problem_of_entry
from zoo.weights.packed import PACKED, unpack
from zoo.weights.verify import sha256_of

OURS = [name for name, entry in weights().items() if entry["origin"] == "zoo"]
THEIRS = [name for name, entry in weights().items() if entry["origin"] == "okankop"]
SMALL = "lrunet1_100.okankop_fmnist"
BUFFERS = (".mask", "running_mean", "running_var", "num_batches_tracked")


def pickled(state: dict, path: Path) -> None:
    """Write a state dict as the authors' files are: a pickle without zip, a wrapper's prefix, figures beside it."""
    content = {"net": {f"module.{k}": v for k, v in state.items()}, "acc": 91.17, "epoch": 74}
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.fixture
def release(entries, own_cache, tmp_path):
    """A release server with a file in the authors' form, and a manifest entry that points at it."""
    torch.manual_seed(0)
    reference = zoo.create_reference("lrunet", "lrunet", layer_reuse=1, init_ch=1)
    state = {reference.reference_key(k): v for k, v in reference.state_dict().items() if "num_batches" not in k}
    pickled(state, tmp_path / "original.t7")
    original = (tmp_path / "original.t7").read_bytes()
    entry = entries[SMALL]
    converted = safetensors_bytes(state, source(entry, "release")["metadata"])
    entry["sha256"], entry["size"] = hashlib.sha256(converted).hexdigest(), len(converted)
    with running(Server()) as server:
        server.files["/pretrained/original.t7"] = original
        source(entry, "release").update(
            url=f"{server.url}/pretrained/original.t7", sha256=hashlib.sha256(original).hexdigest()
        )
        yield server


# ---- the manifest ----


def test_manifest_follows_its_schema():
    schema = json.loads((ROOT / "zoo" / "weights" / "manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest(), schema)
    broken = copy.deepcopy(manifest())
    next(iter(broken["weights"].values()))["sha256"] = "abc"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_manifest_names_are_architectures_and_their_order_is_the_order_of_preference():
    order = ["c10", "c100", "fmnist", "in1k"]
    architectures = zoo.list_models()
    for name in weights():
        arch, tag = name.split(".")
        assert arch in architectures
        assert tag.rsplit("_", 1)[1] == zoo.registry.weights()[name]["dataset"].replace("cifar", "c").replace(
            "fashion-mnist", "fmnist"
        ).replace("imagenet", "in1k")
        same = [n for n in weights() if n.split(".")[0] == arch]
        ranked = sorted(same, key=lambda n: (weights()[n]["origin"] != "zoo", order.index(n.rsplit("_", 1)[1])))
        assert same == ranked


def test_the_authors_18_weights_are_there():
    assert len(THEIRS) == 18


def test_timm_configurations_come_from_the_manifest():
    for name, entry in weights().items():
        cfg = timm.models.get_pretrained_cfg(name).to_dict()
        assert cfg["num_classes"] == entry["num_classes"]
        assert list(cfg["input_size"]) == entry["preprocessing"]["input_size"]
        assert list(cfg["mean"]) == entry["preprocessing"]["mean"]
        model = timm.create_model(name)
        assert model.num_classes == entry["num_classes"]
        assert model.get_submodule(cfg["first_conv"]).in_channels == entry["preprocessing"]["input_size"][0]
        counts = zoo.count_parameters(model)
        assert counts["stored"] == entry["params"]["stored"]
        assert counts["inference"] == entry["params"]["inference"]


def test_nothing_unpublished_counts_as_on_the_hub():
    """No Hub repository, no Hub source: neither in the manifest nor in timm's configurations."""
    for name, entry in weights().items():
        hub = source(entry, "hub")
        assert hub is None or len(hub["revision"]) == 40
        assert bool(timm.models.get_pretrained_cfg(name).hf_hub_id) == (hub is not None)


def test_a_staged_file_that_is_not_in_this_copy_is_no_source(entries, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.weights.manifest.shipped_hub", lambda: tmp_path)
    arch = OURS[0].split(".")[0]
    cfgs = timm_cfgs([arch], {})
    assert "file" not in cfgs[OURS[0]]


def test_staged_weights_stay_small_together():
    files = [path for name in OURS for path in (ROOT / "hub" / name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 150_000_000


@pytest.mark.parametrize("name", OURS)
def test_staged_weights_are_the_manifests(name):
    entry = weights()[name]
    folder = ROOT / "hub" / name
    path = folder / "model.safetensors"
    assert sha256_of(path) == entry["sha256"]
    assert path.stat().st_size == entry["size"] <= LIMIT
    config = json.loads((folder / "config.json").read_text())
    assert f"{config['architecture']}.{config['pretrained_cfg']['tag']}" == name
    names = [path.name for path in folder.iterdir()]
    assert (folder / "README.md").read_text() == model_card(name, entry, files=names)
    assert not source(entry, "staged")["embedded"] or entry["size"] < 1 << 20, "the wheel stays small"
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, len(log) + 1))
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_a_card_explains_only_the_files_that_are_there():
    name = next(name for name in OURS if (weights()[name].get("collapsed") or {}).get("path"))
    line = "- `model.collapsed.safetensors`"
    assert line in model_card(name, weights()[name], files=["model.collapsed.safetensors"])
    assert line not in model_card(name, weights()[name])


def test_a_sparse_file_holds_as_many_values_as_it_claims():
    """Counted in the file, without the package's networks; and its packed form is smaller by what is off."""
    for name in [name for name in OURS if "_s90_" in name]:
        path, entry = ROOT / "hub" / name / "model.safetensors", weights()[name]
        tensors = load_file(path)
        learned = [value for key, value in tensors.items() if not key.endswith(BUFFERS)]
        assert sum(int((value != 0).sum()) for value in learned) == entry["params"]["nonzero"]
        packed = path.with_name(PACKED).read_bytes()
        assert unpack(packed) == path.read_bytes()
        assert len(packed) < entry["size"] / 3


@pytest.mark.parametrize("name", OURS)
def test_card_manifest_and_files_agree_on_every_count(name):
    """What the code counts now, the manifest, config.json, equivalence.json and the card; the inference count has its
    batch norms folded, the collapsed file may have kept them, and each says so."""
    entry, folder = weights()[name], ROOT / "hub" / name
    model, card = zoo.create_model(name, pretrained=True), (folder / "README.md").read_text()
    params, collapsed, result = entry["params"], entry["collapsed"], entry["results"][0]
    assert zoo.count_parameters(model) == params
    words = ("stored", "unique", "not zero", "as a plain network with batch norms folded")
    counted = [f"{params[key]:,} {word}" for key, word in zip(params, words, strict=True)]
    assert f"- Parameters: {', '.join(counted)}\n" in card
    assert f"File: `model.safetensors`, {(folder / 'model.safetensors').stat().st_size:,} bytes" in card
    assert f"{result['correct']:,} of {result['n']:,} images" in card
    assert result["top1"] == round(100 * result["correct"] / result["n"], 2)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == entry["num_classes"] == model.num_classes
    assert config["num_features"] == model.num_features
    record = json.loads((folder / "equivalence.json").read_text())
    assert record["before"]["parameters"] == params["unique"]
    assert record["collapsed"] == collapsed
    assert record["correct_before"] == result["correct"]
    assert record["correct"][collapsed["dtype"]] / result["n"] == pytest.approx(record["top1"] / 100)
    kept, folded = (zoo.load_collapsed(name, batch_norm=form) for form in ("keep", "fold"))
    count, inference = (sum(parameter.numel() for parameter in model.parameters()) for model in (kept, folded))
    assert count == collapsed["parameters"] == record["after"]["parameters"]
    assert inference == params["inference"]
    assert f"{count:,} parameters; {(folder / collapsed['path']).stat().st_size:,} bytes" in card


def test_releases_without_a_licence_are_facts_only():
    """Known architectures (timm's for the plain twins), published figures, and no way for the package to fetch them."""
    releases = manifest()["releases"]
    assert len(releases) == 19
    assert [r["note"] is not None for r in releases].count(True) == 1
    for entry in releases:
        assert entry["licence"] is None
        assert entry["architecture"] in timm.list_models()
        assert (entry["url"] is None) == (entry["note"] is not None)
        assert not any(name.split(".")[0] == entry["architecture"] for name in weights())


# ---- conversion ----


def test_conversion_gives_the_documented_bytes(released):
    """From tensors and metadata to exactly the file whose sha256 the manifest has, for all 18."""
    for name in THEIRS:
        release = source(weights()[name], "release")
        file = next(p for p in released.glob("*.safetensors") if sha256_of(p) == weights()[name]["sha256"])
        content = safetensors_bytes(load_file(file), release["metadata"])
        assert hashlib.sha256(content).hexdigest() == weights()[name]["sha256"]


# ---- sources ----


def test_release_is_fetched_converted_cached_and_loaded(release, own_cache, entries):
    model = timm.create_model(SMALL, pretrained=True)
    assert fetch(SMALL).kind == "cache"
    assert release.requests == ["GET /pretrained/original.t7"]
    state = load_file(cached_file(SMALL, entries[SMALL]))
    assert torch.equal(model.stages[0].block.dw.weight, state["stage1.dw.weight"])
    assert [p.name for p in cached_file(SMALL, entries[SMALL]).parent.iterdir() if "download" in p.name] == []


def test_staged_comes_before_cache_and_network(release, entries, tmp_path, monkeypatch):
    fetch(SMALL)
    folder = tmp_path / "hub" / SMALL
    folder.mkdir(parents=True)
    shutil.copyfile(cached_file(SMALL, entries[SMALL]), folder / "model.safetensors")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    assert fetch(SMALL).path == folder / "model.safetensors"


def test_a_conversion_that_differs_is_deleted(release, own_cache, entries):
    entries[SMALL]["sha256"] = "0" * 64
    with pytest.raises(zoo.WeightError, match="sha256"):
        fetch(SMALL)
    assert list(own_cache.rglob("*.safetensors")) == []


def test_no_network_is_one_line_that_says_what_to_do(entries, own_cache):
    source(entries[SMALL], "release")["url"] = "http://127.0.0.1:9/original.t7"
    with pytest.raises(zoo.WeightError, match=r"ZOO_HUB|Put its file at .*model\.safetensors") as caught:
        timm.create_model(SMALL, pretrained=True)
    assert entries[SMALL]["sha256"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_the_user_names_is_taken_as_it_is(release, entries, tmp_path, caplog):
    good = fetch(SMALL).path
    own = tmp_path / "own.safetensors"
    shutil.copyfile(good, own)
    cfg = {"file": str(own)}
    first = timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=cfg)
    assert not caplog.records
    changed = {key: tensor + 1 for key, tensor in first.state_dict().items()}
    save_file(changed, own)
    loaded = timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=cfg).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in changed.items())
    assert [record.getMessage() for record in caplog.records] == [
        f"{own}: not the published {SMALL}; it is loaded as it is, unverified."
    ]
    save_file({"a": torch.zeros(1)}, own)
    with pytest.raises(zoo.WeightError, match=r"missing keys: .*unexpected keys: a"):
        timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=cfg)
    assert own.exists()


def test_an_architecture_without_weights_says_so():
    with pytest.raises(zoo.WeightError, match="lrunet2_100 has no pretrained weight"):
        timm.create_model("lrunet2_100", pretrained=True)


# ---- zoo fetch, zoo verify ----


def test_verify_names_every_copy_and_what_is_wrong_with_it(release, entries, tmp_path, monkeypatch, capsys):
    """Without network and without memory: a copy that was right a moment ago and has been changed is found."""
    path = fetch(SMALL).path
    release.fault = "status:500"
    assert main(["verify", SMALL]) == 0
    assert str(path) in capsys.readouterr().out
    # whoever can write the cache
    monkeypatch.setattr("zoo.weights.hash_cache.recall", lambda *_: entries[SMALL]["sha256"])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["verify"]) == 1
    shown = capsys.readouterr()
    assert "WRONG" in shown.out
    assert f"{path}: sha256 is" in shown.err
    path.write_bytes(content)
    entries[SMALL]["size"] += 1
    assert main(["verify", SMALL]) == 1
    assert "the manifest has" in capsys.readouterr().err
    assert len(release.requests) == 1
    path.unlink()
    assert main(["verify", SMALL]) == 1
    assert f"zoo fetch {SMALL}" in capsys.readouterr().err


def test_verify_measures_accuracy_to_the_image(entries, capsys):
    """On the bundled thousand images; a manifest that claims one image more is found out."""
    name = "lrunet1_100.zoo_fmnist"
    result = entries[name]["results"][0]
    model = zoo.create_model(name, pretrained=True)
    found = validate(model, "fashion-mnist", SAMPLE, device="cpu")
    result.update(correct=found.correct, n=found.n)
    words = ["verify", name, "--accuracy", "--data", f"fashion-mnist={SAMPLE}"]
    assert main(words) == 0
    assert "the manifest's, to the image" in capsys.readouterr().out
    result["correct"] += 1
    assert main(words) == 1
    assert f"{name}: {found.correct} of 1000" in capsys.readouterr().err
    assert main([*words[:3], "--data", "cifar10=nowhere"]) == 1
    assert "no accuracy was measured" in capsys.readouterr().err
    assert main(["verify", name, "--accuracy"]) == 1
    assert "--data DIR" in capsys.readouterr().err


def test_fetch_takes_addresses(own_cache, capsys):
    with running(Server()) as server:
        server.files["/w.pth"] = b"weights"
        url = f"{server.url}/w.pth"
        assert main(["fetch", url]) == 1
        assert "--trust-first-use" in capsys.readouterr().err
        assert main(["fetch", url, "--trust-first-use"]) == 0
        assert hashlib.sha256(b"weights").hexdigest() in capsys.readouterr().out
        assert main(["fetch", url]) == 0
        assert len(server.requests) == 1
    assert main(["fetch", SMALL, "--trust-first-use"]) == 1
    assert "the manifest has that" in capsys.readouterr().err


def test_a_family_without_a_paper_is_named():
    with pytest.raises(zoo.WeightError, match="papers lacks the family zero_sum; add"):
        paper_of({"family": "zero_sum"})


@pytest.mark.parametrize(
    ("name", "family", "said"), [(SMALL, "zero_sum", "is of the family"), ("x_1.y_c10", "z", "no")]
)
def test_an_entry_of_no_family_is_left_out(name, family, said):
    entry = {**weights()[SMALL], "family": family}
    papers = {family: {"title": "x", "arxiv": "1"}}
    assert said in problem_of_entry(name, entry, papers, {SMALL.split(".")[0]: "lrunet"})
    assert not problem_of_entry(name, entry, papers, {}), "while architectures are being registered"
    assert not manifest_problems()
