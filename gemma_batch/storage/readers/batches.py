"""BatchReader: the base of the readers whose rows come in batches with types of their own.

A batch is decoded as a whole, so the batches that the writer of a file made bound the memory. A
span begins anywhere in a batch. Its mark holds the place of the batch in the file and the number
of rows of the batch before the span, so that batches before it need not be read.
"""

from __future__ import annotations

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from gemma_batch.rows import Row
from gemma_batch.storage.fs import open_source
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.plain import UNREADABLE, plain_values
from gemma_batch.storage.readers.reader import Cutter, Span, bad_row, chosen
from gemma_batch.storage.readers.text import reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

PLACE = 2**20  # a mark is this number times the place of the batch, plus the rows before the span
BLOCK = 2**20  # bytes per request, at least
# Raised by the libraries for damaged files, besides OSError and Arrow's own errors.
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RecursionError)
MOST_PER_BYTE = 2**14  # rows; a damaged file must not claim more


class Values(NamedTuple):
    """The values of one row by column, or the `problem` with them."""

    values: dict[str, Any] | None
    problem: str = ""


class Batch(NamedTuple):
    """A batch of `rows` rows at `place`; None for a batch that cannot be read without those before.

    `load(start, stop)` gives some of its rows.
    """

    place: int | None
    rows: int
    load: Callable[[int, int], Iterator[Values]]


class BatchReader(ABC):
    """A subclass opens a file and gives its columns and batches."""

    name: str

    def __init__(self, options: ReadOptions | None = None) -> None:
        self._options = options or ReadOptions()

    @abstractmethod
    def columns(self, source: Any) -> pa.Schema:
        """Columns with the types of the values after reading."""

    @abstractmethod
    def batches(self, source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
        """The batches from `place` on; with `columns` [] nobody loads their rows."""

    def schema(self, file: InputFile) -> pa.Schema:
        with self._reading(file) as source:
            return self.columns(source)

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        cutter = Cutter(max_rows=max_rows, max_bytes=max_bytes, marks=True)
        with self._reading(file) as source:
            found = []
            rows = 0
            for batch in self.batches(source, 0, []):
                rows += batch.rows
                if batch.rows < 0 or rows > (file.size + 1) * MOST_PER_BYTE:
                    raise OSError(f"it claims {rows:,} rows in {file.size:,} bytes")
                found.append((batch.place, batch.rows))
        weight = file.size // max(rows, 1)
        for place, count in found:
            for i in range(count):
                cutter.add(0 if place is None or i >= PLACE else place * PLACE + i, weight)
        return cutter.flush()

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        place, skip = divmod(span.mark, PLACE) if span.mark else (0, span.first_row)
        number, end = span.first_row, span.first_row + span.rows
        with self._reading(file) as source:
            names = chosen(self.columns(source).names, columns, file)
            for batch in self.batches(source, place, names):
                start = min(skip, batch.rows)
                skip -= start
                for values, problem in batch.load(start, min(batch.rows, start + end - number)):
                    if values is None:
                        yield bad_row(number, f"row {number + 1} of {file.url!r} {problem}")
                    else:
                        yield Row(number, values)
                    number += 1
                if number >= end:
                    return

    @contextlib.contextmanager
    def _reading(self, file: InputFile) -> Iterator[Any]:
        with reading(file.url), open_source(file.url) as source:
            try:
                yield _Buffered(source, file.size)
            except DAMAGE as err:
                raise OSError(f"{type(err).__name__}: {err}") from err


class _Buffered(io.BufferedReader):
    """Small reads of a file in larger requests, and never more memory than the file has bytes."""

    def __init__(self, source: Any, size: int) -> None:
        super().__init__(source, BLOCK)
        self._size = size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def values_of(batch: pa.RecordBatch, columns: Sequence[str] | None) -> Iterator[Values]:
    """The rows of an Arrow batch; a row with a value that Python cannot hold has a problem."""
    names = [name for name in batch.schema.names if columns is None or name in columns]
    arrays = [batch.column(batch.schema.get_field_index(name)) for name in names]
    try:
        found = [plain_values(array) for array in arrays]
    except UNREADABLE:
        for i in range(batch.num_rows):
            yield _one(arrays, names, i)
        return
    for i in range(batch.num_rows):
        yield Values({name: values[i] for name, values in zip(names, found, strict=True)})


def _one(arrays: list[pa.Array], names: list[str], i: int) -> Values:
    values = {}
    for name, array in zip(names, arrays, strict=True):
        try:
            (values[name],) = plain_values(array.slice(i, 1))
        except UNREADABLE as err:
            return Values(None, f"has in column {name!r} {type(err).__name__}: {err}")
    return Values(values)
