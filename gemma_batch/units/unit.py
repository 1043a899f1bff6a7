"""Shards and units: how the input is cut into the atoms of scheduling, commit and resume.

A unit is a run of consecutive rows of one shard, on one route. It is sized in time, so that a
crash costs about a minute per replica, and bounded by rows and bytes. Units are planned once
and kept in the output; nothing here depends on what has been committed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.planning.routing import Router
from gemma_batch.spec import SINGLE_ROUTE, Policy
from gemma_batch.storage.inputs import InputFile, reader_for
from gemma_batch.storage.parts import PartKey, part_name
from gemma_batch.storage.readers.reader import Span

Mask: TypeAlias = bytes
UNIT_ROWS_MIN, UNIT_ROWS_MAX = 64, 8192
PLANNING_THREADS = 16
FINEST = 32  # of the largest unit is the smallest, about two seconds of work
SHARES = 4  # units per replica that what is left is cut into

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
    """One input file as it was when the run was planned. `size` in bytes."""

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
    counts the unit's rows; `mark` is the reader's own position; `generation` > 0 is a retry.
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

    @property
    def name(self) -> str:
        """The file name of its part."""
        route = None if self.route == SINGLE_ROUTE else self.route
        return part_name(self.shard, self.first_row, route, self.generation)

    @property
    def key(self) -> PartKey:
        """What identifies its part."""
        route = None if self.route == SINGLE_ROUTE else self.route
        return PartKey(self.shard, self.first_row, route, self.generation)

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


def unit_rows(policy: Policy, rows_per_second: float) -> int:
    """Rows per unit: `policy.unit_seconds` of one engine's work, 64 to 8192, unless set."""
    if policy.unit_rows is not None:
        return policy.unit_rows
    return int(min(max(rows_per_second * policy.unit_seconds, UNIT_ROWS_MIN), UNIT_ROWS_MAX))


def cut(
    shards: Sequence[Shard],
    router: Router,
    *,
    max_rows: int,
    max_bytes: int,
    replicas: int | None = None,
) -> list[Unit]:
    """Cut every shard into units, in input order; a route without rows in a span gets no unit.

    With `replicas`, units are small at both ends of the input (see `taper`), else only the limits
    bound them.

    Reads footers of Parquet and all of the other formats once, and the columns that the routes
    use. Raises `InputError` naming a shard that cannot be read.
    """
    # Cut finely once, then put together: how many rows there are is known only afterwards.
    finest = max_rows if replicas is None else finest_rows(max_rows)
    with ThreadPoolExecutor(PLANNING_THREADS) as pool:
        spans = list(
            pool.map(
                lambda shard: reader_for(shard.format).index(
                    shard.file, max_rows=finest, max_bytes=max_bytes
                ),
                shards,
            )
        )
    if replicas is not None:
        spans = taper(spans, replicas=replicas, max_rows=max_rows, max_bytes=max_bytes)
    return [
        unit
        for shard, shard_spans in zip(shards, spans, strict=True)
        for span in shard_spans
        for unit in _units_of(shard, span, router)
    ]


def finest_rows(max_rows: int) -> int:
    """Rows of the smallest unit, where units are not all of one size."""
    return max(1, min(max_rows, max(UNIT_ROWS_MIN, max_rows // FINEST)))


def taper(
    shards: Sequence[Sequence[Span]], *, replicas: int, max_rows: int, max_bytes: int
) -> list[list[Span]]:
    """Put the fine spans of each shard together: small first, then large, small at the end.

    Every replica's first unit is a fine span, its next ones twice the one before, so that the first
    results, and what is wrong with them, are there after seconds. Towards the end a unit gets
    1 / (`SHARES` x replicas) of the rows that are left (guided self-scheduling, Polychronopoulos
    and Kuck 1987), so that replicas that work at different speeds finish within about one small
    unit of each other. At most `max_rows` and `max_bytes`, at least one fine span.
    """
    count = 0
    growing = finest_rows(max_rows)
    left = sum(span.rows for spans in shards for span in spans)
    result: list[list[Span]] = []
    for spans in shards:
        merged: list[Span] = []
        room = 0
        for span in spans:
            last = merged[-1] if merged else None
            fits = last is not None and last.bytes + span.bytes <= max_bytes and span.rows <= room
            if fits and last is not None:
                merged[-1] = replace(
                    last, rows=last.rows + span.rows, bytes=last.bytes + span.bytes
                )
            else:
                merged.append(span)
                room = min(max_rows, left // (SHARES * replicas), growing)
                count += 1
                growing = min(max_rows, growing * 2) if count % replicas == 0 else growing
            room -= span.rows
            left -= span.rows
        result.append(merged)
    return result


def _units_of(shard: Shard, span: Span, router: Router) -> Iterator[Unit]:
    whole = Unit(
        shard=shard.number,
        first_row=span.first_row,
        rows=span.rows,
        mark=span.mark,
        bytes=span.bytes,
        route=router.names[0],
        expected=span.rows,
    )
    if len(router.names) == 1:
        yield whole
        return
    rows = list(reader_for(shard.format).read(shard.file, span, sorted(router.columns)))
    numbers: dict[str, list[int]] = {}
    for row, name in zip(rows, router.assign(rows), strict=True):
        numbers.setdefault(name, []).append(row.number)
    for name in router.names:
        if mine := numbers.get(name):
            mask = make_mask(span.first_row, span.rows, mine)
            yield replace(whole, route=name, expected=len(mine), mask=mask)


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


def read_units(data: bytes, generation: int = 0) -> list[Unit]:
    """The units of a file that `write_units` made. Raises `OutputError` when it is not one."""
    try:
        rows = pq.read_table(io.BytesIO(data), schema=UNITS_SCHEMA).to_pylist()
    except (pa.ArrowInvalid, OSError) as err:
        raise OutputError(f"the list of units in the output cannot be read: {err}") from err
    return [Unit(**row, generation=generation) for row in rows]
