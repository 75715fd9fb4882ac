"""Layers that several families share."""

from .channels import interleave_halves, repeat_channels, require_map
from .sharing import SharedConv2d, TemplateBank, share_weights, sharing_groups

__all__ = [
    "SharedConv2d",
    "TemplateBank",
    "interleave_halves",
    "repeat_channels",
    "require_map",
    "share_weights",
    "sharing_groups",
]
