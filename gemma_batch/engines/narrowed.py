"""Narrowed: the schema that the engine gets, which only allows what a column can hold (driver).

A weak model would otherwise write whole numbers of thirty digits, days that no calendar has, parts
of a second that no column keeps, or raw control characters, and each such answer would fail.
Remarks for people are left out: the engine does not show a schema to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.spec import patterns
from gemma_batch.spec.json_schema import ALONE, LISTED, NAMED, REMARKS, types_of

# Of the years 1000 to 9999.
LEAP = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{LEAP}-02-29)"
)
CLOCK = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
    "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])"
)
ANY = patterns.written(patterns.parsed(r"[\s\S]", json=True))  # one character
BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"  # xgrammar would write 037
FORMATS = {
    "ipv4": rf"{BYTE}(?:\.{BYTE}){{3}}",
    "date": DATE,
    "time": CLOCK,
    "date-time": f"{DATE}T{CLOCK}",
}
LEAST, MOST = -(2**63), 2**63 - 1


def narrowed(schema: Any) -> Any:
    """A copy of the schema for the engine."""
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in REMARKS or keyword.startswith("x-"):
            continue
        if keyword == "patternProperties":
            found[keyword] = {_pattern(name): narrowed(one) for name, one in value.items()}
        elif keyword in NAMED:
            found[keyword] = {name: narrowed(one) for name, one in value.items()}
        elif keyword in LISTED:
            found[keyword] = [narrowed(one) for one in value]
        elif keyword in ALONE:
            found[keyword] = narrowed(value)
        else:
            found[keyword] = value
    if "enum" in found or "const" in found:
        return found
    types = types_of(found)
    if "string" in types:
        _narrow_text(found)
    if "integer" in types:
        _narrow_whole(found)
    if "object" in types and found.get("properties"):
        found.setdefault("additionalProperties", False)
    return found


def _pattern(pattern: str) -> str:
    return f"^{_grouped(pattern)}$"


def _grouped(pattern: str) -> str:
    return f"(?:{patterns.written(patterns.parsed(pattern, json=True))})"


def _narrow_text(found: dict[str, Any]) -> None:
    bounded = {"minLength", "maxLength"} & found.keys()
    if "pattern" in found:
        found["pattern"] = _pattern(found["pattern"])
    elif found.get("format") in FORMATS and not bounded:
        found["pattern"] = _pattern(FORMATS[found.pop("format")])
    elif bounded and "format" not in found:
        # A string with bounds may hold raw control characters otherwise, which is no JSON.
        least, most = found.pop("minLength", 0), found.pop("maxLength", "")
        found["pattern"] = f"^{ANY}{{{least},{most}}}$"


def _narrow_whole(found: dict[str, Any]) -> None:
    low, high = found.get("minimum"), found.get("maximum")
    if low is None and "exclusiveMinimum" not in found:
        found["minimum"] = LEAST
    if high is None and "exclusiveMaximum" not in found:
        found["maximum"] = MOST
