"""The command line: ``zoo COMMAND`` or ``python -m zoo COMMAND``.

Results go to standard output; messages and progress go to standard error. An error of the user's, the network's or the
disk's is one line and exit code 1; a wrong command line is exit code 2.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import ZooError, printable
from ..names import architectures
from ..version import __version__


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs, which the documentation and the tests read too."""
    from . import (
        analyze,
        bom,
        completion,
        convert,
        demo,
        deploy,
        evaluate,
        gallery,
        hub,
        language,
        listing,
        recipes,
        train,
        transform,
        weights,
    )

    parser = argparse.ArgumentParser(prog="zoo", description="Parameter-efficient CNNs with verified weights.")
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (
        listing,
        weights,
        hub,
        bom,
        evaluate,
        analyze,
        gallery,
        convert,
        deploy,
        transform,
        recipes,
        train,
        language,
        demo,
        completion,
    ):
        group.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after ``zoo``; by default those of the process.

    Returns:
        Exit code.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is escaped, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        architectures()  # of which every use of the manifest is to know
        code = options.run(options) or 0
        sys.stdout.flush()  # what a pipe or a full disk refuses shows here, and not after the end
        return code
    except ZooError as error:
        return _fail(str(error))
    except KeyboardInterrupt as told:
        return _fail(str(told) or "interrupted", 128 + getattr(told, "signal", signal.SIGINT))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _discard_output()
        return 0
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or error.errno is None:
            raise  # no file: a fault of the zoo, which turns those of a network into a ZooError
        if error.filename is None:  # it was writing to standard output
            _discard_output()
        return _fail(f"{error.filename or 'standard output'}: {error.strerror}.")


def _fail(message: str, code: int = 1) -> int:
    print(f"zoo: {printable(message)}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Let what is still to be written go nowhere, so that Python does not complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):  # standard output may be no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
