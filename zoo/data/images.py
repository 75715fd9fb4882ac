"""Image files: any mode and size to a model's input, and ImageNet-form folders through timm's loader."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import ImageDataset, ImageNetInfo, create_loader, create_reader, create_transform
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


class ImageFolder(ImageDataset):
    """Photographs in ImageNet form: one folder per class, named by WordNet id (``n01440764``).

    timm's data set, but a file that cannot be read is an error: timm goes on with the next image in its place. Fewer
    than 1,000 classes are fine: labels stay the 1000-way ones.

    Args:
        folder: Holds the class folders, or a folder of one of the names ``inside`` that does.
        inside: Names to look for in it; the first that exists is taken.

    Attributes:
        root: The folder that holds the class folders.
        samples: (path, label) of every image, sorted by path.

    Raises:
        DataError: If there are no such folders, or one of them holds no image.
    """

    def __init__(self, folder: str | Path, inside: Sequence[str] = ("val", "validation", "images")):
        given = Path(folder).expanduser()
        self.root = next((given / name for name in inside if (given / name).is_dir()), given)
        found = sorted(d.name for d in self.root.iterdir() if d.is_dir()) if self.root.is_dir() else []
        index = {synset: label for label, synset in enumerate(ImageNetInfo().label_names())}
        unknown = [name for name in found if name not in index]
        if not found or unknown:
            problem = f"{', '.join(unknown[:3])} is no ImageNet class" if unknown else "there is no class folder"
            raise DataError(
                f"{self.root}: {problem}. ImageNet form is one folder per WordNet id (n01440764, ...), all in this "
                f"folder or in {' or '.join(inside)} below it."
            )
        try:
            reader = create_reader("", root=str(self.root), class_map={name: index[name] for name in found})
        except RuntimeError:  # not one image
            raise DataError(f"{self.root / found[0]}: no image file directly in this class folder.") from None
        super().__init__(str(self.root), reader=reader)
        self.samples = reader.samples = sorted(reader.samples)
        used = {label for _, label in self.samples}
        empty = [name for name in found if index[name] not in used]
        if empty:
            raise DataError(
                f"{self.root / empty[0]}: no image file directly in this class folder. Fill or remove it"
                + (f", and {len(empty) - 1} others." if len(empty) > 1 else ".")
            )

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image as ``transform`` makes it of RGB, and its label.

        Raises:
            DataError: If the file cannot be read.
        """
        path, label = self.samples[index]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{path}: cannot be read as an image ({reason}). Fetch or remove it.") from None
        return image if self.transform is None else self.transform(image), label


def image_folder_loader(folder: str | Path, config: dict[str, Any], batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """A loader over photographs in ImageNet form, every image once, in order.

    Args:
        folder: See :class:`ImageFolder`; ``val``, ``validation`` or ``images`` below it is found by itself.
        config: As ``timm.data.resolve_data_config`` gives it.
        batch_size: Images per batch.

    Raises:
        DataError: If there are no such folders, or (while reading) a file is no image.
    """
    return ClearErrors(
        create_loader(
            ImageFolder(folder),
            input_size=config["input_size"],
            batch_size=batch_size,
            use_prefetcher=False,
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
            crop_pct=config["crop_pct"],
            crop_mode=config.get("crop_mode") or "center",
            num_workers=min(usable_cores(), 8),
        )
    )


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ClearErrors:
    """A loader whose worker processes' errors are said in one sentence, as if there were no workers.

    Args:
        loader: torch's or timm's.
    """

    def __init__(self, loader: Any):
        self.loader, self.dataset = loader, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            yield from self.loader
        except DataError as error:  # torch puts the worker's traceback before it
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].strip()) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"A process that reads images was ended from outside ({str(error).splitlines()[0]}): memory, perhaps "
                "/dev/shm, is short; take fewer images per batch or fewer workers."
            ) from None
