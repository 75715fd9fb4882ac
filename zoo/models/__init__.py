"""The architectures, one family per file or more; importing this package registers all of them with timm.

A module here whose name does not begin with an underscore is part of the family that its ``FAMILY`` names. No other
place lists modules or families. Modules of other packages join by an entry point, see :mod:`zoo.plugins`.
"""

from importlib import import_module
from pkgutil import iter_modules

from timm.models import list_models

from ..plugins import load_families
from ..weights.manifest import know_families
from ._reference import create_reference, load_reference

_MODULES = {m.name: import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name[0] != "_"}

FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(name for name, module in _MODULES.items() if family == module.FAMILY)
    for family in sorted({module.FAMILY for module in _MODULES.values()})
}
"""Family -> names of its modules."""

_own = {arch: module.FAMILY for name, module in _MODULES.items() for arch in list_models(module=name)}
know_families({**dict(load_families({*list_models()})), **_own})

__all__ = ["FAMILIES", "create_reference", "load_reference", *_MODULES]
