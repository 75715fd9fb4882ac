"""Carry CIFAR-10 to a machine without internet, losslessly and in parts (about 101 MB for 184 MB).

    python scripts/bare_gpu/cifar.py pack DATA PARTS --part-mb 50    here: PARTS/part-1, PARTS/part-2, ...
    python scripts/bare_gpu/cifar.py unpack PARTS/part-1 DATA        there, for each part, in any order

Images lie in sheets of 2,500, saved as lossless WebP. Each part also holds all labels and ``index.json`` with the
sha256 of every sheet. After the last part DATA holds CIFAR-10 in the official binary form; the sheets, kept in
DATA/sheets until then, are deleted once the pixels have the sha256 of the official set.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from zoo.data import load_arrays
from zoo.errors import DataError, ZooError
from zoo.files import write_atomically

IMAGES = {
    "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
}
"""sha256 of the official images, uint8 of shape (N, 32, 32, 3), in file order."""
ROWS = COLUMNS = 50
BATCH = 10_000
BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}


def digest(content: bytes | np.ndarray) -> str:
    """sha256 of bytes, or of an array in C order."""
    return hashlib.sha256(content if isinstance(content, bytes) else np.ascontiguousarray(content)).hexdigest()


def to_sheet(images: np.ndarray) -> np.ndarray:
    """Images (ROWS * COLUMNS, 32, 32, 3) side by side, (ROWS * 32, COLUMNS * 32, 3)."""
    return images.reshape(ROWS, COLUMNS, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(ROWS * 32, COLUMNS * 32, 3)


def from_sheet(sheet: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_sheet`."""
    return sheet.reshape(ROWS, 32, COLUMNS, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def pack(data: Path, target: Path, part_mb: float) -> None:
    """Write the parts, each of at most ``part_mb`` MiB.

    Raises:
        ZooError: If the images are not the official ones, or ``target`` is not empty.
    """
    if target.exists() and any(target.iterdir()):
        raise ZooError(f"{target} is not empty: give an empty or new folder for the parts.")
    arrays = {split: load_arrays("cifar10", data, split) for split in IMAGES}
    images = {split: pixels.transpose(0, 2, 3, 1) for split, (pixels, _) in arrays.items()}
    for split, sha256 in IMAGES.items():
        if digest(images[split]) != sha256:
            raise DataError(f"{data}: the images of the {split} split are not those of CIFAR-10; fetch it again.")
    labels = {split: values.astype(np.uint8) for split, (_, values) in arrays.items()}
    each = ROWS * COLUMNS
    todo = [(f"{split}-{n:02}.webp", images[split][n * each :][:each]) for split in IMAGES
            for n in range(len(images[split]) // each)]  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, str] = {}
    parts: list[list[str]] = []
    room = 0.0
    for name, pixels in tqdm(todo, desc="sheets", file=sys.stderr):
        buffer = io.BytesIO()
        # method 6 takes ten times as long for half a percent
        Image.fromarray(to_sheet(pixels)).save(buffer, "webp", lossless=True, quality=100, method=4)
        content = buffer.getvalue()
        if not parts or len(content) > room:
            parts.append([])
            room = part_mb * 2**20 - sum(map(len, labels.values())) - 10_000  # labels and index travel in each part
        if len(content) > room:
            raise ZooError(f"--part-mb {part_mb} is too little for one sheet of {len(content) / 2**20:.1f} MiB.")
        room -= len(content)
        parts[-1].append(name)
        sheets[name] = digest(content)
        write_atomically(content, target / f"part-{len(parts)}" / name)
    for number, names in enumerate(parts, 1):
        folder = target / f"part-{number}"
        files = {f"{split}-labels.bin": values.tobytes() for split, values in labels.items()}
        index = {"files": {**{name: digest(content) for name, content in files.items()}, **sheets}}
        for name, content in {**files, "index.json": json.dumps(index, indent=1).encode()}.items():
            write_atomically(content, folder / name)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {len(names)} sheets, {size:,} bytes")


def unpack(part: Path, data: Path) -> bool:
    """Take a part over; True if the data set is now whole.

    Raises:
        DataError: If a file is missing or not the one that was packed, or parts of different packings meet.
    """
    kept = data / "sheets"
    if (data / "cifar-10-batches-bin" / "test_batch.bin").exists():
        return True
    try:
        files = json.loads((part / "index.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{part} is no part of a packed CIFAR-10 ({error}).") from None
    kept.mkdir(parents=True, exist_ok=True)
    for path in sorted(part.iterdir()):
        if path.name != "index.json":
            content = path.read_bytes()
            if digest(content) != files.get(path.name):
                raise DataError(f"{path} is damaged or of another packing: carry it again.")
            write_atomically(content, kept / path.name)
    missing = [name for name in files if not (kept / name).exists()]
    if missing:
        print(f"{data}: {len(missing)} of {len(files)} files of CIFAR-10 are still to come")
        return False
    for split, batches in BATCHES.items():
        names = sorted(name for name in files if name.startswith(split) and name.endswith(".webp"))
        with tqdm(names, desc=split, disable=None, file=sys.stderr) as bar:
            images = np.concatenate([_open_sheet(kept / name, files[name]) for name in bar])
        if digest(images) != IMAGES[split]:
            raise DataError(f"{data}: the {split} images do not have the sha256 of CIFAR-10: pack it again.")
        labels = np.frombuffer((kept / f"{split}-labels.bin").read_bytes(), np.uint8)
        rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
        for number, batch in enumerate(batches):
            content = rows[number * BATCH : (number + 1) * BATCH].tobytes()
            write_atomically(content, data / "cifar-10-batches-bin" / f"{batch}.bin")
    shutil.rmtree(kept)
    print(f"{data}: CIFAR-10 is whole")
    return True


def _open_sheet(path: Path, sha256: str) -> np.ndarray:
    content = path.read_bytes()
    if digest(content) != sha256:
        raise DataError(f"{path} is not of the same packing as the other sheets: delete {path.parent} and begin anew.")
    return from_sheet(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pack")
    command.add_argument("data", type=Path, help="folder of CIFAR-10")
    command.add_argument("parts", type=Path, help="new folder for the parts")
    command.add_argument("--part-mb", type=float, default=50, help="largest size of a part in MiB (50)")
    command = commands.add_parser("unpack")
    command.add_argument("part", type=Path)
    command.add_argument("data", type=Path, help="folder that outlives a command")
    options = parser.parse_args()
    try:
        if options.command == "pack":
            pack(options.data, options.parts, options.part_mb)
        else:
            unpack(options.part, options.data)
    except ZooError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
