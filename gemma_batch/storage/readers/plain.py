"""Plain values: what a value of each Arrow type is in Python, and its column's type afterwards.

Readers whose files hold Arrow types share this. No value changes its meaning on the way: a float32
becomes the shortest number that is this float32 (19.99), and times keep their nanoseconds. So
`keep_value` can make the same Arrow value again. A value without a Python form raises.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gemma_batch.storage.fine_times import NANOSECONDS, fine_datetime, fine_delta, fine_time
from gemma_batch.storage.keep import as_json

DAY = 86_400 * 10**9  # nanoseconds
# Raised by a single value.
UNREADABLE = (ValueError, TypeError, OverflowError, KeyError, pa.ArrowException)


def plain_values(column: pa.Array) -> list[Any]:
    """Python values: numbers, text, bytes, date, datetime, Decimal, list, dict.

    Raises one of `UNREADABLE` for a value that Python cannot hold.
    """
    kind, types = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(column)
    if types.is_dictionary(kind):
        return plain_values(column.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return plain_values(pc.run_end_decode(column))
    if types.is_union(kind):
        values = _of_union(column)
        return [
            value if value is None or isinstance(value, str) else as_json(value) for value in values
        ]
    if types.is_map(kind):
        return _of_map(column)
    if types.is_struct(kind):
        return _of_struct(column)
    if types.is_nested(kind):
        return _of_list(column)
    if types.is_interval(kind):
        return [None if v is None else interval_text(*v) for v in column.to_pylist()]
    if types.is_float16(kind):
        return [None if v is None else _shortest_half(v) for v in column.to_pylist()]
    if types.is_float32(kind):
        # Arrow writes the fewest digits that no other float32 is nearer to.
        return list(column.cast(pa.string()).cast(pa.float64()).to_pylist())
    if types.is_time(kind):
        _check_day(column)
    if (make := _of_nanoseconds(kind)) is not None:
        return [None if v is None else make(v) for v in column.cast(pa.int64()).to_pylist()]
    return list(column.to_pylist())


def _check_day(column: pa.Array) -> None:
    # Python would wrap 25:00 to 01:00.
    numbers = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    ends = pc.min_max(numbers).as_py()
    day = DAY // NANOSECONDS[column.type.unit]
    if ends["min"] is not None and not 0 <= ends["min"] <= ends["max"] < day:
        raise ValueError(f"{ends} is no time of a day")


def _of_nanoseconds(kind: pa.DataType) -> Callable[[int], Any] | None:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        zone = pa.lib.string_to_tzinfo(kind.tz) if kind.tz else None
        return functools.partial(fine_datetime, zone=zone)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return fine_delta
    return fine_time if pa.types.is_time64(kind) and kind.unit == "ns" else None


def _of_extension(column: pa.ExtensionArray) -> list[Any]:
    if isinstance(column.type, pa.UuidType):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if isinstance(column.type, pa.Bool8Type):
        return [None if value is None else bool(value) for value in column.storage.to_pylist()]
    return plain_values(column.storage)


def _of_struct(column: pa.StructArray) -> list[Any]:
    names = [field.name for field in column.type]
    fields = [plain_values(child) for child in column.flatten()]
    rows: Iterator[tuple[Any, ...]] = (
        zip(*fields, strict=True) if names else iter([()] * len(column))
    )
    valid = column.is_valid().to_pylist()
    return [
        dict(zip(names, row, strict=True)) if there else None
        for row, there in zip(rows, valid, strict=True)
    ]


def _of_list(column: Any) -> list[Any]:
    items = iter(plain_values(column.flatten()))
    lengths = pc.list_value_length(column).to_pylist()
    return [None if n is None else [next(items) for _ in range(n)] for n in lengths]


def _of_map(column: pa.MapArray) -> list[Any]:
    offsets = column.offsets.to_pylist()
    first, length = offsets[0], offsets[-1] - offsets[0]
    keys = plain_values(column.keys.slice(first, length))
    items = plain_values(column.items.slice(first, length))
    values: list[Any] = []
    for i, there in enumerate(column.is_valid().to_pylist()):
        start, end = offsets[i] - first, offsets[i + 1] - first
        found = dict(zip(keys[start:end], items[start:end], strict=True)) if there else None
        if found is not None and len(found) != end - start:
            raise KeyError("a map has the same key twice")
        values.append(found)
    return values


def _of_union(column: pa.UnionArray) -> list[Any]:
    children = {code: column.field(i) for i, code in enumerate(column.type.type_codes)}
    sparse = column.type.mode == "sparse"
    places = range(len(column)) if sparse else column.offsets.to_pylist()
    codes = column.type_codes.to_pylist()
    return [
        plain_values(children[code].slice(place, 1))[0]
        for code, place in zip(codes, places, strict=True)
    ]


@functools.lru_cache(maxsize=2**16)
def _shortest_half(value: float) -> float:
    wanted = struct.pack("e", value)
    for digits in range(1, 6):
        short = float(f"{value:.{digits}g}")
        if abs(short) <= 65504 and struct.pack("e", short) == wanted:
            return short
    return value


def interval_text(months: int, days: int, nanoseconds: int) -> str:
    """An interval of the calendar as a duration in ISO 8601, such as "P1M2DT0.5S"."""
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    whole, rest = divmod(abs(nanoseconds), 10**9)
    sign = "-" if nanoseconds < 0 else ""
    seconds = f"{sign}{whole}" + (f".{rest:09d}".rstrip("0") if rest else "")
    time = f"T{seconds}S" if nanoseconds or not date else ""
    return f"P{date}{time}"


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns with the types of their values after reading."""
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column that keeps the values of `plain_values`.

    Encodings and extension types become plain types. Types that Parquet lacks (intervals, unions)
    become text, as uuids do.
    """
    types = pa.types
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.UuidType) or types.is_string_view(kind):
        return pa.string()
    if types.is_union(kind) or types.is_interval(kind):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_date64(kind):
        return pa.date32()
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)  # Parquet has no coarser times
    if types.is_time32(kind):
        return pa.time32("ms")
    if types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_nested(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind
