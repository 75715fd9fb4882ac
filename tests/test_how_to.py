"""What newcomers follow: docs/add_a_family.md, file by file in a copy and out again, and the tour of the commands."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from children import after_import
from conftest import ROOT
from zoo.cli.demo import SAMPLE

PAGE = (ROOT / "docs" / "add_a_family.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
SMALLEST, PAPER = (
    re.search(rf"```{kind}\n(    \"zero_sum\".*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "json")
)
TRAIN, STAGE, *AFTER = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].strip().splitlines()
COUNT = 200  # images
NAME = "zero_sum_wrn_16_1.zoo_fmnist"
CHECKS = "covered or test_zero_sum and (counted or kernels or collapses)"
RUN = """
import runpy, shlex, sys, zoo_command
zoo_command.running = LIGHT  # so that a command imports what it needs
from zoo.cli import main
for line in LINES:
    command, *words = shlex.split(line.replace("DIR", "data"))
    print(">", line, flush=True)
    if command == "zoo":
        print("exit code", main(words), flush=True)
    elif words[0] == "-m":
        import pytest
        print("exit code", int(pytest.main(words[2:])), flush=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
"""
LOAD = f"""
import timm, torch, zoo
print(timm.create_model({NAME!r}, pretrained=True)(torch.ones(1, 1, 28, 28)))
"""


def lines(*commands, light=False):
    """A process that runs these commands."""
    return RUN.replace("LINES", repr(commands)).replace("LIGHT", str(light))


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository, with a few images as its data set."""
    home = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "golden", "checkpoints", "benchmarks")
    shutil.copytree(ROOT, home, ignore=ignored, symlinks=True)
    (home / "data").mkdir()
    for path in SAMPLE.glob("*.gz"):
        content, start, size = gzip.decompress(path.read_bytes()), *((16, 784) if "images" in path.name else (8, 1))
        content = content[:4] + COUNT.to_bytes(4, "big") + content[8 : start + COUNT * size]
        for name in (path.stem, path.stem.replace("t10k", "train")):
            (home / "data" / name).write_bytes(content)
    return home


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_page_leads_to_a_weight_and_back(copy, tmp_path):
    """Processes are forked from one that has imported torch, which takes seconds."""
    home = copy
    for name, content in FILES.items():
        assert not (home / name).exists()
        (home / name).write_text(content)
    assert len(FILES) == 4
    replace(home / "tests" / "test_reparam.py", "SMALLEST = {\n", "SMALLEST = {\n" + SMALLEST)
    replace(home / "weights_manifest.json", '"papers": {\n', '"papers": {\n' + PAPER)
    replace(home / "zoo" / "recipes" / "zero_sum_fmnist.yaml", "epochs: 12", "epochs: 1")

    tests = f"python -m pytest -q -p no:cacheprovider tests/test_zero_sum.py tests/test_reparam.py -k '{CHECKS}'"
    remove = f"import pathlib\nfor name in {[*FILES]}: pathlib.Path(name).unlink()\n"
    codes = [
        lines(tests, TRAIN, STAGE),
        lines(*AFTER),
        LOAD,
        lines(f"zoo verify {NAME}", "zoo list 'zero*' --pretrained", light=True),
        remove + lines("zoo verify", "zoo list 'symm_wrn_16_1*' --pretrained", "zoo info symm_wrn_16_1", light=True),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_")}
    environment |= {"PYTHONPATH": str(home), "ZOO_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    made, *used, without = after_import("import torch, torchvision, timm", codes, cwd=home, env=environment)
    assert made[0].count("exit code 0") == 3, made[0]
    assert [said.count("exit code 0") for said, _ in used] == [1, 0, 2], used
    assert "tensor(" in used[1][0]
    assert NAME in (home / "docs" / "weights.md").read_text()
    assert all(code == 0 for _, code in (made, *used, without)), used

    said = without[0]
    assert said.count("exit code 1") == 1, said
    assert said.count("exit code 0") == 2, said
    problem = [line for line in said.splitlines() if "zero_sum" in line]
    assert len(set(problem)) == 1, said
    assert f"the entry of {NAME} is damaged: no family here has a network zero_sum_wrn_16_1" in problem[0]

    shutil.rmtree(home / "hub" / NAME)
    content = json.loads((home / "weights_manifest.json").read_text())
    del content["weights"][NAME], content["papers"]["zero_sum"]
    (home / "weights_manifest.json").write_text(json.dumps(content, indent=2) + "\n")
    assert content == json.loads((ROOT / "weights_manifest.json").read_text())


@pytest.mark.slow
def test_the_tour_comes_to_its_end(tmp_path):
    """One's own run stopped, gone on with, measured, used, exported and passed on, in the order of the README."""
    run = subprocess.run(
        [sys.executable, ROOT / "scripts/tour.py", tmp_path / "tour"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    said = run.stdout
    for line in ("stopped by --budget: 0 of 2 epochs", "finished: 2 of 2 epochs", "0 wrong"):
        assert line in said, line
    figures = re.findall(r"fashion-mnist +([\d.]+) +[\d.]+ +1000 ", said)
    assert len(figures) == 3 and len(set(figures)) == 1, "the run, its checkpoint and its export are one network"
