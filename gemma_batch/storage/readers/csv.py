"""The reader of CSV files with a header line. All values are text.

Values are separated by commas. A value in double quotes may contain line ends. Python's csv module
finds the records, so a single quote mark inside a value is an ordinary character. A record with
too few or too many values, with broken quotes or with bytes that are not UTF-8 costs one row. A
quote that is never closed costs one row of at most `LINE_LIMIT` bytes.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.readers.reader import Cutter, Span, bad_row, chosen
from gemma_batch.storage.readers.text import LINE_LIMIT, Place, codec, lines, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile


class Record(NamedTuple):
    """One record: its place and length in bytes, and its `values` or the `problem` with them.

    `line` is the line at which the record begins (see `text.Line`).
    """

    offset: int
    length: int
    values: list[str] | None
    problem: str = ""
    line: int = 0


class CsvReader:
    """See the module's docstring."""

    name = "csv"
    suffixes: tuple[str, ...] = (".csv", ".csv.gz", ".csv.zst")

    def __init__(self, *, record_limit: int = LINE_LIMIT) -> None:
        self._limit = record_limit

    def schema(self, file: InputFile) -> pa.Schema:
        with reading(file.url), opened(file.url, expected=0) as stream:
            header, _ = self._header(file, stream)
        return pa.schema([(name, pa.string()) for name in header])

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        cutter = Cutter(max_rows=max_rows, max_bytes=max_bytes, marks=codec(file.url) is None)
        with reading(file.url), opened(file.url) as stream:
            _, records = self._header(file, stream)
            for record in records:
                cutter.add(record.offset, record.length)
        return cutter.flush()

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        with reading(file.url), opened(file.url, expected=span.bytes or None) as stream:
            header, records = self._header(file, stream)
            skip = span.first_row
            if codec(file.url) is None and span.mark:
                stream.seek(span.mark)
                records, skip = self._records(stream, span.mark), 0
            wanted = [(header.index(name), name) for name in chosen(header, columns, file)]
            place = Place(file.url, span.mark)
            for i, record in enumerate(itertools.islice(records, skip, skip + span.rows)):
                number = span.first_row + i
                problem = record.problem or _problem(record.values, len(header))
                if problem:
                    where = place.of(record.line, number + 1, record.offset)
                    yield bad_row(number, f"the record at {where} {problem}")
                elif record.values is not None:
                    yield Row(number, {name: record.values[i] for i, name in wanted})

    def _header(self, file: InputFile, stream: BinaryIO) -> tuple[list[str], Iterator[Record]]:
        """The column names, and the records after the header. Raises `InputError`."""
        records = self._records(stream, 0)
        first = next(records, None)
        problem = first.problem or _problem(first.values, None) if first else "is missing"
        if first is None or first.values is None or problem:
            raise InputError(f"the header of the CSV file {file.url!r} {problem}")
        return first.values, records

    def _records(self, stream: BinaryIO, offset: int) -> Iterator[Record]:
        # csv has one limit for the whole process, on single values. The limit on whole records in
        # `_Feed` bounds the memory.
        csv.field_size_limit(max(csv.field_size_limit(), self._limit))
        feed = _Feed(stream, offset, self._limit)
        reader = csv.reader(feed)
        while True:
            feed.start()
            try:
                values = next(reader)
            except StopIteration:
                return
            except (csv.Error, _TooLong) as err:
                problem = f"is not valid CSV: {err}"
                yield Record(feed.offset, feed.taken, None, problem, feed.first)
                continue
            if feed.ended:
                problem = "has a quote that is never closed"
                yield Record(feed.offset, feed.taken, None, problem, feed.first)
            elif values:
                yield Record(feed.offset, feed.taken, values, line=feed.first)


class _TooLong(Exception):
    pass


class _Feed:
    """Lines for csv.reader. The reader takes only the lines that the record needs.

    A generator could not be used again after it has raised an exception. This iterator can.
    """

    def __init__(self, stream: BinaryIO, offset: int, limit: int) -> None:
        self._lines = lines(stream, offset, limit, blank=True)
        self._limit = limit
        self.offset = self._next = offset
        self.taken = self.first = self._line = 0
        self.ended = False

    def start(self) -> None:
        """Begin a new record."""
        self.offset, self.taken, self.first = self._next, 0, self._line + 1

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self._next, self._line = line.offset + line.length, line.number
        self.taken += line.length
        if line.data is None or self.taken > self._limit:
            raise _TooLong(f"a record is longer than {self._limit} bytes")
        return line.data.decode("utf-8", "surrogateescape")


def _problem(values: list[str] | None, expected: int | None) -> str:
    if values is None:
        return "cannot be read"
    if expected is not None and len(values) != expected:
        return f"has {len(values)} values, the header has {expected}"
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return ""
