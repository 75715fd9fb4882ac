"""How long commands that need no torch take over importing torch, and ``import zoo`` over ``import timm``.

    python benchmarks/starting.py [--repeat 5]

Each is a fresh process; the two are measured in turn. Times belong to a machine, so ratios are printed: the median of
the repetitions with the smallest and the largest.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from zoo.tables import table

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("list", "list --pretrained --sort top1", "info lrunet10_100", "recipes", "--help", "train --help")


def seconds(code: str) -> float:
    """How long a fresh Python takes for some code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def command(words: str) -> str:
    """Code that runs ``zoo`` with some words."""
    return f"import sys, zoo_command; sys.argv = ['zoo', *{words.split()!r}]; zoo_command.main()"


def ratios(code: str, over: str, repeat: int) -> list[float]:
    """The time of some code over that of another."""
    return [seconds(code) / seconds(over) for _ in range(repeat)]


def ratio(code: str, over: str, repeat: int) -> str:
    """The same as a cell of the table."""
    found = ratios(code, over, repeat)
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    rows = []
    for words in COMMANDS:
        rows.append([f"zoo {words}", "import torch", ratio(command(words), "import torch", repeat)])
    rows.append(["import zoo", "import timm", ratio("import zoo", "import timm", repeat)])
    print(table(rows, ["this", "over", "median (smallest-largest)"]))


if __name__ == "__main__":
    main()
