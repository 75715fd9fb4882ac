"""Whether a manifest is one: checked against its schema whenever it is read, since everything believes it.

The part of JSON Schema that ``manifest.schema.json`` uses is read here, for an installed zoo has no package that does.
A test holds every answer against the package ``jsonschema``.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import WeightError

_SCHEMA = Path(__file__).with_name("manifest.schema.json")
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
KEYWORDS = {
    *("type", "enum", "const", "pattern", "oneOf", "$ref", "required", "properties", "additionalProperties"),
    *("propertyNames", "items", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum"),
}
"""What is understood; other words of the schema only describe."""


def check_manifest(content: Any, path: str | Path) -> dict[str, Any]:
    """Return a manifest that follows ``manifest.schema.json``.

    Args:
        content: What its JSON holds.
        path: What the error calls it.

    Raises:
        WeightError: If it does not; the message names the first place that is wrong.
    """
    problem = next(_problems(content, _schema(), "$"), None)
    if problem:
        raise WeightError(f"{path}: {problem[:300]}. Install the package again.")
    for name, entry in content["weights"].items():
        for place in (source.get("path") or source.get("file") or "" for source in entry["sources"]):
            if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts or "\\" in place:
                raise WeightError(
                    f"{path}: {name} has a source outside its folder ({place!r}). Install the package again."
                )
    return content


@functools.cache
def _schema() -> dict[str, Any]:
    return json.loads(_SCHEMA.read_text(encoding="utf-8"))


def _problems(value: Any, rule: dict[str, Any], place: str) -> Iterator[str]:
    """What is wrong with a value, the outermost first."""
    if "$ref" in rule:
        yield from _problems(value, _schema()["$defs"][rule["$ref"].rpartition("/")[2]], place)
    kinds = rule.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{place} {_shown(value)} is not of type {' or '.join(kinds)}"
        return
    if "enum" in rule and not any(_equal(value, choice) for choice in rule["enum"]):
        yield f"{place} {_shown(value)} is not one of {', '.join(map(str, rule['enum']))}"
    if "const" in rule and not _equal(value, rule["const"]):
        yield f"{place} {_shown(value)} is not {rule['const']!r}"
    if "oneOf" in rule:
        found = [list(_problems(value, alternative, place)) for alternative in rule["oneOf"]]
        if sum(not problems for problems in found) != 1:
            kind = value.get("kind") if isinstance(value, dict) else None
            meant = [p for a, p in zip(rule["oneOf"], found, strict=True) if kind and kind == _kind_of(a)]
            yield meant[0][0] if meant and meant[0] else f"{place} is of no known kind"
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        yield f"{place} {_shown(value)} does not match {rule['pattern']!r}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, rule, place)
    if isinstance(value, list):
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            yield f"{place} has {len(value)} entries"
        for index, item in enumerate(value):
            yield from _problems(item, rule.get("items", {}), f"{place}[{index}]")
    if isinstance(value, dict):
        yield from _object(value, rule, place)


def _number(value: float, rule: dict[str, Any], place: str) -> Iterator[str]:
    inf = float("inf")
    low, above, high = rule.get("minimum", -inf), rule.get("exclusiveMinimum", -inf), rule.get("maximum", inf)
    if value < low or value > high or ("exclusiveMinimum" in rule and value <= above):
        yield f"{place} {_shown(value)} is out of range"


def _object(value: dict[str, Any], rule: dict[str, Any], place: str) -> Iterator[str]:
    known, more = rule.get("properties", {}), rule.get("additionalProperties", {})
    missing = [key for key in rule.get("required", []) if key not in value]
    unknown = [key for key in value if key not in known] if more is False else []
    if missing or unknown:
        yield f"{place} {'lacks' if missing else 'has the unknown field'} {(missing or unknown)[0]!r}"
    for key, item in value.items():
        inner = f"{place}.{key}" if re.fullmatch(r"\w+", key) else f"{place}[{key!r}]"
        yield from _problems(key, rule.get("propertyNames", {}), f"{place}, the name")
        yield from _problems(item, known.get(key, more or {}), inner)


def _equal(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _is(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if isinstance(value, bool):
        return kind == "boolean"
    whole = isinstance(value, float) and value.is_integer() and kind == "integer"
    return whole or isinstance(value, _TYPES[kind])


def _kind_of(alternative: dict[str, Any]) -> Any:
    return alternative.get("properties", {}).get("kind", {}).get("const")


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:80]
