"""The names of column types in `input.schema`, such as `int64` or `list<string>` (every process).

Arrow's own names are understood too, as `plan` and error messages show them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# The name that the documentation uses, and the names that mean the same.
SIMPLE = {
    "string": ("string", "str", "text", "utf8"),
    "large_string": ("large_string",),
    "bool_": ("bool", "boolean"),
    "int8": ("int8",), "int16": ("int16",), "int32": ("int32", "int"), "int64": ("int64", "long"),
    "uint8": ("uint8",), "uint16": ("uint16",), "uint32": ("uint32",), "uint64": ("uint64",),
    "float32": ("float32", "float"), "float64": ("float64", "double"),
    "binary": ("binary",),
    "date32": ("date", "date32", "date32[day]"),
}  # fmt: skip
NAMES = {name: kind for kind, names in SIMPLE.items() for name in names}
EXAMPLES = (
    "string, int64, float64, bool, date, timestamp, timestamp(us, UTC), time, decimal(10, 2), "
    "binary, list<string>, struct<a: int64, b: string>, map<string, int64>"
)
UNITS = ("s", "ms", "us", "ns")
OPEN, CLOSE = "<([", ">)]"
OUTER = re.compile(r"\s*(\w+)\s*(?:([<(\[])(.*)[>)\]])?\s*", re.DOTALL)


@functools.lru_cache(maxsize=256)
def column_type(text: str) -> pa.DataType:
    """The Arrow type of this name. Raises ValueError, with examples, for a name that is none."""
    try:
        return _parse(text)
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{text!r} is no type of a column: use one such as {EXAMPLES}") from None


def _parse(text: str) -> pa.DataType:
    import pyarrow as pa

    known = NAMES.get(text.strip().lower())
    if known is not None:
        return getattr(pa, known)()
    match = OUTER.fullmatch(text)
    if match is None:
        raise ValueError(text)
    name, inner = match[1].lower(), list(_pieces(match[3])) if match[2] else []
    if name == "list":
        (item,) = inner
        return pa.list_(_parse(_field(item)[1] if _is_field(item) else item))
    if name == "struct":
        return pa.struct([(key, _parse(kind)) for key, kind in map(_field, inner)])
    if name == "map":
        key, item = inner
        return pa.map_(_parse(key), _parse(item))
    if name in ("decimal", "decimal128"):
        precision, scale = inner
        return pa.decimal128(int(precision), int(scale))
    if name == "timestamp":
        unit, zone = [*inner, "us", ""][:2] if not inner else [*inner, ""][:2]
        return pa.timestamp(_unit(unit), _zone(zone))
    if name in ("time", "time64"):
        return pa.time64(_unit((inner or ["us"])[0]))
    raise ValueError(text)


def _unit(text: str) -> str:
    return UNITS[UNITS.index(text.strip())]


def _zone(text: str) -> str | None:
    import pyarrow as pa

    name = text.strip().removeprefix("tz=")
    if name:
        pa.lib.string_to_tzinfo(name)  # raises for a zone that is unknown
    return name or None


def _is_field(text: str) -> bool:
    return re.match(r"\s*(item|element)\s*:", text) is not None


def _field(text: str) -> tuple[str, str]:
    name, colon, kind = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(text)
    return name.strip(), kind


def _pieces(text: str) -> Iterator[str]:
    """The parts between commas that are in no inner brackets."""
    depth = start = 0
    for i, mark in enumerate(text):
        depth += (mark in OPEN) - (mark in CLOSE)
        if mark == "," and depth == 0:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()
