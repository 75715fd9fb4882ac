"""Common corruptions of test images (noise, blur, weather, digital), made on the spot with fixed seeds.

The corruptions are those of Hendrycks and Dietterich 2019 as the package ``imagecorruptions`` makes them of
photographs, in the strengths of ImageNet-C, here of small images. So these are not the files called CIFAR-10-C, and
figures measured on the two do not compare. Each image has a seed of its own, from corruption, severity and its place in
the test set: neither the batch size nor which other images are measured makes a difference.
"""

import contextlib
import hashlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnknownNameError, ZooError
from ..extras import require

PACKAGE = "imagecorruptions"
SEVERITIES = (1, 2, 3, 4, 5)
_SMALLEST = 32  # pixels of a side, which the package asks for


@dataclass(frozen=True)
class Corruption:
    """One corruption at one severity.

    Attributes:
        name: As ``imagecorruptions`` calls it, such as ``gaussian_noise``.
        severity: From 1 to 5.
        seed: Another one makes other images.
    """

    name: str
    severity: int
    seed: int = 0

    def __call__(self, images: np.ndarray, start: int = 0) -> np.ndarray:
        """Corrupt images.

        Args:
            images: uint8, (n, channels, height, width) with one or three channels; they stay as they are.
            start: Place of the first of them in the test set.

        Returns:
            The same shape; of a grey image the green channel of what becomes of it in colour.

        Raises:
            ZooError: If the package is not installed, or cannot make this corruption with the libraries that are here.
        """
        corrupt = _package().corrupt
        made = [self._one(corrupt, image, start + k) for k, image in enumerate(images)]
        return np.stack(made)

    def _one(self, corrupt: Callable[..., np.ndarray], image: np.ndarray, place: int) -> np.ndarray:
        channels, height, width = image.shape
        missing = [max(0, _SMALLEST - side) for side in (height, width)]
        margins = [(lack // 2, lack - lack // 2) for lack in missing]
        whole = np.pad(image.transpose(1, 2, 0), [*margins, (0, 0)], mode="edge")
        key = f"{self.seed} {self.name} {self.severity} {place}"
        try:
            with _seeded(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")):
                found = corrupt(np.ascontiguousarray(whole), severity=self.severity, corruption_name=self.name)
        except Exception as error:  # of a library that is newer than the package
            reason = " ".join(str(error).split())[:100]
            raise ZooError(f"{self.name} cannot be made with the libraries that are here ({reason}).") from None
        (top, _), (left, _) = margins
        found = found[top : top + height, left : left + width].transpose(2, 0, 1)
        return found if channels == 3 else found[1:2]

    def to_dict(self) -> dict[str, Any]:
        """What a result says of it."""
        version = importlib.metadata.version(PACKAGE)
        made = f"here, with {PACKAGE} {version}; not CIFAR-10-C"
        return {"name": self.name, "severity": self.severity, "seed": self.seed, "made": made}


def choose_corruptions(words: str, severities: Sequence[int] = SEVERITIES) -> tuple[list[Corruption], dict[str, str]]:
    """The corruptions that are asked for.

    Args:
        words: Names with commas between them, or ``all``.
        severities: Of each.

    Returns:
        Those that can be made here, and of the others why not, by name.

    Raises:
        UnknownNameError: If there is no such corruption.
        ZooError: If the package is not installed, a severity is none, or not one corruption can be made here.
    """
    known = _package().get_corruption_names("all")
    names = known if words == "all" else [word for word in words.split(",") if word]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"No corruption is called {name!r}: choose of {', '.join(known)}, or all.")
    if not names or not severities or not {*severities} <= {*SEVERITIES}:
        raise ZooError("--corruptions needs one name or more, or all; and --severity numbers from 1 to 5.")
    problems, sound = {}, []
    for name in dict.fromkeys(names):
        try:
            Corruption(name, 1)(np.full((1, 3, _SMALLEST, _SMALLEST), 99, np.uint8))
            sound.append(name)
        except ZooError as error:
            problems[name] = str(error)
    if not sound:
        raise ZooError(next(iter(problems.values())))
    return [Corruption(name, severity) for name in sound for severity in dict.fromkeys(severities)], problems


def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it looks for its own files
        return require(PACKAGE, "corruptions")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within it numpy's global numbers, and generators that are made without a seed, are those of a seed."""
    state, make = np.random.get_state(), np.random.default_rng
    np.random.seed(seed)
    np.random.default_rng = lambda given=None: make(seed if given is None else given)  # scikit-image makes such ones
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.default_rng = make
        np.random.set_state(state)
