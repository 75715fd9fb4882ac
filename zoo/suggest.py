"""Close names for one that does not exist: other spellings, leftovers of patterns, timm's abbreviations."""

import difflib
import re
from collections.abc import Iterable


def close_names(word: str, names: Iterable[str], count: int = 4) -> list[str]:
    """The names that somebody who wrote ``word`` may have meant, likeliest first.

    Case, separators and the wildcards of a pattern do not matter; ``r50`` is read as ``resnet50``, ``wide_resnet`` as
    ``wrn``.

    Args:
        word: What was asked for: a name, or a shell pattern over names.
        names: What there is.
        count: At most so many.
    """
    wanted = _letters(word)
    if not wanted:
        return []
    scored = []
    for name in dict.fromkeys(names):
        letters = _letters(name)
        score = difflib.SequenceMatcher(None, wanted, letters, autojunk=False).ratio()
        # another spelling of a name is closer than the beginning of one, and that than any likeness
        score += 2 * (letters == wanted) + letters.startswith(wanted) + 0.2 * wanted.startswith(letters)
        scored.append((-score, len(name), name))
    return [name for score, _, name in sorted(scored)[:count] if score <= -0.6]


def did_you_mean(word: str, names: Iterable[str], otherwise: str, count: int = 4) -> str:
    """``Did you mean A, B?`` if there are close names, else another sentence.

    Args:
        word: As in :func:`close_names`, like the next and the last.
        names: What there is.
        otherwise: The sentence if nothing is close, such as where to look.
        count: At most so many.
    """
    close = close_names(word, names, count)
    return f"Did you mean {', '.join(close)}?" if close else otherwise


def _letters(word: str) -> str:
    word = re.sub(r"(?<![a-z])r(?=\d)", "resnet", re.sub(r"wide_?resnet", "wrn", word.lower().replace("-", "_")))
    return re.sub(r"[^a-z0-9]", "", word)
