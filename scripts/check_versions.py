"""Install what is built of this checkout into an empty environment, try the command there, and run the tests.

    python scripts/check_versions.py lowest                  # every dependency at its lower bound in pyproject.toml
    python scripts/check_versions.py newest tests/test_loading.py    # the newest there are; words go to pytest

``lowest`` installs the sdist, ``newest`` the wheel. The command is tried in an empty folder with nothing but the
package and its dependencies; for the tests, which belong to the checkout, the extras are added. About 7 GB in a
temporary folder (``TMPDIR``), which is removed at the end, or in ``--folder``.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    ["--version"],
    ["list", "--pretrained"],
    ["info", "lrunet1_100.zoo_fmnist"],
    ["verify", "lrunet1_100.zoo_fmnist"],
    ["bom", "lrunet1_100.zoo_fmnist", "-o", "weights.cdx.json"],
    ["predict", "lrunet1_100.zoo_fmnist", "image.png"],
)
IMAGE = "from PIL import Image; Image.new('L', (28, 28), 128).save('image.png')"


def dependencies() -> list[str]:
    """The requirements of the package itself, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1])


def lowest(requirements: list[str]) -> list[str]:
    """The lower bound of each requirement as the one version that is allowed."""
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9][0-9.]*)", requirement) for requirement in requirements]
    if wrong := [r for r, match in zip(requirements, found, strict=True) if not match]:
        raise SystemExit(f"pyproject.toml: {wrong[0]}: write it as NAME>=VERSION, so that there is a lowest one.")
    return [f"{match[1]}=={match[2]}" for match in found]


def run(*words: object, folder: Path = ROOT, **variables: str) -> None:
    """Run a command, or end with its exit code."""
    print("+", *words, flush=True)
    known = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_") and key != "PYTHONPATH"}
    if code := subprocess.run([*map(str, words)], cwd=folder, env={**known, **variables}).returncode:
        sys.exit(code)


def main() -> None:
    """Check one end of the range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", choices=("lowest", "newest"))
    parser.add_argument("tests", nargs="*", help="for pytest; by default the whole suite, one process per core")
    parser.add_argument("--folder", metavar="DIR", help="make the environment here, and leave it for the next time")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="repara-zoo-") as temporary:
        folder = Path(options.folder or temporary).resolve()
        run(sys.executable, "-m", "venv", folder / "venv")
        programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        python = programs / "python"
        (folder / "constraints.txt").write_text("\n".join(lowest(dependencies()) if options.end == "lowest" else []))
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt"]
        run(*install, "hatchling")
        target = "sdist" if options.end == "lowest" else "wheel"
        run(python, "-m", "hatchling", "build", "-t", target, "-d", Path(temporary, "dist"))
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "hatchling")
        (built,) = Path(temporary, "dist").iterdir()
        run(*install, built)
        run(python, "-m", "pip", "list", "--format", "freeze")
        empty = Path(temporary, "empty")
        empty.mkdir()
        run(python, "-c", IMAGE, folder=empty)
        for words in COMMANDS:
            run(programs / "zoo", *words, folder=empty, ZOO_CACHE=str(empty / "cache"), HF_HUB_OFFLINE="1")
        run(*install, f"{built}[all,test]")
        tests = [*options.tests, *more] or ["-n", "auto", "--dist", "worksteal"]
        run(python, "-m", "pytest", "-q", *tests, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))


if __name__ == "__main__":
    main()
