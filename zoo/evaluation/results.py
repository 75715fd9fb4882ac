"""Results as files: JSON or CSV, by the ending of the name."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import ZooError
from ..files import write_atomically
from ..tables import table as table  # where results are printed
from .result import Result


def write_results(results: Sequence[Result], path: str | Path) -> None:
    """Write measurements, replacing the file.

    Args:
        results: What was measured.
        path: Ends in ``.json`` (a list of objects) or ``.csv`` (one line each; what has parts is written as JSON).

    Raises:
        ZooError: If the ending is another, or the file cannot be written.
    """
    path = Path(path)
    rows = [asdict(result) for result in results]
    if path.suffix == ".json":
        text = json.dumps(rows, indent=2) + "\n"
    elif path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            low, high = row["interval"]
            as_json = {name: json.dumps(row[name]) for name in ("versions", "data_sha256", "per_class", "corruption")}
            writer.writerow(row | as_json | {"interval": f"{low}-{high}"})
        text = buffer.getvalue()
    else:
        raise ZooError(f"{path}: results are written as .json or .csv; give the file one of these endings.")
    try:
        write_atomically(text.encode(errors="backslashreplace"), path)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror}).") from None
