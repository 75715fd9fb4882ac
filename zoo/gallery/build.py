"""``zoo gallery``: the folder of the site, whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..extras import require
from ..files import folder_in_making, place_of_result
from ..version import __version__
from ..weights.manifest import weights

FACTS = "gallery.json"
_PRODUCER = "repara-zoo gallery"


def build(
    output: str | Path,
    patterns: Sequence[str] = (),
    *,
    data: Mapping[str, str | Path] | None = None,
    progress: bool = False,
    try_it: bool = True,
) -> dict[str, Any]:
    """Build the site. Its folder appears when everything in it is there; one that was built before is replaced.

    No request is made: what is not on this machine is left out, and its page says how to get it.

    Args:
        output: The folder.
        patterns: ``arch.tag``, architectures (their first weight), or shell patterns over ``arch.tag``; none for all.
        data: Folders of data sets by name, for pictures of their test images and all true classes.
        progress: Show a bar on standard error.
        try_it: Also make the page on which networks run, which takes most of the time.

    Returns:
        What ``gallery.json`` in it holds: ``producer``, ``version``, the names of its ``weights``, and ``files``, all
        that lies in the folder.

    Raises:
        ZooError: If jinja2 is missing, a pattern matches nothing, the folder is somebody else's or cannot be written, a
            file on this machine is damaged, or data do not fit.
    """
    require(module="jinja2", extra="gallery")
    from ..publishing.repository import choose
    from .pages import write_pages

    folder = place_of_result(Path(output).expanduser(), _PRODUCER, FACTS, _top)
    _refuse_additions(folder)
    names = choose(patterns) if patterns else list(weights())
    with folder_in_making(folder) as part:
        write_pages(part, names, dict(data or {}), progress, try_it)
        facts = {"producer": _PRODUCER, "version": __version__, "weights": names}
        facts["files"] = sorted(str(path.relative_to(part).as_posix()) for path in part.rglob("*") if path.is_file())
        (part / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def _top(known: dict[str, Any]) -> set[str]:
    """What lies in the folder itself of all that a site has."""
    return {file.partition("/")[0] for file in known["files"]}


def _refuse_additions(folder: Path) -> None:
    """Raise the error for a site to which somebody has added files, which building it again would remove."""
    if (folder / FACTS).is_file():
        known = {FACTS, *json.loads((folder / FACTS).read_text(encoding="utf-8"))["files"]}
        here = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        if added := next((path for path in here if path not in known), None):
            raise ZooError(f"{folder} holds {added}, which zoo gallery did not write: move it, or give another name.")
