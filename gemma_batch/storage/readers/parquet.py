"""The reader of Parquet files: cuts along row groups by the footer, reads in bounded batches.

Only the requested columns are read. Parquet cannot be read from the middle of a row group: to
reach a span inside a large row group, the rows before the span are decoded too. Files of one huge
row group are therefore read correctly but slowly. Legacy timestamps (INT96, of Spark and Hive) are
read with microseconds: nanoseconds in 64 bits would not reach beyond the year 2262.
"""

from __future__ import annotations

import bisect
import math
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.readers.footers import (
    arrow_source,
    footer_of,
    intervals_of,
    parquet_file,
)
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.plain import UNREADABLE, interval_text, plain_values
from gemma_batch.storage.readers.reader import Span, bad_row, chosen
from gemma_batch.storage.readers.text import reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

BUFFER = 2**20  # bytes per read of a column chunk
BATCH_BYTES = 16 * 2**20
BATCH_ROWS = 4096
ROWS_PER_BYTE = 2**14  # most rows per byte of a file; a column of nulls has about 600


class ParquetReader:
    """See the module's docstring."""

    name = "parquet"

    def __init__(self, options: ReadOptions | None = None) -> None:
        """A reader; Parquet needs no options."""

    def schema(self, file: InputFile) -> pa.Schema:
        return footer_of(file).schema

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        sizes = footer_of(file).groups
        _check_claims([rows for rows, _ in sizes], file)
        spans: list[Span] = []
        first = rows = weight = 0
        for group_rows, group_bytes in sizes:
            if rows and (rows + group_rows > max_rows or weight + group_bytes > max_bytes):
                spans += _split(first, rows, weight, max_rows, max_bytes)
                first, rows, weight = first + rows, 0, 0
            rows, weight = rows + group_rows, weight + group_bytes
        if rows:
            spans += _split(first, rows, weight, max_rows, max_bytes)
        return spans

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        with reading(file.url), arrow_source(file.url) as source:
            parquet = parquet_file(source, buffer_size=BUFFER, pre_buffer=False)
            intervals = intervals_of(parquet)
            names = chosen(parquet.schema_arrow.names, columns, file)
            if span.only is not None:
                yield from _some(parquet, span, span.only, names, file.url)
                return
            groups, skip = _locate(parquet.metadata, span)
            number, left = span.first_row, span.rows
            batches = parquet.iter_batches(
                _batch_rows(parquet.metadata, span), groups, names, use_threads=False
            )
            for batch in batches:
                wanted = batch.slice(skip, left)  # empty when the whole batch is before the span
                skip = max(0, skip - batch.num_rows)
                read = [_column(wanted, name, intervals) for name in names]
                numbers = range(number, number + wanted.num_rows)
                yield from _rows(read, names, numbers, file.url)
                number, left = number + wanted.num_rows, left - wanted.num_rows
                if left <= 0:
                    return


def _check_claims(rows: list[int], file: InputFile) -> None:
    # A few flipped bits in a footer can claim 2**60 rows. Their spans alone would fill the memory.
    total = sum(rows)
    if min(rows, default=0) < 0 or total > (file.size + 1) * ROWS_PER_BYTE:
        raise InputError(
            f"the input file {file.url!r} is corrupt: its footer claims {total:,} rows in "
            f"{file.size:,} bytes"
        )


def _split(first: int, rows: int, weight: int, max_rows: int, max_bytes: int) -> Iterator[Span]:
    """Spans of equal length: as few as possible within both limits, if all rows weigh the same."""
    pieces = min(rows, max(math.ceil(rows / max_rows), math.ceil(weight / max_bytes), 1))
    for i in range(pieces):
        start, end = rows * i // pieces, rows * (i + 1) // pieces
        yield Span(first + start, end - start, 0, weight * (end - start) // rows)


def _locate(footer: pq.FileMetaData, span: Span) -> tuple[list[int], int]:
    """The row groups that contain the span, and how many rows to skip in the first group."""
    groups: list[int] = []
    skip = start = 0
    for i in range(footer.num_row_groups):
        end = start + footer.row_group(i).num_rows
        if start < span.first_row + span.rows and end > span.first_row:
            if not groups:
                skip = span.first_row - start
            groups.append(i)
        start = end
    return groups, skip


def _some(
    parquet: pq.ParquetFile, span: Span, only: frozenset[int], names: list[str], url: str
) -> Iterator[Row]:
    """The rows `only` of the span. Row groups without one of them are not read."""
    wanted = sorted(n for n in only if span.first_row <= n < span.first_row + span.rows)
    intervals, footer = intervals_of(parquet), parquet.metadata
    groups, places = [], []  # the row groups, and where in them, put together, the rows are
    start = before = taken = 0
    for i in range(footer.num_row_groups):
        rows, here = footer.row_group(i).num_rows, taken
        while taken < len(wanted) and wanted[taken] < start + rows:
            places.append(before + wanted[taken] - start)
            taken += 1
        if taken > here:
            groups.append(i)
            before += rows
        start += rows
    begin = done = 0
    if not groups:
        return
    for batch in parquet.iter_batches(_batch_rows(footer, span), groups, names, use_threads=False):
        end = bisect.bisect_left(places, begin + batch.num_rows)
        if end > done:
            some = batch.take(pa.array([place - begin for place in places[done:end]]))
            read = [_column(some, name, intervals) for name in names]
            yield from _rows(read, names, wanted[done:end], url)
        begin, done = begin + batch.num_rows, end
        if done == len(places):
            return


def _batch_rows(footer: pq.FileMetaData, span: Span) -> int:
    weight = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    per_row = max(weight / max(footer.num_rows, 1), span.bytes / max(span.rows, 1), 1.0)
    return int(min(max(BATCH_BYTES / per_row, 1), BATCH_ROWS, max(span.rows, 1)))


def _column(batch: pa.RecordBatch, name: str, intervals: Collection[str]) -> pa.Array:
    column = batch.column(batch.schema.get_field_index(name))
    if name not in intervals:
        return column
    texts = []
    for value in column.to_pylist():
        months, days, millis = (0, 0, 0) if value is None else struct.unpack("<3I", value)
        texts.append(None if value is None else interval_text(months, days, millis * 10**6))
    return pa.array(texts, pa.string())


def _rows(
    columns: list[pa.Array], names: list[str], numbers: Sequence[int], url: str
) -> Iterator[Row]:
    try:
        values = [plain_values(column) for column in columns]
    except UNREADABLE:
        for i, number in enumerate(numbers):
            yield _row(columns, names, i, number, url)
        return
    for i, number in enumerate(numbers):
        yield Row(number, {name: value[i] for name, value in zip(names, values, strict=True)})


def _row(columns: list[pa.Array], names: list[str], i: int, number: int, url: str) -> Row:
    """One row, read alone because a row in the same batch has a value that Python cannot hold."""
    values = {}
    for name, column in zip(names, columns, strict=True):
        try:
            (values[name],) = plain_values(column.slice(i, 1))
        except UNREADABLE as err:
            reason = f"{type(err).__name__}: {err}"
            return bad_row(number, f"row {number + 1} of {url!r}: column {name!r}: {reason}")
    return Row(number, values)
