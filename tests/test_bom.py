"""The bill of materials: valid CycloneDX, complete, the same bytes each time, and made without torch."""

import json
import subprocess
import sys

import pytest

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.data.catalog import get_dataset
from zoo.weights.bom import bill_of_materials
from zoo.weights.manifest import source, weights

NAME = "sparse_wrn_16_1.zoo_dsr_s90_c10"


@pytest.fixture(scope="module")
def bom():
    return bill_of_materials(weights())


def errors_of(bom):
    """What the official schema, the strict one, has against it."""
    json_validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    found = json_validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom), all_errors=True)
    return [str(error) for error in found or ()]


def test_all_weights_follow_the_schema(bom):
    assert errors_of(bom) == []
    spoiled = {**bom, "components": [{**bom["components"][0], "hashes": [{"alg": "SHA-256", "content": "x"}]}]}
    assert errors_of(spoiled), "the schema is really looked at"


def test_references_lead_somewhere_and_are_unique(bom):
    refs = ["weights", *(c["bom-ref"] for c in bom["components"])]
    refs += [file["bom-ref"] for component in bom["components"] for file in component.get("components", ())]
    assert len({*refs}) == len(refs)
    for dependency in bom["dependencies"]:
        assert {dependency["ref"], *dependency.get("dependsOn", ())} <= {*refs}


def sha256_of(component):
    return component["hashes"][0]["content"]


@pytest.mark.parametrize("name", weights())
def test_every_weight_says_name_sha256_licence_data_and_recipe(bom, name):
    entry = weights()[name]
    found = next(component for component in bom["components"] if component["bom-ref"] == name)
    assert found["type"] == "machine-learning-model"
    assert (found["name"], sha256_of(found)) == (name, entry["sha256"])
    assert found["licenses"] == [{"license": {"id": entry["licence"]}}]
    said = {p["name"].removeprefix("repara-zoo:"): p["value"] for p in found["properties"]}
    assert said.get("recipe") == entry["recipe"]
    (data,) = found["modelCard"]["modelParameters"]["datasets"]
    (dataset,) = (c for c in bom["components"] if c["bom-ref"] == data["ref"])
    assert (dataset["type"], dataset["name"]) == ("data", entry["dataset"])
    assert get_dataset(entry["dataset"]).licence in dataset["licenses"][0]["license"].values()
    files = {file["name"]: sha256_of(file) for file in found["components"]}
    forms = {
        form["path"]: form["sha256"] for key in ("packed", "collapsed") if (form := entry.get(key)) and form["path"]
    }
    assert files == {**files, "model.safetensors": entry["sha256"], **forms}
    metrics = found["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [m["value"] for m in metrics if "top-1" in m["type"]] == [str(result["top1"]) for result in entry["results"]]
    if release := source(entry, "release"):
        assert sha256_of(found["pedigree"]["ancestors"][0]) == release["sha256"]
        assert {"type": "source-distribution", "url": release["url"]}.items() <= found["externalReferences"][1].items()


def test_a_published_weight_says_where(entries):
    hub = {"kind": "hub", "repo": "org/a b", "revision": "0" * 40, "file": "model.safetensors"}
    entries[NAME]["sources"] = [hub]
    entries[NAME]["licence"] = "Some words"
    bom = bill_of_materials([NAME])
    assert errors_of(bom) == []
    assert bom["components"][0]["purl"].endswith("@" + "0" * 40)
    assert any(
        r["type"] == "distribution" and "org/a%20b" in r["url"] for r in bom["components"][0]["externalReferences"]
    )
    assert bom["components"][0]["licenses"] == [{"license": {"name": "Some words"}}]


def test_the_command(tmp_path, capsys):
    code = f"import sys; sys.argv = {['zoo', 'bom', 'lru*', NAME]}; import zoo_command; code = zoo_command.main()\n"
    code += "print([name for name in ('torch', 'timm', 'huggingface_hub') if name in sys.modules], file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stderr == "[]\n", run.stderr
    assert main(["bom", NAME, "lru*", NAME, "-o", str(tmp_path / "a" / "weights.cdx.json")]) == 0
    written = (tmp_path / "a" / "weights.cdx.json").read_text(encoding="utf-8")
    assert written == run.stdout, "whoever makes it, the same bytes"
    assert len(json.loads(written)["dependencies"][0]["dependsOn"]) == len(
        [name for name in weights() if name.startswith("lru") or name == NAME]
    )
    capsys.readouterr()
    assert main(["bom"]) == 0
    assert json.loads(capsys.readouterr().out) == bill_of_materials(weights())


def test_mistakes(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for words, expected in (
        (["lrunet1_100.zoo"], "Did you mean"),
        (["nothing*"], "No weight matches"),
        ([NAME, "-o", str(tmp_path / "file" / "x.json")], "cannot be written"),
    ):
        assert main(["bom", *words]) == 1
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    with pytest.raises(zoo.UnknownNameError):
        bill_of_materials(["lrunet1_100.none"])
