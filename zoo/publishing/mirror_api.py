"""What a mirror says of its repositories where the Hub has its API (``/api/models``), in the Hub's own words.

Tags, task and library are those of a repository's card, as on the Hub. Downloads and likes are not counted, both are 0.
"""

import contextlib
import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ZooError
from ..settings import read_yaml

CARD = "README.md"
MOST = 1000
"""Repositories of one answer."""

SORTS = ("lastModified", "createdAt", "downloads", "likes", "trendingScore")
_LONGEST_TAG = 100
_SHORT = ("siblings", "cardData")
"""What a list has only if it is asked for."""
_KNOWN = {"search", "author", "filter", "library", "pipeline_tag", "gated", "sort", "direction", "limit", "cursor"}
_KNOWN |= {"full", "config", "cardData", "expand"}


class BadQuestion(ValueError):
    """A parameter that cannot be answered: what comes without regard to it would be wrong."""


def description(
    repo: str, commit: str, listed: Mapping[str, Mapping[str, Any]], card: bytes = b"", blobs: bool = False
) -> dict[str, Any]:
    """The answers on one commit of a repository: ``revision`` and ``tree``, what ``snapshot_download`` asks for.

    Args:
        repo: ``owner/name``.
        commit: Of it.
        listed: Its files, with ``size`` and ``sha256`` of each.
        card: Its ``README.md``.
        blobs: Say size and sha256 of each file in ``revision`` too.
    """
    tree = []
    for name, file in listed.items():
        lfs = {"oid": file["sha256"], "size": file["size"], "pointerSize": 0}
        # clients compare the sha256; "oid" would be git's own name for the file, and there is no git here
        tree.append({"type": "file", "path": name, "size": file["size"], "oid": file["sha256"][:40], "lfs": lfs})
    info = {"id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit}
    info |= {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    info |= _of_card(card, listed)
    info["siblings"] = [
        {"rfilename": file["path"]}
        | (
            {"size": file["size"], "blobId": file["oid"], "lfs": {**file["lfs"], "sha256": file["lfs"]["oid"]}}
            if blobs
            else {}
        )
        for file in tree
    ]
    return {"revision": info, "tree": tree}


def _of_card(card: bytes, files: Iterable[str]) -> dict[str, Any]:
    """What the Hub takes from the YAML at the beginning of a card; whoever wrote it may have written anything."""
    text = card.decode("utf-8", "replace").replace("\r\n", "\n")
    data: Any = {}
    if text.startswith("---\n") and (end := text.find("\n---", 3)) > 0:
        with contextlib.suppress(ZooError):
            data = read_yaml(text[4 : end + 1], CARD)
    data = {key: value for key, value in data.items() if isinstance(key, str)} if isinstance(data, dict) else {}
    tags = [*_words(data.get("library_name")), *_words(data.get("tags")), *_words(data.get("pipeline_tag"))]
    tags += ["safetensors"] if any(file.endswith(".safetensors") for file in files) else []
    tags += [f"dataset:{word}" for word in _words(data.get("datasets"))]
    tags += [f"license:{word}" for word in _words(data.get("license"))]
    found: dict[str, Any] = {"tags": list(dict.fromkeys(tags))}
    found |= {key: data[key] for key in ("pipeline_tag", "library_name") if isinstance(data.get(key), str)}
    return found | {"cardData": json.loads(json.dumps(data, default=str))}


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [word for word in values if isinstance(word, str) and 0 < len(word) <= _LONGEST_TAG]


def hub_time(seconds: float) -> str:
    """A time as the Hub writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def refs(main: str) -> dict[str, Any]:
    """The answer on branches and tags: there is the one branch ``main``."""
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": main}
    return {"branches": [branch], "tags": [], "converts": [], "pullRequests": []}


def folder_of(tree: list[dict[str, Any]], inside: str, recursive: bool) -> list[dict[str, Any]]:
    """The part of a repository's tree in a folder; folders in it stand for what is in them unless ``recursive``.

    Args:
        tree: All files.
        inside: The folder; empty for all.
        recursive: List what is in its folders instead.
    """
    start = f"{inside}/" if inside else ""
    found = {}
    for file in tree:
        if not file["path"].startswith(start):
            continue
        first, below, _ = file["path"][len(start) :].partition("/")
        if below and not recursive:
            found[first] = {"type": "directory", "path": start + first, "size": 0, "oid": file["oid"]}
        else:
            found[file["path"]] = file
    return list(found.values())


def models(infos: Iterable[dict[str, Any]], asked: Mapping[str, list[str]]) -> tuple[list[dict[str, Any]], int | None]:
    """The repositories that are like what is asked for.

    Args:
        infos: ``revision`` of each repository, with ``lastModified`` and ``createdAt``.
        asked: Parameters of the question, each with its values.

    Returns:
        Those of this page, and where the next page begins, None if there is none.

    Raises:
        BadQuestion: If a parameter is unknown or cannot be read.
    """
    asked = {key.removesuffix("[]"): values for key, values in asked.items()}
    if unknown := sorted(asked.keys() - _KNOWN):
        raise BadQuestion(f"this mirror cannot choose by {unknown[0][:40]!a}")
    first = {key: values[0] for key, values in asked.items()}
    wanted = {word for key in ("filter", "library") for value in asked.get(key, ()) for word in value.split(",")}
    found = [
        info
        for info in sorted(infos, key=lambda info: info["id"])
        if first.get("search", "").lower() in info["id"].lower()
        and first.get("author", info["author"]) == info["author"]
        and wanted <= {*info["tags"]}
        and first.get("pipeline_tag", info.get("pipeline_tag")) == info.get("pipeline_tag")
        and first.get("gated", "false").lower() != "true"
    ]
    if (key := first.get("sort")) is not None:
        if key not in SORTS:
            raise BadQuestion(f"sort by {', '.join(SORTS)}")
        found.sort(key=lambda info: str(info.get(key, "")), reverse=first.get("direction") != "1")
    start, limit = _number(first, "cursor", 0, 0), _number(first, "limit", MOST, 1)
    more = {word for value in asked.get("expand", ()) for word in value.split(",")}
    more |= {*_SHORT} if _is_set(first, "full") else {"cardData"} if _is_set(first, "cardData") else set()
    stop = start + min(limit, MOST)
    page = [{k: v for k, v in info.items() if k not in _SHORT or k in more} for info in found[start:stop]]
    return page, stop if stop < len(found) else None


def _number(asked: Mapping[str, str], key: str, default: int, least: int) -> int:
    word = asked.get(key, str(default))
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) >= least):
        raise BadQuestion(f"{key} is a whole number, {least} or more")
    return int(word)


def _is_set(asked: Mapping[str, str], key: str) -> bool:
    return asked.get(key, "false").lower() in ("true", "1")
