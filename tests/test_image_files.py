"""Image files of every mode, damage and name: right pixels, or one line that names the file; for every reader."""

import io
import json
import os
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import zoo
from zoo.cli import main
from zoo.data import images as image_files
from zoo.data.images import ImageFolder, image_folder_loader, load_image, naming
from zoo.data.pixels import to_8_bits
from zoo.device import choose_device
from zoo.evaluation.predict import label_names, predict
from zoo.evaluation.validate import validate
from zoo.training.folders import Transformed

NAME = "lrunet1_100.zoo_fmnist"
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


def exif(orientation: int, order: str = "<", before=(), after=()) -> bytes:
    """An EXIF block; entries beside the orientation are (tag, type, count, four bytes of value)."""
    entries = [*before, (0x112, 3, 1, struct.pack(f"{order}H2x", orientation)), *after]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHI", *e[:3]) + e[3] for e in entries) + bytes(4)


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


def picture(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, ending)
    return buffer.getvalue()


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


# ---- one reader for all ----


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos" / "n01440764"
    place.mkdir(parents=True)
    return place


def pictures(folder: Path) -> None:
    """An image turned by EXIF, a wide one and one with alpha."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((90, 60))
    photo.save(folder / "turned.JPEG", exif=exif(6))
    Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)).save(folder / "wide.PNG")
    rgba = np.dstack([np.asarray(photo), np.asarray(photo)[..., 0]])
    Image.fromarray(rgba).save(folder / "alpha.webp", lossless=True)


def by_hand(path: Path, config: dict) -> torch.Tensor:
    """Pillow, timm's transform and nothing of ours."""
    with Image.open(path) as opened:
        if path.name == "wide.PNG":
            image = Image.fromarray(np.rint(np.asarray(opened) / 257).astype(np.uint8)).convert("RGB")
        elif path.name == "alpha.webp":
            white = Image.new("RGBA", opened.size, "white")
            image = Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB")
        else:
            image = opened.transpose(Image.Transpose.ROTATE_270)
    return timm.data.create_transform(**config, is_training=False)(image)


class Recorder(nn.Module):
    """Keeps what it is given; tells that it is not in eval mode by other scores."""

    num_classes = 1000
    pretrained_cfg = {
        "input_size": (3, 48, 48),
        "mean": (0.3, 0.4, 0.5),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.8,
        "interpolation": "bicubic",
    }

    def __init__(self):
        super().__init__()
        self.drop, self.seen = nn.Dropout(0.5), []

    def forward(self, images):
        self.seen += list(images)
        assert not self.training and not self.drop.training
        return self.drop(images.flatten(1)[:, :1000])


@pytest.mark.parametrize("workers", [0, 2])
def test_prediction_and_validation_prepare_images_as_timm_does(folder, monkeypatch, workers):
    monkeypatch.setattr(image_files, "usable_cores", lambda: workers)
    pictures(folder)
    model = Recorder().train()
    config = timm.data.resolve_data_config(model=model)
    assert (config["crop_pct"], config["interpolation"]) == (0.8, "bicubic")
    paths = sorted(folder.iterdir())
    expected = [by_hand(path, config) for path in paths]
    found = predict(model, paths, top=2)
    for given, guesses, image in zip(model.seen, found, expected, strict=True):
        assert torch.equal(given, image)
        best = image.flatten()[:1000].softmax(0).topk(2)
        assert [k for k, _ in guesses] == best.indices.tolist()
        assert [p for _, p in guesses] == pytest.approx(best.values.tolist())
    model.seen.clear()
    model.train()
    right = sum(image.flatten()[:1000].argmax() == 0 for image in expected)
    assert validate(model, "imagenet", folder.parent, batch_size=2, device="cpu").correct == right
    assert all(map(torch.equal, model.seen, expected))
    assert len(model.seen) == 3


def test_prediction_of_a_zoo_network_is_a_forward_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60), np.uint8)).save(tmp_path / "a.jpg", exif=exif(8))
    model = zoo.create_model(NAME, pretrained=True).train()
    ((label, probability),) = predict(model, [tmp_path / "a.jpg"], top=1)[0]
    image = Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_90)
    image = image.resize((28, 42), Image.Resampling.BILINEAR).crop((0, 7, 28, 35))
    pixels = (torch.from_numpy(np.array(image))[None, None] / 255 - 0.2860) / 0.3530
    plain = zoo.create_model(NAME, pretrained=True).eval()
    with torch.inference_mode():
        best = plain(pixels).softmax(1)[0].max(0)
    assert label == best.indices
    assert probability == pytest.approx(best.values.item(), abs=1e-5)


def test_arrays_are_normalised_and_measured_in_eval_mode(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
    np.concatenate([np.full((5, 1), 3, np.uint8), images], 1).tofile(tmp_path / "test_batch.bin")
    model = Recorder().train()
    model.num_classes = 10
    validate(model, "cifar10", tmp_path, batch_size=2, device="cpu")
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = (torch.from_numpy(images).reshape(-1, 3, 32, 32) / 255 - mean) / std
    assert torch.allclose(torch.stack(model.seen), expected, atol=1e-6)


def test_training_reads_the_same_images(folder):
    pictures(folder)
    dataset = ImageFolder(folder.parent)
    transformed = Transformed(dataset, np.asarray, seed=0)
    for index, (path, _) in enumerate(dataset.samples):
        assert np.array_equal(transformed[index, 0][0], read(Path(path), 3))


def test_grey_networks_read_grey(folder):
    pictures(folder)
    config = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear", "crop_pct": 1.0}
    assert next(iter(image_folder_loader(folder.parent, config, 3)))[0].shape == (3, 1, 28, 28)
    with pytest.raises(zoo.DataError, match="1 or 3 channels"):
        load_image(folder / "wide.PNG", 4)


# ---- folders ----


def test_every_file_is_measured_or_named(folder, caplog):
    red = Image.new("RGB", (40, 40), "red")
    (folder / "deep" / "deeper").mkdir(parents=True)
    measured = ["a.JPEG", "b.webp", "c.BMP", "d.tiff", "deep/e.Png", "deep/deeper/f.avif", "g.jp2", "h.ppm", "i.gif"]
    for name in measured:
        red.save(folder / name)
    left = ["notes.txt", ".DS_Store", "Thumbs.db", "._a.JPEG", "deep/photo", "movie.mpg", "a.JPEG.bak"]
    for name in left:
        (folder / name).write_bytes(b"no image")
    red.save(folder.parent / "beside.png")
    (folder.parent / ".git").mkdir()
    (folder / "deep" / "circle").symlink_to(folder)
    dataset = ImageFolder(folder.parent)
    assert [str(Path(p).relative_to(folder)) for p, _ in dataset.samples] == sorted(measured)
    assert {label for _, label in dataset.samples} == {0}
    assert dataset.left_out == sorted(["beside.png", *(f"n01440764/{name}" for name in left)])
    model = timm.create_model("lru_mobilenetv2_025", num_classes=1000, in_chans=3)
    result = validate(model, "imagenet", folder.parent, batch_size=4, device="cpu")
    assert (result.n, result.left_out) == (9, 8)
    assert "8 of 17 files are not measured" in result.warning
    assert "beside.png" in result.warning
    assert result.warning in caplog.text


def test_files_left_out_are_in_output_and_result_file(folder, tmp_path, capsys):
    for name in ("a.JPEG", "b.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    (folder / "notes.txt").touch()
    model = timm.create_model("wrn_16_1", num_classes=1000)
    facts = {"architecture": "wrn_16_1", "model_args": '{"num_classes": 1000}'}
    save_file(model.state_dict(), tmp_path / "x.safetensors", facts)
    words = ["validate", "wrn_16_1", "--dataset", "imagenet", "--data", str(folder.parent), "--device", "cpu"]
    for ending in ("json", "csv"):
        file = tmp_path / f"r.{ending}"
        assert main([*words, "--checkpoint", str(tmp_path / "x.safetensors"), "--results", str(file)]) == 0
        assert "1 of 3 files are not measured" in capsys.readouterr().out
        assert "n01440764/notes.txt" in file.read_text()
    row = json.loads((tmp_path / "r.json").read_text())[0]
    assert (row["n"], row["left_out"], row["data_sha256"]) == (2, 1, {})


def test_a_class_folder_in_another(folder):
    (folder / "n01443537").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "n01443537" / "a.png")
    with pytest.raises(zoo.DataError, match="which class is meant"):
        ImageFolder(folder.parent)


# ---- errors of workers ----


CONFIG = {"input_size": (3, 32, 32), "mean": (0,) * 3, "std": (1,) * 3, "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_name_the_file(folder, monkeypatch, workers):
    monkeypatch.setattr(image_files, "usable_cores", lambda: workers)
    bad = bytearray(picture("avif"))
    place = bad.index(b"mdat") + 4
    bad[place : place + 16] = bytes(16)
    file = folder / "DataError: a.JPEG"
    file.write_bytes(bad)
    with pytest.raises(zoo.DataError) as raised:
        list(image_folder_loader(folder.parent, CONFIG, 1))
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    assert "memory" not in str(raised.value)
    file.write_bytes(picture("png"))
    loader = image_folder_loader(folder.parent, CONFIG, 1)

    def broken(image):
        raise RuntimeError("DataLoader worker, it says")

    loader.dataset.transform = broken
    with pytest.raises(zoo.DataError, match=r"a\.JPEG: .*it says"):
        list(loader)


@pytest.mark.parametrize(("number", "advice"), [(9, "memory"), (11, "damaged image|memory")])
def test_the_end_of_a_worker(folder, monkeypatch, number, advice):
    monkeypatch.setattr(image_files, "usable_cores", lambda: 1)
    (folder / "a.png").write_bytes(picture("png"))
    loader = image_folder_loader(folder.parent, CONFIG, 1)
    loader.dataset.transform = lambda image: os.kill(os.getpid(), number)
    with pytest.raises(zoo.DataError, match=advice) as raised:
        list(loader)
    assert ("Segmentation" in str(raised.value)) == ("memory" not in str(raised.value))


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


# ---- the command line ----


def test_one_bad_file_among_good_ones(tmp_path, capsys):
    for number in (0, 2):
        Image.new("L", (28, 28), number * 90).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").touch()
    files = [str(tmp_path / f"{number}.png") for number in range(4)]
    assert main(["predict", NAME, *files]) == 1
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [files[0], files[2]]
    assert len(printed.err.splitlines()) == 2
    assert all(files[k] in line for k, line in zip((1, 3), printed.err.splitlines(), strict=True))
    assert main(["predict", NAME, *files, "--json"]) == 1
    printed = capsys.readouterr()
    assert [row["image"] for row in json.loads(printed.out)] == [files[0], files[2]]
    assert len(printed.err.splitlines()) == 2
    with pytest.raises(zoo.DataError, match=r"1\.png"):
        predict(zoo.create_model(NAME, pretrained=True), files)


def test_names_that_are_not_utf_8(tmp_path, monkeypatch):
    good, bad = (str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9.png", b"caf\xea.png"))
    Image.new("L", (28, 28)).save(good, "png")
    Path(bad).touch()
    for encoding in ("utf-8", "ascii"):
        for more in ([], ["--json"]):
            streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in "oe"]
            monkeypatch.setattr(sys, "stdout", streams[0])
            monkeypatch.setattr(sys, "stderr", streams[1])
            assert main(["predict", NAME, good, bad, *more]) == 1
            out, err = (stream.seek(0) or stream.read() for stream in streams)
            assert "udce9.png" in out
            assert len(err.splitlines()) == 1
            assert "udcea.png" in err
            assert not more or json.loads(out)[0]["image"] == good


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "npu", "foo", "meta", "xpu", "cpu:x", "privateuseone"])
def test_a_device_that_is_not_here(device, tmp_path, capsys):
    with pytest.raises(zoo.ZooError, match=r"There is no device .* choose cpu"):
        choose_device(device)
    words = ["train", "lrunet1_fmnist", "--data", "x", "--output", str(tmp_path / "run")]
    assert main([*words, "--device", device]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert choose_device("cpu") == torch.device("cpu")


def test_class_names():
    model = nn.Module()
    model.num_classes = 10
    assert label_names(model, "fashion-mnist")[9] == "Ankle boot"
    assert label_names(model, "imagenet") == label_names(model) == [str(k) for k in range(10)]
    model.pretrained_cfg = {"label_names": [f"class {k}" for k in range(10)]}
    assert label_names(model, "fashion-mnist")[9] == "class 9"
    model.num_classes = 9
    assert label_names(model)[8] == "8"
