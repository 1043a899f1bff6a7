"""Cut: cuts the input into units, the atoms of scheduling, commit and resume (driver, laptop)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gemma_batch.planning.flight import flight
from gemma_batch.planning.routing import Router
from gemma_batch.spec import Policy
from gemma_batch.storage.readers.reader import Span
from gemma_batch.units.unit import Shard, Unit, make_mask

UNIT_ROWS_MIN, UNIT_ROWS_MAX = 64, 8192
PLANNING_THREADS = 16  # for reading that many files at the same time
FINEST = 32  # a largest unit has the rows of so many smallest units, each about 2 s of work
SHARES = 4  # near the end, the rows that are left make at least so many units per replica


def rows_per_unit(policy: Policy, rows_per_second: float) -> int:
    """Rows per unit: `policy.unit_rows`, or `policy.unit_seconds` of one engine's work.

    The rows by time are at least 64 and at most 8192. `rows_per_second` is the speed of one engine.
    """
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
    in_flight: int = 0,
) -> list[Unit]:
    """Cut every shard into units, in input order. A route without rows in a span gets no unit.

    With `replicas` (engines), units are small at both ends of the input (see `taper`, which also
    explains `in_flight`). Without `replicas`, only the limits `max_rows` and `max_bytes` set the
    size of units.

    Reads the footers of Parquet files, and files of other formats whole, once. With several routes,
    also reads the columns that the routes use. Raises `InputError` for a shard that cannot be read.
    """
    # Cut finely first and put the spans together afterwards, when the number of rows is known.
    finest = max_rows if replicas is None else finest_rows(max_rows)
    with ThreadPoolExecutor(PLANNING_THREADS) as pool:
        spans = list(
            pool.map(
                lambda shard: shard.reader.index(shard.file, max_rows=finest, max_bytes=max_bytes),
                shards,
            )
        )
    if replicas is not None:
        spans = taper(
            spans,
            replicas=replicas,
            max_rows=max_rows,
            max_bytes=max_bytes,
            in_flight=in_flight,
        )
    return [
        unit
        for shard, shard_spans in zip(shards, spans, strict=True)
        for span in shard_spans
        for unit in _units_of(shard, span, router)
    ]


def finest_rows(max_rows: int) -> int:
    """Rows of the smallest unit, when units have different sizes."""
    return max(1, min(max_rows, max(UNIT_ROWS_MIN, max_rows // FINEST)))


def taper(
    shards: Sequence[Sequence[Span]],
    *,
    replicas: int,
    max_rows: int,
    max_bytes: int,
    in_flight: int = 0,
) -> list[list[Span]]:
    """Put the fine spans of each shard together: small units first, then large, small at the end.

    The first unit of each replica is one fine span, and each next unit is twice as large as the
    unit before. So the first results, and the errors in them, appear after seconds. Towards the end
    a unit gets 1 / (shares x replicas) of the rows that are left (guided self-scheduling,
    Polychronopoulos and Kuck 1987). So replicas that work at different speeds finish within about
    one small unit of each other. A unit has at most `max_rows` rows and `max_bytes` bytes, and at
    least one fine span.

    `in_flight` is the number of requests that an engine wants. The small units of so many requests
    are bound to one replica at a time (see `flight`). There are at least as many shares: otherwise
    a slow replica would hold most of the rows that are left when the others run out of units.
    """
    count = 0
    held = flight(in_flight, [span.rows for spans in shards for span in spans]).units
    shares = max(SHARES, held)
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
                room = min(max_rows, left // (shares * replicas), growing)
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
    rows = list(shard.reader.read(shard.file, span, sorted(router.columns)))
    numbers: dict[str, list[int]] = {}
    for row, name in zip(rows, router.assign(rows), strict=True):
        numbers.setdefault(name, []).append(row.number)
    for name in router.names:
        if mine := numbers.get(name):
            mask = make_mask(span.first_row, span.rows, mine)
            yield replace(whole, route=name, expected=len(mine), mask=mask)
