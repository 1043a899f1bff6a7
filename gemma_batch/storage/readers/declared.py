"""DeclaredReader: gives columns the types that the spec declares in `input.schema` (every process).

Text becomes a value of the declared type, and any value becomes text where text is declared. A
value that cannot be read as the declared type, or that would change, fails its row alone. The row
keeps its values, so that `errors/` shows them and the row keeps its id.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation, localcontext
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gemma_batch.errors import FailureCode
from gemma_batch.rows import Failure
from gemma_batch.spec.column_types import column_type
from gemma_batch.storage.fine_times import count_of, parse_datetime, parse_time
from gemma_batch.storage.keep import REFUSALS, SHOWN, as_text, keep_value
from gemma_batch.storage.readers.reader import Reader, Span

if TYPE_CHECKING:
    from gemma_batch.rows import Row
    from gemma_batch.storage.interfaces import InputFile
    from gemma_batch.storage.readers.options import ReadOptions

DAY = 86_400 * 10**9  # nanoseconds
BOOLS = {"true": True, "false": False, "1": True, "0": False}
UNCONVERTIBLE = (*REFUSALS, InvalidOperation, LookupError, RecursionError)


def declared(reader: Reader, options: ReadOptions) -> Reader:
    """The reader, with the types that the options declare."""
    return DeclaredReader(reader, dict(options.types)) if options.types else reader


class DeclaredReader:
    """Reads as `inner` reads. `types` are the names of the declared columns' types."""

    def __init__(self, inner: Reader, types: Mapping[str, str]) -> None:
        self.name = inner.name
        self._inner = inner
        self._types = {column: column_type(name) for column, name in types.items()}

    def schema(self, file: InputFile) -> pa.Schema:
        found = self._inner.schema(file)
        return pa.schema(
            [
                field.with_type(self._types[field.name]) if field.name in self._types else field
                for field in found
            ]
        )

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        return self._inner.index(file, max_rows=max_rows, max_bytes=max_bytes)

    def head(self, file: InputFile, rows: int) -> Span:
        return self._inner.head(file, rows)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        for row in self._inner.read(file, span, columns):
            yield row if row.values is None else self._converted(row, row.values, file.url)

    def _converted(self, row: Row, values: dict[str, Any], url: str) -> Row:
        changed = {}
        for column, kind in self._types.items():
            if (value := values.get(column)) is None:
                continue
            try:
                changed[column] = converted(value, kind)
            except UNCONVERTIBLE:
                text = (
                    f"row {row.number + 1} of {url!r}: column {column!r}: {SHOWN.repr(value)} "
                    f"cannot be read as {kind}, which input.schema declares"
                )
                return replace(row, failure=Failure(FailureCode.BAD_VALUE.value, text))
        return replace(row, values={**values, **changed})


def converted(value: Any, kind: pa.DataType) -> Any:
    """The value as one of the type. Raises one of `UNCONVERTIBLE`.

    An empty text is null in every type but text.
    """
    if value is None:
        return None
    if (
        isinstance(value, str)
        and not pa.types.is_string(kind)
        and not pa.types.is_large_string(kind)
    ):
        text = value.strip()
        value = _parser(kind)(text) if text else None
    else:
        value = _other(value, kind)
    keep_value(value, kind)
    return value


@functools.lru_cache(maxsize=256)
def _parser(kind: pa.DataType) -> Callable[[str], Any]:
    """The function that reads a value of the type from its text."""
    types = pa.types
    if types.is_boolean(kind):
        return lambda text: BOOLS[text.lower()]
    if types.is_integer(kind):
        return lambda text: _other(_number(text), kind)
    if types.is_floating(kind):
        return _float
    if types.is_decimal(kind):
        return lambda text: _scaled(_number(text), kind)
    if types.is_date(kind):
        return datetime.date.fromisoformat
    if types.is_timestamp(kind):
        return lambda text: _moment(text, kind)
    if types.is_time(kind):
        return parse_time
    if types.is_binary(kind):
        return str.encode
    if types.is_nested(kind):
        return lambda text: _other(json.loads(text), kind)
    raise ValueError(f"no {kind} can be read from text")


def _number(text: str) -> Decimal:
    if "_" in text:  # Python reads 1_000 as a number
        raise ValueError(text)
    return Decimal(text)


def _float(text: str) -> float:
    found = float(text)
    if "_" in text or (math.isinf(found) and "inf" not in text.lower()):
        raise ValueError(text)
    return found


def _scaled(value: Decimal, kind: pa.DataType) -> Decimal:
    with localcontext(prec=kind.precision + 1):
        found = value.quantize(Decimal(1).scaleb(-kind.scale))
    if found != value:
        raise ValueError(f"{value} has too many digits for {kind}")
    return found


def _other(value: Any, kind: pa.DataType) -> Any:
    """A value that is no text, or one for a text column."""
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        # Older software wrote text to Parquet without saying that it is text.
        return value.decode() if isinstance(value, bytes) else as_text(value)
    if types.is_struct(kind) and isinstance(value, dict):
        inner = {field.name: field.type for field in kind}
        return {k: converted(v, inner[k]) if k in inner else v for k, v in value.items()}
    if types.is_map(kind) and isinstance(value, dict):
        pairs = value.items()
        return {converted(k, kind.key_type): converted(v, kind.item_type) for k, v in pairs}
    if types.is_list(kind) and isinstance(value, list):
        return [converted(item, kind.value_type) for item in value]
    if types.is_integer(kind) and isinstance(value, float | Decimal) and value == int(value):
        return int(value)
    if types.is_floating(kind) and isinstance(value, Decimal):
        return float(value)
    if types.is_floating(kind) and isinstance(value, int) and not isinstance(value, bool):
        keep_value(value, kind)
        return float(value)
    if types.is_decimal(kind) and isinstance(value, int | float) and not isinstance(value, bool):
        return _scaled(Decimal(repr(value)), kind)
    if types.is_date(kind) and isinstance(value, datetime.datetime):
        if count_of(value, "ns") % DAY or value.tzinfo:
            raise ValueError(f"{value} is no date")
        return value.date()
    if types.is_timestamp(kind) and type(value) is datetime.date:
        return datetime.datetime.combine(value, datetime.time())
    return value


def _moment(text: str, kind: pa.DataType) -> datetime.datetime:
    found = parse_datetime(text)
    nanos = getattr(found, "nanosecond", 0)
    if found.tzinfo is None or kind.tz is None or nanos:
        return found
    return found.astimezone(pa.lib.string_to_tzinfo(kind.tz))
