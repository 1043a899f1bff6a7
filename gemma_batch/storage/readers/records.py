"""RecordReader: the base of the readers whose rows are pieces of a text, each parsed alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from gemma_batch.rows import Row
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.reader import Cutter, Span, bad_row
from gemma_batch.storage.readers.text import LINE_LIMIT, Line, Place, lines, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile


class BadLine(ValueError):
    """Why a piece of text is no row."""


class RecordReader:
    """Finds the pieces and reads spans of them. A subclass says how a piece becomes a row."""

    piece = "piece"  # what people call a piece that is no line

    def __init__(self, options: ReadOptions | None = None, *, line_limit: int = LINE_LIMIT) -> None:
        self._options = options or ReadOptions()
        self._limit = line_limit

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        with reading(file.url), self._opened(file) as stream:
            cutter = Cutter(max_rows=max_rows, max_bytes=max_bytes, marks=stream.seekable())
            for record in self.records(stream):
                cutter.add(record.offset, record.length)
        return cutter.flush()

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        with (
            reading(file.url),
            self._opened(file, expected=span.bytes or None, at=abs(span.mark)) as stream,
        ):
            # A span of a stream that cannot seek has no mark.
            skip = 0 if span.mark else span.first_row
            found = self.records(stream, span.mark)
            place = Place(file.url, span.mark)
            for i, record in enumerate(itertools.islice(found, skip, skip + span.rows)):
                number = span.first_row + i
                if span.only is not None and number not in span.only:
                    continue
                try:
                    values = self.parse(record.data)
                except BadLine as err:
                    where = f"{self.piece} {number + 1:,} of {file.url!r}"
                    if record.number:
                        where = place.of(record.number, number + 1, record.offset)
                    yield bad_row(number, f"{where} {err}")
                else:
                    yield Row(number, project(values, columns))

    def _opened(self, file: InputFile, *, expected: int | None = None, at: int = 0) -> Any:
        return opened(file.url, expected=expected, encoding=self._options.encoding, at=at)

    def records(self, stream: BinaryIO, mark: int = 0) -> Iterator[Line]:
        """The pieces from the mark on; the stream is already there."""
        return lines(stream, mark, self._limit)

    def parse(self, data: bytes | None) -> dict[str, Any]:
        """The values of one piece by column; None is one that is too long. Raises `BadLine`."""
        raise NotImplementedError

    def too_long(self) -> BadLine:
        """The error about a piece without data."""
        return BadLine(f"is longer than {self._limit} bytes")


def project(values: dict[str, Any], columns: list[str] | None) -> dict[str, Any]:
    """The values of `columns`, without columns that the row lacks; None keeps all values."""
    if columns is None:
        return values
    return {name: values[name] for name in columns if name in values}
