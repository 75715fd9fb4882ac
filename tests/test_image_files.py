"""Image files of every mode, damage and name: right pixels, or one line that names the file."""

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from image_making import exif, picture, png, raw_tiff, tiff
from zoo.data.images import load_image, naming
from zoo.data.pixels import to_8_bits

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read(path: Path, channels: int = 1) -> np.ndarray:
    image = load_image(path, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


def refused(path: Path, reason: str = ".") -> None:
    with pytest.raises(zoo.DataError, match=reason) as raised:
        load_image(path, 3)
    assert path.name in str(raised.value)
    assert "\n" not in str(raised.value)


# ---- pixels ----


@pytest.mark.parametrize(
    ("ending", "order"), [("tif", "<"), ("tif", ">"), ("png", "<"), ("png", ">"), ("jp2", "<"), ("pgm", "<")]
)
def test_16_bits_give_the_pixels_of_their_8_bit_copy(tmp_path, ending, order):
    Image.fromarray((RAMP.astype("u2") * 257).astype(f"{order}u2")).save(tmp_path / f"wide.{ending}")
    assert np.array_equal(read(tmp_path / f"wide.{ending}"), RAMP)
    dark = Image.fromarray(np.full((4, 4), 1000, f"{order}u2"))
    dark.save(tmp_path / f"dark.{ending}")
    assert np.array_equal(read(tmp_path / f"dark.{ending}", 3), np.full((4, 4, 3), 4)), "not stretched"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("values", "sample_format", "expected"),
    [
        (RAMP.astype("u2") * 257, 1, RAMP),
        (RAMP.astype("i2"), 2, RAMP),  # no range of their own: 0 to 255 holds them
        (RAMP.astype("i4"), 2, RAMP),
        (RAMP.astype("i4") * 257, 2, RAMP),
        (RAMP.astype("f4") / 255, 3, RAMP),
        (RAMP.astype("f4"), 3, RAMP),
        (RAMP.astype("f4") * 257, 3, RAMP),
        (np.full((4, 4), 0.5, "f4"), 3, np.full((4, 4), 128)),
        ((RAMP // 2).astype("i1"), 2, RAMP // 2),
    ],
)
def test_every_width_and_byte_order(tmp_path, values, sample_format, expected, order):
    path = tiff(tmp_path / "a.tif", values, order, sample_format=sample_format)
    assert np.array_equal(read(path), expected)
    if values.dtype.kind != "i":
        path = tiff(tmp_path / "b.tif", values, order, sample_format=sample_format, photometric=0)
        try:
            assert np.abs(read(path).astype(int) - (255 - expected)).max() <= 1, "0 is white there"
        except zoo.DataError:
            assert (values.dtype.kind, order) == ("u", ">"), "which Pillow does not know"


@pytest.mark.parametrize(
    ("values", "sample_format", "reason"),
    [
        (np.array([[0, np.nan]], "f4"), 3, "not finite"),
        (np.array([[0, np.inf]], "f4"), 3, "not finite"),
        (np.array([[0, -np.inf]], "f4"), 3, "not finite"),
        (np.array([[-1, 1]], "f4"), 3, "from -1 to 1"),
        (np.array([[0, 1e6]], "f4"), 3, "from 0 to 1e"),
        (np.array([[-3, 5]], "i2"), 2, "from -3 to 5"),
        (np.array([[-3, 5]], "i1"), 2, "from -3 to 5"),
        (np.array([[-3, 5]], "i4"), 2, "from -3 to 5"),
        (np.array([[0, 70000]], "i4"), 2, "from 0 to 70000"),
        (np.array([[0, 4_000_000_000]], "u4"), 1, "from"),
        (np.array([[0, 1]], "f8"), 3, "Pillow does not read"),
    ],
)
def test_values_that_mean_nothing_known_are_refused(tmp_path, values, sample_format, reason):
    refused(tiff(tmp_path / "a.tif", values, sample_format=sample_format), reason)


def test_12_bits(tmp_path):
    content = bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00])  # 4095, 0, 2048, 0
    path = raw_tiff(tmp_path / "a.tif", content, (1, 4), 12)
    assert read(path).tolist() == [[255, 0, 128, 0]]


def u2(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "chunks", "expected"),
    [
        (16, 0, u2(0, 257, 65535), {"tRNS": u2(257)}, [0, 255, 255]),
        (16, 0, u2(0, 257, 258), {"tRNS": u2(258)}, [0, 1, 255]),
        (16, 4, u2(514, 65535, 514, 0, 0, 65535), {}, [2, 255, 0]),
        (8, 0, b"\1\2\3", {"tRNS": u2(3)}, [1, 2, 255]),
        (4, 0, b"\x1b\x00", {"tRNS": u2(1)}, [255, 187, 0]),
        (2, 0, b"\x18", {"tRNS": u2(1)}, [0, 255, 170]),
        (1, 0, b"\x40", {"tRNS": u2(0)}, [255, 255, 255]),
        (1, 0, b"\x40", {"tRNS": u2(1)}, [0, 255, 0]),
        (2, 3, b"\x18", {"PLTE": bytes([9] * 3 + [8] * 3 + [7] * 3), "tRNS": bytes([255, 0])}, [9, 255, 7]),
        (8, 2, bytes([1] * 3 + [2] * 3 + [3] * 3), {"tRNS": u2(2, 2, 2)}, [1, 255, 3]),
        (16, 2, u2(*[257] * 3, *[514] * 3, *[771] * 3), {}, [1, 2, 3]),
        (16, 6, u2(257, 257, 257, 65535, 0, 0, 0, 0, 771, 771, 771, 65535), {}, [1, 255, 3]),
    ],
)
def test_transparency_is_white_in_every_depth(tmp_path, bits, colour, row, chunks, expected):
    path = png(tmp_path / "a.png", bits, colour, [row], 3, **chunks)
    assert read(path).tolist() == [expected]
    assert read(path, 3).tolist() == [[[grey] * 3 for grey in expected]]


def test_a_transparent_16_bit_colour_is_refused(tmp_path):
    """Pillow keeps 8 of its 16 bits, so that other colours would be taken for it."""
    refused(png(tmp_path / "a.png", 16, 2, [u2(*[257] * 6)], 2, tRNS=u2(257, 257, 258)), "16-bit")


MODES = {
    "1": lambda rgb: rgb.convert("1"),
    "L": lambda rgb: rgb.convert("L"),
    "P": lambda rgb: rgb.convert("P", palette=Image.Palette.ADAPTIVE),
    "LA": lambda rgb: rgb.convert("LA"),
    "PA": lambda rgb: rgb.convert("P").convert("PA"),
    "RGB": lambda rgb: rgb,
    "RGBA": lambda rgb: rgb.convert("RGBA"),
    "CMYK": lambda rgb: rgb.convert("CMYK"),
    "YCbCr": lambda rgb: rgb.convert("YCbCr"),
    "RGBX": lambda rgb: rgb.convert("RGBX"),
}


@pytest.mark.parametrize("mode", MODES)
def test_opaque_modes_are_what_pillow_converts(tmp_path, mode):
    rng = np.random.default_rng(0)
    picture = MODES[mode](Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)))
    picture.save(tmp_path / "a.tif")
    for channels, target in ((1, "L"), (3, "RGB")):
        expected = np.asarray(picture.convert("RGB").convert(target), int)
        assert np.abs(read(tmp_path / "a.tif", channels).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("mode", "pixel"), [("LA", [100, 128]), ("La", [50, 128])])
@pytest.mark.parametrize("colour", [False, True])
def test_alpha_multiplied_in_and_not(mode, pixel, colour):
    """The same grey, half transparent: over white."""
    mode, pixel = (mode.replace("L", "RGB"), [pixel[0]] * 3 + [128]) if colour else (mode, pixel)
    found = np.asarray(to_8_bits(Image.frombytes(mode, (1, 1), bytes(pixel))).convert("L"))
    assert found[0, 0] == pytest.approx(100 * 128 / 255 + 255 * 127 / 255, abs=2)


def srgb(lightness: float, a: float, b: float) -> np.ndarray:
    """CIE Lab (D50) as sRGB, by the formulas."""
    y = (lightness + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * [0.9642, 1, 0.8249]
    to_linear = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]  # adapted to D65
    linear = np.clip(np.array(to_linear) @ xyz, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab(tmp_path):
    colours = [(60, 20, -30), (60, -20, 30), (30, 0, 0), (80, 10, 40), (50, 40, 20)]
    pixels = b"".join(struct.pack("Bbb", round(lightness * 2.55), a, b) for lightness, a, b in colours)
    Image.frombytes("LAB", (len(colours), 1), pixels, "raw", "LAB").save(tmp_path / "a.tif")
    for found, colour in zip(read(tmp_path / "a.tif", 3)[0], colours, strict=True):
        assert np.abs(found - srgb(*colour)).max() < 4, colour


def test_the_first_frame_counts(tmp_path):
    for ending in ("gif", "webp", "png", "tif", "avif"):
        frames = [Image.new("RGB", (8, 8), (grey,) * 3) for grey in (200, 10)]
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        assert np.abs(read(tmp_path / f"a.{ending}").astype(int) - 200).max() <= 2, ending


# ---- orientation ----

CORNERS = np.zeros((24, 40), np.uint8)
CORNERS[:12, :20], CORNERS[:12, 20:], CORNERS[12:, :20] = 250, 170, 90
UPRIGHT = {  # the four quarters, in reading order
    1: [250, 170, 90, 0],
    2: [170, 250, 0, 90],
    3: [0, 90, 170, 250],
    4: [90, 0, 250, 170],
    5: [250, 90, 170, 0],
    6: [90, 250, 0, 170],
    7: [0, 170, 90, 250],
    8: [170, 0, 250, 90],
}


def quarters(path: Path) -> list[int]:
    pixels = read(path).astype(int)
    height, width = pixels.shape
    return [pixels[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_orientation(tmp_path, ending, orientation):
    place = Image.Exif()
    place[0x112] = orientation
    Image.fromarray(CORNERS).save(tmp_path / f"a.{ending}", exif=place, quality=95)
    assert quarters(tmp_path / f"a.{ending}") == pytest.approx(UPRIGHT[orientation], abs=4)


DAMAGE = {
    "negative length": {"after": [(0x101, 9, 1, struct.pack("<i", -5))]},
    "text beyond the end": {"before": [(0x10F, 2, 20, struct.pack("<I", 10**6))]},
    "unknown type": {"before": [(0x10F, 77, 1, bytes(4))]},
    "text of 4 GB": {"before": [(0x10F, 2, 2**32 - 1, struct.pack("<I", 8))]},
    "EXIF part beyond the end": {"after": [(0x8769, 4, 1, struct.pack("<I", 10**6))]},
    "EXIF part in a circle": {"after": [(0x8769, 4, 1, struct.pack("<I", 8))]},
    "resolution by zero": {"after": [(0x11A, 5, 1, struct.pack("<I", 0))]},
    "not a number": {"after": [(0x128, 12, 1, struct.pack("<I", 0))]},
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_orientation_beside_damage(tmp_path, ending, damage):
    Image.fromarray(CORNERS).save(tmp_path / f"a.{ending}", exif=exif(6, **DAMAGE[damage]), quality=95)
    assert quarters(tmp_path / f"a.{ending}") == pytest.approx(UPRIGHT[6], abs=4)


def test_no_orientation_in_damaged_exif(tmp_path):
    rng = np.random.default_rng(0)
    whole = exif(1, after=[(0x10F, 2, 8, struct.pack("<I", 30)), (0x8769, 4, 1, struct.pack("<I", 30))]) + bytes(40)
    for case in range(150):
        content = bytearray(whole[: rng.integers(6, len(whole))] if case % 2 else whole)
        for place in rng.integers(6, len(content), 3) if len(content) > 6 else ():
            content[place] = rng.integers(256)
        Image.fromarray(CORNERS).save(tmp_path / "a.jpg", exif=bytes(content), quality=95)
        assert sorted(quarters(tmp_path / "a.jpg")) == pytest.approx([0, 90, 170, 250], abs=4)


def test_a_tiff_whose_exif_part_is_damaged(tmp_path):
    path = tiff(tmp_path / "a.tif", CORNERS)
    content = bytearray(path.read_bytes())
    place = content.rindex(struct.pack("<HH", 339, 4))  # the last entry becomes a pointer to nowhere
    content[place : place + 12] = struct.pack("<HHII", 0x8769, 4, 1, 10**6)
    path.write_bytes(content)
    assert quarters(path) == UPRIGHT[1]


# ---- files that are none ----


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "avif", "gif", "tiff", "bmp", "jpeg2000", "ppm", "tga", "ico"])
def test_truncated(tmp_path, form):
    whole = picture(form)
    for part in (0.9, 0.5, 0.1, 0):
        path = tmp_path / f"a{part}.x"
        path.write_bytes(whole[: int(len(whole) * part)])
        refused(path)


@pytest.mark.parametrize(
    "error", [struct.error, IndexError, MemoryError, TypeError, KeyError, RuntimeError, RecursionError, AssertionError]
)
def test_a_decoders_error_of_any_type(tmp_path, monkeypatch, error):
    path = tmp_path / "a.png"
    path.write_bytes(picture("png"))

    def broken(self):
        raise error("a\nb")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    refused(path, "a b|'a")


def test_a_bomb_a_folder_a_pipe_and_no_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "bomb.png").write_bytes(picture("png"))
    refused(tmp_path / "bomb.png", "bomb")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "a folder")
    os.mkfifo(tmp_path / "pipe.png")
    done = []
    thread = threading.Thread(target=lambda: (refused(tmp_path / "pipe.png", "no regular file"), done.append(1)))
    thread.daemon = True
    thread.start()
    thread.join(10)
    assert done, "waits for somebody to write into the pipe"
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link.png", "no regular file")
    refused(tmp_path / "none.png", "No such image")
    refused(tmp_path / ("x" * 300))
    (tmp_path / "empty.bmp").write_bytes(b"BM" + struct.pack("<IIIIIIHHIIIIII", 54, 0, 54, 40, 0, 0, 1, 24, *[0] * 6))
    refused(tmp_path / "empty.bmp")


def test_a_program_is_not_run(tmp_path):
    (tmp_path / "a.JPEG").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    refused(tmp_path / "a.JPEG", "Pillow does not read")


def test_names_are_printable(tmp_path):
    for name in (b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(b"nothing")
        with pytest.raises(zoo.DataError) as raised:
            load_image(path, 3)
        assert str(raised.value).isprintable()
        str(raised.value).encode()


def test_an_error_keeps_nothing_of_the_decoder(tmp_path):
    """A worker process that inherits a decoder and deletes it can wait for ever."""
    (tmp_path / "a.avif").write_bytes(picture("avif")[:-300])
    with pytest.raises(zoo.DataError) as raised:
        load_image(tmp_path / "a.avif", 3)
    assert raised.value.__context__ is None
    with pytest.raises(zoo.DataError, match=r"^ours$"):
        naming("a.png", ours)


def ours():
    raise zoo.DataError("ours")
