"""Numbers in the documentation are the manifest's, and what it names exists."""

import ast
import json
import re
import sys
from importlib.metadata import packages_distributions, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import zoo
from conftest import ROOT
from zoo.weights.manifest import weights

sys.path.insert(0, str(ROOT / "scripts"))
import results_page
import sharing_found
import small_comparisons
import small_comparisons_page
import speed_page
import update_docs


def test_tables_are_up_to_date():
    readme = (ROOT / "README.md").read_text()
    assert update_docs.updated(readme) == readme, "run python scripts/update_docs.py"
    for name, text in (("weights.md", update_docs.page()), ("results.md", update_docs.results_page(weights()))):
        assert (ROOT / "docs" / name).read_text() == text, "run python scripts/update_docs.py"


def test_a_twin_is_compared_with_what_is_known_of_it():
    """Worked by hand: 90 and 88 % of 10,000; sqrt(0.9 * 0.1 + 0.88 * 0.12) / 100 * 196 is 0.867."""

    def entry(correct, seeds=()):
        runs = [{"seed": seed, "top1": top1, "correct": 0} for seed, top1 in seeds]
        found = {"results": [{"top1": correct / 100, "correct": correct, "n": 10_000}], "params": {"nonzero": 1234}}
        return found | ({"seeds": {"runs": runs}} if runs else {})

    compared = {"a.x_c10": entry(9000), "b.x_c10": entry(8800)}
    cells = results_page._against_a_twin("a.x_c10", "b.x_c10", compared)
    assert cells[2:] == ["1,234", "1,234", "90.00", "88.00", "+2.00 ± 0.87", "one seed"]
    compared = {
        "a.x_c10": entry(9000, [(0, 90.0), (1, 91.0), (2, 92.0)]),
        "b.x_c10": entry(8800, [(0, 88.0), (2, 92.0), (7, 10.0)]),  # seeds 0 and 2 are in both
    }
    assert results_page._against_a_twin("a.x_c10", "b.x_c10", compared)[-1] == "+1.00 ± 1.41 (2 seeds)"
    del compared["b.x_c10"]
    assert "not trained yet" in results_page._against_a_twin("a.x_c10", "b.x_c10", compared)[-2]


def test_what_sharing_found_is_told_of_the_weight_as_it_is_now():
    file = ROOT / "docs" / "sharing.json"
    found = json.loads(file.read_text())
    assert file.with_suffix(".md").read_text() == sharing_found.page(found), "run python scripts/sharing_found.py"
    first = found["rows"][0]
    result = weights()[found["name"]]["results"][0]
    assert (first["correct"], first["n"]) == (result["correct"], result["n"])
    assert first["stored"] == weights()[found["name"]]["params"]["stored"]


def test_speed_is_told_as_it_was_measured():
    page = (ROOT / "docs" / "speed.md").read_text()
    assert page == speed_page.page(), "run python scripts/speed_page.py"
    rows = json.loads((ROOT / "docs" / "goals.json").read_text())["goals"]
    for row in rows:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row['what']} |"))
        median, goal = row["ratio"][0], row["goal"]
        assert f"| {median:.2f} (" in line
        if goal is not None:
            assert ("| yes |" in line) == (median <= goal), line
            assert (f"- {row['what']}: {median:.2f} for" in page) == (median > goal), "a missed goal says why"
    measured = json.loads((ROOT / "docs" / "benchmarks.json").read_text())["weights"]
    staged = {name for name, entry in weights().items() if any(s["kind"] == "staged" for s in entry["sources"])}
    assert {row["name"] for row in measured} == staged, "run python benchmarks/every_weight.py"
    for row in measured:
        entry = weights()[row["name"]]
        assert row["bytes"]["stored"] == entry["size"], row["name"]
        assert not row["accuracy"] or row["accuracy"]["correct"] == entry["results"][0]["correct"], row["name"]


def test_small_comparisons_are_told_as_they_were_measured():
    rows = small_comparisons.results()
    page = (ROOT / "docs" / "small_comparisons.md").read_text()
    assert page == small_comparisons_page.page(rows), "run python scripts/small_comparisons.py"
    assert {row["study"] for row in rows} == {"branches", "language"}
    for row in rows:
        before, after = row["correct" if row["study"] == "branches" else "perplexity"]
        assert abs(before - after) <= 1e-4 * before, row["name"]  # collapsed, it is the same function


def test_gains_over_the_plain_network_are_those_of_the_same_seeds():
    """Worked by hand: 90 and 88 % of 10,000; 2 * sqrt(0.9 * 0.1 + 0.88 * 0.12) / 100 * 100 is 0.88."""

    def run(correct):
        return {"correct": [correct, correct], "n": 10_000}

    plain = {0: run(8800), 1: run(8900), 2: run(1)}
    assert small_comparisons_page.gain({0: run(9000)}, plain) == "+2.00 ± 0.88"
    assert small_comparisons_page.gain({0: run(9000), 1: run(8900)}, plain) == "+1.00 ± 1.41 (2 seeds)"
    assert small_comparisons_page.papers_gain("pd_a_resnet18_cifar_c10") == "+1.35", "70.9861 - 69.6349"
    assert small_comparisons_page.papers_gain("pd_b_resnet18_cifar_group_c10") == "+0.41", "70.0474 - 69.6349"
    assert small_comparisons_page.papers_gain("resnet18_cifar_c10") == "-"


def test_nothing_outside_imports_from_the_command_line():
    files = [path for folder in ("scripts", "eval", "benchmarks") for path in (ROOT / folder).glob("**/*.py")]
    files += [path for path in (ROOT / "zoo").glob("**/*.py") if path.parent.name != "cli"]
    assert len(files) > 100
    found = [
        str(path) for path in files if re.search(r"^\s*(from|import) (zoo)?\.*cli", path.read_text(), re.MULTILINE)
    ]
    assert found == [str(ROOT / "zoo" / "__main__.py")]


def test_extras_bring_something_and_all_is_for_users():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    names = {key: {re.match(r"[\w.-]+", word)[0].lower() for word in words} for key, words in extras.items()}
    (everything,) = extras["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == {*extras} - {"all", "test"}
    assert not names["test"] & {name for key in extras if key not in ("all", "test", "train") for name in names[key]}
    needed = {re.match(r"[\w.-]+", word)[0] for word in project["dependencies"]}
    assert not any(words & needed for words in names.values()), "an extra that brings what is there anyway"
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{extra}`" in readme for extra in extras)


def test_every_package_that_is_imported_is_declared():
    """With a version that this machine's fulfils; what is in an extra is imported where it is needed."""
    tomllib = pytest.importorskip("tomllib")
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    distributions = packages_distributions()
    found: dict[str, set[str]] = {"at once": set(), "later": set()}
    for path in (ROOT / "zoo").glob("**/*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require" and len(node.args) == 2:
                names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            packages = {name.split(".")[0] for name in names} - {*sys.stdlib_module_names, "zoo", "msvcrt"}
            found["at once" if node in tree.body else "later"] |= {
                canonicalize_name(distributions[name][0]) for name in packages
            }
    declared = {Requirement(word).name: Requirement(word) for word in project["dependencies"]}
    assert found["at once"] <= {*declared} <= found["at once"] | found["later"]
    extras = [Requirement(w) for key in ("train", "export", "plot") for w in project["optional-dependencies"][key]]
    assert found["later"] <= {*declared, *(extra.name for extra in extras)}
    for word in [*declared.values(), *extras]:
        assert word.specifier, word
        if word.name in found["at once"] | found["later"]:
            assert word.specifier.contains(version(word.name), prereleases=True), word


def test_readme_names_what_exists():
    readme = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`((?:lrunet|lru|swrn|wrn|symm|sparse|pd|ac|ge)_?[a-z0-9_]*\d[a-z0-9_]*)`", readme))
    assert names
    assert names <= set(zoo.list_models())
    assert not re.search(r"all \d+", readme), "a number that the next family makes wrong"
    for path in re.findall(r"\]\(((?!http)[^)#]+)", readme):
        assert (ROOT / path).exists(), path


def test_what_is_worth_choosing_is_decided_by_figures():
    def entry(top1, nonzero, epochs=30, dataset="cifar10", origin="zoo", url=None, twins=()):
        found = {"results": [{"top1": top1}] if top1 else [], "params": {"nonzero": nonzero}, "dataset": dataset}
        epochs = {"epochs": epochs} if epochs else {}
        return {**found, **epochs, "origin": origin, "origin_url": url, "twins": [*twins]}

    entries = {
        "best": entry(95, 900, twins=["its_twin", "not_there", "its_first_try"]),
        "its_twin": entry(94, 1000),
        "its_first_try": entry(90, 900, epochs=3),
        "smaller": entry(93, 500),
        "equal_to_smaller": entry(93, 500),
        "as_large_and_worse": entry(92, 500),
        "larger_and_no_better": entry(93, 501),
        "first_try": entry(99, 100, epochs=14),
        "somebodys": entry(99, 100, origin="A. Reader"),
        "the_authors": entry(80, 100, epochs=0, origin="lab", url="https://x.org"),
        "never_measured": entry(0, 10),
        "elsewhere": entry(70, 10**6, dataset="mnist"),
    }
    assert {*update_docs.worth_choosing(entries)} == {"best", "its_twin", "smaller", "the_authors", "elsewhere"}
    above = set(re.findall(r"^\| `(\S+)` \|", update_docs.readme_section(), re.MULTILINE))
    below = set(re.findall(r"^\| `(\S+)` \|", update_docs.below_the_fold(), re.MULTILINE))
    assert {name for name, entry in weights().items() if entry["origin"] == "zoo"} <= above | below
    assert above and below and not above & below


def test_somebodys_staged_weight_is_in_no_table_of_ours():
    """It is staged where ZOO_HUB says, so its files need not be here; and no figure of it is this project's."""
    name = "wrn_16_1.zoo_c10"
    theirs = {**weights()[name], "origin": "A. Reader", "paper_result": None, "twins": []}
    page = results_page.results_page({**weights(), "wrn_16_1.mine_c10": theirs})
    assert "wrn_16_1.mine_c10" not in page and name in page


def test_a_weight_staged_elsewhere_is_not_said_to_lie_in_hub(monkeypatch):
    sources = [{"kind": "staged", "path": "wrn_16_1.mine_c10/model.safetensors", "embedded": False}]
    theirs = {**weights()["wrn_16_1.zoo_c10"], "origin": "A. Reader", "sources": sources}
    known = {**weights(), "wrn_16_1.mine_c10": theirs}
    monkeypatch.setattr(update_docs, "weights", lambda: known)
    page = update_docs.page()
    assert "`$ZOO_HUB/wrn_16_1.mine_c10/model.safetensors`" in page
    assert "`hub/wrn_16_1.zoo_c10/model.safetensors`" in page
    for text in (update_docs.readme_section(), update_docs.below_the_fold()):
        assert "mine" not in text
