"""Options of the sparsity methods: plain values from a recipe, checked and brought into one form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UnknownNameError, ZooError
from ...suggest import close_names

REQUIRED = object()
Schedule = dict[int, float]


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        default: Its value if not given; :data:`REQUIRED` for none.
        read: Turns a given value into the one used; a ``ValueError`` says what it must be.
    """

    default: Any
    read: Callable[[Any], Any]


def read_options(method: str, given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Values of all options of a method.

    Raises:
        UnknownNameError: If an option does not exist; the message names close matches.
        ZooError: If a required one is missing or a value has no meaning.
    """
    if not isinstance(given, Mapping):
        raise ZooError(f"The options of method {method!r} are a mapping of names to values, not {given!r}.")
    for key in given:
        if key not in options:
            close = close_names(str(key), options) or list(options)
            raise UnknownNameError(f"Method {method!r} has no option {key!r}: did you mean {', '.join(close)}?")
    missing = [key for key, option in options.items() if option.default is REQUIRED and key not in given]
    if missing:
        raise ZooError(f"Method {method!r} needs the option {' and '.join(missing)}.")
    values = {}
    for key, option in options.items():
        value = given.get(key, option.default)
        try:
            values[key] = None if value is None and option.default is None else option.read(value)
        except (TypeError, ValueError) as error:
            raise ZooError(f"Option {key} of method {method!r} must be {error}, not {value!r}.") from None
    return values


def number(low: float, high: float = math.inf, whole: bool = False) -> Callable[[Any], float]:
    """A reader of numbers from ``low`` to ``high``, both included; also written as text (YAML reads 1e-5 as text)."""
    kind = "a whole number" if whole else "a number"
    text = f"{kind} of at least {low}" if high == math.inf else f"{kind} from {low} to {high}"

    def read(value: Any) -> float:
        try:
            result = float(value)
        except (TypeError, ValueError):
            result = math.nan
        if isinstance(value, bool) or not low <= result <= high or result == math.inf or (whole and result % 1):
            raise ValueError(text)
        return int(result) if whole else result

    return read


def flag(value: Any) -> bool:
    """A reader of true and false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def choice(*names: str) -> Callable[[Any], str]:
    """A reader of one of several words."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return value

    return read


def schedule(read: Callable[[Any], float]) -> Callable[[Any], Schedule]:
    """A reader of ``{epoch: value}`` (from epoch 0 on) or of one value for all epochs, each value read by ``read``."""

    def read_schedule(value: Any) -> Schedule:
        steps = dict(value) if isinstance(value, Mapping) else {0: value}
        epoch = number(0, whole=True)
        try:
            steps = {epoch(key): read(step) for key, step in steps.items()}  # JSON turns the epochs into text
        except ValueError as error:
            raise ValueError(f"a value or a mapping of epochs to values, each {error}") from None
        if 0 not in steps:
            raise ValueError("a mapping of epochs to values that begins with epoch 0")
        return steps

    return read_schedule


def table(read: Callable[[Any], float]) -> Callable[[Any], dict[str, float]]:
    """A reader of ``{name: value}``."""

    def read_table(value: Any) -> dict[str, float]:
        if not isinstance(value, Mapping):
            raise ValueError("a mapping of names to values")
        try:
            return {str(name): read(entry) for name, entry in value.items()}
        except ValueError as error:
            raise ValueError(f"a mapping of names to values, each {error}") from None

    return read_table


def value_at(steps: Schedule, epoch: int) -> float:
    """The value of the last epoch of a schedule that is not above ``epoch``."""
    return steps[max(key for key in steps if key <= epoch)]
