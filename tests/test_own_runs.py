"""A newcomer's own runs and folders: every verb takes them, and a run is staged as what it was."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import zoo
from zoo import checkpoints, named, own_folders
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.evaluation.validate import validate
from zoo.training import loop
from zoo.training import stage as staging
from zoo.training.plan import _shipping
from zoo.training.recipe import load_recipe
from zoo.weights.manifest import manifest
from zoo.weights.packed import pack

ARCH, TRAINED_AS = "sparse_mlp_300_100", "sparse_mlp_300_100.trial_fmnist"
RECIPE = (
    f"weight: {TRAINED_AS}\ndataset: fashion-mnist\nepochs: 2\nbatch_size: 250\nlr: 0.2\nsched: step\n"
    "model_args: {sparsity: 0, batch_norm: true}\nmean: [0.5]\nstd: [0.25]\n"
)
CHANGES = {
    "last": {},
    "best": {"lr_table": {0: 0.2, 1: 9.0}, "keep": "best", "ema": 0.5, "held_out": 250, "held_out_from": "last"},
}


def words(*parts):
    return [str(part) for part in parts]


def on_sample(*parts):
    return words("validate", *parts, "--dataset", "fashion-mnist", "--data", SAMPLE, "--device", "cpu")


def right(*parts) -> int:
    """Images that a command's network gets right."""
    file = Path(os.environ["PYTEST_RIGHT"])
    assert main(on_sample(*parts, "--results", file)) == 0
    return json.loads(file.read_text())[0]["correct"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data whose training images are those of the test set, a recipe, and a run of it with each of the changes."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "data").mkdir()
    for path in SAMPLE.glob("*.gz"):
        (folder / "data" / path.name).symlink_to(path)
        (folder / "data" / path.name.replace("t10k", "train")).symlink_to(path)
    (folder / "own.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.training.curve.plot_loss", lambda *_: None)  # curves have tests of their own
        for name, changes in CHANGES.items():
            loop.train(load_recipe(folder / "own.yaml", changes), folder / "data", folder / name, device="cpu")
    cfg = {"tag": "mine", "license": "apache-2.0", "description": "of another", "origin_url": "https://localhost"}
    saved = timm.create_model(ARCH, num_classes=10, sparsity=0, pretrained_cfg_overlay=cfg)
    save_for_hf(saved, str(folder / "saved"), model_args={"sparsity": 0}, safe_serialization=True)
    return folder


@pytest.fixture(autouse=True)
def here(place, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_RIGHT", str(tmp_path / "figures.json"))
    monkeypatch.chdir(tmp_path)
    for name in (*CHANGES, "saved"):
        (tmp_path / name).symlink_to(place / name)
    return tmp_path


def test_a_run_is_measured_as_its_log_has_it(capsys):
    """What was held out are the last 250 images of what is measured here; the averaged network's best epoch is kept."""
    log = [json.loads(line) for line in Path("best", "log.jsonl").read_text().splitlines()]
    assert log[0]["held_out_top1"] > log[1]["held_out_top1"], "the best epoch is not the last"
    for words, line in ((["best"], log[0]), ([ARCH, "--checkpoint", "best/checkpoint.pt"], log[1])):
        assert 100 * (right(*words) - right(*words, "--limit", 750)) / 250 == pytest.approx(line["held_out_top1"])
    assert right("best", "--collapsed") == right("./best")
    assert right(ARCH, "--checkpoint", "best/best.pt") == right("best")
    assert "mean 0.5; std 0.25" in capsys.readouterr().err, "the images are prepared as the run prepared them"


def test_any_file_of_the_architecture_is_a_checkpoint():
    """Plain, packed, and collapsed with the batch norms kept or folded, with and without metadata."""
    model = named.load_named("saved").model
    expected = right("saved")
    x = torch.rand(2, 1, 28, 28)
    Path("model.packed.safetensors").write_bytes(pack(Path("saved/model.safetensors").read_bytes()))
    assert right(ARCH, "--checkpoint", "model.packed.safetensors") == expected
    for norm in ("keep", "fold"):
        plain = zoo.reparameterize(model, batch_norm=norm)
        save_file({key: tensor.contiguous() for key, tensor in plain.state_dict().items()}, "plain.safetensors")
        again = checkpoints.load_checkpoint("plain.safetensors", ARCH).model
        torch.testing.assert_close(again(x), model(x))
    assert main(words("export", "last", "--format", "safetensors", "-o", "out.safetensors")) == 0
    assert right(ARCH, "--checkpoint", "out.safetensors") == right("last"), "an export says how images are prepared"
    again = checkpoints.load_checkpoint("out.safetensors", ARCH).model
    torch.testing.assert_close(again(x), named.load_named("last").model(x))


@pytest.mark.parametrize("network", ["last", "local-dir:saved", "./saved"])
def test_every_verb_takes_a_run_and_a_folder(network, tmp_path, capsys):
    from PIL import Image

    name = f"{ARCH}.{'last' if network == 'last' else 'saved'}"
    Image.new("L", (28, 28)).save("black.png")
    assert main(words("predict", network, "black.png", "--json", "--top", 10)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    expected = named.load_named(network).model
    mean, std = (0.5, 0.25) if network == "last" else (0.2860, 0.3530)
    scores = expected(torch.full((1, 1, 28, 28), -mean / std)).softmax(1)[0]
    assert row["guesses"][0]["probability"] == pytest.approx(scores.max().item(), abs=1e-5)
    assert row["guesses"][0]["class"] != str(row["guesses"][0]["label"]) or network != "last", "the classes' names"
    assert main(words("export", network, "--format", "safetensors")) == 0
    assert Path(f"{name}.safetensors").is_file()
    capsys.readouterr()
    assert main(words("info", network, "--json")) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["architecture"] == ARCH
    assert row.get("epochs") == ("2 of 2" if network == "last" else None)
    assert main(words("bundle", network, "-o", "x.zoo")) == 0
    assert "zoo bundle --install FILE --to DIR\n" in capsys.readouterr().out
    assert main(words("bundle", "--install", "x.zoo")) == 1
    assert "--to DIR" in capsys.readouterr().err
    assert main(words("bundle", "--install", "x.zoo", "--to", "there")) == 0
    assert main(words("mirror", "mirror", network)) == 0
    for folder in (Path("there", name), Path("mirror", "mirror", name, "resolve", "main")):
        model = named.load_named(f"{folder}").model
        assert all(torch.equal(t, model.state_dict()[k]) for k, t in expected.state_dict().items())
        config = json.loads((folder / "config.json").read_text())
        assert not {"license", "description", "origin_url"} & {*config, *config["pretrained_cfg"]}
    assert right(f"there/{name}") == right(network)
    assert main(words("publish", network, "--namespace", "x", "--dry-run")) == 1
    assert "zoo stage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "no run of zoo train (no checkpoint.pt) and no saved network (config.json and model.safe"),
        (lambda f: (f / "config.json").write_text("{}"), "model.safetensors is missing"),
        (lambda f: shutil.copy("saved/model.safetensors", f), "config.json is missing"),
        (lambda f: shutil.copy("last/recipe.json", f), "a run without a checkpoint yet (0 of 2 epochs)"),
        (lambda f: shutil.copy("last/checkpoint.pt", f), "recipe.json is missing"),
        (lambda f: (f / "recipe.json").write_text("[") and shutil.copy("last/checkpoint.pt", f), "cannot be read"),
        (lambda f: shutil.copy("last/recipe.json", f) and (f / "checkpoint.pt").write_text("x"), "checkpoint.pt: "),
        (
            lambda f: shutil.copytree("saved", f, dirs_exist_ok=True) and (f / "config.json").write_text("["),
            "cannot be",
        ),
        (
            lambda f: (
                shutil.copy("last/checkpoint.pt", f)
                and (f / "recipe.json").write_text('{"task": "language", "dataset": "ptb"}')
            ),
            "the run of a language model. Measure it with zoo validate odd --dataset ptb",
        ),
    ],
)
def test_odd_folders_are_one_line(make, message, capsys):
    Path("odd").mkdir()
    make(Path("odd"))
    capsys.readouterr()
    for command in (on_sample("odd"), words("info", "odd"), words("bundle", "odd", "-o", "x.zoo")):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not Path("x.zoo").exists()


def test_a_name_is_a_name(caplog, capsys):
    """A folder that is called like a weight needs a separator; one that is not is found without."""
    name = "lrunet1_100.zoo_fmnist"
    shutil.copytree("saved", name)
    own_folders._say_once.cache_clear()
    assert named.load_named(name).name == name
    assert f"not as the folder ./{name}" in caplog.text
    assert named.load_named(f"./{name}").name == f"{ARCH}.lrunet1_100_zoo_fmnist"
    for word, message in (
        ("nowhere", "No model is called"),
        ("./no", "No such folder: no"),
        ("local-dir:no", "folder"),
    ):
        assert main(on_sample(word)) == 1
        assert message in capsys.readouterr().err
    assert main(on_sample("saved/model.safetensors")) == 1
    assert "add --checkpoint saved/model.safetensors" in capsys.readouterr().err


def test_a_part_of_the_images_is_no_measurement(capsys, caplog):
    assert main(on_sample("last", "best", "--limit", 7, "--results", "r.json")) == 0
    row, other = json.loads(Path("r.json").read_text())
    assert (row["n"], row["of"]) == (7, 1000)
    assert "only the first 7 of 1,000 images" in row["warning"] == other["warning"]
    out = capsys.readouterr().out
    assert "7 of 1000" in out
    assert out.count("only the first") == 1, "beside the figures, also where they are piped"
    assert caplog.text.count("only the first 7 of 1,000 images") == 1, "said once, whatever is measured"
    whole = validate(named.load_named("last").model, "fashion-mnist", SAMPLE, device="cpu", limit=5000)
    assert (whole.n, whole.of, whole.warning) == (1000, 1000, "")
    assert main(on_sample("last", "--limit", 0)) == 1


def train(place, *parts):
    return words("train", place / "own.yaml", "--data", place / "data", "--output", "run", "--device", "cpu", *parts)


def test_stopped_and_finished_are_told_apart(place, capsys, monkeypatch):
    def said(*parts, code):
        assert main(train(place, *parts)) == code
        return capsys.readouterr().out

    out = said("--budget", "0.001", code=0)
    assert "stopped by --budget: 0 of 2 epochs\ngo on: zoo train " in out
    command = out.splitlines()[-1].removeprefix("go on: zoo ").split()
    assert "--resume" in command

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_check", interrupt)
        assert "interrupted: 0 of 2 epochs\ngo on: zoo train" in said("--resume", code=130)
    stopped = json.loads(said("--resume", "--budget", "0.001", "--json", code=0))
    assert (stopped["state"], stopped["finished"], stopped["epoch"], stopped["epochs"]) == (
        "stopped by --budget",
        False,
        0,
        2,
    )
    assert main(command[: command.index("--budget")] + command[command.index("--budget") + 2 :]) == 0
    out = capsys.readouterr().out
    assert "finished: 2 of 2 epochs\nmeasure it: zoo validate run --dataset fashion-mnist" in out
    assert json.loads(said("--resume", "--json", code=0))["state"] == "finished already"
    assert main(train(place)) == 1
    assert "which is finished (2 epochs)" in capsys.readouterr().err


# Staging


@pytest.fixture
def stage(place, tmp_path, monkeypatch):
    """Stage a run into a hub of its own."""
    (tmp_path / "manifest.json").write_text(json.dumps(manifest()))
    monkeypatch.setattr(staging, "plot_loss", lambda *_: None)

    def run(folder, *args, data="data", **options):
        return staging.stage(folder, place / data, tmp_path / "hub", tmp_path / "manifest.json", *args, **options)

    return run


def test_a_run_with_changed_values_is_staged_as_what_it_was(place, stage, caplog):
    entry = stage("best", name=f"{ARCH}.mine_fmnist")
    folder = Path("hub", f"{ARCH}.mine_fmnist")
    assert entry["results"][0]["correct"] == right("best")
    assert (entry["origin"], entry["recipe"], entry.get("twins")) == ("a user of this zoo", None, None)
    said = "by a user of this zoo, on 750 of 1,000 training images; best of 2 epochs on 250 training images held out"
    card = (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert all(said in text for text in (entry["description"], card, config["description"]))
    assert "by this project" not in card + json.dumps(entry)
    assert "see below" not in card
    assert "`zoo train recipe.json`" in card
    again = load_recipe(folder / "recipe.json")
    assert again == load_recipe(place / "own.yaml", {**CHANGES["best"], "weight": f"{ARCH}.mine_fmnist"})
    stage("best", name=f"{ARCH}.mine_fmnist")
    assert "replaces" not in caplog.text
    stage("last", name=f"{ARCH}.mine_fmnist")
    assert f"replaces {ARCH}.mine_fmnist, whose file had the sha256 {entry['sha256']}" in caplog.text


def test_what_was_held_out_is_told_where_it_cannot_be_counted(place, stage, monkeypatch):
    """A folder with the test split alone, and one whose training images are others."""
    name, other = f"{ARCH}.mine_fmnist", Path("other")
    monkeypatch.setattr(staging, "store", lambda model, _: pytest.fail(model.pretrained_cfg["description"]))
    for count in (0, 100, 500):
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(place / "data", other, ignore=lambda _, names: [n for n in names if n.startswith("train")])
        for path in SAMPLE.glob("*.gz") if count else ():
            start, size = (16, 784) if "images" in path.name else (8, 1)
            content = gzip.decompress(path.read_bytes())
            content = content[:4] + count.to_bytes(4, "big") + content[8 : start + count * size]
            (other / path.stem.replace("t10k", "train")).write_bytes(content)
        with pytest.raises(pytest.fail.Exception, match="user of this zoo, on all but 250 of the training images; bes"):
            stage("best", name=name, data=other.resolve())


def test_who_trained_it_is_who_says_so(stage, monkeypatch):
    entry = stage("last", trained_by="A.  Nybody\n")
    assert (entry["origin"], entry["licence_source"]) == ("A. Nybody", "trained by A. Nybody")
    assert "- Origin: A. Nybody" in Path("hub", TRAINED_AS, "README.md").read_text()
    with pytest.raises(zoo.ZooError, match=r"by A\. Nybody: choose another name"):
        stage("last")
    monkeypatch.setattr(staging, "store", lambda model, _: pytest.fail(model.pretrained_cfg["description"]))
    for name, who in ((f"{ARCH}.zoo_fmnist", "this project"), (TRAINED_AS, "A. Nybody")):
        with pytest.raises(pytest.fail.Exception, match=f"by {who}; last epoch"):  # all checks are passed
            stage("last", name=name, trained_by=who)


@pytest.mark.parametrize("name", ["wrn_16_1_c10", "sparse_wrn_16_1_dsr_s90_c10", "lrunet1_fmnist"])
def test_a_recipe_that_ships_is_found(name):
    assert _shipping(load_recipe(name)) == name
    assert _shipping(load_recipe(name, {"lr": 0.011})) == ""
    assert _shipping(load_recipe(name, {"seed": 7})) == ""


def taken(folder):
    content = json.loads(Path("manifest.json").read_text())
    content["weights"][TRAINED_AS] = {**next(iter(content["weights"].values())), "origin": "B"}
    Path("manifest.json").write_text(json.dumps(content))


def edit(**changes):
    def change(folder):
        values = json.loads((folder / "recipe.json").read_text())
        (folder / "recipe.json").write_text(json.dumps(values | changes))

    return change


def unfinished(folder):
    torch.save({**torch.load(folder / "checkpoint.pt", weights_only=True), "epoch": 1}, folder / "checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"name": f"{ARCH}.mine_c10"}, "trained on fashion-mnist: name it"),
        (None, {"name": f"{ARCH}.mine_c10"}, rf"--as {ARCH}\.mine_fmnist$"),
        *(
            (None, {"name": f"{ARCH}{tag}"}, rf"no name of a.*--as {ARCH}\.mine_fmnist$")
            for tag in (".Bad tag", "", ".")
        ),
        (None, {"name": f"{ARCH}.zoomy_fmnist"}, rf"begin with zoo.*--as {ARCH}\.mine_fmnist$"),
        *(
            (None, {"name": f"{arch}.b_fmnist"}, rf"^copy is a run of {ARCH}, not of {arch}: --as {ARCH}\.b_fmnist$")
            for arch in ("nobody", "lrunet1_100", "Sparse")
        ),
        (None, {"name": "b c"}, rf"not of b c: --as {ARCH}\.mine_fmnist$"),
        (
            None,
            {"name": f"{ARCH}.zoo_mine_fmnist"},
            r"those of weights of this project.*--as sparse_mlp_300_100\.mine_f",
        ),
        (taken, {}, r"a weight of the manifest already, by B: .*--as sparse_mlp_300_100\.trial_2_fmnist$"),
        (None, {"seeds": ["last"]}, "seeds 0, 0: each may appear once"),
        (
            None,
            {"seeds": ["best"]},
            r"^best: not a run of this recipe.*; --seeds takes runs that differ in nothing but",
        ),
        (None, {"data": "nowhere"}, "nowhere"),
        (None, {"recipe_name": "lrunet1_fmnist"}, r"; leave --recipe out and name it: --as \S+\.trial_fmnist$"),
        (edit(weight=f"{ARCH}.zoo_fmnist"), {"recipe_name": "lrunet1_fmnist"}, rf"--as {ARCH}\.mine_fmnist$"),
        (unfinished, {}, "epoch 1 of 2; finish it first"),
        (lambda f: (f / "log.jsonl").unlink(), {}, "log.jsonl"),
        (edit(task="language"), {}, "language model"),
        (edit(model_args={"batch_norm": False}), {}, "not of the network in its recipe: missing keys: fc1"),
        (lambda f: Path("manifest.json").write_text("{"), {}, "the manifest cannot be read"),
        (lambda f: Path("manifest.json").write_text('{"weights": {}, "papers": {}}'), {}, "papers lacks its family"),
    ],
)
def test_what_cannot_be_staged_is_refused_before_anything_is_measured(stage, monkeypatch, change, options, message):
    monkeypatch.setattr(staging, "validate", lambda *_, **__: pytest.fail("it was measured"))
    run = Path(shutil.copytree("last", "copy"))
    if change:
        change(run)
    before = Path("manifest.json").read_bytes()
    with pytest.raises(zoo.ZooError, match=message) as caught:
        stage(run, **options)
    assert "\n" not in str(caught.value)
    assert Path("manifest.json").read_bytes() == before
    assert not Path("hub").exists()


def test_each_form_is_measured_once_and_a_refused_entry_changes_nothing(stage, monkeypatch):
    calls = []

    def counted(model, *args, **options):
        calls.append([tensor.clone() for tensor in model.state_dict().values()])
        return validate(model, *args, **options)

    monkeypatch.setattr(staging, "validate", counted)
    stage("last")
    assert len(calls) == 3, "float32, float16, collapsed"
    before, files = Path("manifest.json").read_bytes(), sorted(Path("hub").rglob("*"))
    monkeypatch.setattr(staging, "write_atomically", lambda content, path: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(zoo.ZooError, match=r"cannot be staged \(full\); all is as it was"):
        stage("last")
    assert (Path("manifest.json").read_bytes(), sorted(Path("hub").rglob("*"))) == (before, files)
