"""Carry the runs of ``zoo train --queue`` between machines in small files.

    python scripts/bare_gpu/parcel.py give RUNS OUT            there: what changed since the last time
    python scripts/bare_gpu/parcel.py take FOLDER RUNS         here, for each FOLDER that came, in any order
    python scripts/bare_gpu/parcel.py give RUNS OUT --back     here: unfinished runs, finished ones' logs
    python scripts/bare_gpu/parcel.py take FOLDER RUNS         there

A parcel is one tar file, cut into parts of which each call gives as many as fit; call again until it says that all is
given. ``parcel.json`` holds the sha256 of the whole and of each part. A parcel on its way is not touched by training.

``--half-above MB`` stores the weights of larger files in half precision and momentum in bfloat16, which halves them. A
run that goes on from there is not the same to the bit; the last line of its log then has ``"halved": true``.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from safetensors.torch import load_file

from zoo.errors import ZooError
from zoo.files import write_atomically
from zoo.training import checkpoint
from zoo.weights.convert import safetensors_bytes

MB = 2**20


def give(
    runs: Path, out: Path, names: list[str], back: bool, outbox: Path, part: int, count: int, half_above: int
) -> int:
    """Write the next parts into ``out``; the number of parts that remain.

    Args:
        runs: Folder of the runs.
        out: Empty folder that travels.
        names: Runs to give whole, whatever has changed.
        back: Give every unfinished run whole, and of finished ones what says that they are.
        outbox: Keeps a parcel of which parts remain.
        part: Bytes of a part.
        count: Parts in ``out``.
        half_above: Files of more bytes are halved; 0 for none.

    Raises:
        ZooError: If a run does not exist, or ``out`` is not empty.
    """
    if out.exists() and any(out.glob("part-*")):
        raise ZooError(f"{out} holds parts already: give another folder.")
    if not (outbox / "parcel.json").exists():
        chosen = _choose(runs, names, back, part * count)
        if not chosen:
            print(f"{runs}: nothing has changed since the last parcel")
            return 0
        shutil.rmtree(outbox, ignore_errors=True)
        outbox.mkdir(parents=True)
        _fill(runs, chosen, outbox, part, half_above)
    parcel = json.loads((outbox / "parcel.json").read_text())
    sent, parts = parcel.pop("sent"), parcel["parts"]
    out.mkdir(parents=True, exist_ok=True)
    with open(outbox / "parcel.tar", "rb") as file:
        file.seek(sent * part)
        for number in range(sent, min(sent + count, len(parts))):
            write_atomically(file.read(part), out / f"part-{number:03}")
    write_atomically(json.dumps(parcel, indent=1).encode(), out / "parcel.json")
    now = min(sent + count, len(parts))
    if now < len(parts):
        write_atomically(json.dumps({**parcel, "sent": now}).encode(), outbox / "parcel.json")
        print(f"{out}: parts {sent + 1} to {now} of {len(parts)}; call again for the rest")
    else:
        _remember(runs, parcel["runs"])
        shutil.rmtree(outbox)
        print(f"{out}: parts {sent + 1} to {now} of {len(parts)}, the last: {', '.join(parcel['runs'])}")
    return len(parts) - now


def take(folder: Path, runs: Path, inbox: Path) -> bool:
    """Take parts over; once a parcel is whole its runs are put in place, unless those there are further.

    Returns:
        Whether the parcel was whole.

    Raises:
        ZooError: If a part or the whole is damaged.
    """
    try:
        parcel = json.loads((folder / "parcel.json").read_text())
        place = inbox / parcel["sha256"][:16]
        for number, sha256 in enumerate(parcel["parts"]):
            name = f"part-{number:03}"
            if (folder / name).exists():
                content = (folder / name).read_bytes()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ZooError(f"{folder / name} is damaged: carry it again.")
                write_atomically(content, place / name)
        files = [place / f"part-{number:03}" for number in range(len(parcel["parts"]))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{folder} holds no parcel ({error}).") from None
    missing = [file.name for file in files if not file.exists()]
    if missing:
        print(f"{folder}: {len(missing)} of {len(files)} parts of this parcel are still to come")
        return False
    digest = hashlib.sha256()
    with open(place / "parcel.tar", "wb") as whole:
        for file in files:
            content = file.read_bytes()
            digest.update(content)
            whole.write(content)
    if digest.hexdigest() != parcel["sha256"]:
        raise ZooError(f"{place}: the joined parcel is damaged: delete the folder and carry it again.")
    with tarfile.open(place / "parcel.tar") as tar:
        for member in tar:  # extractall has no filter before Python 3.10.12 and 3.11.4
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise ZooError(f"{place}: {member.name} does not belong into a parcel; nothing was taken from it.")
            if member.isfile():
                write_atomically(tar.extractfile(member).read(), place / "runs" / path)
    _unite_history(place / "runs" / "queue.jsonl", runs / "queue.jsonl")
    taken = {}
    for source in sorted(path for path in (place / "runs").iterdir() if path.is_dir()):
        target = runs / source.name
        if target.exists() and _position(target) >= _position(source):
            print(f"{source.name}: left as it is, for it is as far as the one in the parcel or further")
            continue
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir(), key=lambda path: path.name == "checkpoint.pt"):
            file.replace(target / file.name)
        taken[source.name] = _fingerprint(target)
        print(f"{source.name}: taken, {_position(target)[0]} epochs finished")
    _remember(runs, taken)
    shutil.rmtree(place)
    return True


def halve(path: Path) -> tuple[bytes, bool]:
    """A file of a run with its tensors in half precision, and whether a log line of it now says so.

    Raises:
        ZooError: If it is a checkpoint of a run without a finished epoch, which has no log line to say it in.
    """
    if path.suffix == ".safetensors":
        tensors = {key: _half(tensor, torch.float16) for key, tensor in load_file(path).items()}
        return safetensors_bytes(tensors, {"format": "pt"}), False
    state = checkpoint.load(path)
    log = state.get("position", {}).get("log")
    if log is not None:
        if not log:
            raise ZooError(f"{path}: a run is halved after its first epoch, not before; let it finish one.")
        log[-1]["halved"] = True
    kinds = {"model": torch.float16, "trained": torch.float16, "best": torch.float16, "optimizer": torch.bfloat16}
    state = {key: _half(value, kinds[key]) if key in kinds else value for key, value in state.items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), log is not None


def _half(value: Any, kind: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: _half(inner, kind) for key, inner in value.items()}
    if isinstance(value, list):
        return [_half(inner, kind) for inner in value]
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    small = value.to(kind)
    return small if torch.isfinite(small).all() else value


def _choose(runs: Path, names: list[str], back: bool, room: int) -> dict[str, bool]:
    """The runs of the next parcel, and whether each goes whole."""
    known = {path.parent.name: path.parent for path in sorted(runs.glob("*/recipe.json"))}
    for name in names:
        if name not in known:
            raise ZooError(f"{runs} has no run {name}: it has {', '.join(known) or 'none'}.")
    if back:
        return {name: name in names or not _finished(path) for name, path in known.items()}
    if names:
        return dict.fromkeys(names, True)
    file = runs / "given.json"
    given = json.loads(file.read_text()) if file.exists() else {}
    chosen: dict[str, bool] = {}
    for name in sorted(known, key=lambda name: _size(known[name])):  # many small ones before a large one alone
        if given.get(name) != _fingerprint(known[name]) and (_size(known[name]) <= room or not chosen):
            chosen[name] = True
            room -= _size(known[name])
    return chosen


def _fill(runs: Path, chosen: dict[str, bool], outbox: Path, part: int, half_above: int) -> None:
    fingerprints = {name: _fingerprint(runs / name) for name in chosen}
    with tarfile.open(outbox / "parcel.tar", "w") as tar:
        if (runs / "queue.jsonl").exists():
            tar.add(runs / "queue.jsonl", "queue.jsonl")
        for name, whole in chosen.items():
            marked = False
            files = [path for path in sorted((runs / name).iterdir()) if not path.name.startswith(".")]
            for path in files:
                if path.suffix not in (".pt", ".safetensors"):
                    continue
                if whole and half_above and path.stat().st_size > half_above:
                    content, flagged = halve(path)
                    marked |= flagged
                    small = outbox / path.name
                    write_atomically(content, small)
                    tar.add(small, f"{name}/{path.name}")
                    small.unlink()
                elif whole:
                    tar.add(path, f"{name}/{path.name}")
            for path in files:
                if path.suffix in (".pt", ".safetensors"):
                    continue
                source = path
                if marked and path.name == "log.jsonl":
                    lines = path.read_text().splitlines()
                    lines[-1] = json.dumps({**json.loads(lines[-1]), "halved": True})
                    source = outbox / path.name
                    write_atomically("".join(f"{line}\n" for line in lines).encode(), source)
                tar.add(source, f"{name}/{path.name}")
    sha256, parts = hashlib.sha256(), []
    with open(outbox / "parcel.tar", "rb") as file:
        while content := file.read(part):
            sha256.update(content)
            parts.append(hashlib.sha256(content).hexdigest())
    parcel = {"sha256": sha256.hexdigest(), "parts": parts, "runs": fingerprints, "sent": 0}
    write_atomically(json.dumps(parcel).encode(), outbox / "parcel.json")


def _finished(run: Path) -> bool:
    epochs = json.loads((run / "recipe.json").read_text())["epochs"]
    return _position(run)[0] >= epochs


def _position(run: Path) -> tuple[int, int, bool]:
    """Finished epochs, steps of the next one, and whether there are weights."""
    log, file = run / "log.jsonl", run / "checkpoint.pt"
    lines = len(log.read_text().splitlines()) if log.exists() else 0
    if not file.exists():
        return lines, 0, False
    state = checkpoint.load(file)
    return state["epoch"], state["step"], True


def _fingerprint(run: Path) -> str:
    names = [name for name in ("checkpoint.pt", "log.jsonl") if (run / name).exists()]
    return hashlib.sha256(b"".join((run / name).read_bytes() for name in names)).hexdigest()


def _size(run: Path) -> int:
    return sum(path.stat().st_size for path in run.iterdir())


def _remember(runs: Path, fingerprints: dict[str, str]) -> None:
    """Keep what the other side has, so that only what changed is given next."""
    file = runs / "given.json"
    given = json.loads(file.read_text()) if file.exists() else {}
    write_atomically(json.dumps({**given, **fingerprints}, indent=1).encode(), file)


def _unite_history(source: Path, target: Path) -> None:
    lines = {line for file in (source, target) if file.exists() for line in file.read_text().splitlines()}
    if lines:  # each begins with its time
        write_atomically("".join(f"{line}\n" for line in sorted(lines)).encode(), target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("give")
    command.add_argument("runs", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("names", nargs="*", metavar="NAME", help="give these runs whole")
    command.add_argument("--back", action="store_true", help="for the machine: what it needs to go on")
    command.add_argument("--outbox", type=Path, help="keeps a parcel of which parts remain (RUNS/../outbox)")
    command.add_argument("--part-mb", type=float, default=15, help="size of a part in MiB (15)")
    command.add_argument("--parts", type=int, default=4, help="parts in one call (4)")
    command.add_argument("--half-above", type=float, default=0, metavar="MB", help="halve files of more MiB (none)")
    command = commands.add_parser("take")
    command.add_argument("folder", type=Path)
    command.add_argument("runs", type=Path)
    command.add_argument("--inbox", type=Path, help="keeps parts until all are there (RUNS/../inbox)")
    options = parser.parse_args()
    beside = options.runs.resolve().parent
    try:
        if options.command == "give":
            outbox, part, half = options.outbox or beside / "outbox", options.part_mb * MB, options.half_above * MB
            give(options.runs, options.out, options.names, options.back, outbox, int(part), options.parts, int(half))
        else:
            take(options.folder, options.runs, options.inbox or beside / "inbox")
    except (ZooError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
