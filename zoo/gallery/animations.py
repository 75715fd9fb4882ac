"""The animated picture of each family, made from real weights."""

from typing import Any


def animation(family: str) -> dict[str, Any] | None:
    """What ``_animation.html`` draws of a family; None where there is nothing to draw."""
    return None
