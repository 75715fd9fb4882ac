"""Conversion of an authors' release to safetensors, byte for byte the same on every machine."""

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors with metadata in the order given.

    The library writes metadata in a random order, so that one conversion has many hashes; its own output without
    metadata is deterministic, and only the header is written again here.

    Args:
        tensors: Name to tensor.
        metadata: Text values, kept in order.
    """
    plain = save(dict(tensors))
    length = int.from_bytes(plain[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(plain[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes with blanks
    return len(text).to_bytes(8, "little") + text + plain[8 + length :]
