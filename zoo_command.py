"""Where the command ``zoo`` begins.

It begins outside the package ``zoo``, since ``import zoo`` registers every architecture with timm: that needs torch,
which takes seconds to import, and lists, facts and help pages do not. In a process that says so here, ``zoo`` imports
its parts when they are used.
"""

import importlib
import sys

running = False
"""Whether this process is the command."""


def main() -> int:
    """Run the command of this process's arguments and return its exit code."""
    global running
    running = True
    from zoo.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(importlib.import_module("zoo_command").main())  # the module that zoo looks at, not this second one
