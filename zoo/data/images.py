"""Image files: one reader for prediction, validation and training, and ImageNet-form folders of them."""

import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from traceback import clear_frames
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from timm.data import ImageNetInfo, create_transform
from timm.data.readers.img_extensions import get_img_extensions
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..files import printable
from .pixels import to_8_bits

NOT_READ = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MCIDAS", "MPEG", "WMF"}
"""Pillow's formats that are left alone: those it only knows by name, those of measurements, which do not say what is
black and white, and EPS, which is a program for another program to run."""

_ORIENTATION = 0x112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(path: str | Path, channels: int) -> Image.Image:
    """Read an image file of any mode and size; of several frames or pages the first.

    The orientation that the camera noted is applied, and transparent pixels become white. 16-bit integers have the
    range 0 to 65,535; what is done with floats and 32-bit integers is said at :func:`zoo.data.pixels.to_8_bits`.

    Args:
        path: The file.
        channels: 1 for grey, 3 for RGB.

    Returns:
        An image of mode ``L`` or ``RGB``, 8 bits per channel.

    Raises:
        DataError: If the file is missing, damaged or no image, or what its pixels mean is not known.
    """
    if channels not in (1, 3):
        raise DataError(f"{printable(path)}: an image file gives 1 or 3 channels, and the network takes {channels}.")
    if not os.path.lexists(path):
        raise DataError(f"No such image: {printable(path)}")
    return naming(path, _read, path, channels)


def naming(path: str | Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on an image file; whatever error it raises becomes a one-line DataError that names the file."""
    try:
        return function(*arguments)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever comes
        reason = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image file, or of a form that Pillow does not read"
    # Not from within the handler: the new error would keep the old one and with it a decoder, and a worker process that
    # inherits one waits for ever for the decoder's threads when it deletes it.
    raise DataError(f"{printable(path)}: cannot be read as an image ({reason}). Fetch or remove it.")


def _read(path: str | Path, channels: int) -> Image.Image:
    if not Path(path).is_file():  # a pipe would be waited for
        raise ValueError("a folder" if Path(path).is_dir() else "no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is damaged and does not matter; the rest raises
        # not by name: Pillow would map a TIFF into memory, and take one that is to be turned for one of the other size
        with open(path, "rb") as file, Image.open(file, formats=_formats()) as opened:
            raw = opened.tile[0][3] if opened.format == "PNG" and opened.tile else ""
            opened.load()
            if 0 in opened.size:
                raise ValueError("it has no pixels")
            turn = _TURNS.get(_orientation(opened))
            image = to_8_bits(opened, raw)
    image = image if turn is None else image.transpose(turn)
    return image.convert("L" if channels == 1 else "RGB")


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in NOT_READ]


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, also where other entries are damaged, so that Pillow gives up before it."""
    try:
        if (found := image.getexif().get(_ORIENTATION)) is not None:
            return found
    except Exception:
        pass
    try:
        exif = image.info["exif"].removeprefix(b"Exif\0\0")
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == _ORIENTATION:
                return struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], exif, place + 8)[0]
    except (KeyError, AttributeError, struct.error):
        pass
    return None


def evaluation_transform(config: dict[str, Any], normalise: bool = True) -> Callable[[Image.Image], Tensor]:
    """timm's transform for evaluation: resize, centre crop, normalise.

    Args:
        config: As ``timm.data.resolve_data_config`` gives it.
        normalise: Without it the result is uint8, for :func:`normalised`.
    """
    return create_transform(**config, is_training=False, use_prefetcher=not normalise)


def normalised(
    images: Tensor, config: dict[str, Any], device: str | torch.device = "cpu", channels_last: bool = False
) -> Tensor:
    """A batch as a network takes it; on a CPU the same values as image by image, in less time.

    Args:
        images: uint8, (batch, channels, height, width).
        config: Has ``mean`` and ``std`` of each channel, for pixels from 0 to 1.
        device: Where to compute; bytes travel there, not floats.
        channels_last: Lay the result out so.

    Returns:
        float32, of the same shape, on the device.
    """
    mean, std = (torch.tensor(config[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))
    images = images.to(device)
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    return torch.div(images, 255).sub_(mean).div_(std)


class ImageFolder(Dataset):
    """Photographs in ImageNet form: one folder per class, named by WordNet id (``n01440764``).

    Fewer than 1,000 classes are fine: labels stay the 1000-way ones. A file anywhere below a class folder is of that
    class; it is an image if its name has one of the endings that Pillow and timm know.

    Args:
        folder: Holds the class folders, or a folder of one of the names ``inside`` that does.
        inside: Names to look for in it; the first that exists is taken.
        channels: 1 for grey, 3 for RGB.

    Attributes:
        root: The folder that holds the class folders.
        samples: (path, label) of every image, sorted by path.
        left_out: Files in class folders that are hidden or have no ending of an image, and images beside the class
            folders: paths below ``root``, sorted.
        transform: Applied to an image when it is read, if it is not None.

    Raises:
        DataError: If there are no such folders, or one of them holds no image.
    """

    def __init__(self, folder: str | Path, inside: Sequence[str] = ("val", "validation", "images"), channels: int = 3):
        given = Path(folder).expanduser()
        self.root = next((given / name for name in inside if (given / name).is_dir()), given)
        self.channels, self.transform = channels, None
        index = {synset: label for label, synset in enumerate(ImageNetInfo().label_names())}
        endings = image_endings()
        beside = sorted(self.root.iterdir()) if self.root.is_dir() else []
        found = [d.name for d in beside if d.is_dir() and not d.name.startswith(".")]
        unknown = [name for name in found if name not in index]
        if not found or unknown:
            names = ", ".join(map(printable, unknown[:3]))
            problem = f"{names} is no ImageNet class" if unknown else "there is no class folder"
            raise DataError(
                f"{printable(self.root)}: {problem}. ImageNet form is one folder per WordNet id (n01440764, ...), all "
                f"in this folder or in {' or '.join(inside)} below it."
            )
        self.samples: list[tuple[str, int]] = []
        self.left_out = [p.name for p in beside if p.is_file() and p.suffix.lower() in endings]
        empty = []
        for name in found:
            before = len(self.samples)
            for path in _files(self.root / name):
                parts = path.relative_to(self.root).parts
                if any(part in index for part in parts[1:-1]):
                    raise DataError(f"{printable(path)}: a class folder lies in another one; which class is meant?")
                if path.suffix.lower() in endings and not any(part.startswith(".") for part in parts):
                    self.samples.append((str(path), index[name]))
                else:
                    self.left_out.append(str(path.relative_to(self.root)))
            empty += [name] if len(self.samples) == before else []
        if empty:
            raise DataError(
                f"{printable(self.root / empty[0])}: no image file in this class folder. Fill or remove it"
                + (f", and {len(empty) - 1} others." if len(empty) > 1 else ".")
            )
        self.samples.sort()
        self.left_out.sort()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image, as ``transform`` makes it, and its label.

        Raises:
            DataError: If the file cannot be read or transformed.
        """
        path, label = self.samples[index]
        image = load_image(path, self.channels)
        return image if self.transform is None else naming(path, self.transform, image), label


def image_endings() -> set[str]:
    """Endings of the names of image files, in lower case: those of the formats that are read, and timm's own."""
    formats = set(_formats()) & set(Image.OPEN)
    known = {ending for ending, name in Image.registered_extensions().items() if name in formats}
    return known | set(get_img_extensions())


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file below a folder; links to folders are followed, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, (*above, real))
        else:
            yield path


def image_folder_loader(
    folder: str | Path,
    config: dict[str, Any],
    batch_size: int,
    *,
    device: str | torch.device = "cpu",
    channels_last: bool = False,
    part: slice = slice(None),
) -> "ClearErrors":
    """A loader over photographs in ImageNet form, every image once, in order.

    Worker processes decode, resize and crop; what they hand over are bytes, which are normalised batch by batch.

    Args:
        folder: See :class:`ImageFolder`; ``val``, ``validation`` or ``images`` below it is found by itself.
        config: As ``timm.data.resolve_data_config`` gives it.
        batch_size: Images per batch.
        device: Where the images go.
        channels_last: Lay the images out so.
        part: Of the batches, those that are wanted; no others are read.

    Returns:
        Yields images (batch, channels, height, width), float32, normalised, and labels (batch,), int64. Its ``dataset``
        is the :class:`ImageFolder`.

    Raises:
        DataError: If there are no such folders, or (while reading) a file is no image.
    """
    dataset = ImageFolder(folder, channels=config.get("input_size", (3,))[0])
    dataset.transform = evaluation_transform(config, normalise=False)
    batches = [range(n, min(n + batch_size, len(dataset))) for n in range(0, len(dataset), batch_size)][part]
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torchrun on this machine
    workers = min(-(-usable_cores() // beside), 8)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    return _Normalised(loader, lambda images: normalised(images, config, device, channels_last))


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ClearErrors:
    """A loader whose worker processes' errors are one line, as they are without workers.

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
        except DataError as error:  # torch puts the worker's traceback before it, and our errors are one line
            *_, message = re.split(rf"\\n(?:\w+\.)+{DataError.__name__}: ", str(error).removesuffix("\\n"))
            clear_frames(error.__traceback__)  # torch's hold its workers in a cycle: collected, it waits 5 s for each
            raise DataError(message) from None
        except RuntimeError as error:
            text = str(error)
            if "DataLoader worker (pid" not in text:  # an error in a worker, not its end
                raise
            if re.search("Segmentation|Abort|Illegal|Floating", text):
                cause = "a damaged image crashes its decoder; zoo predict finds out which"
            else:
                cause = "it was killed, as happens when memory (perhaps /dev/shm) is short: take fewer images per batch"
            raise DataError(f"A process that reads images has ended ({text.splitlines()[0]}): {cause}.") from None


class _Normalised(ClearErrors):
    """One whose images are normalised.

    Args:
        loader: Yields them as uint8.
        normalise: Takes such a batch.
    """

    def __init__(self, loader: Any, normalise: Callable[[Tensor], Tensor]):
        super().__init__(loader)
        self.normalise = normalise

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in super().__iter__():
            yield self.normalise(images), labels
