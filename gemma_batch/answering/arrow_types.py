"""Arrow types: the type of the column that a JSON schema's values fit, and how a value gets there
(driver and GPU actor).

Nothing is rounded, shortened or dropped on the way. A value that its column cannot hold is `Unfit`.
What has no one type becomes JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.spec.json_schema import MAX_SCHEMAS, subschemas, target, types_of

INT64 = 2**63
TIME = re.compile(r"\d{2}:\d{2}:\d{2}(\.(\d+))?([Zz]|[+-]\d{2}:\d{2})")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
DIGITS = 6  # of a second, which is what the columns hold


class Unfit(ValueError):
    """A value that its column cannot hold, with the reason."""


class Kind(Protocol):
    """How values of one schema are stored."""

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        ...

    def value(self, found: Any) -> Any:
        """A value as Arrow takes it. Raises `Unfit`. `found` fits the schema and is not null."""
        ...


def stored(kind: Kind, found: Any) -> Any:
    """A value, or null, as Arrow takes it. Raises `Unfit`."""
    return None if found is None else kind.value(found)


@dataclass(frozen=True, slots=True)
class Text:
    """Text, as it stands."""

    type: pa.DataType = pa.string()  # noqa: RUF009  (a type is a value)

    def value(self, found: Any) -> Any:
        """The text. Half of a surrogate pair is no text."""
        return _encodable(found)


@dataclass(frozen=True, slots=True)
class Truth:
    """True or false."""

    type: pa.DataType = pa.bool_()  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The value."""
        return found


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; 2.0 is one too."""

    type: pa.DataType = pa.int64()  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The number as int."""
        if int(found) != found or not -INT64 <= found < INT64:
            raise Unfit(f"{found!r} is no whole number of 64 bits")
        return int(found)


@dataclass(frozen=True, slots=True)
class Number:
    """A number."""

    type: pa.DataType = pa.float64()  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The number as float. A whole number must not lose digits by it."""
        if float(found) != found:
            raise Unfit(f"{found!r} has more digits than a number of 64 bits with a fraction")
        return float(found)


@dataclass(frozen=True, slots=True)
class Day:
    """A date."""

    type: pa.DataType = pa.date32()  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The day."""
        if DATE.fullmatch(found) is None:
            raise Unfit(f"{found!r} is no date such as '2026-11-28'")
        try:
            return date.fromisoformat(found)
        except ValueError:
            raise Unfit(f"{found!r} is no day of the calendar") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """A date and a time, kept in UTC."""

    type: pa.DataType = pa.timestamp("us", tz="UTC")  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The moment in UTC."""
        day, clock = found[:10], found[11:]
        if found[10:11] not in ("T", "t", " "):
            raise Unfit(f"{found!r} is no date and time such as '2026-11-28T07:30:00Z'")
        try:
            return datetime.combine(Day().value(day), _clock(clock)).astimezone(UTC)
        except OverflowError:
            raise Unfit(f"{found!r} is outside of the years 1 to 9999 in UTC") from None


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day, kept in UTC."""

    type: pa.DataType = pa.time64("us")  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The time of day in UTC."""
        clock = _clock(found)
        offset = clock.utcoffset() or timedelta()
        moment = datetime.combine(date(2000, 1, 2), clock.replace(tzinfo=None)) - offset
        return moment.time()


@dataclass(frozen=True, slots=True)
class Record:
    """An object with named properties; a property that is left out is null."""

    fields: tuple[tuple[str, Kind], ...]

    @property
    def type(self) -> pa.DataType:
        """A struct with the properties in the schema's order."""
        return pa.struct([(name, kind.type) for name, kind in self.fields])

    def value(self, found: Any) -> Any:
        """The properties."""
        kinds = dict(self.fields)
        if extra := [name for name in found if name not in kinds]:
            raise Unfit(f"it has a property {extra[0]!r}, which the schema does not name")
        values = {}
        for name, kind in self.fields:
            try:
                values[name] = stored(kind, found.get(name))
            except Unfit as err:
                raise Unfit(f"{name}: {err}") from None
        return values


@dataclass(frozen=True, slots=True)
class Series:
    """A list of values of one kind."""

    item: Kind

    @property
    def type(self) -> pa.DataType:
        """A list."""
        return pa.list_(self.item.type)

    def value(self, found: Any) -> Any:
        """The items."""
        return [stored(self.item, one) for one in found]


@dataclass(frozen=True, slots=True)
class JsonText:
    """Any value, as JSON text without blanks."""

    type: pa.DataType = pa.string()  # noqa: RUF009

    def value(self, found: Any) -> Any:
        """The JSON text."""
        return _encodable(json.dumps(found, ensure_ascii=False, separators=(",", ":")))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit("it holds half of a surrogate pair, which is no character") from None
    return text


def _clock(text: str) -> time:
    match = TIME.fullmatch(text)
    if match is None:
        raise Unfit(f"{text!r} is no time with an offset such as '07:30:00Z'")
    if (match[2] or "")[DIGITS:].strip("0"):
        raise Unfit(f"{text!r} has parts of a second below a microsecond")
    fraction = f".{match[2][:DIGITS].ljust(DIGITS, '0')}" if match[2] else ""
    try:
        return time.fromisoformat(f"{text[:8]}{fraction}{match[3].upper()}")
    except ValueError:
        raise Unfit(f"{text!r} is no time of day") from None


FORMATS: Mapping[str, Kind] = {"date": Day(), "date-time": Moment(), "time": Clock()}
SIMPLE: Mapping[str, Kind] = {
    "boolean": Truth(),
    "integer": Whole(),
    "number": Number(),
    "null": Text(),
}
LITERALS: Sequence[tuple[type, Kind]] = (
    (bool, Truth()),
    (str, Text()),
    (int, Whole()),
    (float, Number()),
)


def kind_of(schema: Any) -> Kind:
    """How the values of a schema are stored. Raises `ValueError` when it has too many columns."""
    return _Reader(schema).kind(schema)


def top_properties(schema: Mapping[str, Any]) -> tuple[tuple[str, Kind], ...]:
    """The properties of the object at the top of a schema. Raises `ValueError` when it has none."""
    kind = kind_of(schema)
    if not isinstance(kind, Record):
        raise ValueError(  # noqa: TRY004  (bad data, not bad code)
            "`flatten` makes columns of the properties of an object, and the schema's values are "
            f"of the type {kind.type}: leave `flatten` out, or close the object at the top "
            "(properties, and additionalProperties: false)"
        )
    return kind.fields


class _Reader:
    """Reads one schema."""

    def __init__(self, root: Any) -> None:
        self._root, self._count = root, 0
        self._endless: dict[str, bool] = {}  # whether what a reference names holds itself

    def kind(self, schema: Any) -> Kind:
        self._count += 1
        if self._count > MAX_SCHEMAS:
            raise ValueError(f"the schema gives more than {MAX_SCHEMAS:,} columns")
        if not isinstance(schema, Mapping):
            return JsonText()
        if (reference := schema.get("$ref")) is not None:
            if reference not in self._endless:
                self._endless[reference] = reference in self._reached(reference)
            if self._endless[reference] or reference == "#":
                return JsonText()
            return self.kind(target(self._root, reference))
        if "const" in schema or "enum" in schema:
            return _literal(schema.get("enum", [schema.get("const")]))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                return self._either(schema[keyword])
        return self._typed(schema)

    def _reached(self, reference: str) -> set[str]:
        """The references that stand in a named schema, or in one that it leads to."""
        found: set[str] = set()
        waiting = [reference]
        while waiting:
            for _, one in subschemas(target(self._root, waiting.pop())):
                name = one.get("$ref") if isinstance(one, Mapping) else None
                if name is not None and name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    def _either(self, ways: Sequence[Any]) -> Kind:
        kinds = [self.kind(way) for way in ways if not _only_null(way)]
        if not kinds:
            return Text()
        first, *others = kinds
        return first if all(other == first for other in others) else JsonText()

    def _typed(self, schema: Mapping[str, Any]) -> Kind:
        types = set(types_of(schema)) - {"null"}
        if types == {"integer", "number"}:
            types = {"number"}
        if not types and types_of(schema):
            return Text()
        if len(types) != 1:
            return JsonText()
        (only,) = types
        if only == "string":
            return FORMATS.get(schema.get("format", ""), Text())
        if only == "array":
            items = schema.get("items")
            if not isinstance(items, Mapping) or "prefixItems" in schema:
                return JsonText()
            return Series(self.kind(items))
        if only == "object":
            return self._object(schema)
        return SIMPLE[only]

    def _object(self, schema: Mapping[str, Any]) -> Kind:
        closed = schema.get("additionalProperties", False) is False
        if not closed or not schema.get("properties") or "patternProperties" in schema:
            return JsonText()
        return Record(tuple((name, self.kind(one)) for name, one in schema["properties"].items()))


def _only_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if types_of(schema) == ("null",) or ("const" in schema and schema["const"] is None):
        return True
    return schema.get("enum") == [None]


def _literal(values: Sequence[Any]) -> Kind:
    """The kind of a list of values, of which null says nothing."""
    found = [value for value in values if value is not None]
    if not found:
        return Text()
    kinds = []
    for value in found:
        kind = next((kind for one, kind in LITERALS if isinstance(value, one)), JsonText())
        kinds.append(kind)
    if {type(kind) for kind in kinds} == {Whole, Number}:
        return Number()
    return kinds[0] if all(kind == kinds[0] for kind in kinds) else JsonText()
