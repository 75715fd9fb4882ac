"""Where the command ``zoo`` begins.

It begins outside the package ``zoo``, since ``import zoo`` registers every architecture with timm: that needs torch,
which takes seconds to import, and lists, facts and help pages do not. In a process that says so here, ``zoo`` imports
its parts when they are used.
"""

running = False
"""Whether this process is the command."""


def main() -> int:
    """Run the command of this process's arguments and return its exit code."""
    global running
    running = True
    from zoo.cli import main

    return main()
