"""Write the table of recipes in docs/recipes.md from the files in zoo/recipes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zoo.training.comparison import RECIPE_COLUMNS, recipe_cells, recipe_overview  # noqa: E402
from zoo.training.recipe import recipe_names  # noqa: E402

START, END = "<!-- recipes: made by scripts/recipes_table.py -->\n", "<!-- /recipes -->"
FILE = ROOT / "docs" / "recipes.md"


def table() -> str:
    """The table, one line per recipe."""
    lines = ["| " + " | ".join(RECIPE_COLUMNS) + " |", "|---|---|---:|---|---:|"]
    for name in recipe_names():
        cells = recipe_cells(recipe_overview(name))
        lines.append("| " + " | ".join([f"`{cells[0]}`", *cells[1:]]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the script."""
    text = FILE.read_text()
    before, rest = text.split(START, 1)
    FILE.write_text(before + START + table() + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
