"""What needs no torch starts without it, and says the same: lists, facts, help pages, completion."""

import json
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from zoo import counted
from zoo.cli import main
from zoo.names import describe_entry, list_models
from zoo.overview import built_costs, model_costs, model_overview
from zoo.registry import create_model
from zoo.weights.manifest import manifest_file, weights

LIGHT = [
    ["list"],
    ["list", "--pretrained", "--json"],
    ["list", "--sort", "macs", "--max-params", "1M"],
    ["info", "lrunet10_100"],
    ["info", "sparse_wrn_16_1.zoo_dsr_s90_c10", "--json"],
    ["recipes", "swrn*"],
    ["completion", "bash"],
    ["--version"],
    ["--help"],
    ["train", "--help"],
    ["validate", "--help"],
    ["lsit"],
    ["info", "lrunet3_100"],
]


def said(words, capsys):
    """Exit code and standard output of a command in this process."""
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    return [code, capsys.readouterr().out]


def test_light_verbs_need_no_torch_and_say_the_same(capsys):
    code = f"""
import contextlib, io, json, sys, zoo_command
found = []
for words in {LIGHT!r}:
    sys.argv = ["zoo", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            done = zoo_command.main()
        except SystemExit as end:
            done = end.code
    found.append([done, out.getvalue()])
heavy = [name for name in ("torch", "timm", "torchvision", "huggingface_hub") if name in sys.modules]
print(json.dumps([heavy, found]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    heavy, found = json.loads(run.stdout)
    assert heavy == []
    for words, there in zip(LIGHT, found, strict=True):
        assert there == said(words, capsys), words


def test_the_module_is_the_command_too():
    """As is seen from what Python imports for it; any other process that imports zoo has all of it."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "zoo", "list", "lrunet1_*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and "lrunet1_100" in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "zoo.cli.listing" in imported and not imported & {"torch", "timm", "zoo.models"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_verbs_options_and_names(shell, capsys):
    code, script = said(["completion", shell], capsys)
    assert code == 0
    for word in ("validate", "--max-params", "lrunet10_100.zoo_fmnist", "lrunet1_fmnist", "torch-export"):
        assert word in script, word
    if shell == "bash" and shutil.which("bash"):
        ask = 'COMP_WORDS=(zoo {}); COMP_CWORD={}; _zoo; echo "${{COMPREPLY[@]}}"'
        lines = [script, ask.format("val", 1), ask.format("info lrunet10_100.z", 2), ask.format("list --max", 2)]
        run = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
        assert run.stdout.split("\n")[:3] == ["validate", "lrunet10_100.zoo_fmnist", "--max-params"], run.stderr


@pytest.mark.parametrize(
    "name",
    ["swrn_16_1_2", "symm_wrn_16_1", "sparse_wrn_16_1.zoo_dsr_s90_c10", "lrunet1_100.zoo_fmnist"],
)
def test_counts_are_those_of_the_network(name):
    assert model_costs(name) == built_costs(name), "run python scripts/count_networks.py --all"
    assert model_overview(name)["params"] == sum(p.numel() for p in create_model(name).parameters())
    assert describe_entry(name) == getattr(sys.modules[f"zoo.models.{_home(name)}"], name.split(".")[0]).__doc__


def _home(name):
    content = json.loads(counted.FILE.read_text())["modules"]
    return next(module for module, facts in content.items() if name.split(".")[0] in facts["networks"])


def test_everything_is_counted():
    how = "run python scripts/count_networks.py"
    assert sorted(counted.families()) == list_models(), how
    if manifest_file().parent == ROOT:
        assert all(counted.weight_costs(name, entry) for name, entry in weights().items()), how


def test_counts_of_another_source_are_not_used(tmp_path, monkeypatch):
    """A module that was changed: its networks are built. One more module: the networks are asked for their names."""
    shutil.copytree(counted._MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models" / "lrunet.py").open("a").write("# changed\n")
    monkeypatch.setattr(counted, "_MODELS", tmp_path / "models")
    for remembered in (counted.source_digests, counted._networks):
        remembered.cache_clear()
    try:
        assert counted.network("lrunet1_100") is None and counted.network("swrn_16_1_2")
        assert counted.weight_costs("lrunet1_100.zoo_fmnist", weights()["lrunet1_100.zoo_fmnist"]) is None
        assert counted.families() == {}
        shutil.copy(ROOT / "zoo" / "models" / "lrunet.py", tmp_path / "models" / "lrunet.py")
        (tmp_path / "models" / "zero_sum.py").write_text("")
        counted.source_digests.cache_clear()
        assert counted.families() == {}
    finally:
        for remembered in (counted.source_digests, counted._networks):
            remembered.cache_clear()
    changed = {**weights()["lrunet1_100.zoo_fmnist"], "num_classes": 11}
    assert counted.weight_costs("lrunet1_100.zoo_fmnist", changed) is None


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        (["--family", "sharing"], lambda row: row["family"] == "sharing"),
        (["--max-params", "200k"], lambda row: row["params"] <= 200_000),
        (["--max-params", "0.5M", "sw*"], lambda row: row["params"] <= 500_000 and row["name"].startswith("sw")),
        (["--dataset", "cifar10"], lambda row: row.get("dataset") == "cifar10"),
        (["--min-top1", "90"], lambda row: (row.get("top1") or 0) >= 90),
        (["--dataset", "fmnist", "--min-top1", "92", "--family", "lrunet"], lambda row: row["dataset"][0] == "f"),
    ],
)
def test_filters_keep_what_they_say_and_nothing_else(words, holds, capsys):
    code, out = said(["list", *words, "--json"], capsys)
    rows = json.loads(out)
    assert code == 0 and rows and all(map(holds, rows))
    everything = ["list", "--json", *(["--pretrained"] if "dataset" in rows[0] else [])]
    wanted = {"--min-top1": 92, "--dataset": "fashion-mnist"} if len(words) > 4 else {}
    kept = [row for row in json.loads(said(everything, capsys)[1]) if holds(row)]
    if wanted:
        kept = [row for row in kept if (row["top1"] or 0) >= 92 and row["family"] == "lrunet"]
    assert rows == kept


@pytest.mark.parametrize(
    ("key", "field", "sign"), [("params", "params", 1), ("top1", "top1", -1), ("bytes", "size", 1), ("name", "name", 1)]
)
def test_sorts(key, field, sign, capsys):
    rows = json.loads(said(["list", "--pretrained", "--json", "--sort", key], capsys)[1])
    assert len(rows) == len(weights())
    values = [row[field] for row in rows if row[field] is not None]
    assert values == sorted(values, reverse=sign < 0)
    assert all(row[field] is not None for row in rows[: len(values)]), "what is not known comes last"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--sort", "size"], ["params", "top1", "bytes"]),
        (["--family", "resnet"], ["lrunet", "paradise", "symmetry"]),
        (["--dataset", "svhn"], ["cifar10", "imagenet"]),
        (["--max-params", "few"], ["500k", "1.5M"]),
        (["--min-top1", "-1"], ["90.5"]),
    ],
)
def test_a_word_that_is_unknown_is_one_line_with_those_that_are(words, names, capsys):
    try:
        code = main(["list", *words])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert code in (1, 2) and printed.out == ""
    assert all(name in printed.err for name in names) or code == 2
    assert code == 2 or len(printed.err.splitlines()) == 1
