"""The kinds of transformations: ours, and those that installed packages add."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import plugins


@dataclass(frozen=True)
class Kind:
    """One way in which convolutions can be made.

    Attributes:
        name: The word for it.
        about: What it does, a sentence for help texts.
        apply: Called with a :class:`zoo.transforms.Target`, whose network it changes in place, and the options by
            name; it notes every layer with :meth:`Target.changed` or :meth:`Target.leave`. What it does may depend on
            shapes and options, not on values: a saved network is made again before its tensors are there.
        options: By name the default; ``...`` where one has to be given.
        main: The option whose value may stand in a string without its name.
        example: A string with it.
    """

    name: str
    about: str
    apply: Callable[..., None]
    options: Mapping[str, Any]
    main: str | None
    example: str


def kinds() -> dict[str, Kind]:
    """All kinds by name; those of packages that cannot be used are left out with a line that says so."""
    return _found()[0]


def broken_kinds() -> dict[str, str]:
    """The reason by name of each entry point that is left out."""
    return _found()[1]


@functools.cache
def _found() -> tuple[dict[str, Kind], dict[str, str]]:
    from . import branches, reuse, weights

    known, broken = {kind.name: kind for module in (weights, branches, reuse) for kind in module.KINDS}, {}
    for entry in plugins.found(plugins.TRANSFORMS):
        try:
            kind = entry.load()
            if not isinstance(kind, Kind):
                raise TypeError("it is no zoo.transforms.Kind")
            if kind.name in known:
                raise ValueError(f"there is a kind {kind.name!r} already")
            known[kind.name] = kind
        except Exception as error:  # another package's code
            broken[entry.name] = plugins.leave_out(entry, error)
    return known, broken
