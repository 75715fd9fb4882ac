"""Writers that meet, are killed or find the disk full: no entry and no weight is lost, and no run is written by two."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

import zoo
from children import in_child, start_child
from conftest import ROOT
from interruption import same
from loopback import running
from loopback_hub import WritableHub
from zoo.cli.demo import SAMPLE
from zoo.locks import alone
from zoo.publishing.publish import prepare, publish
from zoo.training import checkpoint, loop
from zoo.training.interruption import Interrupted
from zoo.training.learner import Learner
from zoo.training.recipe import Recipe
from zoo.weights import manifest_change
from zoo.weights.fetch import staged_file
from zoo.weights.manifest import manifest
from zoo.weights.manifest_change import changing, clean_up, replace_staged
from zoo.weights.verify import sha256_of

NAME = "lrunet10_100.zoo_fmnist"


@pytest.fixture
def path(tmp_path):
    """A manifest that may be changed."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest(), indent=2) + "\n")
    return file


def number(path: Path) -> int:
    return json.loads(path.read_text())["weights"][NAME]["results"][0]["n"]


# ---- the lock ----


def test_a_lock_ends_with_its_owner(tmp_path):
    file = tmp_path / "folder" / "lock"
    file.parent.mkdir()
    ready = tmp_path / "ready"

    def hold():
        with alone(file, "it"):
            ready.touch()
            time.sleep(60)

    owner, _ = start_child(hold)
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(zoo.ZooError, match=f"^it \\(process {owner.pid}\\); wait until") as caught, alone(file, "it"):
        pass
    assert "\n" not in str(caught.value)
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert file.exists()
    with alone(file, "it"), pytest.raises(zoo.ZooError, match=f"process {os.getpid()}"), alone(file, "it"):
        pass
    assert not list(file.parent.iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_is_a_file_of_its_own(tmp_path, kind):
    lock, target = tmp_path / "lock", tmp_path / "target"
    target.write_text("content")
    {"link": lambda: lock.symlink_to(target), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}[kind]()
    with pytest.raises(zoo.ZooError, match="cannot be used as a lock"), alone(lock, ""):
        pass
    assert target.read_text() == "content"


def test_a_forked_child_keeps_no_lock(tmp_path):
    with alone(tmp_path / "lock", ""):
        child, _ = start_child(lambda: time.sleep(60))
    with alone(tmp_path / "lock", ""):
        child.kill()


def test_only_one_at_a_time(tmp_path):
    file, count = tmp_path / "lock", tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(25):
            with alone(file, "", wait=60):
                count.write_text(str(int(count.read_text()) + 1))

    children = [start_child(add)[0] for _ in range(4)]
    for child in children:
        child.join(60)
    assert count.read_text() == "100"


# ---- the manifest ----


def test_no_entry_is_lost(path):
    """Four writers, each of which reads, waits and writes."""

    def write():
        for _ in range(5):
            with changing(path) as content:
                content["weights"][NAME]["results"][0]["n"] += 1
                time.sleep(0.005)

    before = number(path)
    children = [start_child(write)[0] for _ in range(4)]
    for child in children:
        child.join(60)
    assert number(path) == before + 20
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def spoil_tag(content):
    content["weights"]["lrunet10_100.Zoo-tag"] = copy.deepcopy(content["weights"][NAME])


def spoil_entry(content):
    content["weights"][NAME]["size"] = -1


def spoil_family(content):
    content["weights"][NAME]["family"] = "none"


@pytest.mark.parametrize("spoil", [spoil_tag, spoil_entry, spoil_family])
def test_what_the_schema_refuses_is_not_written(path, spoil):
    before = path.read_bytes()
    with pytest.raises(zoo.ZooError) as caught, changing(path) as content:
        spoil(content)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with running(WritableHub()) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


@pytest.fixture
def staged(tmp_path, path, monkeypatch):
    """A folder of staged weights with one in it."""
    folder = tmp_path / "hub"
    shutil.copytree(ROOT / "hub" / NAME, folder / NAME)
    monkeypatch.setenv("ZOO_HUB", str(folder))
    return folder


def test_the_loser_of_two_equal_publishes_takes_the_winners_commit(hub, staged, path, monkeypatch):
    api = HfApi(endpoint=hub.url, token="hf_right")
    repositories = prepare([NAME], "org")
    both, one, real, commits = threading.Barrier(2), threading.Lock(), hub._commit, []

    def together(*args):  # both commits have been sent before either is made; the loser asks again
        commits.append(1)
        if len(commits) <= 2:
            both.wait(20)
        with one:
            return real(*args)

    monkeypatch.setattr(hub, "_commit", together)
    found: list = []

    def run():
        try:
            found.extend(publish(repositories, api, path))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(one) for one in found if isinstance(one, BaseException)] == []
    assert sorted(published.changed for published in found) == [False, True]
    assert len(commits) == 2, "the loser found nothing left to change"
    assert len({published.revision for published in found}) == 1
    assert len(hub.repositories[f"org/{NAME}"].commits) == 2, "the empty one that creates it, and one of ours"


# ---- staging ----


def another(staged, path) -> tuple[Path, str]:
    """A folder with another network's file, and its sha256."""
    part = staged / f".{NAME}.1.part"
    shutil.copytree(staged / NAME, part)
    shutil.copy(ROOT / "hub" / "lrunet1_100.zoo_fmnist" / "model.safetensors", part / "model.safetensors")
    return part, sha256_of(part / "model.safetensors")


def enter(sha256, size):
    def change(content):
        content["weights"][NAME] |= {"sha256": sha256, "size": size}
        del content["weights"][NAME]["collapsed"]

    return change


def verified(staged, path) -> str:
    """The sha256 of the staged file that is found by the manifest as it is on the disk; it must be the manifest's."""
    entry = json.loads(path.read_text())["weights"][NAME]
    found = staged_file(NAME, entry)
    assert found is not None
    assert sha256_of(found) == entry["sha256"]
    return entry["sha256"]


MOMENTS = ["rename", "replace", "rmtree", "unlink"]


def test_a_kill_at_any_moment_leaves_a_whole_weight(staged, path, monkeypatch):
    """Killed before each of the calls that change the disk, one after the other."""
    old = verified(staged, path)
    pristine = staged.parent / "pristine"
    shutil.copytree(staged, pristine)
    manifest_before, seen, last = path.read_bytes(), [], False
    for moment in range(40):
        part, new = another(staged, path)
        size = (part / "model.safetensors").stat().st_size

        def killed(part=part, new=new, size=size, moment=moment):
            calls = 0

            def counting(real):
                def call(*args, **options):
                    nonlocal calls
                    calls += 1
                    if calls > moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **options)

                return call

            for name in ("rename", "replace", "unlink"):
                setattr(Path, name, counting(getattr(Path, name)))
            shutil.rmtree = counting(shutil.rmtree)
            replace_staged(NAME, part, staged, path, enter(new, size))

        child, _ = start_child(killed)
        child.join(60)
        found = verified(staged, path)  # whole before anybody has cleaned up
        assert found in (old, new)
        clean_up(staged, path)
        assert verified(staged, path) == found
        assert sha256_of(staged / NAME / "model.safetensors") == found
        assert {p.name for p in staged.iterdir()} <= {NAME, part.name}
        seen.append(found)
        last = child.exitcode == 0
        shutil.rmtree(staged)
        shutil.copytree(pristine, staged)
        path.write_bytes(manifest_before)
        if last:
            break
    assert last, "it was never let through"
    assert seen == sorted(seen, key=[old, new].index), "the old one up to a moment, the new one from there on"
    assert {*seen} == {old, new}


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_the_old_weight(staged, path, monkeypatch, after):
    old, before = verified(staged, path), path.read_bytes()
    part, new = another(staged, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((manifest_change, "write_atomically", full) if after else (Path, "rename", full)))
    with pytest.raises((zoo.ZooError, OSError), match="No space left"):
        replace_staged(NAME, part, staged, path, enter(new, 1))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert sha256_of(staged / NAME / "model.safetensors") == old


# ---- runs ----


def data_of(folder: Path) -> Path:
    (folder / "data").mkdir()
    for file in SAMPLE.glob("*.gz"):
        (folder / "data" / file.name.replace("t10k", "train")).symlink_to(file)
    return folder / "data"


@pytest.fixture
def data(tmp_path):
    return data_of(tmp_path)


def recipe(**changes) -> Recipe:
    arguments = {"sparsity": 0, "batch_norm": False}
    values = {"epochs": 2, "batch_size": 100, "lr": 0.05, "model_args": arguments, **changes}
    return Recipe("sparse_mlp_300_100.trial_fmnist", "fashion-mnist", **values)


def at_step(monkeypatch, number, what):
    """Do something in the middle of the ``number``-th step of this process, from 1."""
    real, calls = Learner.step, []

    def step(*args):
        calls.append(1)
        if len(calls) == number:
            what()
        return real(*args)

    monkeypatch.setattr(Learner, "step", step)


def test_two_runs_in_one_folder(data, tmp_path, monkeypatch):
    folder, told = tmp_path / "run", []
    (tmp_path / "link").symlink_to(folder)

    def second():
        text, _ = in_child(lambda: loop.train(recipe(seed=1), data, tmp_path / "link", resume=True, device="cpu"))
        told.append(text)

    at_step(monkeypatch, 2, second)
    loop.train(recipe(epochs=1, batch_size=250), data, folder, device="cpu")
    expected = (
        f"{tmp_path / 'link'}: another zoo train is at work there (process {os.getpid()}); wait until it has ended."
    )
    assert told == [expected]
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 0
    assert not (folder / ".lock").exists()


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path):
    with pytest.raises(zoo.ZooError):
        loop.train(recipe(), tmp_path / "nothing", tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed: its folder of data, its losses and its network."""
    folder = tmp_path_factory.mktemp("whole")
    data_of(folder)
    model = loop.train(recipe(batch_size=250), folder / "data", folder / "run", device="cpu")
    return folder / "data", losses(folder / "run"), model.state_dict()


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").open()]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 4), (signal.SIGINT, 6)])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, capfd, number, step):
    """In an epoch of 4 steps, at its last step, and in the next one."""
    (data, expected, model), run = whole, tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        at_step(patched, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=f"stopped by {number.name} at epoch .* is saved") as caught:
            loop.train(recipe(batch_size=250), data, run, device="cpu")
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert f"{number.name}: saving at the next step" in capfd.readouterr().err
    state = checkpoint.load(run / "checkpoint.pt")
    assert state["epoch"] * 4 + state["step"] == step
    torch.rand(5)
    assert same(model, loop.train(recipe(batch_size=250), data, run, resume=True, device="cpu").state_dict())
    assert losses(run) == expected


def test_a_second_signal_ends_at_once(data, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr("zoo.training.interruption._SAME", -1)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        loop.train(recipe(), data, tmp_path / "run", device="cpu")
    assert not isinstance(caught.value, Interrupted)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_command_says_where_it_stopped(data, tmp_path):
    settings = ["epochs=1000", "batch_size=20", "checkpoint_every=1"]
    words = ["lrunet1_fmnist", "--data", str(data), "--output", str(tmp_path / "run"), "--device", "cpu"]
    command = [sys.executable, "-m", "zoo", "train", *words, *(w for s in settings for w in ("--set", s))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*more):
        process = subprocess.Popen(
            [*command, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not (tmp_path / "run" / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        return process

    process = start()
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM at " in out
    assert "go on: zoo train lrunet1_fmnist" in out
    assert "Traceback" not in err
