"""Write everything that is made from facts: the tables in README.md and docs/, the picture, counts and model cards.

    python scripts/update_docs.py            write
    python scripts/update_docs.py --check    write nothing; exit code 1 if something is not as it should be

A page has a table where its lines say ``<!-- NAME: made by scripts/update_docs.py -->`` and ``<!-- /NAME -->``.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import count_networks  # noqa: E402
import measured_tables as measured  # noqa: E402
import weight_tables as known  # noqa: E402
from pictures import front_figure, results_figure, save  # noqa: E402
from reference import api, command_line  # noqa: E402

from zoo import counted  # noqa: E402
from zoo.errors import ZooError  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.weights.card import model_card  # noqa: E402
from zoo.weights.manifest import facts  # noqa: E402

BLOCK = re.compile(r"(<!-- (\w+): made by scripts/update_docs.py -->\n).*?(<!-- /\2 -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    "chosen": known.readme_section,
    "weights": lambda: known.weight_table(known.weights()),
    "papers": known.papers_table,
    "twins": known.twins_table,
    "collapsed": known.collapsed_table,
    "packed": known.packed_table,
    "standing": known.standing,
    "corruptions": known.corruptions_table,
    "releases": known.releases_table,
    "recipes": known.recipes_table,
    "goals": measured.goals,
    "every_weight": measured.every_weight,
    "forms": measured.forms,
    "zeros": measured.zeros,
    "reuse": measured.reuse,
    "int8": measured.int8,
    "equalized": measured.equalized,
    "deployed_speed": measured.deployed_speed,
    "transforms": measured.transforms,
    "transform_proof": measured.transform_proof,
    "protocol": measured.protocol,
    "sharing": measured.sharing,
    "short_runs": measured.short_runs,
    "sparse_methods": measured.sparse_methods,
    "branches": measured.branches,
    "language": measured.language,
    "command_line": command_line,
    "api": api,
}


def updated(page: str) -> str:
    """A page with its tables as they should be.

    Raises:
        KeyError: If it has a table that nobody makes.
    """
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def files() -> dict[Path, str]:
    """Every text, by where it belongs. All are made before one is written."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {counted.FILE: count_networks.counts()}  # of what is new
    texts |= {path: updated(path.read_text(encoding="utf-8")) for path in pages}
    for card in (ROOT / "hub").glob("*/README.md"):
        name = card.parent.name
        texts[card] = model_card(name, facts(name), files=[path.name for path in card.parent.iterdir()])
    return texts


def main(arguments: list[str] | None = None) -> None:
    """Make everything, then write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what would change")
    if parser.parse_args(arguments or []).check:
        stale = [p for p, text in files().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
        if stale:
            sys.exit(f"Run python scripts/update_docs.py: {', '.join(str(p.relative_to(ROOT)) for p in stale)}.")
        return
    texts, figures = files(), {"front.png": front_figure(), "results.png": results_figure()}
    for path, text in texts.items():
        write_atomically(text.encode(), path)
    for name, figure in figures.items():
        save(figure, ROOT / "docs" / name)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ZooError as error:
        sys.exit(str(error))
