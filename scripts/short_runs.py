"""Short trainings on real data, one per family, and the sparse methods side by side.

    python scripts/short_runs.py --fashion-mnist DIR --cifar10 DIR --wikitext2 DIR       all that the file lacks
    python scripts/short_runs.py lrunet 'order 0.98*'                                    those, again

Every family's run goes through the command line: ``zoo train``, SIGKILL in the middle of an epoch, ``--resume``, ``zoo
stage``, ``zoo validate``, in a copy of the package so that nothing is staged here. A second run that is not killed goes
as far as is needed to compare. Each finished piece is a line of docs/short_runs.jsonl; a stopped script goes on from
there. The whole takes one CPU core about half an hour.
"""

import argparse
import fnmatch
import gzip
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sparse_order import order, pieces  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zoo  # noqa: E402
from zoo.data import load_arrays  # noqa: E402
from zoo.evaluation.validate import validate  # noqa: E402
from zoo.language.data import load_text  # noqa: E402
from zoo.training.recipe import Recipe, load_recipe  # noqa: E402

ZOO = [sys.executable, "-m", "zoo"]
RESULTS = ROOT / "docs" / "short_runs.jsonl"

_TO_CIFAR = {"sched": "cosine", "warmup_epochs": 0.5, "epochs": 3, "batch_size": 64, "amp": "bfloat16"}
_PARADISE = {
    "dataset": "fashion-mnist",
    "epochs": 2,
    "batch_size": 32,
    "lr": 0.05,
    "warmup_epochs": 0.5,
    "augment": {"flip": True},
    "amp": "bfloat16",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "lrunet": {
        "recipe": "lrunet1_fmnist",
        "dataset": "fashion-mnist",
        "set": {"weight": "lrunet1_100.short_fmnist", "epochs": 3},
        "images": 12_000,
        "every": 60,
    },
    "sharing": {
        "recipe": "swrn_28_10_2_cutout_published_c10",
        "set": {"weight": "swrn_16_1_2.short_c10", **_TO_CIFAR, "milestones": []},
        "images": 6_000,
        "every": 30,
    },
    "symmetry": {
        "recipe": "symm_wrn_bottleneck_16_4_tri_published_c10",
        "set": {"weight": "symm_wrn_16_1.short_c10", "model_args": {"symm_type": "tri"}, **_TO_CIFAR}
        | {"milestones": [], "restart_momentum": False},
        "images": 4_000,
        "tests": 2_000,
        "every": 30,
    },
    "sparse": {
        "recipe": "sparse_wrn_16_2_dsr_s90_c10",
        "set": {"weight": "sparse_wrn_16_1.short_dsr_s90_c10", **_TO_CIFAR}
        | {"method_options": {"period": 25, "target": 1500, "stop_epoch": 2}},
        "images": 4_000,
        "tests": 2_000,
        "every": 30,
    },
    "paradise A": {
        "recipe": {"weight": "pd_a_resnet18_half_cifar.short_fmnist", **_PARADISE},
        "set": {},
        "dataset": "fashion-mnist",
        "images": 1_600,
        "tests": 1_000,
        "every": 10,
    },
    "paradise B": {
        "recipe": {"weight": "pd_b_resnet18_half_cifar.short_fmnist", **_PARADISE},
        "set": {},
        "dataset": "fashion-mnist",
        "images": 1_600,
        "tests": 1_000,
        "every": 10,
    },
}
_DEFAULTS = Recipe("", "mnist")  # no run has that name, or trains on that

LANGUAGE = {"embedding_size": 100, "hidden_size": 100, "num_layers": 1, "dropout": 0.2, "columns": 10, "steps": 20}
LANGUAGE |= {"epochs": 3, "lr": 10}
LINES = {"train": 1800, "valid": 500, "test": 700}  # of the text, from the beginning


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(home), "ZOO_HUB": str(home / "hub")}


def call(home: Path, *words: str) -> str:
    """Run a command to its end; its standard output."""
    done = subprocess.run([*ZOO, *words], env=environment(home), cwd=home, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"zoo {shlex.join(words)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def position(state: dict[str, Any]) -> tuple[int, int]:
    """Finished epochs and the steps after them, of an image's or a language run's checkpoint."""
    return (len(state["log"]), 0) if "log" in state else (state["epoch"], state["step"])


def read(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


def start(home: Path, words: list[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as target:
        return subprocess.Popen([*ZOO, *words], env=environment(home), cwd=home, stdout=target, stderr=target)


def wait_for(process: subprocess.Popen, file: Path, wanted: Callable[[tuple[int, int]], bool]) -> dict[str, Any]:
    """The first checkpoint of a running training at a position that is wanted."""
    seen = 0
    while True:
        changed = file.stat().st_mtime_ns if file.exists() else 0
        if changed != seen:
            seen, state = changed, read(file)
            if wanted(position(state)):
                return state
        if process.poll() is not None:
            raise SystemExit(f"{shlex.join(process.args)} ended with {process.returncode}; see {file.parent}.log")
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def killed_and_resumed(home: Path, words: list[str], run: Path, pause: Callable[[dict[str, Any]], float]) -> dict:
    """Train with an interruption; compare with a run that had none at the next checkpoint after it.

    Args:
        home: Folder of the package's copy.
        words: The command less ``--output``.
        run: Folder of the run; the uninterrupted one is beside it and deleted afterwards.
        pause: Seconds from the first checkpoint to the SIGKILL.

    Returns:
        Positions of the kill's checkpoint and of the comparison, and how many tensors and numbers were equal there.
    """
    twin, log = run.with_name(run.name + "-twin"), run.with_name(run.name + ".log")
    for folder in (run, twin):
        shutil.rmtree(folder, ignore_errors=True)
    process = start(home, [*words, "--output", str(run)], log)
    time.sleep(pause(wait_for(process, run / "checkpoint.pt", lambda now: now > (0, 0))))
    if process.poll() is not None:
        raise SystemExit(f"{run}: it was over before it was killed")
    kill(process)
    at = position(read(run / "checkpoint.pt"))
    process = start(home, [*words, "--output", str(run), "--resume"], log)
    after = wait_for(process, run / "checkpoint.pt", lambda now: now > at)
    if process.wait():
        raise SystemExit(f"{run}: the resumed run failed; see {log}")
    place = position(after)
    process = start(home, [*words, "--output", str(twin)], log)
    whole = wait_for(process, twin / "checkpoint.pt", lambda now: now >= place)
    kill(process)
    if position(whole) != place:
        raise SystemExit(f"{twin}: no checkpoint at {place}")
    shutil.rmtree(twin)
    for state in (whole, after):  # a run uses torch's generators and NumPy's; Python's own has no seed
        state["random"] = [{**one, "python": None} for one in state.get("random", [])]
    parts = ("model", "optimizer", "method", "generator", "random")
    leaves = [leaf for part in parts for leaf in pairs(whole, after, part)]
    return {"killed_at": at, "compared_at": place, "compared": len(leaves), "equal": sum(map(equal, leaves))}


def pairs(a: dict[str, Any], b: dict[str, Any], key: str) -> list[tuple[Any, Any]]:
    """The values at the leaves of two states, side by side."""

    def leaves(x: Any) -> list[Any]:
        if isinstance(x, dict):
            return [leaf for k in sorted(x, key=str) for leaf in leaves(x[k])]
        return [leaf for item in x for leaf in leaves(item)] if isinstance(x, list | tuple) else [x]

    return list(zip(leaves(a.get(key, [])), leaves(b.get(key, [])), strict=True))


def equal(pair: tuple[Any, Any]) -> bool:
    a, b = pair
    return bool(torch.equal(a, b)) if isinstance(a, Tensor) else a == b


def part_of(dataset: str, source: str, folder: Path, images: int, tests: int) -> Path:
    """A folder in the data set's own form with the first training and test images."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", images), ("test", tests)):
        pixels, labels = (array[:count] for array in load_arrays(dataset, source, split))
        if dataset == "cifar10":
            rows = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(len(labels), -1)], 1)
            files = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
            for name, piece in zip(files, np.array_split(rows, len(files)), strict=True):
                (folder / name).write_bytes(piece.tobytes())
        else:
            stem = "train" if split == "train" else "t10k"
            for kind, array in (("images-idx3-ubyte", pixels[:, 0]), ("labels-idx1-ubyte", labels.astype(np.uint8))):
                header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
                (folder / f"{stem}-{kind}.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    return folder


def family(name: str, sources: dict[str, str], work: Path) -> dict[str, Any]:
    """One family's run from the first step to the collapsed network's accuracy."""
    setting, began = FAMILIES[name], time.monotonic()
    recipe, run = setting["recipe"], work / name.replace(" ", "_")
    home = package_copy(work / "home")
    settings = {**setting["set"], "checkpoint_every": setting["every"]}
    values = (Recipe(**recipe, **settings) if isinstance(recipe, dict) else load_recipe(recipe, settings)).to_dict()
    file = run.with_suffix(".yaml")
    file.write_text(json.dumps(values))  # JSON is YAML too
    dataset, images, tests = (setting.get("dataset", "cifar10"), setting["images"], setting.get("tests", 10_000))
    data = part_of(dataset, sources[dataset], work / f"{dataset}-{images}-{tests}", images, tests)
    words = ["train", str(file), "--data", str(data), "--device", "cpu"]
    resume = killed_and_resumed(home, words, run, lambda state: 1.5)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    weight, result = values["weight"], run.with_name(run.name + ".json")
    call(home, "stage", str(run), "--recipe", str(file), "--data", str(data))
    call(
        home, "validate", weight, "--dataset", dataset, "--data", str(data), "--device", "cpu", "--results", str(result)
    )
    validated = json.loads(result.read_text())[0]
    measured = subprocess.run(
        [sys.executable, __file__, "--compare", weight, dataset, str(data)],
        env=environment(home),
        capture_output=True,
        text=True,
    )
    if measured.returncode:
        raise SystemExit(measured.stderr[-2000:])
    return {
        "weight": weight,
        "dataset": dataset,
        "images": images,
        "epochs": values["epochs"],
        "batch_size": values["batch_size"],
        "command": "zoo train RECIPE.yaml --data DIR --device cpu",
        "recipe": {key: value for key, value in values.items() if value != getattr(_DEFAULTS, key)},
        "losses": [line["loss"] for line in log],
        "sparse": [line["sparse"] for line in log if "sparse" in line],
        "resume": resume,
        "validated": {key: validated[key] for key in ("top1", "correct", "n")},
        **json.loads(measured.stdout.splitlines()[-1]),
        "seconds": round(time.monotonic() - began),
    }


def package_copy(home: Path) -> Path:
    """A copy of the package with a manifest and a folder for staged weights of its own."""
    if not home.exists():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "zoo", home / "zoo", ignore=ignore)
        shutil.copy(ROOT / "weights_manifest.json", home)
    return home


def compare(weight: str, dataset: str, data: str) -> None:
    """Print what the staged weight and the network it collapses into give for the test images."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trained = zoo.create_model(weight, pretrained=True).eval()
            self.plain, self.record = zoo.reparameterize(self.trained, return_record=True)
            self.num_classes, self.pretrained_cfg = (self.trained.num_classes, self.trained.pretrained_cfg)
            self.guesses: list[Tensor] = []
            self.gap = self.largest = 0.0

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.trained(x), self.plain(x)
            self.guesses.append(torch.stack([a.argmax(1), b.argmax(1)]))
            self.gap = max(self.gap, (a - b).abs().max().item())
            self.largest = max(self.largest, a.abs().max().item())
            return b

    both = Both()
    result = validate(both, dataset, data, device="cpu")
    guesses = torch.cat(both.guesses, 1)
    labels = torch.from_numpy(load_arrays(dataset, data, "test")[1])
    exact = next(d for d in both.record.differences if d.dtype == "float64")
    right = (guesses == labels).sum(1).tolist()
    if right[1] != result.correct:
        raise SystemExit(f"{weight}: {right[1]} and {result.correct} right answers of the same network")
    row = {
        "correct": right,
        "n": len(labels),
        "other_guesses": int((guesses[0] != guesses[1]).sum()),
        "largest_difference": both.gap / both.largest,
        "largest_difference_float64": exact.max_relative,
        "parameters": [both.record.before.parameters, both.record.after.parameters],
        "macs": [both.record.before.macs, both.record.after.macs],
    }
    print(json.dumps(row))


def language(sources: dict[str, str], work: Path) -> dict[str, Any]:
    """A small SymmLSTM on the beginning of WikiText-2."""
    began, run, home, data = (time.monotonic(), work / "lstm", package_copy(work / "home"), work / "wikitext-2")
    data.mkdir(parents=True, exist_ok=True)
    for split, count in LINES.items():
        with open(Path(sources["wikitext-2"]) / f"{split}.txt", encoding="utf-8") as lines:
            (data / f"{split}.txt").write_text("".join(line for line, _ in zip(lines, range(count), strict=False)))
    words = ["train", "symm_lstm_hh_wikitext2", "--data", str(data)]
    words += [word for key, value in LANGUAGE.items() for word in ("--set", f"{key}={value}")] + ["--device", "cpu"]
    resume = killed_and_resumed(home, words, run, lambda state: state["log"][-1]["seconds"] / 4)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    tests = [
        json.loads(call(home, "perplexity", str(run), "--data", str(data), "--json", "--device", "cpu", *collapse))
        for collapse in ([], ["--collapse"])
    ]
    text = load_text(data)
    return {
        "command": shlex.join("DIR" if word == str(data) else word for word in ["zoo", *words]),
        "tokens": {split: len(tokens) for split, tokens in text.splits.items()},
        "vocabulary": len(text.words),
        "losses": [line["loss"] for line in log],
        "valid_perplexity": [line["valid_perplexity"] for line in log],
        "unigram": unigram_perplexity(text.splits["train"], text.splits["test"], len(text.words)),
        "test": [{key: test[key] for key in ("perplexity", "loss", "n")} for test in tests],
        "resume": resume,
        "seconds": round(time.monotonic() - began),
    }


def unigram_perplexity(train: Tensor, test: Tensor, vocabulary: int) -> float:
    """Perplexity of the training text's word frequencies (one added to each), which know nothing of order."""
    counts = torch.bincount(train, minlength=vocabulary).double() + 1
    return math.exp(-(counts / counts.sum()).log()[test].mean().item())


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="*", help="shell patterns over the pieces' names; these are run again")
    for name in ("fashion-mnist", "cifar10", "wikitext-2"):
        variable = f"ZOO_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", metavar="DIR", default=os.environ.get(variable), help=f"default: {variable}")
    parser.add_argument("--work", metavar="DIR", default="runs/short", help="folder of the runs (runs/short)")
    parser.add_argument("--compare", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        compare(*options.compare)
        return
    work = Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    sources = {"fashion-mnist": options.fashion_mnist, "cifar10": options.cifar10, "wikitext-2": options.wikitext_2}
    names = [*FAMILIES, "language", *pieces()]
    if options.pattern:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in options.pattern)]
    else:
        names = [name for name in names if name not in rows()]
    for name in names:
        if name in FAMILIES:
            row = family(name, sources, work)
        elif name == "language":
            row = language(sources, work)
        else:
            row = order(name, sources["fashion-mnist"], work)
        with open(RESULTS, "a") as file:
            file.write(json.dumps({"piece": name, **row}) + "\n")
        print(name, file=sys.stderr)


def rows() -> dict[str, dict[str, Any]]:
    """The results so far; of a piece that was run again, the last."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {row["piece"]: row for row in map(json.loads, lines)}


if __name__ == "__main__":
    main()
