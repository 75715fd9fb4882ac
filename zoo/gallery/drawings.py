"""Small pictures drawn by formulas, as examples to classify: CIFAR-10's own images may not be passed on."""

from collections.abc import Callable

import numpy as np

SIDE = 64


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """x from the left and y from the top of each pixel's middle, from 0 to 1."""
    steps = (np.arange(SIDE) + 0.5) / SIDE
    return np.meshgrid(steps, steps)


def _paint(image: np.ndarray, where: np.ndarray, colour: tuple[float, float, float]) -> None:
    image[where] = colour


def _backdrop(top: tuple[float, float, float], bottom: tuple[float, float, float]) -> np.ndarray:
    """One colour that goes over into another."""
    _, y = _grid()
    return np.array(top) * (1 - y[..., None]) + np.array(bottom) * y[..., None]


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def ship() -> np.ndarray:
    """A hull, a white house and a funnel on the sea: (height, width, 3), uint8."""
    x, y = _grid()
    image = _backdrop((0.62, 0.75, 0.88), (0.85, 0.9, 0.95))
    _paint(image, y > 0.64, (0.16, 0.33, 0.5))
    _paint(image, (y > 0.64) & (np.sin(70 * x + 160 * y) > 0.8), (0.3, 0.48, 0.63))
    _paint(
        image, (y > 0.52) & (y < 0.7) & (x > 0.08 + (y - 0.52) * 0.7) & (x < 0.94 - (y - 0.52) * 0.9), (0.5, 0.1, 0.1)
    )
    _paint(image, (y > 0.4) & (y <= 0.52) & (x > 0.3) & (x < 0.78), (0.95, 0.95, 0.93))
    _paint(image, (y > 0.44) & (y < 0.48) & (x > 0.33) & (x < 0.75) & (np.sin(90 * x) > 0), (0.2, 0.25, 0.3))
    _paint(image, (y > 0.24) & (y <= 0.4) & (x > 0.5) & (x < 0.6), (0.8, 0.35, 0.1))
    return _bytes(image)


def airplane() -> np.ndarray:
    """A body, wings and a fin in the sky: (height, width, 3), uint8."""
    x, y = _grid()
    image = _backdrop((0.3, 0.52, 0.83), (0.72, 0.84, 0.95))
    u, v = x - 0.5, y - 0.5 + 0.18 * (x - 0.5)
    grey = (0.82, 0.84, 0.88)
    _paint(image, (v > 0) & (v < 0.3) & (np.abs(u - 0.02 + 0.55 * v) < 0.11 - 0.26 * v), (0.6, 0.63, 0.68))
    _paint(image, (v < 0) & (v > -0.2) & (np.abs(u + 0.36 + 0.35 * v) < 0.06 + 0.1 * v), (0.7, 0.2, 0.2))
    _paint(image, (u / 0.44) ** 2 + (v / 0.065) ** 2 < 1, grey)
    _paint(image, (v < 0) & (v > -0.16) & (np.abs(u - 0.02 - 0.3 * v) < 0.09 + 0.3 * v), (0.66, 0.69, 0.74))
    return _bytes(image)


def automobile() -> np.ndarray:
    """A red car on a road: (height, width, 3), uint8."""
    x, y = _grid()
    image = _backdrop((0.75, 0.82, 0.88), (0.8, 0.8, 0.78))
    _paint(image, y > 0.68, (0.42, 0.42, 0.43))
    body = (y > 0.46) & (y < 0.72) & (x > 0.06) & (x < 0.95) & (y > 0.46 + 0.1 * np.abs(x - 0.5))
    cabin = (y > 0.28) & (y <= 0.5) & (np.abs(x - 0.48) < 0.19 + 0.5 * (y - 0.28))
    _paint(image, cabin | body, (0.75, 0.08, 0.08))
    _paint(image, (y > 0.32) & (y < 0.46) & (np.abs(x - 0.48) < 0.16 + 0.5 * (y - 0.28)), (0.2, 0.26, 0.32))
    _paint(image, (y > 0.28) & (y < 0.48) & (np.abs(x - 0.48) < 0.015), (0.75, 0.08, 0.08))
    for middle in (0.25, 0.76):
        wheel = (x - middle) ** 2 + (y - 0.71) ** 2
        _paint(image, wheel < 0.1**2, (0.07, 0.07, 0.08))
        _paint(image, wheel < 0.05**2, (0.68, 0.69, 0.7))
    _paint(image, (x > 0.88) & (x < 0.94) & (y > 0.53) & (y < 0.58), (0.98, 0.93, 0.65))
    return _bytes(image)


def frog() -> np.ndarray:
    """A green frog among leaves: (height, width, 3), uint8."""
    x, y = _grid()
    image = _backdrop((0.35, 0.3, 0.18), (0.45, 0.38, 0.25))
    _paint(image, np.sin(23 * x + 9 * np.sin(11 * y)) > 0.7, (0.3, 0.34, 0.14))
    skin = (0.34, 0.52, 0.16)
    _paint(image, ((x - 0.5) / 0.36) ** 2 + ((y - 0.6) / 0.27) ** 2 < 1, skin)
    _paint(image, ((x - 0.5) / 0.22) ** 2 + ((y - 0.72) / 0.13) ** 2 < 1, (0.75, 0.75, 0.5))
    for side in (-1, 1):
        _paint(image, ((x - 0.5 - side * 0.36) / 0.12) ** 2 + ((y - 0.8) / 0.16) ** 2 < 1, (0.28, 0.44, 0.13))
        eye = (x - 0.5 - side * 0.2) ** 2 + (y - 0.36) ** 2
        _paint(image, eye < 0.11**2, skin)
        _paint(image, eye < 0.07**2, (0.85, 0.75, 0.2))
        _paint(image, eye < 0.04**2, (0.03, 0.03, 0.03))
    _paint(image, (np.abs(y - 0.6 - 0.25 * (x - 0.5) ** 2) < 0.012) & (np.abs(x - 0.5) < 0.26), (0.15, 0.25, 0.06))
    return _bytes(image)


DRAWINGS: dict[str, Callable[[], np.ndarray]] = {f.__name__: f for f in (ship, airplane, automobile, frog)}
"""By class, what draws one."""
