"""A folder laid out so that an HTTP server over it is a Hub endpoint for timm, huggingface_hub and the zoo.

Files lie where a Hub client asks for them, ``<repository>/resolve/<commit>/<file>``, with ``main`` a link to the newest
commit, and the two answers of the Hub's API that a download of a whole repository needs lie below ``api/``. A client
also wants two headers with every file (``X-Repo-Commit``, ``ETag``), which no file can hold: ``zoo mirror --serve``
sends them, and ``nginx.conf`` in the folder makes nginx send them. ``mirror.json`` lists everything with its sha256.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import HashMismatchError, WeightError
from ..files import read_file, replace_folder, write_atomically
from ..own_folders import own_folder
from ..weights.cached import locked
from ..weights.card import model_card
from ..weights.download import discard, download
from ..weights.fetch import hub_address, hub_url
from ..weights.manifest import facts, source
from ..weights.packed import PACKED
from .mirror_api import description
from .own import belongings
from .repository import (
    CARD,
    COLLAPSED,
    CONFIG,
    LICENCE,
    MODEL,
    PREDICTIONS,
    File,
    blocks,
    licence_text,
    own_config,
    size_and_sha256,
)
from .signature import SIGNATURE, sign

_LOGGER = logging.getLogger(__name__)
INDEX, NGINX = "mirror.json", "nginx.conf"
_LARGEST_INDEX = 256 << 20  # bytes
_LARGEST_STORY = 64 << 20  # bytes of a file that the manifest does not have
Commits = dict[str, dict[str, dict[str, Any]]]
"""Commit to file to ``size`` and ``sha256``."""


_REPO = re.compile(r"(?!api/)[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile("[0-9a-f]{40}")


def write_mirror(
    names: Iterable[str],
    folder: str | Path,
    namespace: str = "mirror",
    cache_dir: str | Path | None = None,
    key: str | Path | None = None,
) -> dict[str, str]:
    """Add weights to a mirror; what is there and right is left as it is.

    A published weight keeps its repository and commit, and all files of that commit are mirrored. Any other becomes
    ``namespace/arch.tag``, at a commit that is computed from its files.

    Args:
        names: ``arch.tag`` of each weight, or folders as :func:`.own.belongings` takes them.
        folder: The mirror.
        namespace: For weights that are not published.
        cache_dir: Where downloads are kept.
        key: Sign what is not published with this private key, see :func:`.signature.sign`; what is published keeps the
            signature that it has.

    Returns:
        Repository of each name.

    Raises:
        WeightError: If a weight cannot be had or has no licence to be passed on, or the folder cannot be written.
    """
    folder, chosen = Path(folder), {}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", namespace) or namespace == "api":
        raise WeightError(f"{namespace!r} cannot be a namespace: use letters, digits, '.', '_' and '-'.")
    with locked(folder):
        try:
            for leftover in folder.glob(".mirror-*"):  # of a killed process: the lock is held, so none is in use
                shutil.rmtree(leftover)
            index = read_index(folder) if (folder / INDEX).exists() else {}
            for name in tqdm(names, desc="mirroring", delay=2, disable=None, leave=False):
                name, repo = _add(folder, index, name, namespace, cache_dir, key)
                chosen[name] = repo
        except OSError as error:
            raise WeightError(
                f"{error.filename or folder}: {error.strerror or error}. Run the command again."
            ) from None
        finally:
            for temporary in folder.glob(".mirror-*"):
                shutil.rmtree(temporary, ignore_errors=True)
    return chosen


def _add(
    folder: Path,
    index: dict[str, Any],
    word: str,
    namespace: str,
    cache_dir: str | Path | None,
    key: str | Path | None,
) -> tuple[str, str]:
    """Add one weight to the mirror; the list is written last, so that it never names what is not there."""
    published = None if own_folder(word) else source(facts(word), "hub")
    if published:
        name, entry, files = word, facts(word), _published(word, published, folder)
        repo, commit = published["repo"], published["revision"]
        if key:
            _LOGGER.warning(f"{name} is mirrored as it was published, and keeps the signature it has there.")
    else:
        name, entry, files = belongings(word, cache_dir)
        repo, commit = f"{namespace}/{name}", None
        if key:
            files = dict(sorted({**files, SIGNATURE: sign(name, files, key)}.items()))
    listed = {file: size_and_sha256(content) for file, content in files.items()}
    for file, form in _forms(entry).items():
        own = entry.get("own") and file != MODEL
        if file in listed and not own and listed[file]["sha256"] != (form or {}).get("sha256"):
            raise HashMismatchError(f"{repo} at {commit}: {file} is not the manifest's. It was not mirrored.")
    commit = commit or _commit_of(listed)
    if problem := _problem(repo, {"main": commit, "commits": {commit: listed}}):
        raise WeightError(f"{repo}: {problem}. It was not mirrored.")
    _place(folder, repo, commit, files, listed)
    index.setdefault(repo, {"commits": {}})["commits"][commit] = listed
    index[repo]["main"] = commit
    _describe(folder, repo, commit, listed)
    write_atomically(nginx_conf(index).encode(), folder / NGINX)
    write_atomically((json.dumps({"repositories": index}, indent=1) + "\n").encode(), folder / INDEX)
    return name, repo


def read_index(folder: Path) -> dict[str, Any]:
    """The repositories of a mirror: ``main`` and ``commits`` of each.

    Raises:
        WeightError: If the folder is no mirror, or its list is damaged.
    """
    path = folder / INDEX
    try:
        repositories = json.loads(read_file(path, _LARGEST_INDEX))["repositories"]
        for repo, found in repositories.items():
            if problem := _problem(repo, found):
                raise ValueError(f"the entry of {repo}: {problem}")
    except FileNotFoundError:
        raise WeightError(f"{folder} is not a mirror: lay it out first with zoo mirror {folder} NAME ...") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{path} is damaged ({error}). Delete it and lay the mirror out again.") from None
    return repositories


def _problem(repo: str, found: dict[str, Any]) -> str:
    """Why a repository cannot be in a mirror, in words: its name becomes a folder, an address and a line for nginx."""
    if not _REPO.fullmatch(repo) or found["main"] not in found["commits"]:
        return "its name is none of a repository, or its newest commit is missing"
    for commit, files in found["commits"].items():
        if not _COMMIT.fullmatch(commit):
            return f"{commit!r} is no commit"
        for file, facts_of_file in files.items():
            parts = file.split("/")
            if any(not p or p[0] == "." or len(p.encode(errors="replace")) > 240 for p in parts):
                return f"{file!r} is hidden, leads elsewhere or is too long"
            if not file.isprintable() or set(file) & set('"\\'):
                return f"the name {file!r} has a character that cannot be served"
            size, sha256 = facts_of_file["size"], facts_of_file["sha256"]
            if type(size) is not int or size < 0 or not re.fullmatch("[0-9a-f]{64}", sha256):
                return f"{file!r} has no size or no sha256"
    return ""


def _published(name: str, hub: dict[str, Any], mirror: Path) -> dict[str, File]:
    """Bring the files of a published weight into a temporary folder of the mirror, none larger than it may be.

    What the manifest determines beside the weight's forms is made here, whatever the Hub sent.
    """
    entry, folder = facts(name), Path(tempfile.mkdtemp(dir=mirror, prefix=".mirror-"))
    part = folder / ".part"
    about = hub_url(hub).split(f"/{hub['repo']}/resolve/")[0] + f"/api/models/{hub['repo']}/revision/{hub['revision']}"
    download(hub_address(hub, about), part, _LARGEST_STORY)
    try:
        names = [file["rfilename"] for file in json.loads(read_file(part, _LARGEST_STORY))["siblings"]]
        listed = {file: {"size": 0, "sha256": "0" * 64} for file in names if "/." not in f"/{file}"}
        problem = _problem(hub["repo"], {"main": hub["revision"], "commits": {hub["revision"]: listed}})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problem = "the list of its files cannot be read"
    if problem:
        raise WeightError(f"Hub {hub['repo']}: {problem}. It was not mirrored.")
    forms = _forms(entry)
    for file in listed:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        limit = (forms.get(file) or {}).get("size") or _LARGEST_STORY
        discard(part)
        download(hub_address({**hub, "file": file}), part, limit, need_length=True)
        part.replace(folder / file)
    files: dict[str, File] = {file: folder / file for file in sorted(listed)}
    made = {CONFIG: own_config(name), LICENCE: licence_text(name, entry).encode()}
    made[CARD] = model_card(name, entry, hub["repo"], files).encode()
    made = {file: content for file, content in made.items() if file in files}
    if SIGNATURE in files and any(read_file(files[file], _LARGEST_STORY) != content for file, content in made.items()):
        _LOGGER.warning(
            f"{name}: this version writes its texts otherwise than was signed; its {SIGNATURE} is left out."
        )
        del files[SIGNATURE]
    return files | made


def _forms(entry: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    return {
        MODEL: entry,
        PACKED: entry.get("packed"),
        COLLAPSED: entry.get("collapsed"),
        PREDICTIONS: entry.get("predictions"),
    }


def _commit_of(listed: dict[str, dict[str, Any]]) -> str:
    lines = "".join(f"{file['sha256']} {name}\n" for name, file in sorted(listed.items()))
    return hashlib.sha1(lines.encode()).hexdigest()


def _place(folder: Path, repo: str, commit: str, files: dict[str, File], listed: dict[str, dict[str, Any]]) -> None:
    """Put the files of one commit in place, as a whole, then let ``main`` lead to it."""
    target = folder / repo / "resolve" / commit
    if not all((target / file).is_file() and size_and_sha256(target / file) == listed[file] for file in files):
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".mirror-"))
        temporary.chmod(0o755)
        for file, content in files.items():
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            with open(temporary / file, "wb") as copy:
                for block in blocks(content):
                    copy.write(block)
            if size_and_sha256(temporary / file) != listed[file]:
                raise WeightError(f"{repo}/{file} changed while it was copied. Run the command again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(temporary, target)
    main = target.with_name("main")
    if not main.is_symlink() or str(main.readlink()) != commit:
        link = target.with_name(".main")
        link.unlink(missing_ok=True)
        link.symlink_to(commit)
        link.replace(main)


def _describe(folder: Path, repo: str, commit: str, listed: dict[str, dict[str, Any]]) -> None:
    """Write the API's answers on one repository."""
    card = folder / repo / "resolve" / commit / CARD
    text = read_file(card, _LARGEST_STORY) if CARD in listed else b""
    for kind, answer in description(repo, commit, listed, text).items():
        for revision in (commit, "main"):
            write_atomically(json.dumps(answer).encode(), folder / "api" / "models" / repo / kind / revision)


def nginx_conf(index: dict[str, Any]) -> str:
    """What nginx needs to know, for an ``include`` in the ``server`` block whose ``root`` is the mirror."""
    lines = ["# written by zoo mirror", "etag off;", "location /api/ { default_type application/json; }"]
    for repo, found in sorted(index.items()):
        lines.append(f"location = /api/models/{repo} {{ rewrite ^ /api/models/{repo}/revision/main last; }}")
        for commit, files in found["commits"].items():
            for revision in (commit, "main") if commit == found["main"] else (commit,):
                header = f'add_header X-Repo-Commit "{commit}" always;'
                missing = "add_header X-Error-Code EntryNotFound always;"
                lines.append(f'location "/{repo}/resolve/{revision}/" {{ {header} {missing} }}')
                for file, listed in files.items():
                    etag = f"""add_header ETag '"{listed["sha256"]}"';"""
                    lines.append(f'location = "/{repo}/resolve/{revision}/{file}" {{ {header} {etag} }}')
    return "\n".join(lines) + "\n"
