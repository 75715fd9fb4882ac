"""The built wheel works away from the checkout: manifest, sample and embedded weight travel in it, and in the sdist."""

import email
import json
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from conftest import ROOT
from zoo.weights.manifest import source, weights

pytest.importorskip("hatchling")


def build(target, source, folder):
    """The one file that hatchling builds of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (file,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    assert wheel.stat().st_size < 6 << 20, "2.2 MiB of it are ONNX Runtime Web, for galleries"
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


def test_the_sdist_is_small_and_gives_the_same_wheel(wheel, tmp_path):
    """To the byte, so that what is installed does not depend on the way it came."""
    sdist = build("sdist", ROOT, tmp_path)
    assert sdist.stat().st_size < 6 << 20
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {"LICENSE", "NOTICE", "README.md", "CITATION.cff", "pyproject.toml"} <= names
    assert {name.split("/")[1] for name in names if name.startswith("hub/")} == {"lrunet1_100.zoo_fmnist"}
    assert not [name for name in names if name.startswith("tests/")]
    again = build("wheel", next((tmp_path / "unpacked").iterdir()), tmp_path)
    assert again.read_bytes() == wheel.read_bytes()


def test_what_the_wheel_says_of_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(archive.read(metadata))
        names = archive.namelist()
    assert found["License-Expression"] == "Apache-2.0"
    assert sorted(found.get_all("License-File")) == ["LICENSE", "NOTICE"]
    assert found["Keywords"] and found.get_all("Classifier")
    assert {"train", "export", "gallery", "sign", "all", "test"} <= {*found.get_all("Provides-Extra")}
    wanted = [word.split("; extra == ") for word in found.get_all("Requires-Dist") if "extra ==" in word]
    others = {word for word, extra in wanted if extra.strip("'\"") not in ("all", "test")}
    assert others == {word for word, extra in wanted if extra.strip("'\"") == "all"}
    assert "zoo/py.typed" in names
    assert not [name for name in names if not re.match(r"zoo/|zoo_command\.py|repara_zoo-", name)]


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
