"""``zoo bundle``, ``zoo mirror`` and ``zoo publish``: passing weights on."""

import argparse
import contextlib
import functools
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..files import write_atomically
from ..own_folders import names_folder
from ..weights.manifest import weights


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    signing = argparse.ArgumentParser(add_help=False)
    signing.add_argument(
        "--sign",
        metavar="KEY",
        help="sign each repository's files (model.sig) with this EC private key, a PEM file; zoo verify checks it",
    )
    words = "arch.tag, an architecture for its first weight, or a shell pattern such as 'lrunet*'"
    any_words = f"{words}; or a folder: a run's, or one that save_for_hf wrote"
    bundle = commands.add_parser(
        "bundle", parents=[signing], help="one verified file of weights for a machine without network"
    )
    bundle.add_argument("name", nargs="*", help=any_words)
    bundle.add_argument("-o", "--output", metavar="FILE", help="the bundle to write")
    bundle.add_argument("--install", metavar="FILE", help="install a bundle: all of it, or nothing")
    bundle.add_argument("--to", metavar="DIR", help="install into this folder (for ZOO_HUB and local-dir:)")
    bundle.set_defaults(run=_bundle)
    mirror = commands.add_parser(
        "mirror", parents=[signing], help="a folder, and a server, that are a Hub endpoint (HF_ENDPOINT)"
    )
    mirror.add_argument("folder", metavar="DIR")
    mirror.add_argument("name", nargs="*", help=f"{any_words}; added to the mirror")
    mirror.add_argument("--namespace", default="mirror", help="of weights that are not on the Hub (default: mirror)")
    mirror.add_argument("--serve", action="store_true", help="serve the folder until interrupted")
    mirror.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the whole network")
    mirror.add_argument("--port", type=int, default=8000, help="0 for any free one")
    mirror.set_defaults(run=_mirror)
    publish = commands.add_parser(
        "publish", parents=[signing], help="bring our staged weights to the Hub and enter their commits"
    )
    publish.add_argument("name", nargs="+", help=words)
    publish.add_argument("--namespace", required=True, metavar="ORG", help="user or organisation on the Hub")
    publish.add_argument("--dry-run", action="store_true", help="print what would be done; send and change nothing")
    publish.set_defaults(run=_publish)


def _chosen(words: list[str]) -> list[str]:
    """The weights that words stand for, and the folders among them as they are."""
    from ..weights.chosen import choose

    folders = [word for word in words if names_folder(word)]
    return [*choose(word for word in words if word not in folders), *folders]


def _bundle(options: argparse.Namespace) -> None:
    from ..publishing.bundle import install_bundle, write_bundle

    if options.install:
        if options.name or options.output or options.sign:
            raise ZooError("zoo bundle --install FILE installs all that is in FILE: leave out names, -o and --sign.")
        for found in install_bundle(options.install, options.to):
            use = f'timm.create_model("{found.name}", pretrained=True)'
            if options.to:
                use = f'timm.create_model("local-dir:{found.path.parent}", pretrained=True)'
            print(f"{found.name}  {found.path}\n    import timm, zoo; {use}")
        return
    if not options.name or not options.output or options.to:
        raise ZooError("Write a bundle with zoo bundle NAME ... -o FILE, install one with zoo bundle --install FILE.")
    written = write_bundle(_chosen(options.name), options.output, key=options.sign)
    for name in written:
        print(f"{name}  {'verified' if name in weights() else 'as it is'}")
    to = "" if all(name in weights() for name in written) else " --to DIR"
    print(f"{options.output}: on the other machine, zoo bundle --install FILE{to}")


def _mirror(options: argparse.Namespace) -> None:
    from ..publishing.mirror import read_index, write_mirror
    from ..publishing.mirror_server import MirrorServer

    if options.name:
        made = write_mirror(_chosen(options.name), options.folder, options.namespace, key=options.sign)
        for name, repo in made.items():
            print(f'{name}  timm.create_model("hf-hub:{repo}", pretrained=True)')
    elif not options.serve or options.sign:
        raise ZooError("Name the weights to mirror ('*' for all), or serve what the folder has with --serve.")
    if not options.serve:
        print(f"{options.folder}: serve it with zoo mirror {options.folder} --serve")
        return
    with contextlib.suppress(ValueError):  # not in the first thread; a service that is stopped leaves no pages behind
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="repara-zoo-", ignore_cleanup_errors=True) as folder:
        pages = functools.partial(_write_pages, Path(folder), read_index(Path(options.folder)))
        with MirrorServer(options.folder, options.host, options.port, pages) as server:
            print(f"HF_ENDPOINT={server.url}  (stop with Ctrl-C)", flush=True)
            server.serve_forever()


def _write_pages(folder: Path, repositories: dict[str, Any]) -> Iterator[Path]:
    """Write the pages of a mirror: the gallery of its weights, or a plain list, and the bill of materials.

    The gallery comes at once without the page on which networks run, and whole when their files are made.
    """
    from ..gallery import build
    from ..gallery.try_page import NETWORKS
    from ..publishing.mirror_pages import front_page, mirrored_weights
    from ..weights.bom import bill_of_materials

    names, hint = mirrored_weights(repositories), "None of these is a weight that the manifest knows."
    bill = json.dumps(bill_of_materials(names), indent=2).encode()
    parts, shown = (["first", "whole"] if {*NETWORKS} & {*names} else ["first"] if names else []), False
    try:
        for part in parts:
            build(folder / part, names, try_it=part == "whole")
            write_atomically(bill, folder / part / "weights.cdx.json")
            yield folder / part
            shown = True
    except ZooError as error:
        hint = str(error)
        print(f"zoo: the gallery is not whole: {hint}", file=sys.stderr)
    if not shown:
        write_atomically(front_page(repositories, hint).encode(), folder / "plain" / "index.html")
        write_atomically(bill, folder / "plain" / "weights.cdx.json")
        yield folder / "plain"


def _publish(options: argparse.Namespace) -> None:
    if own := next((word for word in options.name if names_folder(word)), None):
        raise ZooError(
            f"{own}: zoo publish enters what it sends in the manifest, so it takes only what is there. Stage the run "
            "first (zoo stage), or send a network of your own with timm.models.push_to_hf_hub."
        )
    from ..publishing.publish import Published, connect, prepare, publish
    from ..weights.chosen import choose

    names = choose(options.name)
    api = None if options.dry_run else connect()
    repositories = prepare(names, options.namespace, options.dry_run, options.sign)
    if options.dry_run:
        for repository in repositories:
            print(f"{repository.repo}: create the repository if there is none, then one commit of what differs in")
            for file, found in repository.sizes.items():
                print(f"    {file:30} {found['size']:>12,} bytes  sha256 {found['sha256']}")
            print(f"    and enter {repository.repo} with its commit in the manifest as a source of {repository.name}")
        print("Nothing was sent or changed.")
        return

    def report(published: Published) -> None:
        state = "published" if published.changed else "unchanged"
        print(f"{state}  {published.repo}@{published.revision}", flush=True)

    publish(repositories, api, done=report)
    print("The manifest has these commits. Now run: python scripts/update_docs.py")
