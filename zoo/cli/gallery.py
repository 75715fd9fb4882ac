"""``zoo gallery``."""

import argparse

from ..data.catalog import DATASETS
from ..errors import UnknownNameError, ZooError


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("gallery", help="build a site of all weights to look through, offline")
    parser.description = (
        "Build a folder of web pages from the manifest, measured figures, predictions and logs: a table and a plot of "
        "all weights, a page for each, the families, and comparison image by image. No page asks the network for "
        "anything: open index.html from the disk, or put the folder on any web server."
    )
    parser.add_argument(
        "name", nargs="*", help="arch.tag, an architecture for its first weight, or a shell pattern (default: all)"
    )
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder of the site")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder of a data set, for pictures of its test images; repeat it for several (cifar10=DIR)",
    )
    parser.set_defaults(run=_gallery)


def _gallery(options: argparse.Namespace) -> None:
    from ..gallery import build

    facts = build(options.output, options.name, data=_folders(options.data), progress=True)
    print(f"{options.output}/index.html  {len(facts['weights'])} weights; open it in a browser")


def _folders(words: list[str]) -> dict[str, str]:
    """Data set to folder."""
    folders: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (equals and folder):
            raise ZooError(f"--data {word}: write NAME=DIR, such as cifar10={word or 'DIR'}.")
        if name not in DATASETS:
            raise UnknownNameError(f"--data {word}: no data set is called {name!r}; there are {', '.join(DATASETS)}.")
        if name in folders:
            raise ZooError(f"--data names {name} twice: give one folder of it.")
        folders[name] = folder
    return folders
