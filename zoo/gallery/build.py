"""``zoo gallery``: the folder of the site, whole or not at all."""

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..extras import require
from ..files import place_of_result, replace_folder
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
) -> dict[str, Any]:
    """Build the site. Its folder appears when everything in it is there; one that was built before is replaced.

    No request is made: what is not on this machine is left out, and its page says how to get it.

    Args:
        output: The folder.
        patterns: ``arch.tag``, architectures (their first weight), or shell patterns over ``arch.tag``; none for all.
        data: Folders of data sets by name, for pictures of their test images and all true classes.
        progress: Show a bar on standard error.

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

    folder = place_of_result(Path(output).expanduser(), _PRODUCER, FACTS, lambda known: known["files"])
    names = choose(patterns) if patterns else list(weights())
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        write_pages(part, names, dict(data or {}), progress)
        facts = {"producer": _PRODUCER, "version": __version__, "weights": names}
        facts["files"] = sorted(path.name for path in part.iterdir())
        (part / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        replace_folder(part, folder)
    except OSError as error:
        raise ZooError(f"{error.filename or folder}: cannot be written ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return facts
