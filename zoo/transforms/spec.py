"""Words for transformations: ``share:templates=2``, ``symmetrize:tri+sparsify:0.9``."""

import ast
from collections.abc import Mapping
from typing import Any

from ..errors import UnknownNameError, ZooError
from ..suggest import close_names
from .kinds import Kind, broken_kinds, kinds

Step = tuple[Kind, dict[str, Any]]


def read_spec(spec: str, options: Mapping[str, Any] | None = None) -> list[Step]:
    """Read transformations, in the order in which they are done.

    Args:
        spec: ``KIND[:VALUE][,OPTION=VALUE...]``, several joined by ``+``. A value without a name is the kind's main
            option, and several in one option are joined by ``|``.
        options: Of a single kind, as Python values; they come before those of the string. A string among them is read
            as it would be in ``spec``; commas separate its parts too.

    Raises:
        UnknownNameError: If a kind or an option does not exist.
        ZooError: If the string has another form, or an option is missing.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ZooError(f"A transformation is a word such as 'share:templates=2', not {spec!r}. {_VALID()}")
    steps = [_read_step(part) for part in _split(spec)]
    if options:
        if len(steps) > 1:
            raise ZooError(f"Write the options of several kinds into the string, as in {spec!r}, not beside it.")
        words = {key: _value(key, word.replace(",", "|")) for key, word in options.items() if isinstance(word, str)}
        steps = [(steps[0][0], {**steps[0][1], **options, **words})]
    return [(kind, _checked(kind, given)) for kind, given in steps]


def write_spec(steps: list[Step]) -> str:
    """The string that :func:`read_spec` reads back, with the options that differ from the default."""
    words = []
    for kind, options in steps:
        said = {key: value for key, value in options.items() if value != kind.options[key]}
        main = [_word(said.pop(kind.main))] if kind.main in said else []
        parts = main + [f"{key}={_word(value)}" for key, value in said.items()]
        words.append(kind.name + (":" + ",".join(parts) if parts else ""))
    return "+".join(words)


def _VALID() -> str:
    return f"Kinds: {', '.join(kinds())}."


def _split(spec: str) -> list[str]:
    """The parts between plus signs; one in a value (``tri+spa``) belongs to it, since no kind begins there."""
    parts: list[str] = []
    for part in spec.split("+"):
        word = part.split(":")[0].strip()
        if parts and word not in kinds() and ":" in parts[-1] and "=" not in part and ":" not in part:
            parts[-1] += f"+{part}"
        else:
            parts.append(part)
    return parts


def _read_step(part: str) -> Step:
    word, _, rest = part.strip().partition(":")
    kind = kind_of(word.strip())
    options: dict[str, Any] = {}
    for place, item in enumerate(filter(None, (item.strip() for item in rest.split(",")))):
        key, equals, value = item.partition("=")
        if not equals:
            if place or kind.main is None:
                hint = "has no option without a name" if kind.main is None else "takes one value without a name, first"
                raise ZooError(f"{part.strip()!r}: {kind.name} {hint}; write OPTION=VALUE. {_options_of(kind)}")
            key, value = kind.main, item
        if key.strip() in options:
            raise ZooError(f"{part.strip()!r} names the option {key.strip()} twice.")
        options[key.strip()] = _value(key.strip(), value.strip())
    return kind, options


def kind_of(word: str) -> Kind:
    """The kind of this name.

    Raises:
        UnknownNameError: If there is none.
    """
    known = kinds()
    if word not in known:
        if reason := broken_kinds().get(word):
            raise ZooError(f"The transformation {word!r} cannot be used: {reason}.")
        close = close_names(word, list(known))
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise UnknownNameError(f"There is no transformation {word!r}. {hint}{_VALID()}")
    return known[word]


def _checked(kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := [key for key in given if key not in kind.options]:
        close = close_names(unknown[0], list(kind.options))
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise UnknownNameError(f"{kind.name} has no option {unknown[0]!r}. {hint}{_options_of(kind)}")
    options = {**kind.options, **given}
    if missing := [key for key, value in options.items() if value is ...]:
        raise ZooError(f"{kind.name} needs the option {missing[0]!r}, as in {kind.example!r}. {_options_of(kind)}")
    return {key: _plain(key, value) for key, value in options.items()}


def _plain(key: str, value: Any) -> Any:
    """An option as it would be read from a string."""
    if isinstance(value, list | tuple | set | frozenset):
        ordered = value if isinstance(value, list | tuple) else sorted(value, key=str)
        values = tuple(_plain(key, part) for part in ordered)
        return values[0] if len(values) == 1 else values
    return str(value) if key == "layers" and value is not None else value


def _options_of(kind: Kind) -> str:
    return f"Its options: {', '.join(kind.options)}."


def _value(key: str, word: str) -> Any:
    if "|" in word:
        return tuple(_value(key, part.strip()) for part in word.split("|"))
    if key == "layers":  # of a Sequential they are called 0, 1, ...
        return word
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word
    return value if isinstance(value, int | float | bool) or value is None else word


def _word(value: Any) -> str:
    return "|".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)
