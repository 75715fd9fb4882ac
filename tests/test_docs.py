"""Numbers in the documentation are the manifest's, and what it names exists."""

import re
import sys

import zoo
from conftest import ROOT
from zoo.weights.manifest import weights

sys.path.insert(0, str(ROOT / "scripts"))
import update_docs


def test_tables_are_up_to_date():
    readme = (ROOT / "README.md").read_text()
    assert update_docs.updated(readme) == readme, "run python scripts/update_docs.py"
    for name, text in (("weights.md", update_docs.page()), ("results.md", update_docs.results_page(weights()))):
        assert (ROOT / "docs" / name).read_text() == text, "run python scripts/update_docs.py"


def test_readme_names_what_exists():
    readme = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`((?:lrunet|lru|swrn|wrn|symm|sparse|pd|ac|ge)_?[a-z0-9_]*\d[a-z0-9_]*)`", readme))
    assert names
    assert names <= set(zoo.list_models())
    assert f"all {len(zoo.list_models())}" in readme
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", readme):
        assert (ROOT / path).exists(), path
