"""Peek: rows from the start of files that are spread over the whole input (driver, laptop)."""

from __future__ import annotations

from gemma_batch.planning.survey import Survey
from gemma_batch.rows import Row
from gemma_batch.units.unit import Shard

SAMPLE_ROWS, SAMPLE_SHARDS = 512, 16  # of the sample by which a plan judges the input


def some_rows(survey: Survey, rows: int, shards: int = 1) -> list[tuple[Shard, Row]]:
    """About `rows` rows with their shards, from the start of up to `shards` evenly spread shards.

    Rows that cannot be read are among them. A shard without rows is passed over. Raises
    `InputError` when one of the files is corrupt.
    """
    every = survey.readable
    count = min(len(every), shards)
    found: list[tuple[Shard, Row]] = []
    left = count
    for shard in (every[i * len(every) // count] for i in range(count)):
        found += _head(survey, shard, -(-(rows - len(found)) // left))
        left -= 1
    if found:
        return found
    return next((head for shard in every if (head := _head(survey, shard, rows))), [])


def _head(survey: Survey, shard: Shard, rows: int) -> list[tuple[Shard, Row]]:
    if rows < 1:
        return []
    reader = shard.reader
    span = reader.head(shard.file, rows)
    read = reader.read(shard.file, span, list(survey.columns))
    return [(shard, row) for row in read]
