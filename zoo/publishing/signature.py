"""Signatures of a repository's files, ``model.sig``, as the package ``model-signing`` makes and checks them (OMS).

A signature says who vouches for which bytes: it holds the name and sha256 of every file, signed with somebody's private
key. The manifest's sha256 is compared all the same. Whoever has single files of a repository compares each with the
signature; whoever has a folder also sees what was added to it or is missing.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import HashMismatchError, WeightError, ZooError
from ..extras import require
from ..files import is_file, open_file, read_file, write_atomically
from ..own_folders import HUB
from ..weights.audit import Copy
from ..weights.cached import obtain
from ..weights.fetch import Located, cached_file, fetch, fetch_from_repository, hub_address
from ..weights.manifest import facts, full_name, source, weights
from ..weights.paths import cache_folder
from ..weights.verify import sha256_of
from .repository import COLLAPSED, MODEL, PREDICTIONS, File, blocks, size_and_sha256

SIGNATURE = "model.sig"
PASSWORD = "ZOO_KEY_PASSWORD"
"""The environment variable with the password of an encrypted private key."""

_LARGEST = 1 << 20  # bytes of a signature or key
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BESIDE = (SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore", ".cache")
"""What is no part of a repository: as model-signing has it, and where huggingface_hub notes what it downloaded."""


def sign(name: str, files: Mapping[str, File], key: str | Path) -> bytes:
    """The signature of a repository's files.

    Signatures differ each time they are made, so one that was made is kept in the cache: the same files and key have
    the same one again, and a repository that is published twice stays as it is.

    Args:
        name: What the signature calls the repository.
        files: Name to file.
        key: A PEM file with an EC private key (P-256, P-384 or P-521); the password of an encrypted one is taken from
            ``ZOO_KEY_PASSWORD``.

    Raises:
        ZooError: If the key cannot be used, or model-signing is not installed.
    """
    signing = require(module="model_signing.signing", extra="sign")
    form = require(module="cryptography.hazmat.primitives.serialization", extra="sign")
    key, password = Path(key), os.environ.get(PASSWORD, "").encode() or None
    public = _private_key(key, password).public_key()
    public = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    listed = {file: size_and_sha256(content)["sha256"] for file, content in sorted(files.items())}
    what = json.dumps([name, public.decode(), listed])
    kept = cache_folder() / "signatures" / f"{hashlib.sha256(what.encode()).hexdigest()}.sig"
    with tempfile.TemporaryDirectory() as temporary:
        folder, public_key, made = Path(temporary, name), Path(temporary, ".pub"), Path(temporary, ".sig")
        public_key.write_bytes(public)
        with contextlib.suppress(WeightError):  # none yet, or damaged
            if signed_files(kept, public_key) == listed:
                return read_file(kept, _LARGEST)
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / file, "wb") as copy:
                for block in blocks(content):
                    copy.write(block)
        signing.Config().use_elliptic_key_signer(private_key=key, password=password).sign(folder, made)
        if signed_files(made, public_key) != listed:
            raise ZooError(f"{name}: a file changed while it was signed. Run the command again.")
        write_atomically(made.read_bytes(), kept)
        return made.read_bytes()


def signed_files(signature: Path, public_key: str | Path) -> dict[str, str]:
    """The sha256 of each file that a signature vouches for, once it was found to be made with the key's other half.

    Args:
        signature: A ``model.sig``.
        public_key: A PEM file.

    Raises:
        HashMismatchError: If it was made with another key, or changed.
        WeightError: If it is missing or is no such signature.
        ZooError: If the key cannot be used, or model-signing is not installed.
    """
    verifying = require(module="model_signing.verifying", extra="sign")
    # its public interface compares whole folders only; here single files are compared with what was signed
    read = require(module="model_signing._signing.sign_sigstore_pb", extra="sign").Signature.read
    exceptions = require(module="cryptography.exceptions", extra="sign")
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=_check_public_key(Path(public_key)))._verifier
    try:
        read_file(signature, _LARGEST)  # its size is bounded before it is parsed
        found = verifier.verify(read(signature))
        kind, descriptors = found.serialization_type, [*found.resource_descriptors()]
    except FileNotFoundError:
        raise WeightError(f"{signature.parent}: not signed, there is no {signature.name} in it.") from None
    except OSError as error:
        raise WeightError(f"{signature}: cannot be read ({error.strerror or error}).") from None
    except exceptions.InvalidSignature:
        raise HashMismatchError(_other_key(signature, public_key)) from None
    except Exception as error:  # of many libraries: JSON, base64, pydantic, the checks of model-signing
        if "Key mismatch" in str(error):
            raise HashMismatchError(_other_key(signature, public_key)) from None
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightError(f"{signature}: not a signature made with an EC key ({reason}).") from None
    if kind.get("method") != "files" or any(descriptor.digest.algorithm != "sha256" for descriptor in descriptors):
        raise WeightError(f"{signature}: signs parts of files, or other hashes than sha256; sign the whole files.")
    return {descriptor.identifier: descriptor.digest.digest_hex for descriptor in descriptors}


def check_folder(folder: Path, public_key: str | Path) -> tuple[int, list[str]]:
    """Compare every file of a folder with its signature, and of one that is called as a weight, with the manifest.

    Args:
        folder: With ``model.sig`` in it.
        public_key: A PEM file.

    Returns:
        How many files were signed, and a sentence for each that is another one, was added, or is missing.

    Raises:
        ZooError: As :func:`signed_files`.
    """
    signed = signed_files(folder / SIGNATURE, public_key)
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    there = {file: path for file, path in there.items() if file.split("/")[0] not in _BESIDE}
    problems = [f"{folder / file}: was signed and is missing." for file in sorted(signed.keys() - there.keys())]
    for file, path in there.items():
        if file not in signed:
            problems.append(f"{path}: was not signed; it was added later.")
            continue
        try:
            with open_file(path) as opened:
                found = sha256_of(opened)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror or error}).")
            continue
        if found != signed[file]:
            problems.append(f"{path}: not the file that was signed: its sha256 is {found}, not {signed[file]}.")
        elif file == MODEL and folder.name in weights() and found != facts(folder.name)["sha256"]:
            expected = facts(folder.name)["sha256"]
            problems.append(f"{path}: signed, but not {folder.name}: sha256 is {found}, the manifest has {expected}.")
    return len(signed), problems


def check_copies(
    name: str, copies: list[Copy], public_key: str | Path, cache_dir: str | Path | None = None
) -> list[str]:
    """Compare what the manifest says of a weight's files on this machine with the signatures that lie beside them.

    Args:
        name: ``arch.tag``.
        copies: From :func:`zoo.weights.audit.audit`, which compares the files with the manifest.
        public_key: A PEM file.
        cache_dir: Where downloads are kept, signatures among them.

    Returns:
        A sentence for each signature that is wrong, and for each file that none vouches for.
    """
    folders = {cached_file(name, facts(name), cache_dir).parent, *(copy.path.parent for copy in copies)}
    signatures = [folder / SIGNATURE for folder in sorted(folders) if is_file(folder / SIGNATURE)]
    if copies and not signatures:
        return [f"{name} is not signed here: no {SIGNATURE} lies beside its files. Bring it: {_how_to_bring(name)}"]
    problems = []
    vouched: set[tuple[str, str]] = set()
    for signature in signatures:
        try:
            vouched |= {*signed_files(signature, public_key).items()}
        except WeightError as error:
            problems.append(str(error))
    if problems:
        return problems
    return [f"{copy.path}: {SIGNATURE} does not vouch for it." for copy in copies if _as_signed(copy) not in vouched]


def fetch_signed(word: str, public_key: str | Path, cache_dir: str | Path | None = None) -> Located:
    """Fetch a weight and the signature of its Hub repository, which is kept beside it, and compare the two.

    Args:
        word: ``arch.tag``, an architecture, or ``hf-hub:OWNER/arch.tag`` with or without ``@REVISION``.
        public_key: A PEM file.
        cache_dir: As :func:`zoo.weights.fetch.fetch`.

    Raises:
        WeightError: If the weight or its signature cannot be had, or the two do not fit.
    """
    name, hub = _place(word)
    found = fetch_from_repository(name, hub["repo"], hub["revision"], cache_dir) if word.startswith(HUB) else None
    found = found or fetch(name, cache_dir)
    kept = cached_file(name, facts(name), cache_dir).with_name(SIGNATURE)
    try:
        if signed_files(kept, public_key).get(MODEL) == found.sha256:
            return found
    except WeightError:  # none is here, or another's
        pass
    kept.unlink(missing_ok=True)
    try:
        obtain(hub_address({**hub, "file": SIGNATURE}), kept, None, _LARGEST)
    except WeightError as error:
        raise WeightError(f"{name}: its signature could not be had: {error}") from None
    if signed_files(kept, public_key).get(MODEL) != found.sha256:
        raise HashMismatchError(f"{name}: {SIGNATURE} of {hub['repo']} does not vouch for sha256 {found.sha256}.")
    return found


def _place(word: str) -> tuple[str, dict[str, Any]]:
    """A weight and the Hub repository that its signature is asked of."""
    if word.startswith(HUB):
        repo, _, revision = word.split(":", 1)[1].partition("@")
        return full_name(repo.rsplit("/", 1)[-1]), {"kind": "hub", "repo": repo, "revision": revision or "main"}
    name = full_name(word)
    hub = source(facts(name), "hub")
    if hub is None:
        raise WeightError(
            f"{name} is in no Hub repository that the manifest knows, so its signature is in none. Name the "
            f"repository (of a mirror, say): hf-hub:OWNER/{name}"
        )
    return name, hub


def _how_to_bring(name: str) -> str:
    word = name if source(facts(name), "hub") else f"hf-hub:OWNER/{name}"
    return f"zoo fetch {word} --public-key KEY"


def _as_signed(copy: Copy) -> tuple[str, str]:
    """The name and sha256 under which a copy, which is the manifest's, is signed."""
    entry, (_, _, form) = facts(copy.name), copy.where.partition(", ")
    file = {"": MODEL, "collapsed": COLLAPSED, "predictions": PREDICTIONS}.get(form) or entry[form]["path"]
    return file, (entry[form] if form else entry)["sha256"]


def _private_key(key: Path, password: bytes | None) -> Any:
    load = require(module="cryptography.hazmat.primitives.serialization", extra="sign").load_pem_private_key
    try:
        found = load(read_file(key, _LARGEST), password)
    except OSError as error:
        raise ZooError(f"{key}: cannot be read ({error.strerror or error}).") from None
    except TypeError as error:  # a password is missing, or given for a key without one
        advice = "unset" if password else "set"
        raise ZooError(f"{key}: {str(error).rstrip('.')}; {advice} {PASSWORD}.") from None
    except Exception as error:  # of cryptography: no PEM, a wrong password, an unknown kind of key
        reason = " ".join(str(error).split())[:100]
        raise ZooError(
            f"{key}: not a private key in PEM form, or another password than {PASSWORD} ({reason})."
        ) from None
    if getattr(getattr(found, "curve", None), "name", "") not in _CURVES:
        raise ZooError(f"{key}: not an EC key on P-256, P-384 or P-521, which signatures of weights are made with.")
    return found


def _check_public_key(key: Path) -> Path:
    load = require(module="cryptography.hazmat.primitives.serialization", extra="sign").load_pem_public_key
    try:
        found = load(read_file(key, _LARGEST))
    except OSError as error:
        raise ZooError(f"{key}: cannot be read ({error.strerror or error}).") from None
    except Exception:  # of cryptography
        raise ZooError(f"{key}: not a public key in PEM form (openssl ec -in KEY -pubout -out KEY.pub).") from None
    if getattr(getattr(found, "curve", None), "name", "") not in _CURVES:
        raise ZooError(f"{key}: not an EC key on P-256, P-384 or P-521, which signatures of weights are made with.")
    return key


def _other_key(signature: Path, public_key: str | Path) -> str:
    return f"{signature}: not made with the private key of {public_key}, or changed since."
