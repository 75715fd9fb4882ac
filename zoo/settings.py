"""Values that people write: YAML files, and ``KEY=VALUE`` on the command line."""

import copy
import functools
from collections.abc import Iterable
from typing import Any

from .errors import ZooError
from .extras import require

_LARGEST = 1 << 20  # characters


def read_yaml(text: str, place: object) -> Any:
    """Plain values from YAML without aliases, through which a few hundred bytes could stand for gigabytes.

    Args:
        text: The YAML.
        place: What errors call it.

    Raises:
        ZooError: If it is not YAML, is longer than a megabyte or nested too deeply, has an alias, or PyYAML is not
            installed.
    """
    yaml = require("yaml", "train")
    if len(text) > _LARGEST:
        raise ZooError(f"{place}: longer than a recipe can be ({len(text):,} characters).")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ZooError(f"{place}: write values out; aliases (*name) are not read.")
        return copy.deepcopy(_loaded(text, loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ZooError(f"{place}: not YAML ({' '.join(str(error).split())[:200]}).") from None


@functools.lru_cache(1024)
def _loaded(text: str, loader: Any) -> Any:
    """The values of a text; recipes have bases in common, which are read for each."""
    return require("yaml", "train").load(text, loader)


def parse_settings(words: Iterable[str]) -> dict[str, object]:
    """``KEY=VALUE`` words as a mapping; values are read as YAML.

    Args:
        words: Such as ``epochs=3``, ``amp=''`` and ``milestones=[60,120]``.

    Raises:
        ZooError: If a word has another form, or PyYAML is not installed.
    """
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ZooError(f"--set {word}: write it as KEY=VALUE.")
        settings[key] = read_yaml(value, f"--set {key}")
    return settings
