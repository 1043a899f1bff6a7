"""Reads the rows of one unit from its shards, whatever state these are in (Ray CPU task).

A shard may have become unreadable, been replaced or lost rows since planning. Then only rows of
this shard are lost: each comes back as a row with a `Failure`. The number of rows is always the
planned number. When storage does not answer, `StorageError` ends the run, and the next start reads
the unit again. The repair of `errors/` reads rows of failures a second time (driver).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gemma_batch.errors import FailureCode, InputError
from gemma_batch.rows import Failure, Origin, Row
from gemma_batch.storage.fs import is_s3
from gemma_batch.storage.keep import as_text
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.whole import as_it_is
from gemma_batch.units.unit import Place, Shard, Shards, Unit

# Small objects that are read at the same time: a request takes 20 ms or more, most of it waiting.
REQUESTS = 32
# Where a unit wants at most one of so many of its rows, readers are asked for the wanted rows only.
SPARSE = 8


def unit_rows(
    shards: Shards, unit: Unit, columns: Sequence[str], deadly: Container[int] = ()
) -> list[Row]:
    """The rows of the unit in order, `unit.expected` of them, with the values of `columns`.

    `shards` are by number, and have the unit's. The rows of a unit of several shards have an
    `origin`. Shards of such a unit whose number is in `deadly` are not opened: their rows fail.
    Raises `StorageError` when storage does not answer.
    """
    if unit.members is None:
        if unit.mask is not None and unit.expected * SPARSE <= unit.rows:
            return _some(shards[unit.shard], unit, columns)
        rows = _rows(shards[unit.shard], unit.span, columns)
        if unit.mask is None:
            return rows
        return [rows[number - unit.first_row] for number in unit.numbers]

    def placed(place: Place) -> list[Row]:
        shard = shards[place.shard]
        return _lost(shard, place) if place.shard in deadly else _placed(shard, place, columns)

    places = unit.places
    if not any(is_s3(shards[place.shard].url) for place in places):
        return [row for place in places for row in placed(place)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return [row for rows in pool.map(placed, places) for row in rows]


def given_up(shards: Shards, unit: Unit) -> list[Row]:
    """The rows of a unit of one shard that every reading process died with, each failed.

    The shard is not opened. For a unit of several shards, see `careful.py`.
    """
    url = shards[unit.shard].url
    text = f"every process that read rows {unit.first_row} ff. of {url!r} died"
    failure = Failure(FailureCode.SHARD_UNREADABLE.value, text)
    return [Row(number, None, failure) for number in unit.numbers]


def _lost(shard: Shard, place: Place) -> list[Row]:
    """The failed rows of a shard that kills the processes which read it."""
    text = f"every process that read {shard.url!r} died"
    failure = Failure(FailureCode.SHARD_UNREADABLE.value, text)
    return [Row(place.first + n, None, failure, _origin(shard, n)) for n in place.numbers]


def _placed(shard: Shard, place: Place, columns: Sequence[str]) -> list[Row]:
    """The rows of one shard in a unit of several, with the numbers that they have in the unit."""
    # One row more than planned, so that a row that the plan did not see is not left out in silence.
    head = shard.reader.head(shard.file, place.rows + 1)
    rows = _rows(shard, head, columns, planned=place.rows)
    mine = [rows[number] for number in place.numbers]
    for row in mine:
        row.origin = row.origin or _origin(shard, row.number)
        row.number += place.first
    return mine


def _origin(shard: Shard, number: int) -> Origin:
    return Origin(shard.number, shard.url, number)


def _rows(
    shard: Shard, span: Span, columns: Sequence[str], *, planned: int | None = None
) -> list[Row]:
    """The rows of the span; with `planned`, the first `planned` rows, and there must be no more."""
    wanted = span if planned is None else replace(span, rows=planned)
    rows: list[Row] = []
    try:
        with as_it_is(shard.file) as found:
            if (found.size, found.etag) != (shard.size, shard.etag):
                text = _replaced(shard, found.size)
                return _failed(rows, wanted, FailureCode.SHARD_CHANGED, text)
            for row in shard.reader.read(shard.file, span, list(columns)):
                rows.append(row)
                if len(rows) == span.rows:
                    break
    except InputError as err:
        return _failed(rows[: wanted.rows], wanted, FailureCode.SHARD_UNREADABLE, str(err))
    if len(rows) > wanted.rows:
        text = f"{shard.url!r} has more rows than the {wanted.rows} that were planned"
        return _failed([], wanted, FailureCode.SHARD_UNREADABLE, text)
    text = f"{shard.url!r} ended {wanted.rows - len(rows)} rows early"
    return _failed(rows, wanted, FailureCode.SHARD_UNREADABLE, text)


def _some(shard: Shard, unit: Unit, columns: Sequence[str]) -> list[Row]:
    """The rows of a unit of one shard that wants few of its rows."""
    numbers = unit.numbers
    found: dict[int, Row] = {}
    code = FailureCode.SHARD_UNREADABLE
    text = f"{shard.url!r} has fewer rows than the {numbers[-1] + 1} that were planned"
    span = replace(unit.span, only=frozenset(numbers))
    try:
        with as_it_is(shard.file) as file:
            if (file.size, file.etag) != (shard.size, shard.etag):
                code, text = FailureCode.SHARD_CHANGED, _replaced(shard, file.size)
            else:
                for row in shard.reader.read(shard.file, span, list(columns)):
                    if row.number in span.only:  # type: ignore[operator]
                        found[row.number] = row
                        if len(found) == len(numbers):
                            break
    except InputError as err:
        text = str(err)
    lost = Failure(code.value, text)
    return [found.get(number) or Row(number, None, lost) for number in numbers]


def _replaced(shard: Shard, now: int) -> str:
    return (
        f"{shard.url!r} was replaced after the run was planned ({shard.size} bytes then, {now} now)"
    )


def _failed(rows: list[Row], span: Span, code: FailureCode, message: str) -> list[Row]:
    """The rows, and a failed row for each row of the span after them."""
    missing = range(span.first_row + len(rows), span.first_row + span.rows)
    return rows + [Row(number, None, Failure(code.value, message)) for number in missing]


def row_id(shard: int, row: Row, column: str | None) -> str:
    """The row's id: the value of the id column, as the same text that a kept text column has.

    Without such a value the id is made of shard number and row number, "00012-0000040960". A row
    with an `origin` gets the numbers of its place in the input.
    """
    if column is not None and row.values is not None and row.values.get(column) is not None:
        return as_text(row.values[column])
    number = row.number
    if row.origin is not None:
        shard, number = row.origin.shard, row.origin.row
    return f"{shard:05d}-{number:010d}"
