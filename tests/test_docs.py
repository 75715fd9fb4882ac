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
import measured_tables
import small_comparisons
import update_docs
import weight_tables


def test_tables_counts_and_cards_are_up_to_date():
    update_docs.main(["--check"])


def test_a_page_that_is_not_as_it_should_be_is_named(monkeypatch):
    monkeypatch.setitem(update_docs.TABLES, "goals", lambda: "other\n")
    with pytest.raises(SystemExit, match=r"^Run python scripts/update_docs.py: docs/deploy.md\.$"):
        update_docs.main(["--check"])
    with pytest.raises(KeyError, match="nobodys"):
        update_docs.updated("<!-- nobodys: made by scripts/update_docs.py -->\n<!-- /nobodys -->\n")


def test_every_table_has_one_place():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [name for page in pages for _, name, _ in update_docs.BLOCK.findall(page.read_text())]
    assert sorted(found) == sorted(update_docs.TABLES)


def test_a_twin_is_compared_with_what_is_known_of_it():
    """Worked by hand: 90 and 88 % of 10,000; sqrt(0.9 * 0.1 + 0.88 * 0.12) / 100 * 196 is 0.867."""

    def entry(correct, seeds=()):
        runs = [{"seed": seed, "top1": top1, "correct": 0} for seed, top1 in seeds]
        found = {"results": [{"top1": correct / 100, "correct": correct, "n": 10_000}], "params": {"nonzero": 1234}}
        return found | ({"seeds": {"runs": runs}} if runs else {})

    compared = {"a.x_c10": entry(9000), "b.x_c10": entry(8800)}
    cells = weight_tables.against_a_twin("a.x_c10", "b.x_c10", compared)
    assert cells[2:] == ["1,234", "1,234", "90.00", "88.00", "+2.00 ± 0.87", "one seed"]
    compared = {
        "a.x_c10": entry(9000, [(0, 90.0), (1, 91.0), (2, 92.0)]),
        "b.x_c10": entry(8800, [(0, 88.0), (2, 92.0), (7, 10.0)]),  # seeds 0 and 2 are in both
    }
    assert weight_tables.against_a_twin("a.x_c10", "b.x_c10", compared)[-1] == "+1.00 ± 1.41 (2 seeds)"
    del compared["b.x_c10"]
    assert "not trained yet" in weight_tables.against_a_twin("a.x_c10", "b.x_c10", compared)[-2]


def test_what_sharing_found_is_of_the_weight_as_it_is_now():
    found = json.loads((ROOT / "docs" / "sharing.json").read_text())
    first = found["rows"][0]
    result = weights()[found["name"]]["results"][0]
    assert (first["correct"], first["n"]) == (result["correct"], result["n"])
    assert first["stored"] == weights()[found["name"]]["params"]["stored"]


def test_speed_is_told_as_it_was_measured():
    page = (ROOT / "docs" / "deploy.md").read_text()
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


def test_small_comparisons_collapse_into_the_same_function():
    rows = small_comparisons.results()
    assert {row["study"] for row in rows} == {"branches", "language"}
    for row in rows:
        before, after = row["correct" if row["study"] == "branches" else "perplexity"]
        assert abs(before - after) <= 1e-4 * before, row["name"]


def test_gains_over_the_plain_network_are_those_of_the_same_seeds():
    """Worked by hand: 90 and 88 % of 10,000; 2 * sqrt(0.9 * 0.1 + 0.88 * 0.12) / 100 * 100 is 0.88."""

    def run(correct):
        return {"correct": [correct, correct], "n": 10_000}

    plain = {0: run(8800), 1: run(8900), 2: run(1)}
    assert measured_tables.gain({0: run(9000)}, plain) == "+2.00 ± 0.88"
    assert measured_tables.gain({0: run(9000), 1: run(8900)}, plain) == "+1.00 ± 1.41 (2 seeds)"
    assert measured_tables.papers_gain("pd_a_resnet18_cifar_c10") == "+1.35", "70.9861 - 69.6349"
    assert measured_tables.papers_gain("pd_b_resnet18_cifar_group_c10") == "+0.41", "70.0474 - 69.6349"
    assert measured_tables.papers_gain("resnet18_cifar_c10") == "-"


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
    named = (key for key in project["optional-dependencies"] if key not in ("all", "test"))
    extras = [Requirement(word) for key in named for word in project["optional-dependencies"][key]]
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


def test_the_readme_is_a_front_door():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 110
    assert len(re.findall(r"^!\[", readme, re.MULTILINE)) == 1
    assert len(weight_tables.worth_choosing(weight_tables.ours())) == 5


def test_the_readme_names_the_best_under_a_million_parameters():
    readme = (ROOT / "README.md").read_text()
    small = {name: entry for name, entry in weights().items() if entry["dataset"] == "cifar10" and entry["results"]}

    def best(count, origin):
        fits = [n for n, e in small.items() if e["params"][count] <= 10**6 and e["origin"] in origin]
        return max(fits, key=lambda name: small[name]["results"][0]["top1"])

    origins = {entry["origin"] for entry in small.values()}
    for name in (best("nonzero", {"zoo"}), best("stored", origins), best("stored", {"zoo"})):
        assert f"`{name}`" in readme.partition("Under a million")[2], name
    packed = small[best("nonzero", {"zoo"})]["packed"]["size"]
    assert f"of {packed / 1e6:.1f} MB" in readme


def test_what_is_worth_choosing_is_decided_by_figures():
    def entry(top1, nonzero, dataset="cifar10"):
        return {"results": [{"top1": top1}], "params": {"nonzero": nonzero}, "dataset": dataset}

    entries = {
        "best": entry(95, 2_900_000),
        "equal and larger": entry(95, 2_950_000),
        "too large": entry(99, 3_000_001),
        "best of half a million": entry(93, 160_000),
        "larger and worse": entry(92, 400_000),
        "just small": entry(80, 100_000),
        "grey and smallest": entry(70, 900, "fashion-mnist"),
        "grey and best": entry(90, 1000, "fashion-mnist"),
        "elsewhere": entry(99, 10, "mnist"),
    }
    chosen = ["just small", "best of half a million", "best", "grey and smallest"]  # none is named twice
    assert weight_tables.worth_choosing(entries) == chosen
    assert weight_tables.worth_choosing({}) == []


def test_somebodys_staged_weight_is_in_no_table_of_ours(monkeypatch):
    """It is staged where ZOO_HUB says, so its files need not be here; and no figure of it is this project's."""
    name = "wrn_16_1.zoo_c10"
    theirs = {**weights()[name], "origin": "A. Reader", "paper_result": None, "twins": []}
    known = {**weights(), "wrn_16_1.mine_c10": theirs}
    monkeypatch.setattr(weight_tables, "weights", lambda: known)
    for made in ("chosen", "papers", "twins", "collapsed", "standing"):
        assert "mine_c10" not in update_docs.TABLES[made](), made
    assert name in weight_tables.papers_table()
    assert "| `wrn_16_1.mine_c10` | cifar10 |" in update_docs.TABLES["weights"]()


def test_the_page_says_where_ours_are_behind(monkeypatch):
    sources, figures = weight_tables.published()
    assert {row["source"] for row in figures} == {*sources}
    assert all(about["url"].startswith("https://") for about in sources.values())

    def row(top1, parameters, source="x"):
        name = f"n{parameters}"
        return {"name": name, "source": source, "top1": top1, "parameters": parameters, "bytes": 1, "macs": None}

    theirs = [row(95.0, 900_000), row(93.0, 500_000), row(92.0, 600_000), row(96.0, None)]
    assert [r["parameters"] for r in weight_tables.front(theirs)] == [500_000, 900_000]
    about = {"x": {"title": "X", "url": "https://x.org", "note": "n", "checked": True}}
    monkeypatch.setattr(weight_tables, "published", lambda: (about, theirs))
    for top1, parameters, words in (
        (94.0, 400_000, "**ahead** of one that has more parameters, behind none: `n400000`"),
        (94.0, 950_000, "**behind** one that has no more: `n950000`"),
        (91.0, 300_000, "none of ours is ahead of a larger one"),
    ):
        mine = [row(top1, parameters, "")]
        monkeypatch.setattr(weight_tables, "our_figures", lambda mine=mine: mine)
        assert words in weight_tables.standing()


def test_the_table_says_what_a_network_is_collapsed_and_the_best_stands_first():
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in weight_tables.readme_section().splitlines()[2:]]
    (row,) = [row for row in rows if row[0] == "`sparse_wrn_16_2.zoo_dsr_s90_c10`"]
    assert row[2].startswith("90.10")
    assert row[3] == "82,029"
    assert row[4].startswith("691,")
    assert row[5].startswith("2.8 MB (1.4 in float16)")
    order = [(row[1], -float(row[2].split()[0])) for row in rows]
    assert order == sorted(order)


def test_nobody_is_sent_to_twins_that_are_not_there():
    entry = {"remark": "Too small.", "paper_result": None, "twins": ["a.b", "c.d"]}
    assert weight_tables.why(entry, {}) == "Too small."
    assert weight_tables.why(entry, {"a.b": {}}) == "Too small; compare with the twin."
    assert weight_tables.why(entry, {"a.b": {}, "c.d": {}}) == "Too small; compare with the twins."
    (line,) = (line for line in weight_tables.papers_table().splitlines() if "sparse_wrn_16_2.zoo_dsr" in line)
    assert "twins." not in line
