"""The packed form of a weight file: sparse tensors as their values and coded positions, equal tensors once.

A packed file is a safetensors file of byte strings from which the plain file comes back byte for byte, so that the
plain file's sha256, the manifest's, decides over both. What a network learns is in the plain file once already (a bank,
the stored half of a symmetric kernel); here zeros and repetitions go too, and of floats the exponents are compressed.

- ``header``: the plain file's header, deflated. Its tensors, in the order of their data, are those of the plan.
- ``plan``: JSON, deflated. ``tensors`` has for each
  ``{"form": "plain", "bytes": B, "width": w}`` - items of w bytes;
  ``{"form": "same", "bytes": B, "as": j}`` - the bytes of tensor j < i;
  ``{"form": "sparse", "bytes": B, "width": w, "at": p}`` - zeros but for items of w bytes at positions p;
  ``{"form": "ones", "bytes": B, "at": p}`` - zeros but for bytes 1 at positions p (a mask);
  and ``positions`` the sets of increasing positions below ``entries``:
  ``{"code": "bits", "entries": N}`` - one bit per entry, the first in the highest bit of the first byte;
  ``{"code": "rice", "entries": N, "count": n, "low": k, "high": h}`` - gaps between positions (Rice code, R. F. Rice,
  1979): the lower k bits of each, highest first; then, in h bytes, the rest as that many 0s and a 1.
- ``positions``: these bits, one set after the other, each beginning with a byte.
- ``rest``, ``top``: the items, one after the other. One of several bytes (a float) is rotated left by one bit, so that
  its highest byte holds exponent bits; that byte is in ``top``, which is deflated, the others in ``rest``.

The reader believes nothing: sizes are checked before anything is allocated, and what would be larger than
``EXPANSION`` times the file is refused.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from ..errors import WeightError
from ..files import is_file
from .convert import safetensors_bytes

PACKED = "model.packed.safetensors"
"""Name of the packed form where it lies beside ``model.safetensors``."""

FORMAT = "zoo-packed-2"
EXPANSION = 256
_START = b'{"__metadata__":{"format":"' + FORMAT.encode() + b'"'
_LARGE, _EXPANSION_OF_LARGE = 256 << 20, 32  # a file of some MB must not become gigabytes
_MOST_LOW = 24
_LARGEST_TEXT = 4 << 20  # bytes of a header or plan
_FIELDS = {
    "plain": {"form", "bytes", "width"},
    "same": {"form", "bytes", "as"},
    "sparse": {"form", "bytes", "width", "at"},
    "ones": {"form", "bytes", "at"},
}
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PIECES = ("header", "plan", "positions", "top", "rest")


def weight_file(folder: Path) -> Path:
    """The weight in a network's folder: ``model.safetensors``, or the packed form where that alone is there."""
    plain, packed = folder / "model.safetensors", folder / PACKED
    return packed if is_file(packed) and not is_file(plain) else plain


def is_packed(content: bytes) -> bool:
    """Whether these bytes begin as a packed file does."""
    return content[8 : 8 + len(_START)] == _START


def pack(plain: bytes, path: str | Path = "file") -> bytes:
    """Pack a safetensors file.

    Args:
        plain: Its bytes.
        path: What errors call it.

    Returns:
        The packed file; :func:`unpack` gives ``plain`` back, which has been tried.

    Raises:
        WeightError: If it is not a safetensors file.
    """
    try:
        load_tensors(plain)
    except Exception as error:  # whatever a damaged file raises
        raise WeightError(f"{path}: not a safetensors file ({error}).") from None
    length = int.from_bytes(plain[:8], "little")
    header, data = plain[8 : 8 + length], memoryview(plain)[8 + length :]
    for sparse in (True, False):
        content = _write(header, data, sparse)
        try:
            if unpack(content, path) == plain:
                return content
        except WeightError:  # almost only zeros: more than EXPANSION allows
            continue
    raise WeightError(f"{path}: cannot be packed: its data has gaps, or its header is not the usual one.")


def unpack(content: bytes, path: str | Path = "file", size: int | None = None) -> bytes:
    """The plain safetensors file in a packed one; its sha256 is for the caller to compare.

    Args:
        content: The packed file.
        path: What errors call it.
        size: Bytes of the plain file where they are known; nothing is allocated for a file of another size.

    Raises:
        WeightError: If it is damaged, of another size, or would become larger than ``EXPANSION`` times its size.
    """
    try:
        return _read(content, size)
    except WeightError as error:
        raise WeightError(f"{path}: not a packed weight file ({error}).") from None
    except Exception as error:  # JSON, safetensors and index errors of damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightError(f"{path}: not a packed weight file ({reason}).") from None


def _write(header: bytes, data: memoryview, sparse: bool) -> bytes:
    facts = {name: fact for name, fact in json.loads(header).items() if name != "__metadata__"}
    order = sorted(facts, key=lambda name: facts[name]["data_offsets"])
    parts = {name: np.frombuffer(data[slice(*facts[name]["data_offsets"])], np.uint8) for name in order}
    masks = {name: np.flatnonzero(parts[name]) for name in order if facts[name]["dtype"] == "BOOL"}
    tensors, positions, bits, top, rest = [], [], [], [], []
    seen: dict[bytes, int] = {}
    sets: dict[bytes, int] = {}

    def position_set(where: np.ndarray, entries: int) -> int:
        label = entries.to_bytes(8, "little") + where.tobytes()
        if label not in sets:
            sets[label] = len(positions)
            positions.append(_write_positions(where, entries, bits))
        return sets[label]

    for i, name in enumerate(order):
        part, width = parts[name], _WIDTHS.get(facts[name]["dtype"], 1)
        content = part.tobytes()
        if part.size > 64 and content in seen:
            tensors.append({"form": "same", "bytes": part.size, "as": seen[content]})
            continue
        seen[content] = i
        if sparse and name in masks and part.size >= 64 and part.max() <= 1:
            tensors.append({"form": "ones", "bytes": part.size, "at": position_set(masks[name], part.size)})
            continue
        entry: dict[str, Any] = {"form": "plain", "bytes": part.size, "width": width}
        items = part.view(f"<u{width}")
        if sparse and width > 1 and part.size >= 64:
            where = _positions_of(name, items, masks)
            if where.size < 0.8 * items.size:
                entry |= {"form": "sparse", "at": position_set(where, items.size)}
                items = items[where]
        tensors.append(entry)
        if width > 1:
            rotated = (items << 1 | items >> (8 * width - 1)).view(np.uint8).reshape(-1, width)
            top.append(rotated[:, -1])
            rest.append(rotated[:, :-1].ravel())
        else:
            rest.append(items)
    plan = json.dumps({"tensors": tensors, "positions": positions}, separators=(",", ":")).encode()
    huffman = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)  # there are no repetitions to be found
    pieces = (zlib.compress(header, 9), zlib.compress(plan, 9), _joined(bits))
    pieces += (huffman.compress(_joined(top)) + huffman.flush(), _joined(rest))
    stored = [torch.from_numpy(np.frombuffer(piece, np.uint8).copy()) for piece in pieces]
    return safetensors_bytes(dict(zip(_PIECES, stored, strict=True)), {"format": FORMAT})


def _joined(arrays: list[np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in arrays)


def _positions_of(name: str, items: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """Where a tensor is not zero, or where the mask beside it is on: one set of positions then serves both."""
    where = np.flatnonzero(items)
    for mask, on in masks.items():
        beside = mask.startswith(name.rpartition(".")[0] + ".")
        if beside and where.size <= on.size <= 1.1 * where.size + 16 and np.isin(where, on, assume_unique=True).all():
            return on
    return where


def _write_positions(where: np.ndarray, entries: int, bits: list[np.ndarray]) -> dict[str, Any]:
    """Add the bits of a set to those before; returns its entry in the plan."""
    gaps = np.diff(where, prepend=-1) - 1
    sizes = [where.size * (low + 1) + int((gaps >> low).sum()) for low in range(_MOST_LOW)]
    low = int(np.argmin(sizes))
    if sizes[low] >= entries:
        bits.append(np.packbits(_flags(where, entries)))
        return {"code": "bits", "entries": entries}
    lower = (gaps[:, None] >> np.arange(low - 1, -1, -1)) & 1
    ends = np.cumsum((gaps >> low) + 1) - 1
    high = np.packbits(_flags(ends, int(ends[-1]) + 1 if ends.size else 0))
    bits += [np.packbits(lower.astype(np.uint8).ravel()), high]
    return {"code": "rice", "entries": entries, "count": int(where.size), "low": low, "high": high.size}


def _flags(where: np.ndarray, entries: int) -> np.ndarray:
    flags = np.zeros(entries, np.uint8)
    flags[where] = 1
    return flags


class _Bytes:
    """A byte string that is read from its beginning to its end."""

    def __init__(self, content: np.ndarray):
        self.content, self.at = content, 0

    def take(self, size: int) -> np.ndarray:
        if size > self.content.size - self.at:
            raise WeightError("a byte string is too short")
        self.at += size
        return self.content[self.at - size : self.at]


def _read(content: bytes, size: int | None) -> bytes:
    if not is_packed(content):
        raise WeightError("it does not begin as one")
    pieces = {name: tensor.numpy() for name, tensor in load_tensors(content).items()}
    if sorted(pieces) != sorted(_PIECES) or any(p.dtype != np.uint8 or p.ndim != 1 for p in pieces.values()):
        raise WeightError("it has other byte strings")
    header = _inflated(pieces["header"], _LARGEST_TEXT)
    plan = json.loads(_inflated(pieces["plan"], _LARGEST_TEXT))
    entries = plan["tensors"]
    sizes = [_count(entry["bytes"]) for entry in entries]
    start = 8 + len(header)
    total = start + sum(sizes)
    times = EXPANSION if total <= _LARGE else _EXPANSION_OF_LARGE
    if total > times * len(content):
        raise WeightError(f"it would become {total} bytes, more than {times} times its size")
    if size is not None and total != size:
        raise WeightError(f"it would become {total} bytes, and the weight has {size}")
    bits, rest = _Bytes(pieces["positions"]), _Bytes(pieces["rest"])
    top = _Bytes(np.frombuffer(_inflated(pieces["top"], total), np.uint8))
    sets = [(entry, bits.take(_size_of_positions(entry))) for entry in plan["positions"]]
    decoded: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # a mask and its weight, side by side, have the same
    whole = np.zeros(total, np.uint8)
    whole[:8] = np.frombuffer(len(header).to_bytes(8, "little"), np.uint8)
    whole[8:start] = np.frombuffer(header, np.uint8)
    offsets = np.cumsum([start, *sizes]).tolist()
    for i, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
        part, form = whole[offsets[i] : offsets[i] + size], entry["form"]
        if set(entry) != _FIELDS.get(form):
            raise WeightError("a tensor has an unknown form or field")
        if form == "same":
            other = _count(entry["as"])
            if other >= i or sizes[other] != size:
                raise WeightError("a tensor repeats one that does not fit")
            part[:] = whole[offsets[other] : offsets[other] + size]
            continue
        width = 1 if form == "ones" else entry["width"]
        if width not in (1, 2, 4, 8) or isinstance(width, bool) or size % width:
            raise WeightError("a tensor has an impossible width")
        if form == "plain":
            part.view(f"<u{width}")[:] = _items(size // width, width, rest, top)
            continue
        at = _count(entry["at"])
        if _count(sets[at][0]["entries"]) * width != size:
            raise WeightError("positions do not fit their tensor")
        if decoded[0] != at:
            decoded = (at, _positions(*sets[at]))
        where = decoded[1]
        part.view(f"<u{width}")[where] = 1 if form == "ones" else _items(where.size, width, rest, top)
    if any(piece.at != piece.content.size for piece in (bits, rest, top)):
        raise WeightError("a byte string is too long")
    return whole.tobytes()


def _inflated(piece: np.ndarray, limit: int) -> bytes:
    inflate = zlib.decompressobj()
    content = inflate.decompress(piece.tobytes(), limit + 1)
    if len(content) > limit or not inflate.eof or inflate.unused_data:
        raise WeightError("a deflated byte string is cut off, or too long")
    return content


def _items(count: int, width: int, rest: _Bytes, top: _Bytes) -> np.ndarray:
    """The next items, rotated back."""
    if width == 1:
        return rest.take(count)
    rotated = np.empty((count, width), np.uint8)
    rotated[:, :-1] = rest.take(count * (width - 1)).reshape(count, width - 1)
    rotated[:, -1] = top.take(count)
    items = rotated.reshape(-1).view(f"<u{width}")
    return items >> 1 | items << (8 * width - 1)


def _size_of_positions(entry: dict[str, Any]) -> int:
    """Bytes of a set's bits; nothing has been allocated for it yet."""
    entries = _count(entry["entries"])
    if entry["code"] == "bits":
        return -(-entries // 8)
    if entry["code"] != "rice":
        raise WeightError("positions have an unknown code")
    count, low = _count(entry["count"]), _count(entry["low"])
    if low >= _MOST_LOW:
        raise WeightError("a Rice code has too many lower bits")
    if count > entries:
        raise WeightError("a set has more positions than entries")
    return -(-count * low // 8) + _count(entry["high"])


def _positions(entry: dict[str, Any], bits: np.ndarray) -> np.ndarray:
    entries = entry["entries"]
    if entry["code"] == "bits":
        return np.flatnonzero(np.unpackbits(bits, count=entries))
    count, low = entry["count"], entry["low"]
    lower, high = np.split(bits, [-(-count * low // 8)])
    ends = np.flatnonzero(np.unpackbits(high))
    if ends.size != count:
        raise WeightError("a Rice code has another count")
    gaps = (np.diff(ends, prepend=-1) - 1) << low
    if low:
        columns = np.unpackbits(lower, count=count * low).reshape(count, low)
        for column in range(low):
            gaps += columns[:, column].astype(np.int64) << (low - 1 - column)
    where = np.cumsum(gaps + 1) - 1
    if count and where[-1] >= entries:
        raise WeightError("a position is beyond the tensor")
    return where


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WeightError("a size is not a whole number")
    return value
