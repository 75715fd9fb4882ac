"""What exported files say of their networks: what is known, and nothing that is not so."""

import json

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

import zoo
from zoo.data.catalog import get_dataset
from zoo.reparam.export import FORMATS, export
from zoo.reparam.file_facts import file_facts
from zoo.weights.manifest import facts

NAME = "lrunet1_100.zoo_fmnist"


def read(path, form):
    """The metadata, by the tools that a stranger would use."""
    if form == "safetensors":
        with safe_open(path, "pt") as file:
            return file.metadata()
    if form == "torch-export":
        extra = {"metadata.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["metadata.json"])
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map == found
    return found


def told(model, name=""):
    return file_facts(model, torch.zeros(1, *model.pretrained_cfg["input_size"]), name)


def test_a_weight_says_how_images_are_prepared_and_whose_it_is():
    found, entry = told(timm.create_model(NAME, pretrained=True)), facts(NAME)
    preparation = {key: json.loads(found.pop(key)) for key in ("input_size", "mean", "std", "crop_pct")}
    assert preparation | {"interpolation": found.pop("interpolation")} == entry["preprocessing"]
    assert json.loads(found.pop("class_names")) == list(get_dataset("fashion-mnist").classes)
    said = {"weight": NAME, "weight_sha256": entry["sha256"], "licence": entry["licence"]}
    assert found == {**said, "producer": f"repara-zoo {zoo.__version__}"}


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_of_file_has_the_facts(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model.pretrained_cfg = {"input_size": (2, 8, 8), "mean": (0.5, 0.25), "std": (1, 2), "label_names": ["a", "b", "ç"]}
    model.num_classes = 3
    export(model, tmp_path / "x", form, "net")
    found = read(tmp_path / "x", form)
    assert found.items() >= file_facts(model, torch.zeros(1, 2, 8, 8), "net").items()
    assert found["name"] == "net"
    lists = {"mean": [0.5, 0.25], "std": [1, 2], "input_size": [2, 8, 8], "class_names": ["a", "b", "ç"]}
    assert {key: json.loads(found[key]) for key in lists} == lists
    assert json.loads(found["equivalence"])["differences"]


def trained_on(model):
    nn.init.normal_(next(iter(model.parameters())))
    return model


MINE = {"tag": "mine", "label_names": ["a", "b", "c"]}
STRANGERS = {
    "trained on": (lambda: trained_on(timm.create_model(NAME, pretrained=True)), None),
    "other classes": (lambda: timm.create_model(NAME, pretrained=True, num_classes=3), None),
    "not loaded": (lambda: timm.create_model(NAME), None),
    "names of its own": (lambda: timm.create_model("lrunet1_100", num_classes=3, pretrained_cfg_overlay=MINE), "abc"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_another_network_is_not_called_the_weight(kind):
    make, classes = STRANGERS[kind]
    found = told(make(), NAME)
    assert not {"weight", "weight_sha256", "licence", "name"} & found.keys()
    assert found.get("class_names") == (json.dumps(list(classes)) if classes else None)
    assert "mean" in found, "the preparation is the configuration's"


def test_a_collapsed_weight_is_the_weight_and_a_plain_network_says_what_is_known():
    assert told(zoo.load_collapsed("symm_wrn_16_1.zoo_c10"))["weight"] == "symm_wrn_16_1.zoo_c10"
    assert told(timm.create_model(NAME, pretrained=True).double(), NAME)["name"] == NAME
    plain = file_facts(nn.Conv2d(2, 3, 3), torch.zeros(1, 2, 8, 8), "net")
    assert plain == {"producer": f"repara-zoo {zoo.__version__}", "input_size": "[2, 8, 8]", "name": "net"}
    grey = timm.create_model("swrn_28_1_2.zoo_c10", in_chans=1)
    assert "mean" not in file_facts(grey, torch.zeros(1, 1, 32, 32)), "three numbers for one channel"
