"""``zoo fetch``, ``zoo verify``, ``zoo pack``."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.catalog import DATASETS
from ..errors import WeightError, ZooError, printable
from ..files import read_file, write_atomically
from ..own_folders import names_folder, own_folder
from ..tables import table
from ..weights.manifest import full_name, warm_starts, weights
from ..weights.manifest import problems as problems_of_entries
from ..weights.manifest_check import check_manifest
from ..weights.paths import hub_problem, manifest_file

if TYPE_CHECKING:
    from ..weights.audit import Copy


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("fetch", help="get a weight, verify its sha256 and print where it lies")
    parser.add_argument(
        "name", nargs="+", help="arch.tag, an architecture for its first weight, or an https:// address"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of the Hub file that a warm start begins with; recorded")
    parser.add_argument("--cache-dir", help="where downloads are kept")
    parser.add_argument(
        "--public-key",
        metavar="KEY",
        help="also bring the signature of the weight's Hub repository, and check it with this key, a PEM file; the "
        "repository may be named: hf-hub:OWNER/arch.tag",
    )
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--sha256", metavar="HEX", help="of that file or an address's, from a place you trust; recorded")
    known.add_argument(
        "--trust-first-use", action="store_true", help="accept what an address sends now, and nothing else ever after"
    )
    parser.set_defaults(run=_fetch)
    parser = commands.add_parser("verify", help="check every cached or staged weight against the manifest, offline")
    parser.add_argument("name", nargs="*", help="arch.tag or architectures (all); with --public-key also folders")
    parser.add_argument("--cache-dir", help="where downloads are kept")
    parser.add_argument(
        "--public-key",
        metavar="KEY",
        help="also check the signatures (model.sig) of the weights or folders named, with this key, a PEM file",
    )
    parser.add_argument("--accuracy", action="store_true", help="also measure accuracy again, to the image")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[DATASET=]DIR",
        help="folder of a data set; repeat it for several (fashion-mnist=DIR --data cifar10=DIR)",
    )
    parser.set_defaults(run=_verify)
    parser = commands.add_parser("pack", help="write a safetensors file in its packed form, or unpack one")
    parser.add_argument("file", help="model.safetensors, or with --unpack model.packed.safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    parser.add_argument("--unpack", action="store_true")
    parser.set_defaults(run=_pack)


def _fetch(options: argparse.Namespace) -> None:
    from ..weights.fetch import fetch, fetch_address
    from ..weights.warm_start import fetch_base

    if options.public_key and (options.revision or options.sha256 or options.trust_first_use):
        raise ZooError("--public-key is for the signature of a weight's repository; leave the other options out.")
    for name in options.name:
        if options.public_key:
            from ..publishing.signature import fetch_signed

            found = fetch_signed(name, options.public_key, options.cache_dir)
            print(f"{name}  {found.kind}  sha256 {found.sha256}  signed  {found.path}")
            continue
        if name in warm_starts() and not options.trust_first_use:
            found = fetch_base(name, options.revision, options.sha256, options.cache_dir)
            base = f"{name} (timm's {warm_starts()[name]['base']})"
            print(f"{base}  {found.kind}  sha256 {found.sha256}  {found.path}")
            continue
        if options.revision:
            raise ZooError(f"--revision is for warm starts such as {next(iter(warm_starts()))}, not for {name}.")
        if "://" in name:
            found = fetch_address(name, options.sha256, options.trust_first_use, options.cache_dir)
            print(f"{name}  {found.kind}  sha256 {found.sha256}  {found.path}")
            continue
        if options.sha256 or options.trust_first_use:
            knows = "Hub announces" if name in warm_starts() else "manifest has"
            raise ZooError(f"--sha256 and --trust-first-use are for addresses; the {knows} that of {name}.")
        found = fetch(name, options.cache_dir)
        print(f"{full_name(name)}  {found.kind}  sha256 {found.sha256}  {found.path}")


def _verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..weights.audit import audit

    own = [word for word in options.name if names_folder(word)]
    names = list(dict.fromkeys(full_name(word) for word in options.name if word not in own))
    names = names if options.name else list(weights())
    folders = _folders(options.data)
    if options.public_key and not options.name:
        raise ZooError("--public-key checks signatures: name the weights, or the folders with a model.sig.")
    if own and not options.public_key:
        raise ZooError(f"{own[0]}: what is in a folder is compared with its signature: add --public-key KEY.")
    if bool(options.data) != options.accuracy:
        raise ZooError("--accuracy needs --data DIR, the folder of the data set, and the other way round.")
    copies = list(tqdm(audit(names, options.cache_dir), desc="verify", delay=2, disable=None, file=sys.stderr))
    rows = [[copy.name, copy.where, "ok" if not copy.problem else "WRONG", str(copy.path)] for copy in copies]
    if rows:
        print(table(rows, ["weight", "where", "sha256 and size", "file"]))
    problems = [f"{copy.path}: {copy.problem}" for copy in copies if copy.problem]
    here = {copy.name for copy in copies if not copy.where.endswith(("collapsed", "predictions"))}  # not the weight
    absent = [name for name in names if name not in here]
    print(
        f"{len(copies)} files of {len(here)} weights, {len(problems)} wrong; "
        f"{len(absent)} of {len(names)} weights have no file here"
    )
    if missing := hub_problem():
        problems.append(f"{missing}.")
    if not options.name:
        problems += _problems_of_manifest()
    if options.name and absent:
        problems += [f"{name} has no copy here. Get it: zoo fetch {name}" for name in absent]
    if options.public_key:
        problems += _problems_of_signatures(names, own, copies, options)
    if options.accuracy and not problems:
        here = [name for name in names if name not in absent]
        from ..evaluation.measure import measure_again

        rows, wrong = measure_again(here, folders, options.cache_dir)
        print(table(rows, ["weight", "data set", "manifest", "measured", ""]))
        problems += wrong
    for problem in problems:
        print(f"zoo: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


def _problems_of_signatures(
    names: list[str], folders: list[str], copies: list["Copy"], options: argparse.Namespace
) -> list[str]:
    """Check the signatures of weights and of folders, and print what is right."""
    from ..publishing.signature import check_copies, check_folder

    problems = []
    for name in names:
        own = [copy for copy in copies if copy.name == name]
        found = check_copies(name, own, options.public_key, options.cache_dir) if own else []
        problems += found
        if own and not found:
            print(f"{name}: signed with {options.public_key}")
    for word in folders:
        count, found = check_folder(own_folder(word), options.public_key)
        problems += found
        print(f"{word}: {count} files signed, {len(found)} {'is' if len(found) == 1 else 'are'} wrong")
    return problems


def _problems_of_manifest() -> list[str]:
    """What is wrong with this copy's manifest: its schema, where jsonschema is installed, and damaged entries."""
    path = manifest_file()
    problems = [*problems_of_entries().values()]
    if importlib.util.find_spec("jsonschema") is None:
        print("The manifest was not checked against its schema: that needs the package jsonschema.", file=sys.stderr)
        return problems
    try:
        check_manifest(json.loads(path.read_text(encoding="utf-8")), path)
    except WeightError as error:
        problems = problems or [str(error)]
    return problems


def _folders(words: list[str]) -> dict[str, str]:
    """Data set to folder; the key "" stands for all others."""
    folders = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if equals and name in DATASETS:
            folders[name] = folder
        else:
            folders[""] = word
    return folders


def _pack(options: argparse.Namespace) -> None:
    from ..weights.packed import is_packed, pack, unpack

    try:
        content = read_file(options.file, 16 << 30)
        if options.unpack != is_packed(content):
            form = "is no packed file" if options.unpack else "is packed already; unpack it with --unpack"
            raise WeightError(f"{options.file}: {form}.")
        result = (unpack if options.unpack else pack)(content, options.file)
        write_atomically(result, Path(options.output))
    except OSError as error:
        raise WeightError(f"{error.filename or options.output}: {error.strerror or error}.") from None
    print(f"{options.output}  {len(content):,} -> {len(result):,} bytes")
