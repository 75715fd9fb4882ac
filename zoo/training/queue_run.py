"""Training the queue's entries one after another, within a budget of time, to be continued by the same call."""

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data import get_dataset
from ..errors import UnknownNameError, ZooError
from ..files import write_atomically
from ..language.data import TEXT_DATASETS, get_text_dataset
from ..locks import alone
from .distributed import Processes
from .queue import Entry, progress, progress_of_run
from .recipe import Recipe


def data_folders(words: Sequence[str]) -> dict[str, Path]:
    """``NAME=DIR`` words as a mapping from the data sets' full names to folders.

    Raises:
        ZooError: If a word has another form, there is no such data set, or no such folder.
    """
    folders = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals:
            raise ZooError(f"--data {word}: with --queue name the data set too, such as --data cifar10={word}.")
        try:
            name = get_dataset(name).name
        except UnknownNameError as error:
            if name not in [w for d in TEXT_DATASETS.values() for w in (d.name, d.suffix)]:
                raise UnknownNameError(f"{error} Or a text: {', '.join(TEXT_DATASETS)}.") from None
            name = get_text_dataset(name).name
        folders[name] = Path(folder).expanduser()
        if not folders[name].is_dir():
            raise ZooError(f"--data {word}: there is no such folder.")
    return folders


def run_queue(
    entries: Sequence[Entry],
    data: Mapping[str, Path],
    runs: str | Path,
    budget: float = 0,
    longest: float = 0,
    device: str = "",
    report: Callable[[str], object] = print,
) -> list[str]:
    """Train the unfinished entries in order; the same call later goes on where this one ended.

    Each entry's run has a folder of its own in ``runs``. ``queue.jsonl`` there gets a line for each entry that was
    worked on. A run is told to stop so much before the budget is over as was measured that it needs to reach its next
    look at the clock and write its checkpoint: the first time an entry is worked on within a budget it is stopped at
    once, which measures that. Under torchrun every process calls this.

    Args:
        entries: The queue.
        data: Folders by data set; entries of other data sets are passed over.
        runs: Folder of the runs.
        budget: Seconds for all; 0 for no limit.
        longest: Pass over entries that are expected to take more seconds than this in all; 0 for no limit.
        device: ``cpu``, ``cuda``, ...; by default the GPU if there is one.
        report: Gets one line per entry.

    Returns:
        Names of the entries that failed.

    Raises:
        ZooError: If a recipe does not exist, another process works on the folder, or, with several processes, an entry
            failed.
    """
    began, runs = time.monotonic(), Path(runs)
    for entry in entries:
        entry.load(runs)  # a recipe that is not there is said before hours have passed
    processes = Processes.join(device)

    def agree(value: Any) -> Any:
        """The first process decides, for clocks and files are not the same to all."""
        return processes.gather(value)[0]

    lock = nullcontext()
    if processes.first:
        lock = alone(runs / "queue.lock", f"{runs}: another zoo train --queue is at work there")
    say = report if processes.first else (lambda _: None)
    failed: list[str] = []
    with lock:
        history = _History(runs / "queue.jsonl", processes.first)
        for entry in entries:
            found = agree(progress(entry, runs))
            if found.state in ("staged", "measured", "trained"):
                say(f"{entry.name}: {found}")
                continue
            obstacle = agree(_obstacle(entry, entries, data, runs, longest, processes))
            if obstacle:
                say(f"{entry.name}: passed over, {obstacle}")
                continue
            if found.state not in ("waiting", "part-trained"):
                failed.append(entry.name)
                say(f"{entry.name}: failed: {runs / entry.name}: {found}; move it away")
                continue
            left = agree(budget - (time.monotonic() - began)) if budget else math.inf
            if left <= agree(2 * history.overrun(entry.name)):
                say(f"{entry.name}: {found}; no time left in the budget")
                break
            started, error = time.monotonic(), ""
            try:
                _work(entry, data, runs, left, device, history, agree)
            except Exception as problem:  # whatever befalls one entry, the others are worth their time
                if processes.world > 1:  # the other processes cannot know of it
                    raise ZooError(f"{entry.name} failed, and with it this command: {problem}") from None
                error = str(problem).strip().split("\n")[0] or type(problem).__name__
                if not isinstance(problem, ZooError):
                    error = f"{type(problem).__name__}: {error}"
                    traceback.print_exc()
                failed.append(entry.name)
            found, seconds = agree(progress(entry, runs)), round(time.monotonic() - started, 1)
            history.add(
                {"entry": entry.name, **asdict(found), "seconds": seconds, **({"error": error} if error else {})}
            )
            say(f"{entry.name}: {f'failed: {error}' if error else found} ({seconds:.0f} s)")
            if not error and found.state != "trained":
                break  # the budget is over
    return failed


def _obstacle(
    entry: Entry,
    entries: Sequence[Entry],
    data: Mapping[str, Path],
    runs: Path,
    longest: float,
    processes: Processes,
) -> str:
    """Why an entry cannot be worked on now; empty if it can."""
    recipe, device = entry.load(runs), processes.device.type
    dataset = recipe.dataset
    if processes.world > 1 and not isinstance(recipe, Recipe):
        return "a language model is trained by one process"
    if dataset not in data:
        return f"its data is not there: --data {dataset}=DIR"
    if longest and entry.minutes(device) * 60 > longest:
        return f"{entry.minutes(device):.0f} minutes are expected, more than --longest"
    base = next((other for other in entries if other.name == entry.after), None)
    if base and (progress_of_run(base, runs).state != "trained" or not (runs / base.name / "checkpoint.pt").exists()):
        return f"it starts from the finished run of {base.name}"
    return ""


def _work(
    entry: Entry,
    data: Mapping[str, Path],
    runs: Path,
    left: float,
    device: str,
    history: "_History",
    agree: Callable[[Any], Any],
) -> None:
    """Train an entry for the seconds that are left, or to its end."""
    recipe = entry.load(runs)
    if isinstance(recipe, Recipe):
        from .loop import train as train_recipe
    else:
        from ..language.train import train_language as train_recipe

    def train(budget: float) -> None:
        train_recipe(recipe, data[recipe.dataset], runs / entry.name, resume=True, device=device, budget=budget)

    if math.isinf(left):
        train(0)
        return
    began = time.monotonic()
    if not agree(history.knows(entry.name)):
        train(1e-9)
        history.add({"entry": entry.name, "overrun": round(time.monotonic() - began, 2), "first": True})
        if agree(progress(entry, runs)).state == "trained":
            return
    # twice: the end of an epoch, with its checkpoint and its held-out images, may lie between two looks at the clock
    given = agree(left - (time.monotonic() - began) - 2 * history.overrun(entry.name))
    if given > 0:
        started = time.monotonic()
        train(given)
        overrun, known = max(time.monotonic() - started - given, 0), history.overrun(entry.name)
        # given less than it takes to read the data, it tells no more than the first look
        history.add({"entry": entry.name, "overrun": round(overrun, 2), "first": given <= known})


class _History:
    """What was worked on, one JSON line each; written by the first process.

    Args:
        file: Its file.
        writes: Whether this process is the first.
    """

    def __init__(self, file: Path, writes: bool):
        self.file, self.writes = file, writes
        text = file.read_text() if file.exists() else ""
        try:
            self.lines = [json.loads(line) for line in text.splitlines()]
        except ValueError:
            raise ZooError(f"{file} is damaged: delete it; it holds only what was worked on, and when.") from None

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line, with the time of day."""
        self.lines.append({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **line})
        if self.writes:
            content = "".join(json.dumps(line) + "\n" for line in self.lines)
            try:
                write_atomically(content.encode(), self.file)
            except OSError as error:
                raise ZooError(
                    f"{self.file}: cannot be written ({error.strerror}): make room and begin again."
                ) from None

    def knows(self, name: str) -> bool:
        """Whether an entry's overrun was measured."""
        return any(line["entry"] == name and "overrun" in line for line in self.lines)

    def overrun(self, name: str) -> float:
        """The longest an entry was seen to run past what it was given, in seconds; of an unknown one, that of any.

        The first look at an entry counts reading the data too, hence for as long as nothing better is known.
        """
        lines = [line for line in self.lines if "overrun" in line]
        lines = [line for line in lines if line["entry"] == name] or lines
        lines = [line for line in lines if not line.get("first")] or lines
        return max((line["overrun"] for line in lines), default=0.0)
