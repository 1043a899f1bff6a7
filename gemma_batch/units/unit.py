"""Shards and units: how the input is cut into the atoms of scheduling, commit and resume.

A unit is a run of consecutive rows of one shard, on one route. It is sized in time, so that a
crash costs about a minute per replica, and bounded by rows and bytes. Units are planned once
and kept in the output; nothing here depends on what has been committed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.parts import PartKey
from gemma_batch.storage.readers.reader import Span

Mask: TypeAlias = bytes
# A shard's number is part of the names of its parts, for good. Input files count up from 0 and a
# run's own copies of them from here, so that neither takes a number of the other when files are
# added to the input later.
FIRST_STAGED = 10_000_000

UNITS_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
        ("mark", pa.int64()),
        ("bytes", pa.int64()),
        ("route", pa.string()),
        ("expected", pa.int64()),
        ("mask", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One input file as it was when the run was planned, or a staged copy. `size` in bytes.

    The `number` of an input file is below `FIRST_STAGED`.
    """

    number: int
    url: str
    size: int
    etag: str
    format: str

    @property
    def file(self) -> InputFile:
        """The same as `storage` names it."""
        return InputFile(self.url, self.size, self.etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows `first_row` to `first_row + rows - 1` of a shard, on one route.

    `mask` has one bit per row of the run (lowest bit of the first byte: the first row), set for
    the rows that belong to this unit; None means all. Which row takes which route is settled at
    plan time and kept, so that no later state of the shard can lose or double a row. `expected`
    counts the unit's rows; `mark` is the reader's own position; `generation` > 0 is a retry;
    `step` is as for `PartKey`.
    """

    shard: int
    first_row: int
    rows: int
    mark: int
    bytes: int
    route: str
    expected: int
    mask: Mask | None = None
    generation: int = 0
    step: str | None = None

    @property
    def key(self) -> PartKey:
        """The key of its part."""
        return PartKey(self.shard, self.first_row, self.route, self.generation, self.step)

    @property
    def name(self) -> str:
        """The file name of its part."""
        return self.key.name

    @property
    def path(self) -> str:
        """Where its part is in the output."""
        return self.key.path

    @property
    def numbers(self) -> list[int]:
        """The row numbers that belong to the unit, ascending."""
        every = range(self.first_row, self.first_row + self.rows)
        if self.mask is None:
            return list(every)
        return [n for i, n in enumerate(every) if self.mask[i >> 3] >> (i & 7) & 1]

    @property
    def span(self) -> Span:
        """Its rows as the reader names them."""
        return Span(self.first_row, self.rows, self.mark, self.bytes)


def make_mask(first_row: int, rows: int, numbers: Iterable[int]) -> bytes:
    """The mask of a unit that holds only the rows `numbers`."""
    mask = bytearray((rows + 7) // 8)
    for number in numbers:
        mask[(number - first_row) >> 3] |= 1 << ((number - first_row) & 7)
    return bytes(mask)


def write_units(units: Iterable[Unit]) -> bytes:
    """The units as a Parquet file."""
    units = list(units)
    columns = [
        pa.array([getattr(unit, field.name) for unit in units], field.type)
        for field in UNITS_SCHEMA
    ]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=UNITS_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def read_units(data: bytes, generation: int = 0, step: str | None = None) -> list[Unit]:
    """The units of a file that `write_units` made, of a generation and step.

    Raises `OutputError` when it is no such file.
    """
    try:
        rows = pq.read_table(io.BytesIO(data), schema=UNITS_SCHEMA).to_pylist()
    except (pa.ArrowInvalid, OSError) as err:
        raise OutputError(f"the list of units in the output cannot be read: {err}") from err
    return [Unit(**row, generation=generation, step=step) for row in rows]
