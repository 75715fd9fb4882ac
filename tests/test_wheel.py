"""The built wheel works away from the checkout: manifest, sample and embedded weight travel in it."""

import json
import subprocess
import sys
import zipfile

import pytest

from conftest import ROOT
from zoo.weights.manifest import source, weights

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 3 << 20
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_there(installed, code):
    """Run code with the wheel's content and not the checkout on the path, the network closed."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r}); import socket; socket.socket.connect = None\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + code], cwd=installed, capture_output=True, text=True, timeout=180
    )


def test_embedded_weights_are_those_the_manifest_says(installed):
    embedded = {name for name, e in weights().items() if (source(e, "staged") or {}).get("embedded")}
    assert {path.name for path in (installed / "zoo" / "hub").iterdir()} == embedded


def test_demo_from_the_wheel_and_what_is_not_in_it_is_not_called_pretrained(installed, tmp_path):
    code = (
        "import json, timm, zoo, zoo.cli\n"
        "try:\n    zoo.create_model('lrunet10_100.zoo_fmnist', pretrained=True)\n"
        "except zoo.WeightError as error:\n    message = str(error)\n"
        "print(json.dumps([zoo.__file__, timm.list_pretrained('lrunet*'), message]))\n"
        f"sys.exit(zoo.cli.main(['demo', '--output', {str(tmp_path)!r}]))"
    )
    run = run_there(installed, code)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "predictions.png").exists()
    file, names, message = json.loads(run.stdout.splitlines()[0])
    assert file.startswith(str(installed))
    assert "lrunet1_100.zoo_fmnist" in names
    assert "lrunet10_100.zoo_fmnist" not in names
    assert "model.safetensors" in message
    assert "\n" not in message


def test_the_command_answers_from_the_wheel_without_torch(installed):
    code = (
        "import zoo_command\n"
        "sys.argv = ['zoo', 'info', 'lrunet10_100']\n"
        "code = zoo_command.main()\n"
        "print(code, 'torch' in sys.modules)"
    )
    run = run_there(installed, code)
    assert run.returncode == 0, run.stderr
    assert "25,503,744" in run.stdout and run.stdout.endswith("0 False\n")
