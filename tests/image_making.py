"""Image files that Pillow does not write: odd bits, tags and damage."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def tiff(path: Path, pixels: np.ndarray, order: str = "<", **tags: int) -> Path:
    """A grey TIFF of one strip, with the tags as given: photometric 1, no sample format unless said."""
    content = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    return raw_tiff(path, content, pixels.shape, pixels.dtype.itemsize * 8, order, **tags)


def raw_tiff(path, content, shape, bits, order="<", photometric=1, sample_format=1) -> Path:
    height, width = shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    entries += [(278, height), (279, len(content)), (339, sample_format)]
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(mark + struct.pack(f"{order}I", 8 + len(content)) + content + directory)
    return path


def png(path: Path, bits: int, colour: int, rows: list[bytes], width: int, **chunks: bytes) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *((k.encode(), v) for k, v in chunks.items())]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def exif(orientation: int, order: str = "<", before=(), after=()) -> bytes:
    """An EXIF block; entries beside the orientation are (tag, type, count, four bytes of value)."""
    entries = [*before, (0x112, 3, 1, struct.pack(f"{order}H2x", orientation)), *after]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHI", *e[:3]) + e[3] for e in entries) + bytes(4)


def picture(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, ending)
    return buffer.getvalue()
