"""Staged shards: copies of input rows in another order, which a run writes for itself.

Parquet with each row's origin, its values or the failure that reading it ended in. Values are
columns of their own where all input files agree on their types (`schema` given), else one JSON text
per row, which is what JSON lines and CSV hold anyway. Either way the reader gives back what the
reader of the input gave.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.rows import Failure, Origin, Row
from gemma_batch.storage.readers.parquet import ParquetReader
from gemma_batch.storage.readers.reader import Span

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

VALUE, JSON = "value.", "json"
GROUP_ROWS = 1024  # of a row group: a unit is read without decoding much before it
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
    """Rows of one input shard as a table with one row each; `columns` None: values as JSON."""
    count = len(rows)
    failures = [row.failure for row in rows]
    arrays = [
        pa.array([shard] * count, pa.int32()),
        pa.array([url] * count, pa.string()),
        pa.array([row.number for row in rows], pa.int64()),
        pa.array([failure.code if failure else None for failure in failures], pa.string()),
        pa.array([failure.message if failure else None for failure in failures], pa.string()),
    ]
    if columns is None:
        texts = [None if row.values is None else json.dumps(row.values) for row in rows]
        return pa.table(
            [*arrays, pa.array(texts, pa.large_string())],
            schema=FRAME.append(pa.field(JSON, pa.large_string())),
        )
    schema = FRAME
    for field in columns:
        arrays.append(pa.array([(row.values or {}).get(field.name) for row in rows], field.type))
        schema = schema.append(pa.field(VALUE + field.name, field.type))
    return pa.table(arrays, schema=schema)


def staged_file(table: pa.Table) -> bytes:
    """A table of `staged_table`'s as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
    return sink.getvalue()


class StagedReader(ParquetReader):
    """See the module."""

    name = "staged"
    suffixes: tuple[str, ...] = ()

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        for row in super().read(file, span, None):
            values = row.values or {}  # of Python's own values, so each of them can be read
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
