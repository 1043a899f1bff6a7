"""What a reader of an input format is: schema, index, head, read.

`index` cuts a shard into spans once; `read` streams the rows of one span and gives the same rows
every time. Whether a row can be read is the row's own business: it comes back with a `Failure`.
Only a file that is corrupt as a whole raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from gemma_batch.errors import FailureCode
from gemma_batch.rows import Failure, Row

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a shard.

    `first_row` is 0-based, `bytes` roughly what the rows weigh uncompressed, `mark` the byte
    offset of the first row in a plain text file, 0 where a format has no use for one.
    """

    first_row: int
    rows: int
    mark: int
    bytes: int


class Reader(Protocol):
    """Reads one format. Stateless, so one instance serves any number of threads."""

    name: str
    suffixes: tuple[str, ...]

    def schema(self, file: InputFile) -> pa.Schema:
        """Columns and types, from the footer or the first rows. Raises `InputError` if corrupt."""
        ...

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        """Spans that cover every row once, in order, each within both limits.

        A single row may weigh more than `max_bytes`. Raises `InputError` if corrupt.
        """
        ...

    def head(self, file: InputFile, rows: int) -> Span:
        """A span of (up to) the first `rows` rows, without an index."""
        ...

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        """The rows of the span, streaming; None reads all columns.

        A column that a row lacks is absent from its values. Ends early where the file does.
        Raises `InputError`, possibly half-way, if corrupt.
        """
        ...


def bad_row(number: int, message: str) -> Row:
    """A row that could not be read."""
    return Row(number, None, Failure(FailureCode.BAD_ROW.value, message))


class Cutter:
    """Collects rows into spans within both limits; for formats that are indexed row by row."""

    def __init__(self, *, max_rows: int, max_bytes: int, marks: bool) -> None:
        self.spans: list[Span] = []
        self._max_rows, self._max_bytes, self._marks = max_rows, max_bytes, marks
        self._first = self._rows = self._mark = self._bytes = 0

    def add(self, offset: int, length: int) -> None:
        """One row of `length` bytes at byte `offset`."""
        if self._rows and (self._rows >= self._max_rows or self._bytes + length > self._max_bytes):
            self.flush()
        if not self._rows:
            self._mark = offset if self._marks else 0
        self._rows += 1
        self._bytes += length

    def flush(self) -> list[Span]:
        """End the current span; all spans so far."""
        if self._rows:
            self.spans.append(Span(self._first, self._rows, self._mark, self._bytes))
        self._first += self._rows
        self._rows = self._bytes = 0
        return self.spans
