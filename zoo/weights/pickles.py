"""Files of ``torch.save``, read by an unpickler that runs nothing of theirs and allocates nothing they do not hold.

``torch.load(weights_only=True)`` executes no foreign code either, but a few hundred bytes can ask it for any amount
of memory (``bytearray(10**10)``, a storage that is longer than the file, a tensor larger than its storage, one long
text encoded a million times), and it compares no checksum. Here names stand for functions of this file alone, what
they make is counted against the size of the file, and the CRC-32 that ``torch.save`` gives every record is compared.
"""

import argparse
import builtins
import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import WeightError
from ..files import open_file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ALLOWANCE = 64 << 20
"""Bytes that objects other than tensors may take beside 16 times the size of the file."""
_COSTS = dict.fromkeys(b"]})\x8f\x85\x86\x87tldioR\x81\x92\x91", 200) | dict.fromkeys(b"pqr\x94", 100)
"""Bytes that an instruction may take: containers and objects, entries of the memo; all others 32."""
_HARMFUL = {
    "builtins",
    "__builtin__",
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "importlib",
    "runpy",
    "shutil",
    "socket",
}
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class StandIn:
    """Takes the place of anything that is not known here; accepts everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Unusual(StandIn):
    """Takes the place of a tensor that is not strided, or is quantized, or has no values."""


def read_pickle(path: Path, content: bytes | None = None) -> Any:
    """The content of a file that ``torch.save`` wrote, in either of its formats.

    Tensors are on the CPU; tensors that shared memory share it. Objects of unknown classes are a :class:`StandIn` of
    a class of that name.

    Args:
        path: The file.
        content: Its bytes, where they have been read already; the path is then only named in errors.

    Raises:
        WeightError: If it is no such file, is damaged, names something that could do harm, or claims more than it
            holds.
    """
    try:
        with open_file(path) if content is None else io.BytesIO(content) as file:
            size = os.fstat(file.fileno()).st_size if content is None else len(content)
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _read_archive(archive, size)
            file.seek(0)
            return _read_legacy(file, size)
    except _Refused as error:
        raise WeightError(f"{path}: refused, {error}.") from None
    except WeightError as error:
        raise WeightError(f"{path}: {error}") from None
    except zipfile.BadZipFile as error:
        raise WeightError(f"{path}: cannot be read as a checkpoint, it is damaged ({_line(error)}).") from None
    except Exception as error:  # a damaged or hostile file can raise anything
        raise WeightError(
            f"{path}: cannot be read as a checkpoint (torch.save did not write it, or it is damaged: {_line(error)})."
        ) from None


class _Refused(Exception):
    """What a file asks for is more than it holds, or could do harm."""


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


# ---- the two containers ----


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    records = {record.filename: record for record in archive.infolist()}
    claimed = sum(record.file_size for record in records.values())
    if claimed > size:
        raise _Refused(f"its records claim {claimed:,} bytes and the file has {size:,}")
    folders = [name.removesuffix("data.pkl") for name in records if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(folders) != 1:
        raise WeightError("cannot be read as a checkpoint (an archive that torch.save did not write).")
    folder = folders[0]
    if f"{folder}constants.pkl" in records:
        raise WeightError("holds a TorchScript program, not a checkpoint. Save its state dict.")
    if f"{folder}byteorder" in records and archive.read(f"{folder}byteorder") != b"little":
        raise WeightError("was written on a machine of another byte order, which is not supported.")

    def storage(key: str, bytes_: int) -> Tensor:
        record = records.get(f"{folder}data/{key}")
        if record is None or record.file_size < bytes_:
            raise _Refused(f"a tensor claims {bytes_:,} bytes and its record has {record.file_size if record else 0:,}")
        return _bytes(archive.read(record)[:bytes_])  # which compares the checksum

    with archive.open(f"{folder}data.pkl") as file:
        return _Unpickler(file, size, storage).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    first = _Unpickler(file, size, None).load()
    if first != _LEGACY_MAGIC:
        raise WeightError("cannot be read as a checkpoint (torch.save did not write it).")
    protocol, system = (_Unpickler(file, size, None).load() for _ in range(2))
    if protocol != 1001 or not isinstance(system, dict) or system.get("little_endian") is False:
        raise WeightError("cannot be read as a checkpoint (another version or byte order).")
    claimed: dict[str, Tensor] = {}

    def storage(key: str, bytes_: int) -> Tensor:
        if key not in claimed:
            if sum(len(content) for content in claimed.values()) + bytes_ > size:
                raise _Refused(f"its tensors claim more than the {size:,} bytes that the file has")
            claimed[key] = torch.empty(bytes_, dtype=torch.uint8)
        if len(claimed[key]) != bytes_:
            raise _Refused("a storage has two sizes")
        return claimed[key]

    unpickler = _Unpickler(file, size, storage)
    content = unpickler.load()
    for key in _Unpickler(file, size, None).load():
        (count,) = struct.unpack("<q", file.read(8))
        target = claimed[key]
        if count * unpickler.width[key] != len(target) or file.readinto(target.numpy()) != len(target):
            raise WeightError("cannot be read as a checkpoint, it is cut off.")
        claimed.pop(key)
    if claimed:
        raise WeightError("cannot be read as a checkpoint, tensors are missing.")
    return content


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


# ---- the unpickler ----


class _Capped:
    """A file that is never asked for more bytes than it has: Python allocates them first."""

    def __init__(self, file: Any, size: int):
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))


class _Unpickler(pickle._Unpickler):  # the one in Python: the one in C lets a few bytes ask for memory (its memo)
    """Reads one pickle; names become functions of this class, made for this one file."""

    def __init__(self, file: Any, size: int, storage: Callable[[str, int], Tensor] | None):
        super().__init__(_Capped(file, size), encoding="utf-8")
        self.left = 16 * size + _ALLOWANCE
        self.dispatch = {code: self._costly(code, function) for code, function in pickle._Unpickler.dispatch.items()}
        self.storage = storage
        self.stored: dict[str, Tensor] = {}
        self.width: dict[str, int] = {}
        self.names = {
            ("collections", "OrderedDict"): self._counted(collections.OrderedDict),
            ("collections", "Counter"): self._counted(collections.Counter),
            ("collections", "defaultdict"): lambda *args: {},
            ("builtins", "set"): self._counted(set),
            ("builtins", "bytearray"): self._bytearray,
            ("builtins", "complex"): complex,
            ("_codecs", "encode"): self._encode,
            ("torch", "Size"): self._counted(tuple),
            ("torch", "device"): lambda *args: "cpu",
            ("torch.serialization", "_get_layout"): lambda name: name,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): lambda data, *args: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *args: data,
            ("torch._tensor", "_rebuild_from_type_v2"): lambda function, cls, args, state: function(*args),
        }

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for; nothing is imported."""
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in self.names:
            return self.names[module, name]
        if (module, name) == ("argparse", "Namespace"):
            return type("Namespace", (argparse.Namespace,), {})  # a class of its own: a pickle may set its attributes
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        function = module == "builtins" and not isinstance(vars(builtins).get(name), type)
        if function or module.partition(".")[0] in _HARMFUL:
            raise _Refused(f"it names {module}.{name}"[:200])
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return type(name, (Unusual,), {})
        return type(name.rpartition(".")[2] or "object", (StandIn,), {})

    def persistent_load(self, saved_id: Any) -> Any:
        """The storage that a tensor refers to: (bytes, dtype)."""
        kind = saved_id[0].decode() if isinstance(saved_id[0], bytes) else saved_id[0]
        if kind == "module":  # the old format writes the source of a network's class beside it
            return type(str(getattr(saved_id[1], "__name__", "network")), (StandIn,), {})
        if kind != "storage" or self.storage is None:
            raise _Refused(f"it refers to a {str(kind)[:80]}")
        dtype, key, count = saved_id[1], str(saved_id[2]), saved_id[4]
        if not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise _Refused("a storage of an unknown type or size")
        if key not in self.stored:
            self.width[key] = dtype.itemsize
            self.stored[key] = self.storage(key, count * dtype.itemsize)
        if len(saved_id) > 5 and saved_id[5] is not None:
            raise _Refused("a view of a storage, as very old versions of torch wrote them; save it again")
        return self.stored[key], dtype

    def _tensor(self, storage: Any, offset: int, size: tuple, stride: tuple, *args: Any) -> Tensor:
        content, dtype = storage
        return self._view(content, dtype, offset, size, stride)

    def _tensor_of_type(self, storage: Any, offset: int, size: tuple, stride: tuple, *args: Any) -> Tensor:
        if not isinstance(args[2], torch.dtype):
            raise _Refused("a tensor of an unknown type")
        return self._view(storage[0], args[2], offset, size, stride)

    def _view(self, content: Tensor, dtype: torch.dtype, offset: int, size: tuple, stride: tuple) -> Tensor:
        whole = content.view(dtype)
        numbers = (offset, *size, *stride)
        if not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in numbers) or len(size) != len(stride):
            raise _Refused("a tensor has an impossible shape")
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset
        if end > len(whole):
            raise _Refused(f"a tensor claims {end:,} entries of a storage of {len(whole):,}")
        return torch.as_strided(whole, size, stride, offset)

    # Every instruction is counted, and what copies something that is there already by its length.

    def _costly(self, code: int, function: Callable[["_Unpickler"], None]) -> Callable[["_Unpickler"], None]:
        cost, copies = _COSTS.get(code, 32), code == pickle.BUILD[0]

        def load(unpickler: _Unpickler) -> None:
            unpickler._count(cost)
            if copies and hasattr(unpickler.stack[-1], "__len__"):
                unpickler._count(100 * len(unpickler.stack[-1]))
            function(unpickler)

        return load

    def _count(self, bytes_: int) -> None:
        self.left -= bytes_
        if self.left < 0:
            raise _Refused("it would take much more memory than the file has bytes")

    def _counted(self, cls: type) -> Callable[..., Any]:
        def make(*args: Any) -> Any:
            self._count(sum(100 * len(arg) for arg in args if hasattr(arg, "__len__")))
            return cls(*args)

        return make

    def _encode(self, text: str, encoding: str = "latin1", *args: Any) -> bytes:
        self._count(len(text) * 4)
        if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):  # as pickles of bytes have it
            raise _Refused(f"it asks for the encoding {encoding!r}"[:80])
        return text.encode(encoding)

    def _bytearray(self, content: bytes = b"", *args: Any) -> bytearray:
        if not isinstance(content, bytes):
            raise _Refused("it asks for bytes that it does not hold")
        self._count(len(content))
        return bytearray(content)
