"""The readers of CSV, TSV and PSV files. All values are text, or null where `nulls` says so.

A value in quotes may contain line ends, delimiters and doubled quotes (RFC 4180). Python's csv
module finds the records, so a quote mark inside an unquoted value is an ordinary character. A
record with too few or too many values, with text after a closing quote, or with bytes that cannot
be decoded costs one row. A quote that is never closed costs one row of at most `LINE_LIMIT` bytes.

With the option `escape`, as Spark and MySQL write files, that character takes away the meaning of
a quote, a delimiter, a line end or itself after it. Before any other character it is an ordinary
character.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.readers.csv_records import Dialect, Record, plain_of, records
from gemma_batch.storage.readers.encodings import utf16_without_mark
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.reader import Cutter, Span, bad_row, chosen
from gemma_batch.storage.readers.text import LINE_LIMIT, Place, opened, reading

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gemma_batch.storage.interfaces import InputFile

EXCEL = re.compile("sep=.?", re.IGNORECASE)  # a first line that names the delimiter


class CsvReader:
    """See the module's docstring."""

    name = "csv"
    delimiter = ","

    def __init__(
        self, options: ReadOptions | None = None, *, record_limit: int = LINE_LIMIT
    ) -> None:
        self._options = options = options or ReadOptions()
        self._limit = record_limit
        self._dialect = Dialect(
            delimiter=options.delimiter or self.delimiter,
            quote='"' if options.quote is None else options.quote,
            escape=options.escape or "",
            encoding=options.encoding,
        )

    def schema(self, file: InputFile) -> pa.Schema:
        with reading(file.url), self._opened(file, expected=0) as stream:
            header, _ = self._header(file, stream)
        return pa.schema([(name, pa.string()) for name in header])

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        with reading(file.url), self._opened(file) as stream:
            cutter = Cutter(max_rows=max_rows, max_bytes=max_bytes, marks=stream.seekable())
            _, found = self._header(file, stream)
            for record in found:
                cutter.add(record.offset, record.length)
        return cutter.flush()

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        nulls = frozenset(self._options.nulls)
        with reading(file.url), self._opened(file, expected=span.bytes or None) as stream:
            header, found = self._header(file, stream)
            skip = span.first_row
            if span.mark:  # a span of a stream that cannot seek has no mark
                stream.seek(span.mark)
                found, skip = self._records(stream, span.mark), 0
            wanted = [(header.index(name), name) for name in chosen(header, columns, file)]
            place = Place(file.url, span.mark)
            for i, record in enumerate(itertools.islice(found, skip, skip + span.rows)):
                number = span.first_row + i
                if span.only is not None and number not in span.only:
                    continue
                problem = record.problem or _miscounted(record.values, len(header))
                if problem:
                    where = place.of(record.line, number + 1, record.offset)
                    yield bad_row(number, f"the record at {where} {problem}{record.hint}")
                elif record.values is not None:
                    values = plain_of(record.values, nulls)
                    yield Row(number, {name: values[i] for i, name in wanted})

    def _opened(
        self, file: InputFile, *, expected: int | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return opened(file.url, expected=expected, encoding=self._options.encoding)

    def _records(self, stream: BinaryIO, offset: int) -> Iterator[Record]:
        return records(stream, offset, self._limit, self._dialect)

    def _header(self, file: InputFile, stream: BinaryIO) -> tuple[list[str], Iterator[Record]]:
        """The column names, and the records with values. Raises `InputError`.

        A file without a record has no columns.
        """
        if name := utf16_without_mark(stream.peek()):  # type: ignore[attr-defined]
            raise InputError(
                f"the CSV file {file.url!r} looks like UTF-16: set input.encoding: {name}"
            )
        found = self._records(stream, 0)
        first = next(found, None)
        if first is None:
            return [], found
        if first.values and EXCEL.fullmatch(first.values[0]) and not any(first.values[1:]):
            raise InputError(
                f"the CSV file {file.url!r} begins with a line such as `sep=;`, which only Excel "
                "knows: remove this line, and name the delimiter in input.csv"
            )
        header = self._options.header
        if isinstance(header, tuple):
            return [*header], itertools.chain([first], found)
        if first.values is None or first.problem:
            what = "header" if header else "first record"
            raise InputError(f"the {what} of the CSV file {file.url!r} {first.problem}{first.hint}")
        if not header:
            names = [f"column{i + 1}" for i in range(len(first.values))]
            return names, itertools.chain([first], found)
        return first.values, found


class TsvReader(CsvReader):
    """A CSV reader whose values are usually separated by tabs."""

    name = "tsv"
    delimiter = "\t"


class PsvReader(CsvReader):
    """A CSV reader whose values are usually separated by vertical bars."""

    name = "psv"
    delimiter = "|"


def _miscounted(values: list[str] | None, expected: int) -> str:
    if values is None or len(values) == expected:
        return ""
    return f"has {len(values)} values, the header has {expected}"
