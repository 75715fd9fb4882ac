"""Names: what the zoo registers with timm, and finding it again, without torch where the shipped counts hold."""

import fnmatch
from collections.abc import Mapping

from . import counted, plugins
from .errors import UnknownNameError
from .suggest import close_names
from .weights.manifest import damaged, families, know_families, refuse_damaged, warm_starts, weights


def architectures() -> Mapping[str, str]:
    """The family of every architecture: as they were registered in this process, or else as they were counted.

    Where a module of ``zoo/models`` is another than was counted, or an installed package adds some, all are imported,
    which registers them.
    """
    if not families():
        if not plugins.found(plugins.FAMILIES) and (shipped := counted.families()):
            know_families(shipped)
        else:
            from . import models  # noqa: F401 (takes note of them)
    return families()


def family_of(name: str) -> str:
    """The family of an architecture or ``arch.tag``.

    Raises:
        UnknownNameError: If the zoo has no such architecture.
    """
    return architectures()[check_name(name).split(".", 1)[0]]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """The zoo's names, sorted.

    Args:
        pattern: Shell pattern over the names.
        pretrained: List weights (``arch.tag``) instead of architectures.
    """
    return sorted(fnmatch.filter(weights() if pretrained else architectures(), pattern))


def check_name(name: str) -> str:
    """Return ``name`` if it is an architecture of the zoo, or one of its ``arch.tag``.

    Raises:
        UnknownNameError: Otherwise, with close matches.
    """
    arch, _, tag = name.partition(".")
    known = list_models()
    if arch not in known:
        for left_out in damaged():
            if left_out.split(".", 1)[0] == arch:
                refuse_damaged(left_out)
        close = close_names(arch, known)
        tagged = [f"{other}.{tag}" for other in close if f"{other}.{tag}" in weights()]
        hint = f"Did you mean {', '.join(tagged or close)}?" if close else "See: zoo list"
        raise UnknownNameError(f"No model is called {arch!r}. {hint}")
    if tag:
        refuse_damaged(name)
    if tag and name not in weights() and name not in warm_starts():
        known = [n for n in [*weights(), *warm_starts()] if n.split(".", 1)[0] == arch]
        hint = f"It has {', '.join(known)}." if known else "It has none yet; see: zoo list --pretrained"
        raise UnknownNameError(f"{arch} has no weight tagged {tag!r}. {hint}")
    return name


def describe_entry(name: str) -> str:
    """The one-line description of a registered architecture."""
    arch = check_name(name).split(".", 1)[0]
    if facts := counted.network(arch):
        return facts["description"]
    from timm.models import model_entrypoint

    return (model_entrypoint(arch).__doc__ or arch).strip().splitlines()[0]
