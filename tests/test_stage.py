"""From a finished run to a staged weight: what lies in its folder, and what the manifest says of it."""

import json
from importlib.resources import files

import jsonschema
import pytest
import timm
import torch
from safetensors.torch import load_file

import zoo
from zoo.cli.demo import SAMPLE
from zoo.evaluation.validate import validate
from zoo.makers import learned_of, maker_of
from zoo.training import checkpoint, loop
from zoo.training import stage as staging
from zoo.training import staged_files as storing
from zoo.training.comparison import paper_result
from zoo.training.plan import in_order
from zoo.training.recipe import load_recipe
from zoo.training.staged_files import store
from zoo.weights.manifest import manifest
from zoo.weights.packed import unpack
from zoo.weights.verify import sha256_of

SCHEMA = json.loads(files("zoo.weights").joinpath("manifest.schema.json").read_text())
SETTING = "weight: sparse_mlp_300_100.trial_fmnist\ndataset: fashion-mnist\nepochs: 1\nbatch_size: 100\nlr: 0.05\n"
SPARSE = SETTING + "model_args: {sparsity: 0.5, batch_norm: false}\nmethod: static\n"
PLAIN = SETTING + "model_args: {sparsity: 0, batch_norm: false}\n"


class Place:
    """Data, a recipe, runs of it and a hub in one folder."""

    def __init__(self, folder):
        self.folder, self.hub, self.manifest = folder, folder / "hub", folder / "manifest.json"
        self.data, self.recipe = folder / "data", folder / "own_fmnist.yaml"
        self.data.mkdir()
        for path in SAMPLE.glob("*.gz"):
            (self.data / path.name).symlink_to(path)
            (self.data / path.name.replace("t10k", "train")).symlink_to(path)

    def run(self, text, **changes):
        self.recipe.write_text(text)
        output = self.folder / "_".join(["run", *(f"{key}{value}" for key, value in changes.items())])
        loop.train(load_recipe(self.recipe, changes), self.data, output, device="cpu")
        return output

    def stage(self, run, **options):
        return staging.stage(run, self.data, self.hub, self.manifest, str(self.recipe), **options)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_staged_weight_is_whole(place):
    run = place.run(SPARSE)
    entry = place.stage(run)
    folder = place.hub / "sparse_mlp_300_100.trial_fmnist"
    content = json.loads(place.manifest.read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["weights"]["sparse_mlp_300_100.trial_fmnist"] == entry
    assert content["weights"].keys() - {"sparse_mlp_300_100.trial_fmnist"} == manifest()["weights"].keys()
    names = {"model.safetensors", "model.collapsed.safetensors", "equivalence.json", "config.json", "recipe.json"}
    names |= {"training_log.jsonl", "curve.png", "README.md", "model.packed.safetensors"}
    names |= {"predictions.npz"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(f"`{name}`" in (folder / "README.md").read_text() for name in names - {"config.json", "README.md"})
    assert [path.name for path in place.hub.iterdir()] == [folder.name], "nothing half-written is left"
    assert entry["sha256"] == sha256_of(folder / "model.safetensors")
    assert all((place.hub / file).is_file() for file in (entry["training_log"], entry["sources"][0]["path"]))
    assert entry["model_args"] == {"sparsity": 0.5, "batch_norm": False}
    assert json.loads((folder / "config.json").read_text())["model_args"].items() >= entry["model_args"].items()
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["paper_ids"].startswith("https://")
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["seed"], recipe["epochs"], "base" in recipe) == (0, 1, False)

    model = timm.create_model("sparse_mlp_300_100", num_classes=10, **entry["model_args"]).eval()
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict(tensors)
    for layer in (model.fc1, model.fc2):
        learned, mask = learned_of(layer), maker_of(layer).mask
        assert int((learned != 0).sum()) <= int(mask.sum()) < mask.numel(), "what is off is zero in the file"
    assert unpack((folder / "model.packed.safetensors").read_bytes()) == (folder / "model.safetensors").read_bytes()
    measured = validate(model, "fashion-mnist", place.data)
    assert measured.correct == entry["results"][0]["correct"] == entry["storage"]["correct"][entry["storage"]["dtype"]]
    figures = {key: entry["results"][0][key] for key in ("nll", "calibration_error")}
    assert figures == pytest.approx(measured.beside_top1(), abs=1e-3)
    plain = zoo.reparameterize(model)
    plain.load_state_dict(load_file(folder / "model.collapsed.safetensors"))
    assert validate(plain, "fashion-mnist", place.data).correct == measured.correct
    record = json.loads((folder / "equivalence.json").read_text())
    assert record["collapsed"] == entry["collapsed"]
    assert {d["input"] for d in record["differences"]} == {"random", "real"}
    assert max(d["max_relative"] for d in record["differences"] if d["dtype"] == "float64") < 1e-12


def test_two_stagings_side_by_side_lose_nothing(place, monkeypatch):
    """The second one begins and ends while the first one measures."""
    first, plot = place.run(SPARSE), staging.plot_loss
    place.manifest.write_text(json.dumps(manifest()))

    def meanwhile(*args):
        content = json.loads(place.manifest.read_text())
        other = next(iter(manifest()["weights"].values()))
        place.manifest.write_text(
            json.dumps({**content, "weights": {**content["weights"], "lrunet1_100.b_c10": other}})
        )
        plot(*args)

    monkeypatch.setattr(staging, "plot_loss", meanwhile)
    place.stage(first)
    names = json.loads(place.manifest.read_text())["weights"]
    assert {"lrunet1_100.b_c10", "sparse_mlp_300_100.trial_fmnist"} < names.keys()


def test_a_plain_network_has_no_second_file(place):
    entry = place.stage(place.run(PLAIN))
    assert "collapsed" not in entry
    names = {path.name for path in (place.hub / "sparse_mlp_300_100.trial_fmnist").iterdir()}
    assert not {"model.collapsed.safetensors", "equivalence.json", "model.packed.safetensors"} & names
    stray = place.hub / "sparse_mlp_300_100.trial_fmnist" / "stray"
    stray.touch()
    assert place.stage(place.folder / "run")["sha256"] == entry["sha256"]
    assert not stray.exists(), "the folder is replaced as a whole"
    assert len(list(place.hub.iterdir())) == 1
    assert entry["paper_result"] is None


def test_a_network_of_ordinary_layers_is_staged_with_its_batch_norms_folded(place):
    entry = place.stage(place.run(SETTING + "model_args: {sparsity: 0}\n"))
    assert entry["collapsed"]["options"] == {"batch_norm": "fold", "reuse": "unroll"}
    jsonschema.validate(json.loads(place.manifest.read_text()), SCHEMA)
    folder = place.hub / "sparse_mlp_300_100.trial_fmnist"
    model = timm.create_model("sparse_mlp_300_100", num_classes=10, **entry["model_args"]).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    plain = zoo.reparameterize(model, **entry["collapsed"]["options"])
    plain.load_state_dict(load_file(folder / "model.collapsed.safetensors"))
    assert not any("running_mean" in key for key in plain.state_dict())
    images = torch.randn(8, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model(images))


def test_a_collapsed_form_is_exact_unless_only_half_of_it_fits(place, monkeypatch):
    entry = place.stage(place.run(SETTING + "model_args: {sparsity: 0}\n"))
    assert (entry["storage"]["dtype"], entry["collapsed"]["dtype"]) == ("float16", "float32")
    monkeypatch.setattr(storing, "LIMIT", entry["collapsed"]["size"] - 1)
    smaller = place.stage(place.folder / "run")["collapsed"]
    record = json.loads((place.hub / "sparse_mlp_300_100.trial_fmnist" / "equivalence.json").read_text())
    assert smaller["dtype"] == "float16"
    assert set(record["correct"].values()) == {record["correct_before"]}
    gap = max(d["max_relative"] for d in record["differences"] if d["dtype"] == "float64")
    assert 1e-6 < gap < 1e-2, "the record is that of the values in the file"
    monkeypatch.setattr(storing, "LIMIT", 1000)
    for module in ("stage", "plan"):  # of the network's own file
        monkeypatch.setattr(f"zoo.training.{module}.check_size", lambda *_: None)
    assert "a staged file has at most 1,000" in place.stage(place.folder / "run")["collapsed"]["reason"]


def test_half_precision_only_where_no_image_is_lost():
    class Counted:
        def __init__(self, correct):
            self.correct = correct

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    model, exact = network(), network().state_dict()
    same = store(model, lambda net: Counted(7))
    assert (same.dtype, same.correct) == ("float16", {"float32": 7, "float16": 7})
    assert same.tensors["0.weight"].dtype == torch.float16
    assert same.tensors["1.running_var"].dtype == torch.float32, "batch norms are left alone"
    assert torch.equal(model[0].weight, exact["0.weight"].half().float()), "the network is what is stored"

    answers = iter([Counted(7), Counted(8)])  # more is not the same
    model = network()
    other = store(model, lambda net: next(answers))
    assert (other.dtype, other.correct, other.result.correct) == ("float32", {"float32": 7, "float16": 8}, 7)
    assert torch.equal(model[0].weight, exact["0.weight"])

    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = 1e6
    assert store(model, lambda net: Counted(7)).correct == {"float32": 7}, "out of the range of half precision"


def test_other_seeds_are_evidence_of_a_staged_weight(place):
    first, second, third = (place.run(SPARSE, **changes) for changes in ({}, {"seed": 1}, {"seed": 2}))
    entry = place.stage(first, seeds=[second, third])
    jsonschema.validate(json.loads(place.manifest.read_text()), SCHEMA)
    values = [run["top1"] for run in entry["seeds"]["runs"]]
    assert [run["seed"] for run in entry["seeds"]["runs"]] == [0, 1, 2]
    assert values[0] == entry["results"][0]["top1"]
    assert len(set(values)) > 1
    folder = place.hub / "sparse_mlp_300_100.trial_fmnist"
    logs = [json.loads(line) for line in (folder / "seeds_log.jsonl").read_text().splitlines()]
    assert [(line.pop("seed"), line.pop("epoch")) for line in logs] == [(1, 1), (2, 1)]
    assert logs[0] != logs[1]
    assert "`seeds_log.jsonl`" in (folder / "README.md").read_text()
    assert entry["seeds"]["mean"] == pytest.approx(sum(values) / 3, abs=1e-3)
    assert entry["seeds"]["std"] == pytest.approx(torch.tensor(values).double().std().item(), abs=1e-3)
    with pytest.raises(zoo.ZooError, match="staged with the seeds 1, 2 too"):
        place.stage(first)
    with pytest.raises(zoo.ZooError, match="seeds 0, 1, 1: each may appear once"):
        place.stage(first, seeds=[second, second])
    with pytest.raises(zoo.ZooError, match="seed 1, there 0"):
        place.stage(second)  # not chosen by its accuracy


def test_what_is_no_finished_run_of_the_recipe_is_refused(place, monkeypatch):
    run = place.run(SPARSE)
    place.recipe.write_text(SPARSE.replace("lr: 0.05", "lr: 0.06"))
    with pytest.raises(zoo.ZooError, match=r"lr 0\.05, there 0\.06"):
        place.stage(run)
    with pytest.raises(zoo.ZooError, match="not the folder of a run of zoo train"):
        place.stage(place.data)
    place.recipe.write_text(SPARSE)
    monkeypatch.setattr(storing, "LIMIT", 1000)
    with pytest.raises(zoo.ZooError, match="a staged file has at most 1,000"):
        place.stage(run)
    assert not place.manifest.exists()
    assert not place.hub.exists(), "nothing half-written is left"
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "epoch": 0}, run / "checkpoint.pt")
    with pytest.raises(zoo.ZooError, match="epoch 0 of 1; finish it first"):
        place.stage(run)


def test_what_can_be_refused_is_refused_before_anything_is_measured(place, monkeypatch):
    """A recipe, a twin, a size, a name, somebody else's weight: measuring may take minutes."""
    run = place.run(SPARSE)
    calls = []
    monkeypatch.setattr(staging, "validate", lambda *_, **__: calls.append(1))
    other = place.folder / "other_fmnist.yaml"
    other.write_text(SPARSE.replace("lr: 0.05", "lr: 0.06"))
    taken = "the manifest already, by okankop: choose another name"
    for text, options, said in (
        (SPARSE.replace("epochs: 1", "epochs: 2"), {}, "epochs 1, there 2"),
        (SPARSE + "twins: [other_fmnist.yaml]\n", {}, "is no twin, it differs in lr"),
        (SPARSE + "twins: [nobody]\n", {}, "No recipe 'nobody'"),
        (SPARSE, {"name": "lrunet1_100.okankop_fmnist"}, "not of lrunet1_100"),
        (SPARSE, {"seeds": [run]}, "each may appear once"),
    ):
        place.recipe.write_text(text)
        with pytest.raises(zoo.ZooError, match=said):
            place.stage(run, **options)
    content = manifest()
    theirs = next(
        e for e in content["weights"].values() if e["origin"] == "okankop" and e["dataset"] == "fashion-mnist"
    )
    name = "sparse_mlp_300_100.trial_fmnist"
    for sources, hint in (
        (theirs["sources"], False),
        ([{"kind": "staged", "path": f"{name}/x", "embedded": False}], True),
    ):
        entry = {**theirs, "sources": sources, "origin_url": None if hint else theirs["origin_url"]}
        place.manifest.write_text(json.dumps({**content, "weights": {**content["weights"], name: entry}}))
        with pytest.raises(zoo.ZooError, match=taken) as refused:
            place.stage(run)
        assert ("; if it is yours: --trained-by okankop" in str(refused.value)) is hint
    place.manifest.unlink()
    monkeypatch.setattr(storing, "LIMIT", 1000)
    with pytest.raises(zoo.ZooError, match="a staged file has at most 1,000"):
        place.stage(run)
    assert not calls


def test_each_form_is_measured_once(place, monkeypatch):
    run, measured = place.run(SPARSE), []

    def counted(network, *args, **kwargs):
        measured.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return validate(network, *args, **kwargs)

    monkeypatch.setattr(staging, "validate", counted)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["fc1.bias"][0] = 1e-12
    checkpoint.save(state, run / "checkpoint.pt")
    entry = place.stage(run)
    assert len(measured) == 3, "in full precision, in half, collapsed"
    model = timm.create_model("sparse_mlp_300_100", num_classes=10, **entry["model_args"]).eval()
    model.load_state_dict(load_file(place.hub / "sparse_mlp_300_100.trial_fmnist" / "model.safetensors"))
    assert entry["storage"]["dtype"] == "float16"
    assert zoo.count_parameters(model) == entry["params"], "what half precision makes zero is not counted"
    state["model"] = {
        name: tensor.half().float() if tensor.is_floating_point() else tensor for name, tensor in state["model"].items()
    }
    checkpoint.save(state, run / "checkpoint.pt")
    measured.clear()
    entry = place.stage(run)
    assert len(measured) == 2, "half precision is the same network here"
    assert len({tuple(state) for state in measured}) == 2
    assert entry["storage"]["correct"]["float16"] == entry["results"][0]["correct"]


def test_the_order_of_weights_takes_any_name():
    names = ["a.zoo_c10", "a.zoo_seed1_c10", "a.zoo_mnist", "a.zoo_in1k", "a.zoo_other", "a.zoo_fmnist"]
    ranked = ["a.zoo_c10", "a.zoo_seed1_c10", "a.zoo_fmnist", "a.zoo_mnist", "a.zoo_in1k", "a.zoo_other"]
    assert list(in_order({name: {"origin": "zoo"} for name in names})) == ranked


def test_the_default_of_an_architecture_is_not_a_twin_of_another():
    twins = {"a.zoo_dense_c10": [], "a.zoo_moving_c10": ["a.zoo_static_c10", "a.zoo_dense_c10"]}
    twins |= {"a.zoo_static_c10": ["a.zoo_dense_c10"], "a.authors_c10": []}
    weights = {name: {"origin": "zoo" if "zoo" in name else "x", "twins": found} for name, found in twins.items()}
    ordered = ["a.zoo_moving_c10", "a.zoo_static_c10", "a.zoo_dense_c10", "a.authors_c10"]
    assert list(in_order(weights)) == ordered


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("sparse_wrn_28_2_set_s80_published_c10", 94.25),
        ("sparse_wrn_28_2_set_s90_c10", 93.28),  # of the published recipe of this setting
        ("lrunet14_100_c10", 89.34),  # of the authors' weight in the manifest
        ("wrn_16_1_c10", None),
        ("sparse_wrn_28_2_rigl_erk_s90_c10", None),  # though another method's weight of this network has one
    ],
)
def test_the_figure_to_compare_with(name, top1):
    found = paper_result(load_recipe(name), name, manifest()["weights"])
    assert (found["top1"] if found else None) == top1
