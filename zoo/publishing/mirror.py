"""A folder laid out so that an HTTP server over it is a Hub endpoint for timm, huggingface_hub and the zoo.

Files lie where a Hub client asks for them, ``<repository>/resolve/<commit>/<file>``, with ``main`` a link to the newest
commit, and the two answers of the Hub's API that a download of a whole repository needs lie below ``api/``. A client
also wants two headers with every file (``X-Repo-Commit``, ``ETag``), which no file can hold: ``zoo mirror --serve``
sends them, and ``nginx.conf`` in the folder makes nginx send them. ``mirror.json`` lists everything with its sha256.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoints import own_folder
from ..errors import HashMismatchError, WeightError
from ..files import write_atomically
from ..weights.cached import locked
from ..weights.fetch import hub_url
from ..weights.manifest import facts, source
from ..weights.network_settings import failed_hub_call
from .own import belongings
from .repository import MODEL, File, blocks, size_and_sha256

INDEX, NGINX = "mirror.json", "nginx.conf"
Commits = dict[str, dict[str, dict[str, Any]]]
"""Commit to file to ``size`` and ``sha256``."""


def write_mirror(
    names: Iterable[str], folder: str | Path, namespace: str = "mirror", cache_dir: str | Path | None = None
) -> dict[str, str]:
    """Add weights to a mirror; what is there and right is left as it is.

    A published weight keeps its repository and commit, and all files of that commit are mirrored. Any other becomes
    ``namespace/arch.tag``, at a commit that is computed from its files.

    Args:
        names: ``arch.tag`` of each weight, or folders as :func:`.own.belongings` takes them.
        folder: The mirror.
        namespace: For weights that are not published.
        cache_dir: Where downloads are kept.

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
                name, repo = _add(folder, index, name, namespace, cache_dir)
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
    folder: Path, index: dict[str, Any], word: str, namespace: str, cache_dir: str | Path | None
) -> tuple[str, str]:
    """Add one weight to the mirror; the list is written last, so that it never names what is not there."""
    published = None if own_folder(word) else source(facts(word), "hub")
    if published:
        name, entry, files = word, facts(word), _published(published, cache_dir)
        repo, commit = published["repo"], published["revision"]
    else:
        name, entry, files = belongings(word, cache_dir)
        repo, commit = f"{namespace}/{name}", None
    listed = {file: size_and_sha256(content) for file, content in files.items()}
    if listed[MODEL]["sha256"] != entry["sha256"]:
        raise HashMismatchError(f"{repo} at {commit}: {MODEL} is not the manifest's. It was not mirrored.")
    commit = commit or _commit_of(listed)
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
        repositories = json.loads(path.read_text(encoding="utf-8"))["repositories"]
        for repo, found in repositories.items():
            parts = [*repo.split("/"), *found["commits"], *(f for files in found["commits"].values() for f in files)]
            sizes = [f["size"] for files in found["commits"].values() for f in files.values()]
            sha256s = [f["sha256"] for files in found["commits"].values() for f in files.values()]
            sound = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", p) for p in parts)
            sound &= repo.count("/") == 1 and found["main"] in found["commits"]
            sound &= all(re.fullmatch("[0-9a-f]{40}", commit) for commit in found["commits"])
            sound &= all(isinstance(size, int) for size in sizes)
            if not (sound and all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in sha256s)):
                raise ValueError(f"the entry of {repo}")
    except FileNotFoundError:
        raise WeightError(f"{folder} is not a mirror: lay it out first with zoo mirror {folder} NAME ...") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{path} is damaged ({error}). Delete it and lay the mirror out again.") from None
    return repositories


def _published(hub: dict[str, Any], cache_dir: str | Path | None) -> dict[str, File]:
    """The files of a published weight."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(hub["repo"], revision=hub["revision"], cache_dir=cache_dir))
    except Exception as error:  # its own, its HTTP client's, and those of variables that this client cannot read
        reason = failed_hub_call(error, hub_url(hub))
        raise WeightError(f"Hub {hub['repo']}: its files cannot be had ({reason})") from None
    files = {path.relative_to(snapshot).as_posix(): path for path in sorted(snapshot.rglob("*")) if path.is_file()}
    return {file: path for file, path in files.items() if "/." not in f"/{file}"}


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
        if target.exists():
            target.replace(temporary.with_suffix(".old"))
        temporary.replace(target)
        shutil.rmtree(temporary.with_suffix(".old"), ignore_errors=True)
    main = target.with_name("main")
    if not main.is_symlink() or str(main.readlink()) != commit:
        link = target.with_name(".main")
        link.unlink(missing_ok=True)
        link.symlink_to(commit)
        link.replace(main)


def _describe(folder: Path, repo: str, commit: str, listed: dict[str, dict[str, Any]]) -> None:
    """The API's answers on one repository: what ``snapshot_download`` asks for."""
    info = {"id": repo, "modelId": repo, "sha": commit, "private": False, "gated": False, "disabled": False}
    info |= {"tags": [], "siblings": [{"rfilename": file} for file in listed]}
    tree = []
    for name, file in listed.items():
        lfs = {"oid": file["sha256"], "size": file["size"], "pointerSize": 0}
        # clients compare the sha256; "oid" would be git's own name for the file, and there is no git here
        tree.append({"type": "file", "path": name, "size": file["size"], "oid": file["sha256"][:40], "lfs": lfs})
    for revision in (commit, "main"):
        write_atomically(json.dumps(info).encode(), folder / "api" / "models" / repo / "revision" / revision)
        write_atomically(json.dumps(tree).encode(), folder / "api" / "models" / repo / "tree" / revision)


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
