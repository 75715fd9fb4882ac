"""Files of measured figures: ``docs/`` of a checkout, ``zoo/measured/`` of an installed package."""

import csv
import json
from pathlib import Path
from typing import Any

from ..files import is_file
from ..weights.paths import PACKAGE


def measured_file(name: str) -> Path | None:
    """Where a file of measured figures lies; None if this copy has none of that name."""
    places = (PACKAGE / "measured" / name, PACKAGE.parent / "docs" / name)
    return next((path for path in places if is_file(path)), None)


def read_measured(name: str) -> Any:
    """What a measured file holds: of JSON the value, of CSV the rows; empty if this copy has none.

    Raises:
        ZooError: If it is damaged.
    """
    from ..errors import ZooError

    path = measured_file(name)
    if path is None:
        return [] if name.endswith(".csv") else {}
    try:
        text = path.read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines())) if name.endswith(".csv") else json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise ZooError(f"{path}: cannot be read ({error}). Install the package again.") from None
