"""What decides whether a weight is verified is the name that the user gave; a foreign config.json decides nothing."""

import json
import logging
import os
import threading

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import load

import zoo
from conftest import ROOT
from interruption import same
from loopback import running
from loopback_hub import Repository, WritableHub
from zoo.named import load_named
from zoo.weights.manifest import weights

NAME = "lrunet10_100.zoo_fmnist"
FILE = (ROOT / "hub" / NAME / "model.safetensors").read_bytes()
CONFIG = json.loads((ROOT / "hub" / NAME / "config.json").read_text())
PREPARATION = ("mean", "std", "crop_pct", "interpolation", "input_size", "num_classes", "label_names")


@pytest.fixture
def hub(monkeypatch, own_cache, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with running(WritableHub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # old clients have it here too
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield server


def other_tensors() -> bytes:
    """Of the same size and form, one value changed."""
    return FILE[:-1] + bytes([FILE[-1] ^ 1])


def config(root=None, **changes) -> bytes:
    cfg = {
        **CONFIG["pretrained_cfg"],
        "mean": [0.9],
        "std": [9.0],
        "crop_pct": 0.5,
        "interpolation": "nearest",
        **changes,
    }
    labels = [f"wrong {k}" for k in range(10)]
    return json.dumps({**CONFIG, "label_names": labels, **(root or {}), "pretrained_cfg": cfg}).encode()


def put(hub, repo, *, tensors=FILE, **changes) -> str:
    hub.repositories[repo] = repository = Repository()
    return repository.commit({"model.safetensors": tensors, "config.json": config(**changes)})


def facts_of(model):
    return {key: model.pretrained_cfg.get(key) for key in PREPARATION}


EXPECTED = facts_of(timm.create_model(NAME))


HOSTILE = [
    {},
    {"tag": "mine"},
    {"tag": ""},
    {"file": "/dev/zero"},
    {"state_dict": {"a": 1}},
    {"url": "http://127.0.0.1:9/x"},
    {"hf_hub_filename": "other.bin"},
    {"custom_load": True},
    {"source": "local-dir"},
    {"architecture": "lrunet1_100"},
    {"root": {"architecture": "lrunet1_100"}},
    {"root": {"model_args": {"num_classes": 10, "in_chans": 1, "pretrained_cfg": "x", "device": "meta"}}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_a_repository_with_a_weights_name_is_that_weight(hub, changes):
    """Verified, and prepared as the manifest says, whatever its config.json does."""
    commit = put(hub, f"somebody/{NAME}", **changes)
    assert facts_of(zoo.create_model(f"hf-hub:somebody/{NAME}@{commit}")) == EXPECTED
    create = zoo.create_model if changes.get("root") else timm.create_model
    assert facts_of(create(f"hf-hub:somebody/{NAME}", pretrained=True)) == EXPECTED


@pytest.mark.parametrize("changes", HOSTILE[:10], ids=str)
def test_other_tensors_under_a_weights_name_are_refused(hub, changes):
    put(hub, f"mirror/{NAME}", tensors=other_tensors(), **changes)
    with pytest.raises(zoo.HashMismatchError):
        timm.create_model(f"hf-hub:mirror/{NAME}", pretrained=True)


def test_commands_take_repositories(hub):
    put(hub, f"mirror/{NAME}", tag="mine")
    put(hub, "me/fine-tuned", tag="mine")
    found, own = load_named(f"hf-hub:mirror/{NAME}"), load_named("hf-hub:me/fine-tuned")
    assert (found.name, found.sha256, facts_of(found.model)) == (NAME, weights()[NAME]["sha256"], EXPECTED)
    assert (own.name, own.sha256, own.model.pretrained_cfg["crop_pct"]) == ("lrunet10_100.fine_tuned", "", 0.5)


def test_another_architecture_under_a_weights_name_is_refused(hub):
    put(hub, f"mirror/{NAME}", root={"architecture": "lrunet1_100"})
    with pytest.raises(zoo.WeightError, match="has the name of"):
        timm.create_model(f"hf-hub:mirror/{NAME}", pretrained=True)


@pytest.mark.parametrize("changes", HOSTILE[:9], ids=str)
def test_everything_else_is_the_users_own_and_said_so(hub, caplog, changes):
    tensors = other_tensors()
    put(hub, "me/fine-tuned", tensors=tensors, **changes)
    with caplog.at_level(logging.WARNING):
        model = timm.create_model("hf-hub:me/fine-tuned", pretrained=True)
    assert [r.getMessage() for r in caplog.records if "unverified" in r.getMessage()] == [
        f"me/fine-tuned: {'no weight of the manifest' if 'tag' in changes else f'not the published {NAME}'}; "
        "it is loaded as it is, unverified."
    ]
    assert same({key: tensor.float() for key, tensor in load(tensors).items()}, model.state_dict())
    assert tuple(model.pretrained_cfg["mean"]) == (0.9,)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(tmp_path, kind):
    (tmp_path / "config.json").write_bytes(config(tag="mine"))
    file = tmp_path / "model.safetensors"
    {"pipe": lambda: os.mkfifo(file), "device": lambda: file.symlink_to("/dev/zero"), "folder": file.mkdir}[kind]()
    found = []

    def read():
        try:
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert [type(error) for error in found] == [zoo.WeightError]


# ---- arguments ----

SIZES = [
    {"width": 1e9},
    {"width": float("nan")},
    {"width": -1},
    {"width": "wide"},
    {"width": [[1]]},
    {"num_classes": 10**12},
    {"num_classes": -3},
    {"num_classes": "ten"},
    {"in_chans": -1},
    {"in_chans": 10**9},
    {"in_chans": {"a": 1}},
]


@pytest.mark.parametrize("arguments", SIZES, ids=str)
@pytest.mark.parametrize("arch", ["lrunet10_100", "swrn_16_1_2"])
def test_arguments_that_make_no_sense_are_one_line(arch, arguments):
    with pytest.raises(zoo.ZooError) as caught:
        zoo.create_model(arch, **arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("arguments", SIZES, ids=str)
def test_a_folders_arguments_are_checked_against_its_file(tmp_path, arguments):
    (tmp_path / "model.safetensors").write_bytes(FILE)
    (tmp_path / "config.json").write_bytes(config(root={"model_args": arguments}, tag="mine"))
    with pytest.raises(zoo.ZooError) as caught:
        zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": "x"},
        {"std": [0.0]},
        {"std": [float("nan")]},
        {"input_size": [1, 28, 10**9]},
        {"input_size": 28},
        {"crop_pct": -1},
        {"root": {"num_classes": 10**12}},
        {"root": {"model_args": 3}},
        {"root": {"pretrained_cfg": 3}},
        {"root": {"architecture": ["x"]}},
        {"root": {"architecture": "nothing"}},
        {"root": {"model_args": {"pretrained_cfg": "x"}}},
        {"root": {"model_args": {"pretrained_strict": False}}},
        {"root": {"model_args": {"device": "meta"}}},
        {"root": {"model_args": {"checkpoint_path": "/dev/zero"}}},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_used_is_one_line(tmp_path, changes):
    (tmp_path / "model.safetensors").write_bytes(FILE)
    (tmp_path / "config.json").write_bytes(config(**changes))
    if changes.get("root", {}).get("pretrained_cfg"):
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes["root"]}))
    with pytest.raises(zoo.ZooError) as caught:
        zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert "\n" not in str(caught.value)
