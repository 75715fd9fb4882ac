"""``zoo fetch``, ``zoo verify``, ``zoo pack``."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from ..data.catalog import DATASETS
from ..errors import WeightError, ZooError
from ..files import read_file, write_atomically
from ..tables import table
from ..weights.manifest import full_name, warm_starts, weights
from ..weights.manifest import problems as problems_of_entries
from ..weights.manifest_check import check_manifest
from ..weights.paths import hub_problem, manifest_file


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("fetch", help="get a weight, verify its sha256 and print where it lies")
    parser.add_argument(
        "name", nargs="+", help="arch.tag, an architecture for its first weight, or an https:// address"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of the Hub file that a warm start begins with; recorded")
    parser.add_argument("--cache-dir", help="where downloads are kept")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--sha256", metavar="HEX", help="of that file or an address's, from a place you trust; recorded")
    known.add_argument(
        "--trust-first-use", action="store_true", help="accept what an address sends now, and nothing else ever after"
    )
    parser.set_defaults(run=_fetch)
    parser = commands.add_parser("verify", help="check every cached or staged weight against the manifest, offline")
    parser.add_argument("name", nargs="*", help="arch.tag or architectures (all)")
    parser.add_argument("--cache-dir", help="where downloads are kept")
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

    for name in options.name:
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

    names = list(dict.fromkeys(map(full_name, options.name))) or list(weights())
    folders = _folders(options.data)
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
    if options.accuracy and not problems:
        here = [name for name in names if name not in absent]
        from ..evaluation.measure import measure_again

        rows, wrong = measure_again(here, folders, options.cache_dir)
        print(table(rows, ["weight", "data set", "manifest", "measured", ""]))
        problems += wrong
    for problem in problems:
        print(f"zoo: {problem}", file=sys.stderr)
    return 1 if problems else 0


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
