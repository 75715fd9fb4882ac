"""The weights that words of a command line stand for."""

import fnmatch
from collections.abc import Iterable

from ..errors import UnknownNameError, WeightError
from ..suggest import did_you_mean
from .manifest import full_name, manifest, weights


def choose(words: Iterable[str]) -> list[str]:
    """Names of weights for words of the command line.

    Args:
        words: ``arch.tag``, architectures (their first weight), or shell patterns over ``arch.tag``.

    Raises:
        UnknownNameError: If a word stands for no weight.
        WeightError: If it stands for an authors' release without a licence.
    """
    chosen: list[str] = []
    for word in words:
        if any(letter in word for letter in "*?["):
            matching = fnmatch.filter(weights(), word)
            if not matching:
                hint = did_you_mean(word, weights(), "See: zoo list --pretrained")
                raise UnknownNameError(f"No weight matches {word!r}. {hint}")
            chosen += matching
            continue
        try:
            chosen.append(full_name(word))
        except UnknownNameError:
            if any(release["architecture"] == word.split(".", 1)[0] for release in manifest()["releases"]):
                raise WeightError(
                    f"{word}: its authors' release has no licence, so nobody but they may pass it on. Each user "
                    "downloads it from them and converts it with zoo import; see docs/imagenet.md."
                ) from None
            raise
    return sorted(set(chosen))
