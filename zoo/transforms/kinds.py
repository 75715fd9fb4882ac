"""The kinds of transformations: ours, and those that installed packages add."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ZooError

GROUP = "zoo.transforms"
"""Entry points of packages that add kinds; each is a :class:`Kind`."""


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


@functools.cache
def kinds() -> dict[str, Kind]:
    """All kinds by name.

    Raises:
        ZooError: If an installed package has an entry point that is no kind, or one with a name that is taken.
    """
    from . import branches, reuse, weights

    found = {kind.name: kind for module in (weights, branches, reuse) for kind in module.KINDS}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            kind = entry.load()
        except Exception as error:  # another package's code
            raise ZooError(f"The entry point {entry.value} ({GROUP}) cannot be loaded: {error}") from None
        if not isinstance(kind, Kind) or kind.name in found:
            what = f"a second {kind.name!r}" if isinstance(kind, Kind) else "no zoo.transforms.Kind"
            raise ZooError(f"The entry point {entry.value} ({GROUP}) is {what}: uninstall its package or mend it.")
        found[kind.name] = kind
    return found
