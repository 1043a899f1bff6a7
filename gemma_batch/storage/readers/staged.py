"""Writes and reads staged shards: copies of input rows in another order, made by the run itself.

A staged shard is a Parquet file. It holds for each row its origin, and its values or its failure.
When all input files have the same types (`columns` is given), each value has a column. Otherwise
each row is one JSON text, as JSON lines and CSV can always be written. In both cases the reader
gives the same rows as the reader of the input.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.rows import Failure, Origin, Row
from gemma_batch.storage.keep import as_text, exact_column
from gemma_batch.storage.readers.parquet import ParquetReader
from gemma_batch.storage.readers.reader import Span

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

VALUE, JSON = "value.", "json"
GROUP_ROWS = 1024  # rows per row group: to read a unit, few rows before the unit are decoded
FRAME = pa.schema(
    [
        ("shard", pa.int32()),
        ("url", pa.string()),
        ("row", pa.int64()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)


def staged_table(rows: Sequence[Row], shard: int, url: str, columns: pa.Schema | None) -> pa.Table:
    """Rows of the input as a table with one row per row.

    `shard` and `url` are number and URL of the shard of the rows that have no `origin`. `columns`
    are the types of the values; None writes the values as JSON.
    """
    places = [row.origin or Origin(shard, url, row.number) for row in rows]
    failures = [row.failure for row in rows]
    arrays = [
        pa.array([place.shard for place in places], pa.int32()),
        pa.array([place.url for place in places], pa.string()),
        pa.array([place.row for place in places], pa.int64()),
        pa.array([failure.code if failure else None for failure in failures], pa.string()),
        pa.array([failure.message if failure else None for failure in failures], pa.string()),
    ]
    if columns is None:
        texts = [None if row.failure else _json(row.values) for row in rows]
        return pa.table(
            [*arrays, pa.array(texts, pa.large_string())],
            schema=FRAME.append(pa.field(JSON, pa.large_string())),
        )
    schema = FRAME
    values = [{} if row.failure else row.values or {} for row in rows]
    for field in columns:
        arrays.append(exact_column([found.get(field.name) for found in values], field.type))
        schema = schema.append(pa.field(VALUE + field.name, field.type))
    return pa.table(arrays, schema=schema)


def _json(values: Any) -> str:
    # Values of types that the spec declares become text. They are read as declared again.
    try:
        return json.dumps(values, default=as_text)
    except TypeError:
        return json.dumps(_text_keys(values), default=as_text)


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_text(key): _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value


def staged_file(table: pa.Table) -> bytes:
    """A table from `staged_table` as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
    return sink.getvalue()


class StagedReader(ParquetReader):
    """See the module's docstring."""

    name = "staged"

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        for row in super().read(file, span, None):
            values = row.values or {}  # the file was written from Python values: all can be read
            origin = Origin(values["shard"], values["url"], values["row"])
            if values["code"] is not None:
                failure = Failure(values["code"], values["message"])
                yield Row(row.number, None, failure, origin)
            elif JSON in values:
                found = json.loads(values[JSON])
                yield Row(row.number, _chosen(found, columns), origin=origin)
            else:
                own = {
                    name.removeprefix(VALUE): value
                    for name, value in values.items()
                    if name.startswith(VALUE)
                }
                yield Row(row.number, _chosen(own, columns), origin=origin)


def _chosen(values: dict[str, object], columns: list[str] | None) -> dict[str, object]:
    if columns is None:
        return values
    return {name: value for name, value in values.items() if name in columns}
