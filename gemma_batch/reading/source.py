"""Reads the rows of one unit from its shard, whatever state the shard is in (Ray CPU task).

A shard may have become unreadable, been replaced or lost rows since planning. Then only rows of
this shard are lost: each comes back as a row with a `Failure`. The number of rows is always the
planned number. When storage does not answer, `StorageError` ends the run, and the next start reads
the unit again. The repair of `errors/` reads rows of failures a second time (driver).
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_batch.errors import FailureCode, InputError
from gemma_batch.rows import Failure, Row
from gemma_batch.storage.keep import as_text
from gemma_batch.storage.listing import stat
from gemma_batch.units.unit import Shard, Unit


def unit_rows(shard: Shard, unit: Unit, columns: Sequence[str]) -> list[Row]:
    """The rows of the unit in order, `unit.expected` of them, with the values of `columns`.

    Raises `StorageError` when storage does not answer.
    """
    rows = _span_rows(shard, unit, columns)
    if unit.mask is None:
        return rows
    return [rows[number - unit.first_row] for number in unit.numbers]


def given_up(shard: Shard, unit: Unit) -> list[Row]:
    """The rows of a unit that every reading process died with, each failed.

    The shard is not opened.
    """
    text = f"every process that read rows {unit.first_row} ff. of {shard.url!r} died"
    failure = Failure(FailureCode.SHARD_UNREADABLE.value, text)
    return [Row(number, None, failure) for number in unit.numbers]


def _span_rows(shard: Shard, unit: Unit, columns: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    try:
        found = stat(shard.url)
        if (found.size, found.etag) != (shard.size, shard.etag):
            text = (
                f"{shard.url!r} was replaced after the run was planned "
                f"({shard.size} bytes then, {found.size} now)"
            )
            return _failed(rows, unit, FailureCode.SHARD_CHANGED, text)
        for row in shard.reader.read(shard.file, unit.span, list(columns)):
            rows.append(row)
            if len(rows) == unit.rows:
                break
    except InputError as err:
        return _failed(rows, unit, FailureCode.SHARD_UNREADABLE, str(err))
    text = f"{shard.url!r} ended {unit.rows - len(rows)} rows early"
    return (
        rows if len(rows) == unit.rows else _failed(rows, unit, FailureCode.SHARD_UNREADABLE, text)
    )


def _failed(rows: list[Row], unit: Unit, code: FailureCode, message: str) -> list[Row]:
    start = unit.first_row + len(rows)
    missing = range(start, unit.first_row + unit.rows)
    return rows + [Row(number, None, Failure(code.value, message)) for number in missing]


def row_id(shard: int, row: Row, column: str | None) -> str:
    """The row's id: the value of the id column, as the same text that a kept text column has.

    Without such a value the id is made of shard number and row number, "00012-0000040960". A row
    of a staged shard gets the numbers of its place in the input.
    """
    if column is not None and row.values is not None and row.values.get(column) is not None:
        return as_text(row.values[column])
    number = row.number
    if row.origin is not None:
        shard, number = row.origin.shard, row.origin.row
    return f"{shard:05d}-{number:010d}"
