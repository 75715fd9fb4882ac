"""The page on which networks run in the visitor's browser."""

from pathlib import Path
from typing import Any


def try_page(folder: Path, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Write what the page needs into the site's folder.

    Args:
        folder: Of the site that is being built.
        records: The weights in it, as :func:`zoo.gallery.facts.all_facts` gives them.

    Returns:
        What its template ``try.html`` is given; None for no such page, and no link to one.
    """
    return None
