"""Pixels of every mode that Pillow opens as 8-bit grey or RGB: wide integers, floats, transparency, Lab."""

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2


def to_8_bits(image: Image.Image, raw: str = "") -> Image.Image:
    """Give an image the mode ``L`` or ``RGB``; what is transparent becomes white.

    16-bit integers have the range 0 to 65,535 (12-bit ones 0 to 4,095), whatever values occur: a copy of an 8-bit image
    with 16 bits gives the same pixels. Floats, 32-bit and signed integers have no range of their own: it is the first
    of 0 to 1 (floats only), 0 to 255 and 0 to 65,535 that holds every value of the image.

    Args:
        image: As Pillow has decoded it.
        raw: Pillow's name of the form in which the file holds the pixels (``RGB;16B``), where it is known.

    Raises:
        ValueError: If values are not finite or outside those ranges, or it cannot be told which pixels are transparent.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith(("I", "F")) or tags.get(_SAMPLE_FORMAT) in (_SIGNED, (_SIGNED,)):
        image = _narrow(image, tags)
    if "transparency" in image.info:
        image = _with_its_transparent_colour(image, raw)
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def _narrow(image: Image.Image, tags: dict) -> Image.Image:
    """One channel of more than 8 bits, or of signed ones, as ``L``."""
    values = np.asarray(image)
    values = values.view(np.int8) if values.dtype == np.uint8 else values
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        top = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    else:
        low, high = values.min(), values.max()
        ranges = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        top = next((top for top in ranges if low >= 0 and high <= top), None)
        if top is None:
            raise ValueError(
                f"its values go from {low:g} to {high:g}, and which of them are black and white is not known: save it "
                "with 8 or 16 bits"
            )
    transparent = values == image.info.get("transparency")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        values = top - values.astype(np.float64)
    grey = np.rint(values * (255 / top)).astype(np.uint8)
    return Image.fromarray(np.where(transparent, np.uint8(255), grey))


def _with_its_transparent_colour(image: Image.Image, raw: str) -> Image.Image:
    """With alpha where a PNG names a colour that is transparent, which it does in the file's own bits."""
    if raw.startswith("RGB;16"):
        raise ValueError("one of its 16-bit colours is transparent, and Pillow reads 8 bits: save it with alpha")
    if image.mode == "L" and raw in ("L;2", "L;4"):
        image.info["transparency"] *= 255 // (2 ** int(raw[2]) - 1)
    return image.convert("RGBA")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # not part of every Pillow

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
