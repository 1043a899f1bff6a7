"""Kept columns: checks whether a value fits the type of its column, and writes values as text.

Arrow silently converts values where it can: 2.5 becomes 2, and unknown keys of a struct vanish. A
kept value must come out as it went in. A value that would change is therefore refused. Only a text
column takes every value: a value that is not text is kept as JSON.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.rows import Row

REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)
SHOWN = reprlib.Repr()  # shows a value in an error: short even for a large or deep value
SHOWN.maxlevel, SHOWN.maxstring, SHOWN.maxother, SHOWN.maxlong = 2, 80, 80, 80


def check_keep(values: Mapping[str, Any], schema: pa.Schema) -> None:
    """Raise ValueError, with the column's name, when the value of a kept column does not fit."""
    for field in schema:
        value = values.get(field.name)
        try:
            keep_value(value, field.type)
        except REFUSALS:
            shown = SHOWN.repr(value)
            raise ValueError(
                f"the kept column {field.name!r} is of type {field.type} and cannot hold {shown}"
            ) from None


def keep_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as a column; a value that does not fit becomes null (see `check_keep`)."""
    return pa.array([_or_none(value, kind) for value in values], kind)


def _or_none(value: Any, kind: pa.DataType) -> Any:
    try:
        return keep_value(value, kind)
    except REFUSALS:
        return None


def keep_value(value: Any, kind: pa.DataType) -> Any:
    """The value in a form that `pa.array(..., kind)` keeps without loss.

    Raises one of `REFUSALS` when there is no such form.
    """
    types = pa.types
    if value is None:
        return None
    if types.is_string(kind) or types.is_large_string(kind):
        text = as_text(value)
        text.encode()  # a lone surrogate has no bytes
        return text
    if types.is_boolean(kind):
        return _of(value, bool)
    if types.is_integer(kind) and isinstance(value, float) and value.is_integer():
        value = int(value)
    if types.is_integer(kind) or types.is_floating(kind):
        if isinstance(value, bool):
            raise ValueError(f"{value} is no number")
        _of(value, int if types.is_integer(kind) else (int, float))
        pa.scalar(value, kind)
        return value
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        pa.scalar(_of(value, bytes), kind)
        return value
    if types.is_struct(kind):
        _of(value, dict)
        names = [field.name for field in kind]
        if unknown := value.keys() - set(names):
            raise ValueError(f"{SHOWN.repr(unknown)} are no fields of {kind}")
        return {field.name: keep_value(value.get(field.name), field.type) for field in kind}
    if types.is_map(kind):
        pairs = list(value.items() if isinstance(value, dict) else _of(value, list))
        if any(key is None for key, _ in pairs):
            raise ValueError(f"{kind} has no null keys")
        return [(keep_value(k, kind.key_type), keep_value(v, kind.item_type)) for k, v in pairs]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        items = [keep_value(item, kind.value_type) for item in _of(value, (list, tuple))]
        if types.is_fixed_size_list(kind) and len(items) != kind.list_size:
            raise ValueError(f"{kind} does not hold {len(items)} items")
        return items
    if types.is_timestamp(kind) and type(value) is datetime.date:
        value = datetime.datetime.combine(value, datetime.time())
    if pa.scalar(value, kind).as_py() != value:
        raise ValueError(f"{SHOWN.repr(value)} would be changed by {kind}")
    return value


def _of(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{SHOWN.repr(value)} has another type")  # noqa: TRY004  (bad data, not bad code)
    return value


def as_text(value: Any) -> str:
    """A value as text: text unchanged, numbers, lists and objects as JSON, times in ISO 8601.

    Bytes become base64, null becomes "null".
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float | list | tuple | dict):
        return as_json(value)
    return _plain(value)


def as_json(value: Any) -> str:
    """Any value as valid JSON: NaN and infinities become null, bytes base64, other types text."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError):
        return json.dumps(_cleaned(value), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


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
        keep_column([(row.values or {}).get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
