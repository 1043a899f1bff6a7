"""Kept columns: checks whether a value fits the type of its column, and writes values as text.

Arrow silently converts values where it can: 2.5 becomes 2, and unknown keys of a struct vanish. A
kept value must come out as it went in. A value that would change is therefore refused. Only a text
column takes every value: a value that is not text is kept as JSON.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import functools
import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.rows import Row
from gemma_batch.storage.fine_times import count_of

REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)
# Of a float with so many bits: binary digits of the fraction, and the largest number.
FLOATS = {16: (11, 65504.0), 32: (24, float.fromhex("0x1.fffffep127")), 64: (53, math.inf)}
SHOWN = reprlib.Repr()  # shows a value in an error: short even for a large or deep value
SHOWN.maxlevel, SHOWN.maxstring, SHOWN.maxother, SHOWN.maxlong = 2, 80, 80, 80


SOURCE = b"gemma_batch.column"  # metadata of a kept field: the column of the input


def kept_field(name: str, column: str, kind: pa.DataType) -> pa.Field:
    """The field of a kept column, whose `name` in the output may differ from the input's."""
    return pa.field(name, kind, metadata=None if name == column else {SOURCE: column.encode()})


def source_of(field: pa.Field) -> str:
    """The column of the input that a kept field holds."""
    renamed: bytes | None = (field.metadata or {}).get(SOURCE)
    return str(field.name) if renamed is None else renamed.decode()


def check_keep(values: Mapping[str, Any], schema: pa.Schema) -> None:
    """Raise ValueError, with the column's name, when the value of a kept column does not fit."""
    for field in schema:
        value = values.get(source_of(field))
        try:
            keep_value(value, field.type)
        except REFUSALS:
            name, shown = source_of(field), SHOWN.repr(value)
            raise ValueError(
                f"the kept column {name!r} is of type {field.type} and cannot hold {shown}"
            ) from None


def keep_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as a column; a value that does not fit becomes null (see `check_keep`)."""
    return pa.array([_or_none(value, kind) for value in values], kind)


def exact_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as a column. Raises one of `REFUSALS` for a value that does not fit."""
    return pa.array([keep_value(value, kind) for value in values], kind)


def _or_none(value: Any, kind: pa.DataType) -> Any:
    try:
        return keep_value(value, kind)
    except REFUSALS:
        return None


def keep_value(value: Any, kind: pa.DataType) -> Any:
    """The value in a form that `pa.array(..., kind)` keeps without loss.

    Raises one of `REFUSALS` when there is no such form.
    """
    return None if value is None else _fitter(kind)(value)


Fit = Callable[[Any], Any]


@functools.lru_cache(maxsize=1024)
def _fitter(kind: pa.DataType) -> Fit:
    """The function for values of one type that are not null."""
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        return _fit_text
    if types.is_boolean(kind):
        return lambda value: _of(value, bool)
    if types.is_integer(kind):
        return _integers(kind)
    if types.is_floating(kind):
        return _floats(kind)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        size = kind.byte_width if types.is_fixed_size_binary(kind) else None
        return lambda value: _sized(_of(value, bytes), size)
    if types.is_struct(kind):
        return _structs(kind)
    if types.is_map(kind):
        return _maps(kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        size = kind.list_size if types.is_fixed_size_list(kind) else None
        inner = kind.value_type
        return lambda value: _sized(
            [keep_value(item, inner) for item in _of(value, (list, tuple))], size
        )
    if types.is_timestamp(kind):
        return _timestamps(kind)
    if types.is_time(kind):
        return lambda value: count_of(_of(value, datetime.time), kind.unit)
    if types.is_duration(kind):
        return lambda value: count_of(_of(value, datetime.timedelta), kind.unit)
    return lambda value: _unchanged(value, kind)


def _fit_text(value: Any) -> str:
    text = as_text(value)
    text.isascii() or text.encode()  # a lone surrogate has no bytes
    return text


def _integers(kind: pa.DataType) -> Fit:
    bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
    fits = range(-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else range(2**bits)

    def fit(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or _of(value, int) not in fits:
            raise ValueError(f"{SHOWN.repr(value)} is no {kind}")
        return int(value)

    return fit


def _floats(kind: pa.DataType) -> Fit:
    digits, most = FLOATS[kind.bit_width]

    def fit(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError(f"{value} is no number")  # noqa: TRY004  (bad data, not bad code)
        number = float(_of(value, (int, float)))
        if isinstance(value, int) and (number != value or not _few_digits(value, digits)):
            raise ValueError(f"{SHOWN.repr(value)} would be changed by {kind}")
        if math.isfinite(number) and abs(number) > most:
            raise ValueError(f"{number} is too large for {kind}")
        return number

    return fit


def _few_digits(value: int, digits: int) -> bool:
    size = abs(value)
    return (size // (size & -size)).bit_length() <= digits if size else True


def _structs(kind: pa.DataType) -> Fit:
    fields = [(field.name, field.type) for field in kind]
    names = {name for name, _ in fields}

    def fit(value: Any) -> dict[str, Any]:
        if unknown := _of(value, dict).keys() - names:
            raise ValueError(f"{SHOWN.repr(unknown)} are no fields of {kind}")
        return {name: keep_value(value.get(name), inner) for name, inner in fields}

    return fit


def _maps(kind: pa.DataType) -> Fit:
    def fit(value: Any) -> list[tuple[Any, Any]]:
        pairs = list(value.items() if isinstance(value, dict) else _of(value, list))
        if any(key is None for key, _ in pairs):
            raise ValueError(f"{kind} has no null keys")
        return [(keep_value(k, kind.key_type), keep_value(v, kind.item_type)) for k, v in pairs]

    return fit


def _timestamps(kind: pa.DataType) -> Fit:
    def fit(value: Any) -> int:
        if type(value) is datetime.date and kind.tz is None:
            value = datetime.datetime.combine(value, datetime.time())
        if (_of(value, datetime.datetime).tzinfo is None) != (kind.tz is None):
            raise ValueError(f"{value} and {kind} differ in whether they have a time zone")
        return count_of(value, kind.unit)

    return fit


def _unchanged(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, bool) or pa.scalar(value, kind).as_py() != value:
        raise ValueError(f"{SHOWN.repr(value)} would be changed by {kind}")
    return value


def _sized(value: Any, size: int | None) -> Any:
    if size is not None and len(value) != size:
        raise ValueError(f"{len(value)} items or bytes are not {size}")
    return value


def _of(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{SHOWN.repr(value)} has another type")  # noqa: TRY004  (bad data, not bad code)
    return value


def as_text(value: Any) -> str:
    """A value as text: text unchanged, numbers, lists and objects as JSON, times in ISO 8601.

    Bytes become base64, null becomes "null". The same text is the id of a row (see `row_id`), so
    values that differ have texts that differ.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | list | tuple | dict):
        return as_json(value)
    return as_plain(value)


def as_plain(value: Any) -> str:
    """A value of a type that JSON lacks as text: bytes in base64, times in ISO 8601."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"  # str() may choose an exponent: 0E-10
    return str(value)


def as_json(value: Any, *, plain: Callable[[Any], Any] = as_plain) -> str:
    """Any value as valid JSON: NaN and infinities become null, and `plain` says other types."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain)
    except (ValueError, TypeError):
        return json.dumps(_cleaned(value), ensure_ascii=False, default=plain)


def _cleaned(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k if isinstance(k, str) else as_text(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value


def keep_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The kept columns of `rows`; null where a row failed or a value does not fit its column."""
    columns = [
        keep_column([(row.values or {}).get(source_of(field)) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
