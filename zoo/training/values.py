"""The values of a recipe: their types and ranges, for image networks and language models alike."""

import math
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from ..errors import ZooError

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    dict: "a mapping",
    list: "a list",
}


def typed(key: str, kind: Any, value: Any) -> Any:
    """A value as the type of its key; YAML reads ``1e-4`` as a word, and JSON knows no keys but words.

    Args:
        key: Name of the key, for the message.
        kind: ``int``, ``float``, ``bool``, ``str``, ``list[...]`` or ``dict[..., ...]``.
        value: What the recipe has; None stands for nothing in particular.

    Raises:
        ZooError: If it is of another type.
    """
    whole, parts = get_origin(kind) or kind, get_args(kind)
    value = whole() if value is None else _plain(value)
    if not isinstance(value, (int, float) if whole is float else whole) or isinstance(value, bool) != (whole is bool):
        hint = f" Quote it: --set \"{key}='{value}'\"." if whole is str else ""
        raise ZooError(f"Recipe key {key} is {_WORDS[whole]}, not {value!r}.{hint}")
    if whole is float:
        if not math.isfinite(value):
            raise ZooError(f"Recipe key {key} is a finite number, not {value}.")
        return float(value)
    if whole is list and parts:
        return [typed(f"{key}[{i}]", parts[0], entry) for i, entry in enumerate(value)]
    if whole is dict and parts and parts[1] is not Any:
        return {typed(key, parts[0], k): typed(f"{key}.{k}", parts[1], entry) for k, entry in value.items()}
    return value


def check_ranges(recipe: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers out of range.

    Args:
        recipe: Has the values as attributes.
        ranges: Smallest value and the one it must stay below, by key.

    Raises:
        ZooError: If one is out of its range; the message names both ends.
    """
    for key, (low, high) in ranges.items():
        value = getattr(recipe, key)
        if not low <= value < high:
            above = "" if math.isinf(high) else f" and below {high}"
            raise ZooError(f"Recipe key {key} must be at least {low}{above}, not {value}.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {int(k) if isinstance(k, str) and k.isdigit() else k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
