"""Names: what the zoo registers with timm, and finding it again."""

import fnmatch
from typing import Any

import timm
from timm.models import list_models as timm_list_models
from timm.models import model_entrypoint
from torch import nn

from .errors import UnknownNameError, ZooError
from .models import FAMILIES
from .models._bounded import refused
from .suggest import close_names
from .weights.load import known_repository
from .weights.manifest import damaged, refuse_damaged, warm_starts, weights


def family_of(name: str) -> str:
    """The family of an architecture or ``arch.tag``.

    Raises:
        UnknownNameError: If the zoo has no such architecture.
    """
    arch = check_name(name).split(".", 1)[0]
    return next(family for family in FAMILIES if arch in _architectures(family))


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """The zoo's names, sorted.

    Args:
        pattern: Shell pattern over the names.
        pretrained: List weights (``arch.tag``) instead of architectures.
    """
    names = weights() if pretrained else [name for family in FAMILIES for name in _architectures(family)]
    return sorted(fnmatch.filter(names, pattern))


def check_name(name: str) -> str:
    """Return ``name`` if it is an architecture of the zoo, or one of its ``arch.tag``.

    Raises:
        UnknownNameError: Otherwise, with close matches.
    """
    arch, _, tag = name.partition(".")
    architectures = list_models()
    if arch not in architectures:
        for left_out in damaged():
            if left_out.split(".", 1)[0] == arch:
                refuse_damaged(left_out)
        close = close_names(arch, architectures)
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
    return (model_entrypoint(check_name(name)).__doc__ or name).strip().splitlines()[0]


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a network of the zoo: ``timm.create_model`` with clear errors for names.

    Args:
        name: Architecture, or ``arch.tag`` for a weight.
        pretrained: Load the weight (of the tag, or the architecture's first).
        **kwargs: As ``timm.create_model``: ``num_classes``, ``in_chans``, ``features_only``, ...

    Raises:
        UnknownNameError: If the name does not exist; the message lists close ones.
        ZooError: If an argument is wrong for this architecture, or the weight cannot be had.
    """
    hub = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    known = known_repository({"source": "hf-hub", "hf_hub_id": hub}) if hub != name else ""
    if known:  # what it is, the manifest says; its config.json is not asked for
        overlay = {**(kwargs.pop("pretrained_cfg_overlay", None) or {}), "hf_hub_id": hub}
        return create_model(known, pretrained, pretrained_cfg_overlay=overlay, **kwargs)
    from_elsewhere = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not from_elsewhere:
        check_name(name)
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except ZooError:
        raise
    except Exception as error:  # timm's own, and those of the libraries that fetch and read its config.json
        if not (from_elsewhere or kwargs):
            raise  # a fault of the zoo
        raise refused(name, kwargs, error) from error


def _architectures(family: str) -> list[str]:
    return [name for module in FAMILIES[family] for name in timm_list_models(module=module)]
