"""Changes of the manifest and of the staged folders: one writer at a time, and every moment is whole.

A staged weight is a folder and an entry, which cannot be replaced in one step. So the new folder waits under a hidden
name, beside the old one, until the entry with its sha256 is written: that moment decides which of the two is the weight
(:func:`zoo.weights.fetch.staged_file` looks at both), and the next writer finishes or removes what a killed one left.
"""

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import WeightError, ZooError
from ..files import is_file, write_atomically
from ..locks import alone
from .manifest import manifest, problem_with
from .manifest_check import check_manifest
from .paths import waiting_folder
from .verify import sha256_of

_WAIT = 60  # seconds; a change takes less than one


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """The manifest's content, to be changed within the context and written at its end; others wait for it.

    Args:
        path: The manifest; if it is missing, this copy's is what it begins with.

    Raises:
        ZooError: If another process holds it, what it would become does not follow the schema, or it cannot be read or
            written. The file then is as it was.
    """
    with alone(path.with_name(f".{path.name}.lock"), f"{path} is being written", _WAIT):
        before = read_manifest(path)
        content = copy.deepcopy(before)
        yield content
        if content == before and path.is_file():
            return
        for name, entry in content["weights"].items():
            if problem := problem_with(name, entry, content["papers"]):
                raise WeightError(f"{path}: {name} cannot be entered: {problem}.")
        check_manifest(content, path)
        try:
            write_atomically((json.dumps(content, indent=2) + "\n").encode(), path)
        except OSError as error:
            raise WeightError(f"{path}: cannot be written ({error.strerror or error}).") from None


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest as it is on the disk now; this copy's if there is no such file.

    Raises:
        ZooError: If it cannot be read.
    """
    if not path.is_file():
        return manifest()
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(f"{path}: the manifest cannot be read ({error}).") from None


def replace_staged(
    name: str, part: Path, hub: Path, manifest_file: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Make a complete folder the staged one of a weight, and enter it in the manifest.

    Args:
        name: ``arch.tag``.
        part: The folder, inside ``hub``; it is moved.
        hub: The folder of staged weights.
        manifest_file: The manifest.
        change: Enters the weight in the content it is given; what it raises leaves everything as it was.

    Raises:
        ZooError: As :func:`changing`.
    """
    try:
        with changing(manifest_file) as content:
            settle(hub, read_manifest(manifest_file))
            change(content)
            part.rename(waiting_folder(hub / name))
    finally:
        clean_up(hub, manifest_file)


def clean_up(hub: Path, manifest_file: Path) -> None:
    """:func:`settle`, alone, if there is anything to settle."""
    if any(hub.glob(".*.new")) or any(hub.glob(".*.old")):
        with alone(manifest_file.with_name(f".{manifest_file.name}.lock"), f"{manifest_file} is being written", _WAIT):
            settle(hub, read_manifest(manifest_file))


def settle(hub: Path, content: dict[str, Any]) -> None:
    """Bring folders that wait to their names if the manifest has them, and remove them if not; the lock is held."""
    for new in hub.glob(".*.new"):
        folder = new.with_name(new.name[1:-4])
        old = folder.with_name(f".{folder.name}.old")
        if not _is_entered(new, content["weights"].get(folder.name)):
            shutil.rmtree(new, ignore_errors=True)
            continue
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    for old in hub.glob(".*.old"):
        folder = old.with_name(old.name[1:-4])
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)


def _is_entered(folder: Path, entry: dict[str, Any] | None) -> bool:
    """Whether each of a folder's files that an entry has a sha256 of is that one."""
    if not entry:
        return False
    forms = [
        {"path": "model.safetensors", **entry},
        *(entry.get(form) or {} for form in ("packed", "collapsed", "predictions")),
    ]
    wanted = {form["path"]: form["sha256"] for form in forms if form.get("path")}
    return all(is_file(folder / file) and sha256_of(folder / file) == sha256 for file, sha256 in wanted.items())
