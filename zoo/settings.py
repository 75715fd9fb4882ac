"""Values given on the command line: ``KEY=VALUE``."""

from collections.abc import Iterable

from .errors import ZooError
from .extras import require


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
        yaml = require("yaml", "train")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ZooError(f"--set {word}: the value is not YAML ({' '.join(str(error).split())[:200]}).") from None
    return settings
