"""Layers that several families share."""

from .channels import RepeatDepthwise2d, interleave_halves, require_map
from .sharing import SharedConv2d, TemplateBank, share_weights, sharing_groups

__all__ = [
    "RepeatDepthwise2d",
    "SharedConv2d",
    "TemplateBank",
    "interleave_halves",
    "require_map",
    "share_weights",
    "sharing_groups",
]
