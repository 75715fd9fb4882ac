"""The script of a deployed folder, which needs the engine, numpy and Pillow only."""

import math
from typing import Any

from ..errors import ZooError

_SCRIPT = '''"""Classify image files: python run.py IMAGE ...    Needs {needs}, numpy and Pillow."""
import json, sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
{load}

HERE = Path(__file__).resolve().parent
FACTS = json.loads((HERE / "network.json").read_text(encoding="utf-8"))


def prepare(path):
    """An image file of 8 bits a channel as (1, channels, height, width), float32; what is transparent becomes white."""
    channels, height, width = FACTS["input_size"]
    try:
        image = ImageOps.exif_transpose(Image.open(path))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"{{path}}: cannot be read as an image ({{error}}).")
    if image.mode.startswith(("I", "F")):
        sys.exit(f"{{path}}: an image of 8 bits a channel is needed, not of Pillow's mode {{image.mode}}.")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = (image if image.mode == "L" else image.convert("RGB")).convert("L" if channels == 1 else "RGB")
    size = [int(FACTS["resize"] * side / min(image.size)) for side in image.size]
    image = image.resize(size, Image.Resampling[FACTS["interpolation"]])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    return ((pixels - np.float32(FACTS["mean"])) / np.float32(FACTS["std"])).transpose(2, 0, 1)[None].copy()


if __name__ == "__main__":
    run = load()
    for path in sys.argv[1:] or sys.exit(__doc__):
        scores = run(prepare(path))[0].astype(np.float64)
        chances, best = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum(), scores.argsort()[:-4:-1]
        print(f"{{path}}: " + ", ".join(f"{{FACTS['classes'][k]}} {{100 * chances[k]:.1f}} %" for k in best))
'''


def run_script(load: str, needs: str) -> str:
    """The text of ``run.py``.

    Args:
        load: An import and a function ``load``, of an engine.
        needs: The engine's package.
    """
    imports, _, rest = load.partition("\n\n\n")
    head, _, tail = _SCRIPT.partition("\n\ndef prepare")
    return head.format(needs=needs, load=imports) + f"\n\n{rest}\n\ndef prepare" + tail.format()


def preparation(config: dict[str, Any], name: str) -> dict[str, Any]:
    """How ``run.py`` prepares images.

    Args:
        config: As ``timm.data.resolve_data_config`` gives it.
        name: Of the network, for errors.

    Raises:
        ZooError: If it is a way that the script does not know.
    """
    channels, height, width = config["input_size"]
    crop, interpolation = config.get("crop_mode", "center"), str(config["interpolation"])
    if channels not in (1, 3) or height != width or crop != "center" or interpolation not in _FILTERS:
        raise ZooError(
            f"{name}: run.py prepares square images of 1 or 3 channels, cropped in the centre; this network takes "
            f"{channels} x {height} x {width}, crop_mode {crop}, interpolation {interpolation}. Use zoo export."
        )
    return {
        "input_size": [channels, height, width],
        "resize": math.floor(height / config["crop_pct"]),
        "interpolation": interpolation.upper(),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


_FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
