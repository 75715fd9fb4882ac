"""Publishing, with the real client, to a Hub on this machine's own address; and loading back what was published."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys

import jsonschema
import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import zoo
from conftest import ROOT
from loopback import running
from loopback_hub import WritableHub
from zoo.cli import main
from zoo.publishing.publish import prepare, publish
from zoo.publishing.repository import size_and_sha256
from zoo.weights.card import model_card
from zoo.weights.manifest import manifest, source, weights

FIRST, SECOND = "lrunet10_100.zoo_fmnist", "lrunet1_100.zoo_fmnist"
TRIAL = "sparse_mlp_300_100.trial_fmnist"
SCHEMA = json.loads((ROOT / "zoo" / "weights" / "manifest.schema.json").read_text())


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # that store has no double here
    with running(WritableHub()) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # old clients take addresses apart by it
        yield server


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """Two staged weights and a manifest, as copies that a test may change."""
    changed = copy.deepcopy(manifest())
    for name in (FIRST, SECOND):
        shutil.copytree(ROOT / "hub" / name, tmp_path / "hub" / name)
        changed["weights"][name]["sources"] = [s for s in changed["weights"][name]["sources"] if s["kind"] != "hub"]
    changed["hub"] = {"namespace": None}
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    monkeypatch.setattr("zoo.weights.manifest.manifest", lambda: changed)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(changed, indent=2) + "\n")
    return path


def go(hub, path, names=(FIRST, SECOND), token="hf_right", namespace="org", **options):
    api = HfApi(endpoint=hub.url, token=token)
    return publish(prepare(names, namespace), api, path, **options)


def hub_sources(path):
    content = json.loads(path.read_text())
    jsonschema.validate(content, SCHEMA)
    return {name: source(entry, "hub") for name, entry in content["weights"].items() if source(entry, "hub")}


# ---- what is published ----


def test_a_second_run_uploads_nothing_and_makes_no_commit(hub, staged):
    first = go(hub, staged)
    assert [p.changed for p in first] == [True, True]
    assert {p.repo: p.revision for p in first} == {r: hub.repositories[r].main for r in hub.repositories}
    text, uploads, commits = staged.read_text(), hub.uploads, {r: len(x.commits) for r, x in hub.repositories.items()}
    assert uploads == 6, "two weights, their collapsed forms and curves"
    assert hub_sources(staged) == {
        p.name: {"kind": "hub", "repo": p.repo, "revision": p.revision, "file": "model.safetensors"} for p in first
    }
    assert json.loads(text)["hub"] == {"namespace": "org"}
    second = go(hub, staged)
    assert [(p.revision, p.changed) for p in second] == [(p.revision, False) for p in first]
    assert (hub.uploads, staged.read_text()) == (uploads, text)
    assert {r: len(x.commits) for r, x in hub.repositories.items()} == commits
    assert hub.routes.count("commit") == 2


def test_only_what_changed_is_committed(hub, staged):
    go(hub, staged)
    (staged.parent / "hub" / FIRST / "training_log.jsonl").write_text('{"epoch": 1}\n')
    again = go(hub, staged)
    assert [p.changed for p in again] == [True, False]
    assert hub.uploads == 6
    assert hub_sources(staged)[FIRST]["revision"] == again[0].revision


def test_the_repository_has_card_licence_recipe_and_curve(hub, staged):
    published = go(hub, staged, [SECOND])[0]
    files = hub.repositories[published.repo].commits[published.revision]
    assert {"config.json", "model.safetensors", "README.md", "LICENSE", "recipe.json", "curve.png"} <= files.keys()
    assert hashlib.sha256(files["model.safetensors"]).hexdigest() == weights()[SECOND]["sha256"]
    assert files["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == SECOND
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    measured = weights()[SECOND]["results"][0]
    assert figures == {"top-1": measured["top1"], "top-5": measured["top5"]}
    assert f'timm.create_model("hf-hub:org/{SECOND}", pretrained=True)' in card.text
    assert "arxiv.org/abs/1901.09615" in card.text
    assert "zoo train lrunet1_fmnist" in card.text


def test_nothing_says_so_before_it_is_published():
    for name, entry in weights().items():
        if source(entry, "hub") is None:
            assert "hf-hub:" not in model_card(name, entry)
    for path in (ROOT / "hub").glob("*/README.md"):
        assert source(weights()[path.parent.name], "hub") or "hf-hub:" not in path.read_text()


def test_a_dry_run_makes_no_request_and_changes_nothing(hub, staged, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    before = {path: path.read_bytes() for path in staged.parent.rglob("*") if path.is_file()}
    assert main(["publish", FIRST, SECOND, "--namespace", "org", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for name in (FIRST, SECOND):
        assert f"org/{name}: create the repository if there is none" in printed
        assert f"{weights()[name]['size']:,} bytes  sha256 {weights()[name]['sha256']}" in printed
    assert "README.md" in printed
    assert printed.endswith("Nothing was sent or changed.\n")
    assert {path: path.read_bytes() for path in staged.parent.rglob("*") if path.is_file()} == before
    assert hub.requests == []


# ---- what goes wrong on the way ----


@pytest.mark.parametrize(
    ("trouble", "token", "namespace", "expected"),
    [
        ({}, "hf_wrong", "org", "does not accept the token (401). Make a new one"),
        ({}, "hf_right", "other", "the token may not write to other (403)"),
        ({"create": [500]}, "hf_right", "org", "the Hub failed (500). Run the same command again"),
        ({"lfs-batch": [403]}, "hf_right", "org", "may not write to org (403)"),
        ({"lfs-upload": [403]}, "hf_right", "org", "may not write to org (403)"),
        ({"commit": [500]}, "hf_right", "org", "the Hub failed (500)"),
        ({"commit": ["drop"]}, "hf_right", "org", "Run the same command again"),
        ({"commit": ["lost"]}, "hf_right", "org", "Run the same command again"),
        ({"paths-info": [404]}, "hf_right", "org", "Run the same command again"),
    ],
)
def test_a_failure_is_one_line_and_the_next_run_goes_on(hub, staged, trouble, token, namespace, expected):
    before, hub.trouble = staged.read_bytes(), copy.deepcopy(trouble)
    with pytest.raises(zoo.ZooError) as caught:
        go(hub, staged, [SECOND], token, namespace)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Nothing was published in this run" in str(caught.value)
    assert staged.read_bytes() == before
    sent = hub.uploads
    hub.token, hub.members, hub.trouble = "hf_right", ("org",), {}
    published = go(hub, staged, [SECOND])[0]
    assert hub_sources(staged)[SECOND]["revision"] == published.revision == hub.repositories[published.repo].main
    assert hub.uploads == 3, "what had arrived was not sent again"
    assert "commit" not in trouble or sent == 3
    assert len(hub.repositories[published.repo].commits) == 2, "the empty one that creates it, and ours"


def test_a_busy_hub_is_asked_again(hub, staged):
    hub.trouble = {"lfs-upload": [503]}
    assert go(hub, staged, [SECOND])[0].changed


def test_bytes_that_arrived_damaged_are_not_called_published(hub, staged):
    before, hub.damage = staged.read_bytes(), lambda content: content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(zoo.ZooError, match="does not hold what was sent"):
        go(hub, staged, [SECOND])
    assert staged.read_bytes() == before


def test_stopped_between_two_repositories(hub, staged):
    def stop(published):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(hub, staged, done=stop)
    assert list(hub_sources(staged)) == [FIRST]
    assert list(hub.repositories) == [f"org/{FIRST}"]
    assert [p.changed for p in go(hub, staged)] == [False, True]
    assert sorted(hub_sources(staged)) == [FIRST, SECOND]


def test_a_manifest_that_cannot_be_written_stays_whole(hub, staged, monkeypatch):
    before = staged.read_bytes()

    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.weights.manifest_change.write_atomically", full)
    with pytest.raises(zoo.ZooError, match=r"is on the Hub at [0-9a-f]{40}, but that could not be entered"):
        go(hub, staged, [SECOND])
    assert staged.read_bytes() == before
    monkeypatch.undo()


def test_others_may_write_to_the_manifest_meanwhile(hub, staged):
    """The manifest is read anew for each entry: what was written during the upload is kept."""

    def somebody(published):
        content = json.loads(staged.read_text())
        content["hub"]["note"] = "written by somebody else"
        content["weights"].pop("lru_mobilenet_025.okankop_c10", None)
        staged.write_text(json.dumps(content))

    go(hub, staged, done=somebody)
    assert "lru_mobilenet_025.okankop_c10" not in json.loads(staged.read_text())["weights"]
    assert sorted(hub_sources(staged)) == [FIRST, SECOND]


# ---- what is refused before anything is sent ----


def test_without_a_token(hub, staged, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(zoo.ZooError, match="no Hub token: set HF_TOKEN"):
        publish(prepare([SECOND], "org"), None, staged)
    assert main(["publish", SECOND, "--namespace", "org"]) == 1
    assert "no Hub token: set HF_TOKEN" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"origin": "okankop", "origin_url": "https://example.org"}, "is not ours to publish"),
        ({"licence": "proprietary"}, "its licence is proprietary"),
        ({"licence": None}, "it has no licence"),
        ({"results": []}, "has not been measured"),
        ({"sha256": "0" * 64}, "sha256 mismatch"),
        ({"collapsed": {"path": "x", "sha256": "0" * 64, "size": 1, "dtype": "float32"}}, "sha256 mismatch"),
    ],
)
def test_what_is_not_published(staged, change, expected):
    zoo.weights.manifest.manifest()["weights"][SECOND].update(change)
    with pytest.raises(zoo.ZooError, match=expected):
        prepare([FIRST, SECOND], "org")


def test_a_collapsed_form_that_the_manifest_has_must_be_there(staged):
    (staged.parent / "hub" / SECOND / "model.collapsed.safetensors").unlink()
    with pytest.raises(zoo.ZooError, match=r"the manifest has a collapsed form, and .* lacks it"):
        prepare([FIRST, SECOND], "org")


def test_names_and_namespaces(staged, capsys, monkeypatch):
    with pytest.raises(zoo.ZooError, match="cannot be a namespace"):
        prepare([FIRST], "org/name")
    shutil.rmtree(staged.parent / "hub" / SECOND)
    with pytest.raises(zoo.ZooError, match="is not staged"):
        prepare([FIRST, SECOND], "org")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_right")
    assert main(["publish", "lrunet1_100.okankop_fmnist", "--namespace", "org", "--dry-run"]) == 1
    assert "is not ours to publish: it is okankop's" in capsys.readouterr().err
    assert main(["publish", "pd_a_resnet18", "--namespace", "org"]) == 1
    assert "its authors' release has no licence" in capsys.readouterr().err


# ---- with nothing shared: fresh processes, a weight whose collapsed form is made on the way ----


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with one more weight, a sparse one without a collapsed form."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "zoo", folder / "zoo", ignore=ignore)
    shutil.copytree(ROOT / "hub" / SECOND, folder / "hub" / SECOND)
    torch.manual_seed(0)
    cfg = {"tag": "trial_fmnist", "num_classes": 10, "input_size": (1, 28, 28), "mean": (0.286,), "std": (0.353,)}
    trial = zoo.create_model(TRIAL.split(".")[0], pretrained_cfg_overlay=cfg, num_classes=10, in_chans=1)
    import timm

    timm.models.save_for_hf(trial, str(folder / "hub" / TRIAL), safe_serialization=True)
    content = copy.deepcopy(manifest())
    found = size_and_sha256(folder / "hub" / TRIAL / "model.safetensors")
    entry = copy.deepcopy(content["weights"][SECOND])
    entry |= {**found, "family": "sparse", "recipe": None, "training_log": None, "paper_result": None}
    del entry["collapsed"]
    entry["sources"] = [{"kind": "staged", "path": f"{TRIAL}/model.safetensors", "embedded": False}]
    content["weights"] = {SECOND: content["weights"][SECOND], TRIAL: entry}
    (folder / "weights_manifest.json").write_text(json.dumps(content, indent=2) + "\n")
    return folder


def fresh(folder, hub, code, expected=0):
    """Run code in a new process that has only the copy and the loopback Hub."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_"))}
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_right", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf")}
    env |= {"ZOO_CACHE": str(folder / "cache"), "PYTHONPATH": str(folder), "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=folder, env=known | env, capture_output=True, text=True, timeout=300)
    assert run.returncode == expected, run.stderr
    return run.stdout


def test_killed_gone_on_with_and_loaded_back_by_fresh_processes(checkout, hub):
    killed = (
        "import os\nfrom zoo.publishing.publish import prepare, publish\n"
        f"publish(prepare([{SECOND!r}, {TRIAL!r}], 'org'), done=lambda published: os._exit(7))"
    )
    fresh(checkout, hub, killed, expected=7)
    assert list(hub.repositories) == [f"org/{SECOND}"]
    assert list(hub_sources(checkout / "weights_manifest.json")) == [SECOND]
    uploads = hub.uploads

    shutil.move(checkout / "hub" / SECOND, checkout / "set_aside")
    code = (
        "import json, os, shutil, timm, torch, zoo, zoo.cli\n"
        "from zoo.weights.fetch import fetch\n"
        f"name, pinned = {SECOND!r}, 'hf-hub:org/{SECOND}@{hub.repositories[f'org/{SECOND}'].main}'\n"
        "models = [timm.create_model(n, pretrained=True).eval() for n in (pinned, name, 'hf-hub:org/' + name)]\n"
        "x = torch.zeros(1, 1, 28, 28)\n"
        "scores = [m(x) for m in models]\n"
        "assert all(torch.equal(scores[0], s) for s in scores)\n"
        "found = fetch(name)\n"
        f"shutil.move('set_aside', 'hub/{SECOND}')\n"
        f"assert zoo.cli.main(['publish', name, {TRIAL!r}, '--namespace', 'org']) == 0\n"
        f"own = timm.create_model('hf-hub:org/{TRIAL}', pretrained=True).eval()\n"
        "print(json.dumps([found.kind, found.sha256, scores[0].tolist(), own(x).shape[1]]))\n"
    )
    printed = fresh(checkout, hub, code).splitlines()
    kind, sha256, scores, classes = json.loads(printed[-1])
    assert (kind in ("hub", "cache"), sha256, classes) == (True, weights()[SECOND]["sha256"], 10)
    expected = zoo.create_model(SECOND, pretrained=True).eval()(torch.zeros(1, 1, 28, 28))
    torch.testing.assert_close(torch.tensor(scores), expected)

    revisions = {repo: repository.main for repo, repository in hub.repositories.items()}
    assert printed[:2] == [
        f"unchanged  org/{SECOND}@{revisions[f'org/{SECOND}']}",
        f"published  org/{TRIAL}@{revisions[f'org/{TRIAL}']}",
    ]
    sources = hub_sources(checkout / "weights_manifest.json")
    assert {s["repo"]: s["revision"] for s in sources.values()} == revisions
    assert hub.uploads == uploads + 2, "the second weight and its collapsed form"
    files = hub.repositories[f"org/{TRIAL}"].commits[revisions[f"org/{TRIAL}"]]
    record = json.loads(files["equivalence.json"])
    assert record["differences"][0]["max_absolute"] < 1e-9
    assert "model.collapsed.safetensors" in files["README.md"].decode()
    made = checkout / "hub" / TRIAL / "model.collapsed.safetensors"
    assert made.read_bytes() == files["model.collapsed.safetensors"]
