"""Files for the places where the repository is shown: citation, security, forms of issues; all can be read."""

import re

import pytest
import yaml

from conftest import ROOT
from zoo.version import __version__
from zoo.weights.manifest import manifest

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_citation_says_what_the_package_says():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert found["version"] == __version__
    assert found["license"] == "Apache-2.0"
    cited = {reference["title"] for reference in found["references"]}
    assert cited == {paper["title"] for paper in manifest()["papers"].values()}
    for reference in found["references"]:
        paper = next(p for p in manifest()["papers"].values() if p["title"] == reference["title"])
        value = reference.get("doi") or reference["identifiers"][0]["value"].removeprefix("arXiv:")
        assert value in (paper["arxiv"], paper.get("doi"))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_of_issues(form):
    found = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert found == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= found.keys()
    names = [field["id"] for field in found["body"]]
    assert len(set(names)) == len(names)
    for field in found["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] in ("dropdown", "checkboxes"))


def test_the_forms_there_are():
    assert {form.stem for form in FORMS} == {"config", "bug", "wrong_number", "new_weight"}
    assert (ROOT / ".github" / "pull_request_template.md").read_text(encoding="utf-8").count("- [ ]") >= 3


def test_security_names_no_address_and_commands_that_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "@" not in text
    from zoo.cli import main

    for words in {*re.findall(r"`zoo ([a-z]+)", text)}:
        with pytest.raises(SystemExit) as end:
            main([words, "--help"])
        assert end.value.code == 0
