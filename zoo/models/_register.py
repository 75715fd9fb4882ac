"""The one way in which a family's networks are registered with timm."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..weights.manifest import base_cfg, timm_cfgs
from ._build import build_model

Variants = Mapping[str, tuple[Mapping[str, Any], str]]
"""Registered name -> fixed arguments of the network class, which a caller may replace, and the docstring."""


def register(
    module: str, cls: type[nn.Module], variants: Variants, *, levels: int, dataset: str, **layers: Any
) -> None:
    """Register networks of one class.

    Args:
        module: ``__name__`` of the family's module. It gets an entry point per name, as timm's own modules have, and
            ``default_cfgs``.
        cls: Network class.
        variants: What is registered.
        levels: Number of feature levels.
        dataset: The data set for whose images an architecture is built unless a weight or an argument says otherwise.
        **layers: ``first_conv`` and ``classifier``, names of layers, and ``pool_size``, (height, width) of the map
            before pooling at the data set's image size.
    """
    home = sys.modules[module]
    base = base_cfg(dataset, **layers)
    home.default_cfgs = {**vars(home).get("default_cfgs", {}), **generate_default_cfgs(timm_cfgs(variants, base))}
    for name, (fixed, description) in variants.items():
        setattr(home, name, register_model(_entry_point(module, cls, name, fixed, description, levels, base)))


def _entry_point(
    module: str, cls: type[nn.Module], name: str, fixed: Mapping[str, Any], description: str, levels: int, base: dict
) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        return build_model(cls, name, pretrained, levels=levels, base_cfg=base, fixed=fixed, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__module__ = module
    create.__doc__ = description
    return create
