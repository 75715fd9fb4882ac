"""Image files: any mode and size to a model's input, and ImageNet-form folders through timm's loader."""

import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import ImageNetInfo, create_dataset, create_loader, create_transform
from torch import Tensor

from ..errors import DataError


def load_image(path: str | Path, channels: int) -> Image.Image:
    """Open an image file of any mode and size.

    Transparent pixels become white, 16-bit and float images are scaled to 8 bits by their own range, and the
    orientation noted by the camera is applied.

    Args:
        path: The file.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: If the file is missing or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except FileNotFoundError:
        raise DataError(f"No such image: {path}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: cannot be read as an image ({reason}).") from None
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits: convert() would clip
        low, high = image.getextrema()
        image = image.convert("F").point(lambda value: (value - low) * (255 / max(high - low, 1e-12)))
        image = image.convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_input(image: Image.Image, config: dict[str, Any]) -> Tensor:
    """Prepare one image as the weight's evaluation does.

    Args:
        image: Grey or RGB.
        config: As ``timm.data.resolve_data_config`` gives it.

    Returns:
        (channels, height, width), normalised.
    """
    return create_transform(**config, is_training=False)(image)


def image_folder_loader(folder: str | Path, config: dict[str, Any], batch_size: int) -> torch.utils.data.DataLoader:
    """A loader over photographs in ImageNet form, every image once, in order.

    Args:
        folder: Holds one folder per class, named by WordNet id (``n01440764``); ``val``, ``validation`` or ``images``
            below it is found by itself. Fewer than 1,000 classes are fine: labels stay the 1000-way ones.
        config: As ``timm.data.resolve_data_config`` gives it.
        batch_size: Images per batch.

    Raises:
        DataError: If there are no such folders.
    """
    root = Path(folder).expanduser()
    root = next((root / sub for sub in ("val", "validation", "images") if (root / sub).is_dir()), root)
    index = {synset: label for label, synset in enumerate(ImageNetInfo().label_names())}
    found = sorted(d.name for d in root.iterdir() if d.is_dir()) if root.is_dir() else []
    unknown = [name for name in found if name not in index]
    if not found or unknown:
        problem = f"{', '.join(unknown[:3])} is no ImageNet class" if unknown else "there is no class folder"
        raise DataError(f"{root}: {problem}. ImageNet form is one folder per WordNet id (n01440764, ...).")
    dataset = create_dataset("", root=str(root), class_map={name: index[name] for name in found})
    return create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=batch_size,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config.get("crop_mode") or "center",
        num_workers=min(os.cpu_count() or 1, 8),
    )
