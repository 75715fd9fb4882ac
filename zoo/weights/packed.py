"""The packed form of a weight file: sparse tensors as their values and coded positions, equal tensors once.

A packed file is a safetensors file of byte strings from which the plain file comes back byte for byte, so that the
plain file's sha256, the manifest's, decides over both. What a network learns is in the plain file once already (a bank,
the stored half of a symmetric kernel); here zeros and repetitions go too. Layout, also in each file's metadata:

- ``header``: the plain file's header. Its tensors, in the order of their data, are the entries of ``plan["tensors"]``:
  ``{"form": "plain", "bytes": B}`` - byte string ``t<i>``;
  ``{"form": "same", "bytes": B, "as": j}`` - the bytes of tensor j < i;
  ``{"form": "sparse", "bytes": B, "width": w, "at": p}`` - zeros but for items of w bytes at positions p, in ``t<i>``;
  ``{"form": "ones", "bytes": B, "at": p}`` - zeros but for bytes 1 at positions p (a mask).
- ``plan["positions"]``, sets of increasing positions below ``entries``:
  ``{"code": "bits", "entries": N}`` - one bit per entry in ``p<i>``, the first in the highest bit of the first byte;
  ``{"code": "rice", "entries": N, "count": n, "low": k}`` - gaps between positions (Rice code, R. F. Rice, 1979): the
  lower k bits of each in ``p<i>.low``, highest first; the rest in ``p<i>.high`` as that many 0s and a 1.

The reader believes nothing: sizes are checked before anything is allocated, and what would be larger than
``EXPANSION`` times the file is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from ..errors import WeightError
from .convert import safetensors_bytes

PACKED = "model.packed.safetensors"
"""Name of the packed form where it lies beside ``model.safetensors``."""

FORMAT = "zoo-packed-1"
EXPANSION = 256
_START = b'{"__metadata__":{"format":"' + FORMAT.encode() + b'"'
_MOST_LOW = 24
_FIELDS = {
    "plain": {"form", "bytes"},
    "same": {"form", "bytes", "as"},
    "sparse": {"form", "bytes", "width", "at"},
    "ones": {"form", "bytes", "at"},
}
_WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_LAYOUT = __doc__.split("in each file's metadata:\n\n", 1)[1].split("\n\nThe reader", 1)[0]


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


def unpack(content: bytes, path: str | Path = "file") -> bytes:
    """The plain safetensors file in a packed one; its sha256 is for the caller to compare.

    Args:
        content: The packed file.
        path: What errors call it.

    Raises:
        WeightError: If it is damaged, or would become larger than ``EXPANSION`` times its size.
    """
    try:
        return _read(content)
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
    pieces, tensors, positions = {"header": np.frombuffer(header, np.uint8)}, [], []
    seen: dict[bytes, int] = {}
    sets: dict[bytes, int] = {}

    def position_set(where: np.ndarray, entries: int) -> int:
        label = entries.to_bytes(8, "little") + where.tobytes()
        if label not in sets:
            sets[label] = len(positions)
            positions.append(_write_positions(where, entries, f"p{len(positions)}", pieces))
        return sets[label]

    for i, name in enumerate(order):
        part = parts[name]
        entry: dict[str, Any] = {"form": "plain", "bytes": part.size}
        content = part.tobytes()
        if part.size > 64 and content in seen:
            tensors.append({"form": "same", "bytes": part.size, "as": seen[content]})
            continue
        seen[content] = i
        width = _WIDTHS.get(facts[name]["dtype"], 1)
        if sparse and name in masks and part.size >= 64 and part.max() <= 1:
            entry = {"form": "ones", "bytes": part.size, "at": position_set(masks[name], part.size)}
        elif sparse and width > 1 and part.size >= 64:
            items = part.view(f"<u{width}")
            where = _positions_of(name, items, masks)
            if where.size < 0.8 * items.size:
                at = position_set(where, items.size)
                entry = {"form": "sparse", "bytes": part.size, "width": width, "at": at}
                part = np.ascontiguousarray(items[where]).view(np.uint8)
        if entry["form"] != "ones":
            pieces[f"t{i}"] = part
        tensors.append(entry)
    plan = json.dumps({"tensors": tensors, "positions": positions}, separators=(",", ":"))
    stored = {name: torch.from_numpy(piece.copy()) for name, piece in pieces.items() if piece.size}
    return safetensors_bytes(stored, {"format": FORMAT, "plan": plan, "layout": _LAYOUT})


def _positions_of(name: str, items: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """Where a tensor is not zero, or where the mask beside it is on: one set of positions then serves both."""
    where = np.flatnonzero(items)
    for mask, on in masks.items():
        beside = mask.startswith(name.rpartition(".")[0] + ".")
        if beside and where.size <= on.size <= 1.1 * where.size + 16 and np.isin(where, on, assume_unique=True).all():
            return on
    return where


def _write_positions(where: np.ndarray, entries: int, name: str, pieces: dict[str, np.ndarray]) -> dict[str, Any]:
    gaps = np.diff(where, prepend=-1) - 1
    sizes = [where.size * (low + 1) + int((gaps >> low).sum()) for low in range(_MOST_LOW)]
    low = int(np.argmin(sizes))
    if sizes[low] >= entries:
        pieces[name] = np.packbits(_flags(where, entries))
        return {"code": "bits", "entries": entries}
    bits = (gaps[:, None] >> np.arange(low - 1, -1, -1)) & 1
    pieces[f"{name}.low"] = np.packbits(bits.astype(np.uint8).ravel())
    ends = np.cumsum((gaps >> low) + 1) - 1
    pieces[f"{name}.high"] = np.packbits(_flags(ends, int(ends[-1]) + 1 if ends.size else 0))
    return {"code": "rice", "entries": entries, "count": int(where.size), "low": low}


def _flags(where: np.ndarray, entries: int) -> np.ndarray:
    flags = np.zeros(entries, np.uint8)
    flags[where] = 1
    return flags


def _read(content: bytes) -> bytes:
    if not is_packed(content):
        raise WeightError("it does not begin as one")
    tensors = load_tensors(content)
    pieces = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.dtype == torch.uint8}
    length = int.from_bytes(content[:8], "little")
    plan = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["plan"])
    entries = plan["tensors"]
    sizes = [_count(entry["bytes"]) for entry in entries]
    header = pieces["header"].tobytes()
    start = 8 + len(header)
    total = start + sum(sizes)
    if total > EXPANSION * len(content):
        raise WeightError(f"it would become {total} bytes, more than {EXPANSION} times its size")
    empty = np.zeros(0, np.uint8)
    known: dict[int, np.ndarray] = {}

    def positions(index: Any) -> tuple[np.ndarray, int]:
        index = _count(index)
        if index not in known:
            known[index] = _read_positions(plan["positions"][index], f"p{index}", pieces, empty)
        return known[index], plan["positions"][index]["entries"]

    whole = np.zeros(total, np.uint8)
    whole[:8] = np.frombuffer(len(header).to_bytes(8, "little"), np.uint8)
    whole[8:start] = pieces["header"]
    offsets = np.cumsum([start, *sizes]).tolist()
    for i, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
        part, form = whole[offsets[i] : offsets[i] + size], entry["form"]
        if set(entry) != _FIELDS.get(form):
            raise WeightError("a tensor has an unknown form or field")
        values = pieces.get(f"t{i}", empty)
        if form == "plain":
            part[:] = _sized(values, size)
        elif form == "same":
            other = _count(entry["as"])
            if other >= i or sizes[other] != size:
                raise WeightError("a tensor repeats one that does not fit")
            part[:] = whole[offsets[other] : offsets[other] + size]
        else:
            width = 1 if form == "ones" else entry["width"]
            where, count = positions(entry["at"])
            if width not in (1, 2, 4, 8) or isinstance(width, bool) or count * width != size:
                raise WeightError("positions do not fit their tensor")
            if form == "ones":
                part[where] = 1
            else:
                part.view(f"<u{width}")[where] = _sized(values, where.size * width).view(f"<u{width}")
    return whole.tobytes()


def _read_positions(entry: dict[str, Any], name: str, pieces: dict[str, np.ndarray], empty: np.ndarray) -> np.ndarray:
    entries = _count(entry["entries"])
    if entry["code"] == "bits":
        flags = _sized(pieces.get(name, empty), -(-entries // 8))
        return np.flatnonzero(np.unpackbits(flags, count=entries))
    if entry["code"] != "rice":
        raise WeightError("positions have an unknown code")
    count, low = _count(entry["count"]), _count(entry["low"])
    if low >= _MOST_LOW:
        raise WeightError("a Rice code has too many lower bits")
    ends = np.flatnonzero(np.unpackbits(pieces.get(f"{name}.high", empty)))
    if ends.size != count:
        raise WeightError("a Rice code has another count")
    gaps = (np.diff(ends, prepend=-1) - 1) << low
    lower = _sized(pieces.get(f"{name}.low", empty), -(-count * low // 8))
    if low:
        bits = np.unpackbits(lower, count=count * low).reshape(count, low)
        for column in range(low):
            gaps += bits[:, column].astype(np.int64) << (low - 1 - column)
    where = np.cumsum(gaps + 1) - 1
    if count and where[-1] >= entries:
        raise WeightError("a position is beyond the tensor")
    return where


def _sized(piece: np.ndarray, size: int) -> np.ndarray:
    if piece.shape != (size,):
        raise WeightError("a byte string has another length")
    return piece


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WeightError("a size is not a whole number")
    return value
