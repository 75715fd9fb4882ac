"""Families, manifests and kinds of another installed package, as docs/add_a_family.md has it, and of broken ones."""

import json
import re

import pytest
from safetensors.torch import save_file

from children import after_import
from conftest import ROOT
from zoo.models._wide_resnet import WideResNet
from zoo.weights.manifest import manifest
from zoo.weights.verify import sha256_of

SECTION = (ROOT / "docs" / "add_a_family.md").read_text().partition("## From a package of your own")[2]
NAME = "lab_wrn_10_1.lab_c10"


def install(folder, package, entry_points):
    """What pip leaves of a package: its metadata with the entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    lab = folder / "labzoo"
    (lab / "hub" / NAME).mkdir(parents=True)
    (lab / "__init__.py").write_text("")
    for code in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL):
        (folder / re.match(r'"""(\S+):', code)[1]).write_text(code)
    toml = re.search(r"```toml\n(.*?)```", SECTION, re.DOTALL)[1]
    install(folder, "labzoo", re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", toml).replace('"', ""))
    file = lab / "hub" / NAME / "model.safetensors"
    save_file(WideResNet(depth=10, width=1).state_dict(), file)
    like = manifest()["weights"]["wrn_16_1.zoo_c10"]
    drop = ("packed", "predictions", "collapsed", "seeds", "storage", "recipe", "twins", "remark")
    entry = {key: value for key, value in like.items() if key not in drop}
    entry |= {"family": "labzoo", "origin": "our lab", "sha256": sha256_of(file), "size": file.stat().st_size}
    entry |= {"recipe": None, "training_log": None, "description": "ours"}
    entry |= {"sources": [{"kind": "staged", "path": f"{NAME}/model.safetensors", "embedded": False}]}
    content = {
        "weights": {
            NAME: entry,
            "lab_wrn_10_1.bad_c10": {**entry, "sha256": "short"},
            "wrn_16_1.zoo_c10": {**entry, "family": "sharing"},
        },
        "papers": {"labzoo": {"title": "Ours", "arxiv": "1901.00001"}},
    }
    (lab / "weights_manifest.json").write_text(json.dumps(content))
    return folder


def test_another_packages_networks_weights_and_kinds(site):
    start = f"import sys; sys.path[:0] = [{str(site)!r}, {str(ROOT)!r}]\n"
    command = f"{start}sys.argv = ['zoo', *WORDS]\nimport zoo_command\nsys.exit(zoo_command.main())"
    use = f"""{start}
import timm, torch, zoo
from safetensors.torch import load_file
from zoo.weights.manifest import facts
model = zoo.create_model({NAME!r}, pretrained=True).eval()
file = {str(site / "labzoo" / "hub" / NAME / "model.safetensors")!r}
assert all(torch.equal(value, model.state_dict()[key]) for key, value in load_file(file).items())
assert timm.models.is_model_pretrained({NAME!r}) and zoo.create_model("wrn_16_1", pretrained=True) is not None
assert zoo.describe_entry("lab_wrn_10_1") == "WRN-10-1 of our lab." and facts("wrn_16_1.zoo_c10")["origin"] == "zoo"
twin = zoo.transform(model, "mirror")
kernel = next(m.weight for m in twin.modules() if hasattr(m, "parametrizations"))
assert torch.equal(kernel, kernel.flip(-1)) and type(zoo.reparameterize(twin)) is type(model)
with open(file, "r+b") as damaged:
    damaged.seek(-3, 2)
    damaged.write(b"U")
try:
    zoo.create_model({NAME!r}, pretrained=True)
except zoo.HashMismatchError as error:
    print(str(error).count(chr(10)), "differs")
"""
    words = (
        ["list", "lab*", "--pretrained"],
        ["list", "lab*"],
        ["info", NAME],
        ["transform", NAME, "mirror", "--plan"],
    )
    carried = f"""{start}
from zoo.cli import main
assert main(["bundle", {NAME!r}, "-o", {str(site / "lab.zoo")!r}]) == 0
assert main(["bundle", "--install", {str(site / "lab.zoo")!r}, "--to", {str(site / "there")!r}]) == 0
import timm
timm.create_model({f"local-dir:{site / 'there' / NAME}"!r}, pretrained=True)
"""
    codes = [*(command.replace("WORDS", repr(w)) for w in words), carried]
    said = after_import("import timm, torch", [*codes, use])
    assert [code for _, code in said] == [0] * 6, said
    for text in (said[0][0], said[1][0]):
        assert "lab_wrn_10_1" in text and "labzoo" in text
    assert NAME in said[0][0] and "our lab" in said[2][0] and "mirrored" in said[3][0]
    problems = [line for line in said[0][0].splitlines() if line.startswith("zoo: ")]
    assert len(problems) == 2 and all(str(site / "labzoo" / "weights_manifest.json") in line for line in problems)
    assert "bad_c10" in problems[0] and "wrn_16_1.zoo_c10" in problems[1]
    assert said[5][0].endswith("0 differs\n")


def test_a_broken_package_is_one_line(tmp_path):
    points = "[zoo.families]\nx = brokenlab.models\n[zoo.manifests]\nx = brokenlab\n[zoo.transforms]\nx = json:loads\n"
    install(tmp_path, "brokenlab", points)
    (tmp_path / "brokenlab").mkdir()
    (tmp_path / "brokenlab" / "__init__.py").write_text("")
    (tmp_path / "brokenlab" / "models.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "brokenlab" / "weights_manifest.json").write_text("[")
    code = f"""import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
import zoo
assert zoo.create_model("lrunet1_100") is not None
try:
    zoo.plan("resnet18", "pd_a")
except zoo.ZooError as error:
    print(error)
"""
    ((said, code),) = after_import("import timm, torch", [code])
    lines = said.splitlines()
    assert code == 0 and len(lines) == 3, said
    assert all("brokenlab" in line and "left out" in line for line in lines[:2]) and "json:loads" in lines[2]
