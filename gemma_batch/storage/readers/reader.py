"""The protocol of a reader of an input format: schema, index, head, read.

`index` cuts a shard into spans once. `read` streams the rows of one span and gives the same rows
every time. A row that cannot be read comes back with a `Failure`. Only a file that is corrupt as a
whole raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from gemma_batch.errors import FailureCode, InputError
from gemma_batch.rows import Failure, Row

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a shard.

    `first_row` is 0-based. `bytes` is roughly the uncompressed size of the rows in bytes. `mark` is
    the place of the first row in the file, in a form that the reader of the format knows: the byte
    offset in a plain text file, and 0 in formats that need no place. `only` are the numbers of the
    rows that the caller wants (None: all). A reader need not give the others, and so saves the time
    to parse them.
    """

    first_row: int
    rows: int
    mark: int
    bytes: int
    only: frozenset[int] | None = field(default=None, kw_only=True)


class Reader(Protocol):
    """Reads one format. A reader has no state, so one instance serves any number of threads."""

    name: str

    def schema(self, file: InputFile) -> pa.Schema:
        """Columns and types, by the footer or by the first rows.

        A column that the file has twice is twice in the schema. Raises `InputError` when the file
        is corrupt.
        """
        ...

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        """Spans that cover every row once, in order, each within both limits.

        A single row may be larger than `max_bytes`; it gets a span alone. Raises `InputError` when
        the file is corrupt.
        """
        ...

    def head(self, file: InputFile, rows: int) -> Span:
        """A span of at most the first `rows` rows, without an index."""
        ...

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        """Stream the rows of the span; `columns` None reads all that the file has once.

        When a row lacks a column, the values of the row lack it too. The stream ends early when
        the file ends early. Raises `InputError`, possibly after some rows, when the file is
        corrupt, or has one of the columns twice.
        """
        ...


def bad_row(number: int, message: str) -> Row:
    """A row that could not be read, with the failure code `bad_row`."""
    return Row(number, None, Failure(FailureCode.BAD_ROW.value, message))


def chosen(names: Sequence[str], columns: Sequence[str] | None, file: InputFile) -> list[str]:
    """Those of the file's `names` that are read: of `columns`, or all that the file has once.

    Raises `InputError` when the file has one of `columns` more than once.
    """
    counts = Counter(names)
    if columns is None:
        return [name for name in names if counts[name] == 1]
    wanted = set(columns)
    twice = [name for name in counts if counts[name] > 1 and name in wanted]
    if twice:
        raise InputError(
            f"the input file {file.url!r} has the column {twice[0]!r} more than once: "
            "rename one of them"
        )
    return [name for name in names if name in wanted]


class Cutter:
    """Collects rows into spans within both limits, for formats that are indexed row by row.

    `marks` says whether spans get the byte offset of their first row.
    """

    def __init__(self, *, max_rows: int, max_bytes: int, marks: bool) -> None:
        self.spans: list[Span] = []
        self._max_rows, self._max_bytes, self._marks = max_rows, max_bytes, marks
        self._first = self._rows = self._mark = self._bytes = 0

    def add(self, offset: int, length: int) -> None:
        """Add one row of `length` bytes at byte `offset`."""
        if self._rows and (self._rows >= self._max_rows or self._bytes + length > self._max_bytes):
            self.flush()
        if not self._rows:
            self._mark = offset if self._marks else 0
        self._rows += 1
        self._bytes += length

    def flush(self) -> list[Span]:
        """End the current span; returns all spans so far."""
        if self._rows:
            self.spans.append(Span(self._first, self._rows, self._mark, self._bytes))
        self._first += self._rows
        self._rows = self._bytes = 0
        return self.spans
