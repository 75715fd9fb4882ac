"""The architectures, one family per file; importing this package registers all of them with timm."""

from . import (
    attention_resnet,
    lru_mobilenet,
    lru_mobilenetv2,
    lru_shufflenet,
    lru_shufflenetv2,
    lrunet,
    paradise,
    sparse_mlp,
    sparse_resnet,
    sparse_wrn,
    swrn,
    swrn_imagenet,
    symm_resnet,
    symm_wrn,
)
from ._reference import create_reference, load_reference

FAMILIES = {
    "lrunet": ("lrunet", "lru_mobilenet", "lru_mobilenetv2", "lru_shufflenet", "lru_shufflenetv2"),
    "paradise": ("paradise", "attention_resnet"),
    "sharing": ("swrn", "swrn_imagenet"),
    "sparse": ("sparse_wrn", "sparse_resnet", "sparse_mlp"),
    "symmetry": ("symm_wrn", "symm_resnet"),
}

__all__ = [
    "FAMILIES",
    "attention_resnet",
    "create_reference",
    "load_reference",
    "lru_mobilenet",
    "lru_mobilenetv2",
    "lru_shufflenet",
    "lru_shufflenetv2",
    "lrunet",
    "paradise",
    "sparse_mlp",
    "sparse_resnet",
    "sparse_wrn",
    "swrn",
    "swrn_imagenet",
    "symm_resnet",
    "symm_wrn",
]
