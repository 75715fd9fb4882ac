"""From staged weights to Hub repositories, and back into the manifest.

One repository for each weight, one commit for each change. What is on the Hub already is not uploaded again and makes
no new commit, so a run that was stopped, wherever that was, is simply repeated. A weight gets its ``hub`` source in the
manifest when the Hub itself has answered with the commit and with the right sha256 of the file in it, and not before.
"""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightError, ZooError
from ..extras import require
from ..files import write_atomically
from ..version import __version__
from ..weights.card import model_card
from ..weights.fetch import fetch
from ..weights.manifest import facts
from ..weights.manifest_change import changing
from ..weights.network_settings import failed_hub_call, refuse_odd_token
from ..weights.paths import manifest_file
from ..weights.verify import mismatch
from .repository import (
    CARD,
    COLLAPSED,
    CONFIG,
    LICENCE,
    MODEL,
    RECORD,
    STORIES,
    File,
    kept_predictions,
    licence_text,
    own_config,
    packed_form,
    size_and_sha256,
    staged_folder,
)
from .signature import SIGNATURE, sign

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """What one repository will hold.

    Attributes:
        name: ``arch.tag`` of the weight.
        repo: ``organisation/arch.tag``.
        files: Name to file.
        sizes: Name to ``size`` and ``sha256``.
    """

    name: str
    repo: str
    files: dict[str, File]
    sizes: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Published:
    """A repository on the Hub.

    Attributes:
        name: ``arch.tag`` of the weight.
        repo: ``organisation/arch.tag``.
        revision: Its commit, 40 hexadecimal digits.
        changed: Whether the repository was at another commit when this run looked.
    """

    name: str
    repo: str
    revision: str
    changed: bool


def connect(endpoint: str | None = None) -> "HfApi":
    """The Hub's interface with the user's token.

    Args:
        endpoint: By default ``HF_ENDPOINT``.

    Raises:
        ZooError: If there is no token.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise ZooError("There is no Hub token: set HF_TOKEN, or run hf auth login, and try again.")
    refuse_odd_token("The Hub")
    return HfApi(endpoint=endpoint, token=token)


def prepare(
    names: Iterable[str], namespace: str, dry_run: bool = False, key: str | Path | None = None
) -> list[Repository]:
    """Check that weights may be published and put their repositories together; nothing is sent.

    A collapsed form that the staged folder lacks is made, compared with the network, and added to the folder.

    Args:
        names: ``arch.tag`` of each weight.
        namespace: User or organisation on the Hub.
        dry_run: Change nothing on the disk either.
        key: Sign each repository's files with this private key, see :func:`.signature.sign`.

    Raises:
        ZooError: If the namespace cannot exist, or a weight is not ours, not measured, has no licence or is not staged.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", namespace):
        raise ZooError(f"{namespace!r} cannot be a namespace on the Hub: give the name of a user or an organisation.")
    names = sorted(set(names))
    for name in names:
        _check(name)
    return [_prepare(name, f"{namespace}/{name}", dry_run, key) for name in names]


def publish(
    repositories: Iterable[Repository],
    api: "HfApi | None" = None,
    manifest_path: Path | None = None,
    done: Callable[[Published], object] = lambda published: None,
) -> list[Published]:
    """Bring repositories to the Hub, one after the other, and each one's commit into the manifest.

    Args:
        repositories: From :func:`prepare`.
        api: By default :func:`connect`.
        manifest_path: By default this copy's manifest.
        done: Called after each.

    Raises:
        ZooError: If there is no token, it does not allow this, or the Hub cannot be reached or does not do it. What was
            finished before is in the manifest.
    """
    require("jsonschema", "train")  # the manifest is checked before it is written
    api = api or connect()
    path, finished = manifest_path or manifest_file(), []
    for repository in repositories:
        try:
            published = _publish(repository, api)
        except ZooError:
            raise
        except Exception as error:  # of the client, its HTTP client, or variables that these cannot read
            reason = _reason(error, repository, api.endpoint)
            raise ZooError(f"{repository.repo}: {reason} {_so_far(finished)}") from None
        _record(published, path)
        finished.append(published)
        done(published)
    return finished


def _check(name: str) -> None:
    entry = facts(name)
    if entry["origin_url"]:
        raise WeightError(f"{name} is not ours to publish: it is {entry['origin']}'s, from {entry['origin_url']}.")
    licence_text(name, entry)
    if not entry["results"]:
        raise WeightError(f"{name} has not been measured. Run zoo validate and enter the result in the manifest first.")
    folder = staged_folder(name)
    if folder is None or not (folder / CONFIG).is_file():
        raise WeightError(f"{name} is not staged: its model.safetensors and config.json belong into the hub folder.")


def _prepare(name: str, repo: str, dry_run: bool, key: str | Path | None) -> Repository:
    entry, folder, model = facts(name), staged_folder(name), fetch(name).path
    if dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            collapsed = _collapse(name, folder, Path(temporary))
            made: dict[str, File] = {file: path.read_bytes() for file, path in collapsed.items()}
    else:
        made = {**_collapse(name, folder, folder)}
    files: dict[str, File] = {file: folder / file for file in (COLLAPSED, *STORIES) if (folder / file).is_file()}
    files |= {CONFIG: own_config(name), LICENCE: licence_text(name, entry).encode()}
    files |= {**made, MODEL: model, **packed_form(name, entry, model), **kept_predictions(name, entry)}
    files[CARD] = model_card(name, entry, repo, files).encode()
    files |= {SIGNATURE: sign(name, files, key)} if key else {}
    files = dict(sorted(files.items()))
    return Repository(name, repo, files, {file: size_and_sha256(content) for file, content in files.items()})


def _collapse(name: str, folder: Path, target: Path) -> dict[str, Path]:
    """Make the collapsed form and its record where they belong and are missing; ``export`` runs what it wrote."""
    stated, file = facts(name).get("collapsed"), folder / COLLAPSED
    if stated and stated["path"] is None:
        return {}  # too large; the record says so
    if file.is_file() and (folder / RECORD).is_file():
        found = size_and_sha256(file)["sha256"]
        if stated and found != stated["sha256"]:
            raise mismatch(file, stated["sha256"], found)
        return {}
    if stated:
        raise WeightError(f"{name}: the manifest has a collapsed form, and {folder} lacks it or its record.")
    from ..registry import create_model
    from ..reparam.collapsed import collapsed_form
    from ..reparam.export import export

    model = create_model(name, pretrained=True, **facts(name).get("model_args", {})).eval()
    form = collapsed_form(model)
    if form is None:
        return {}  # a second file would be the first
    record = export(model, target / COLLAPSED, "safetensors", name, **form[1])
    write_atomically((json.dumps(record.to_dict(), indent=2) + "\n").encode(), target / RECORD)
    return {COLLAPSED: target / COLLAPSED, RECORD: target / RECORD}


def _publish(repository: Repository, api: "HfApi") -> Published:
    from huggingface_hub import CommitOperationAdd

    repo, expected = repository.repo, repository.sizes[MODEL]["sha256"]
    api.create_repo(repo, exist_ok=True)
    for attempt in range(5):
        before = api.model_info(repo).sha
        operations = [  # anew: the client notes in them what the repository held
            CommitOperationAdd(file, content if isinstance(content, bytes) else str(content))
            for file, content in repository.files.items()
        ]
        try:
            commit = api.create_commit(
                repo,
                operations,
                commit_message=f"{repository.name}, sha256 {expected[:16]}",
                commit_description=f"zoo publish, repara-zoo {__version__}",
                parent_commit=before,
            )
            break
        except Exception as error:  # of the client
            # somebody else's commit came in between: if it is the same, the next attempt finds nothing to change
            if _status(error) != 412 or attempt == 4:
                raise
    # asked anew: only what the Hub itself says about this commit goes into the manifest
    asked = list({**repository.files, SIGNATURE: None})
    held = {file.path: file for file in api.get_paths_info(repo, asked, revision=commit.oid)}
    missing = sorted(repository.files.keys() - held.keys())
    lfs = {file: found.lfs.sha256 for file, found in held.items() if getattr(found, "lfs", None)}
    wrong = [
        file
        for file, sent in repository.sizes.items()
        if file in held and (held[file].size != sent["size"] or lfs.get(file, sent["sha256"]) != sent["sha256"])
    ]
    if missing or wrong or lfs.get(MODEL) != expected or not re.fullmatch("[0-9a-f]{40}", commit.oid):
        raise ZooError(
            f"{repo} at {commit.oid}: the Hub does not hold what was sent "
            f"({', '.join(missing + wrong) or MODEL}). It was not entered in the manifest; run the command again."
        )
    if commit.oid != before and SIGNATURE in held.keys() - repository.files.keys():
        _LOGGER.warning(f"{repo}: the {SIGNATURE} there is for the files before. Publish with --sign KEY to renew it.")
    return Published(repository.name, repo, commit.oid, commit.oid != before)


def _record(published: Published, path: Path) -> None:
    """Enter a commit in the manifest as it is now: others may have written to it meanwhile."""
    try:
        with changing(path) as content:
            entry = content["weights"][published.name]
            hub = {"kind": "hub", "repo": published.repo, "revision": published.revision, "file": MODEL}
            others = [s for s in entry["sources"] if s["kind"] != "hub"]
            after = 1 + max((i for i, s in enumerate(others) if s["kind"] == "staged"), default=-1)
            entry["sources"] = [*others[:after], hub, *others[after:]]
            content["hub"] = {"namespace": published.repo.split("/")[0]}
    except (ZooError, ValueError, KeyError, TypeError) as error:
        raise ZooError(
            f"{path}: {published.repo} is on the Hub at {published.revision}, but that could not be entered in the "
            f"manifest ({error}). Make the file writable and run the command again; nothing is uploaded twice."
        ) from None


def _status(error: BaseException | None) -> int | None:
    """The Hub's answer that an error is about."""
    status = None
    while error is not None and status is None:  # the client wraps the answer to an upload in an error of its own
        status = getattr(getattr(error, "response", None), "status_code", None)
        error = error.__cause__
    return status


def _reason(error: BaseException, repository: Repository, endpoint: str) -> str:
    """What went wrong, and what to do about it."""
    status = _status(error)
    if status == 401:
        return "the Hub does not accept the token (401). Make a new one with write access and set HF_TOKEN to it."
    if status == 403:
        namespace = repository.repo.split("/")[0]
        return f"the token may not write to {namespace} (403). Use one with write access to this namespace."
    if status is not None and status >= 500:
        return f"the Hub failed ({status}). Run the same command again later; what arrived is not sent again."
    line = failed_hub_call(error, endpoint)
    return f"{line} Run the same command again; what arrived is not sent again."


def _so_far(finished: list[Published]) -> str:
    if not finished:
        return "Nothing was published in this run."
    return f"Finished before: {', '.join(published.name for published in finished)}."
