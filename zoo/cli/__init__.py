"""The command line: ``zoo COMMAND`` or ``python -m zoo COMMAND``.

Results go to standard output; messages and progress go to standard error. An error of the user's, the network's or the
disk's is one line and exit code 1; a wrong command line is exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence

from ..errors import ZooError
from ..version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after ``zoo``; by default those of the process.

    Returns:
        Exit code.
    """
    from ..language import commands as language
    from . import convert, demo, evaluate, hub, listing, recipes, train, weights

    parser = argparse.ArgumentParser(prog="zoo", description="Parameter-efficient CNNs with verified weights.")
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (listing, weights, hub, evaluate, convert, recipes, train, language, demo):
        group.add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except ZooError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("zoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0
