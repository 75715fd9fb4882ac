"""``zoo.weights.pickles``: files that ask for more than they hold, and files with flipped bits."""

import contextlib
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import zoo
from zoo.training import checkpoint
from zoo.weights.importers import read_checkpoint
from zoo.weights.pickles import StandIn, read_pickle

P, G = pickle.PROTO + b"\x02", b"c"


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def called(module: str, name: str, arguments: bytes) -> bytes:
    return G + f"{module}\n{name}\n".encode() + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    identity = text("storage") + G + f"torch\n{kind}\n".encode() + text(key) + text("cpu") + number(count)
    return pickle.MARK + identity + pickle.TUPLE + pickle.BINPERSID


def tensor(count: int, size: int, stride: int = 1, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    shape = pickle.MARK + number(size) + pickle.TUPLE + pickle.MARK + number(stride) + pickle.TUPLE
    arguments = (
        storage(count, kind=kind) + number(offset) + shape + pickle.NEWFALSE + called("collections", "OrderedDict", b"")
    )
    return called("torch._utils", "_rebuild_tensor_v2", arguments)


MILLION = 1 << 20
LONG = text("x" * MILLION) + pickle.BINPUT + b"\x01"
GET = pickle.BINGET + b"\x01"
ENCODED = G + b"_codecs\nencode\n" + pickle.MARK + GET + text("utf-8") + pickle.TUPLE + pickle.REDUCE
LIST = (
    pickle.EMPTY_LIST
    + pickle.BINPUT
    + b"\x01"
    + pickle.MARK
    + (pickle.MARK + b"K\x01K\x02" + pickle.TUPLE) * 10000
    + pickle.APPENDS
)
BOMBS = {
    "bytearray": called("builtins", "bytearray", number(10**10)),
    "python2_bytearray": called("__builtin__", "bytearray", number(10**10)),
    "tensor_of_a_size": called("torch", "Tensor", number(10**10)),
    "encoded_again_and_again": LONG + ENCODED * 1000,
    "copied_again_and_again": LIST
    + (G + b"collections\nOrderedDict\n" + pickle.MARK + GET + pickle.TUPLE + pickle.REDUCE) * 2000,
    "place_in_the_memo": pickle.EMPTY_LIST + pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1),
    "empty_sets": pickle.MARK + pickle.EMPTY_SET * (2 * MILLION) + pickle.LIST,
    "memo": pickle.EMPTY_LIST + pickle.MEMOIZE * (2 * MILLION),
    "larger_than_its_storage": tensor(4, 10**10),
    "negative_stride": tensor(4, 4, -1),
    "negative_offset": tensor(4, 2, 1, -4),
    "storage_larger_than_its_record": tensor(10**10, 4),
    "negative_storage": tensor(-4, 1),
    "rows_of_one_value": tensor(4, 10**12, 0),
    "long_text": pickle.BINUNICODE8 + struct.pack("<Q", 10**11),
    "long_bytes": pickle.BINBYTES8 + struct.pack("<Q", 10**11),
    "long_number": b"\x8b" + struct.pack("<i", 2**31 - 1),
}


def archive(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(
            "archive/data.pkl", P + pickle.EMPTY_DICT + text("a.weight") + content + pickle.SETITEM + pickle.STOP
        )
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(16))
        file.writestr("archive/version", "3\n")
    return path


def legacy(path: Path, content: bytes) -> Path:
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    parts += [P + pickle.EMPTY_DICT + text("a.weight") + content + pickle.SETITEM + pickle.STOP, pickle.dumps(["0"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", 4) + bytes(16))
    return path


def test_none_of_them_takes_memory(tmp_path):
    """All in one process whose memory may grow by 800 MB; each is one line that names the file."""
    files = [
        write(tmp_path / f"{name}.{write.__name__}", bomb)
        for name, bomb in BOMBS.items()
        for write in (archive, legacy)
    ]
    code = """
import resource, sys
import zoo
from zoo.weights.importers import read_checkpoint
before = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (before + (800 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        read_checkpoint(path)
        print("taken:", path)
    except zoo.WeightError as error:
        if "\\n" in str(error) or path not in str(error) or "MemoryError" in str(error):
            print("not one line:", error)
print("all read")
"""
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=300, check=False)
    assert (run.stdout.strip(), run.returncode) == ("all read", 0), run.stderr[-2000:]


def test_what_they_are_made_of_is_read(tmp_path):
    """The files of this test differ from good ones in what they claim alone."""
    for path in (archive(tmp_path / "a", tensor(4, 4)), legacy(tmp_path / "b", tensor(4, 4))):
        assert torch.equal(read_pickle(path)["a.weight"], torch.zeros(4))


@pytest.mark.parametrize("zip_format", [True, False])
def test_every_kind_of_content_comes_back(tmp_path, zip_format):
    """What torch.save writes: types, views that share memory, parameters, containers, and what is not a tensor."""
    base = torch.arange(12.0).view(3, 4)
    state = {
        "views": [base, base[1:, ::2], base.t()],
        "types": [
            torch.ones(3).to(kind) for kind in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool)
        ],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
        "shape": torch.Size((2, 3)),
        "type": torch.float16,
        "values": {"a": {1, 2}, "b": (None, True, 1.5, 2**70, b"bytes", "ä"), "c": [], "d": complex(1, 2)},
    }
    path = tmp_path / "x.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zip_format)
    read = read_pickle(path)
    for key in ("views", "types"):
        for a, b in zip(read[key], state[key], strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    read["views"][0][1, 0] = 100
    assert read["views"][1][0, 0] == 100
    assert torch.equal(read["parameter"], state["parameter"]) and read["empty"].shape == (0, 3) and read["scalar"] == 7
    assert read["shape"] == (2, 3) and read["type"] == torch.float16 and read["values"] == state["values"]


def test_a_flipped_bit_is_never_read(tmp_path):
    """In an archive every record has a checksum: no tensor and no number is another than was saved."""
    good = tmp_path / "good.pt"
    torch.save({"epoch": 3, "model": {"a.weight": torch.randn(40, 25)}, "names": list("abc")}, good)
    content, expected, draw = good.read_bytes(), read_pickle(good), random.Random(0)
    for _ in range(300):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        (tmp_path / "bad.pt").write_bytes(damaged)
        try:
            read = read_pickle(tmp_path / "bad.pt")
        except zoo.WeightError as error:
            assert "\n" not in str(error)
        else:  # padding between records, or a date
            assert torch.equal(read.pop("model")["a.weight"], expected["model"]["a.weight"])
            assert read == {"epoch": 3, "names": list("abc")}


def test_attributes_set_by_one_file_do_not_reach_the_next(tmp_path):
    """A pickle may set attributes of what it names; what it names is made for it alone."""
    change = (
        pickle.MARK
        + pickle.NONE
        + pickle.EMPTY_DICT
        + text("__defaults__")
        + pickle.NONE
        + pickle.SETITEM
        + pickle.TUPLE
        + pickle.BUILD
    )
    names = [
        ("collections", "OrderedDict"),
        ("argparse", "Namespace"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("own", "Thing"),
    ]
    for index, (module, name) in enumerate(names):
        path = archive(tmp_path / str(index), G + f"{module}\n{name}\n".encode() + change)
        with contextlib.suppress(zoo.WeightError):
            read_pickle(path)
    assert torch.equal(read_pickle(archive(tmp_path / "good", tensor(4, 4)))["a.weight"], torch.zeros(4))
    assert "__defaults__" not in vars(StandIn)


def test_a_run_goes_on_from_what_it_saved_to_the_bit(tmp_path):
    """Whatever bit of a run's checkpoint flips, wherever it is cut: it is refused; torch itself can still read it."""
    path, draw = tmp_path / "checkpoint.pt", random.Random(0)
    checkpoint.save({"model": {"a": torch.randn(30)}, "epoch": 3, "step": 0}, path)
    good = path.read_bytes()
    assert torch.equal(torch.load(path, weights_only=True)["model"]["a"], checkpoint.load(path)["model"]["a"])
    damaged = [bytearray(good) for _ in range(200)]
    for content in damaged:
        content[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
    for content in (*damaged, good[:-1], good[: len(good) // 2], good + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(zoo.ZooError, match=r"checkpoint\.pt: ") as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"epoch": -5}, {"epoch": True}, {"epoch": 1.5}, {"step": -1}, {"step": None}])
def test_impossible_epochs_are_refused(tmp_path, wrong):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {"a": torch.ones(1)}, "epoch": 1, "step": 0} | wrong, path)
    with pytest.raises(zoo.ZooError, match="not a checkpoint of zoo train"):
        checkpoint.load(path)


@pytest.mark.parametrize("reader", [read_pickle, read_checkpoint, checkpoint.load])
def test_only_regular_files_are_opened(tmp_path, reader):
    """A pipe would block, a device never end, a folder raise something else."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(zoo.ZooError, match=f"{path}: ") as caught:
            reader(path)
        assert "\n" not in str(caught.value)
