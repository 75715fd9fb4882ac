"""The gallery: a static site of all weights, built offline from what is known of them (``zoo gallery``)."""

from .build import build

__all__ = ["build"]
