"""The zoo's names and networks: ``timm.create_model`` with clear errors for names."""

from typing import Any

import timm
from torch import nn

from . import models as models  # registers every architecture
from .errors import ZooError
from .models._bounded import refused
from .names import architectures as architectures
from .names import check_name
from .names import describe_entry as describe_entry
from .names import family_of as family_of
from .names import list_models as list_models
from .transforms import transform
from .transforms.transform import ARCHITECTURE
from .weights.load import known_repository
from .weights.manifest import weights as weights


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a network of the zoo: ``timm.create_model`` with clear errors for names.

    Args:
        name: Architecture, or ``arch.tag`` for a weight.
        pretrained: Load the weight (of the tag, or the architecture's first).
        **kwargs: As ``timm.create_model``: ``num_classes``, ``in_chans``, ``features_only``, ...; and ``transform``, a
            string as :func:`zoo.transform` takes it, with which ``name`` may be any of timm's too.

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
    if spec := kwargs.pop("transform", None):
        if from_elsewhere:
            return transform(create_model(name, pretrained, **kwargs), spec)
        name, kwargs = ARCHITECTURE, {"base": name, "transform": spec, **kwargs}
    if not from_elsewhere and name != ARCHITECTURE:
        check_name(name)
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except ZooError:
        raise
    except Exception as error:  # timm's own, and those of the libraries that fetch and read its config.json
        if not (from_elsewhere or kwargs):
            raise  # a fault of the zoo
        raise refused(name, kwargs, error) from error
