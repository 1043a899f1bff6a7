"""Known answers: rows that a trial has answered already, so that a run does not ask them again.

The driver collects the answers of trials into one file of the output when it opens a run (see
`committing/taken.py`). The Ray CPU task that reads a unit finds the unit's rows in this file, and
sends their answers along with the unit. The GPU actor commits them unchanged beside the new
answers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.rows import Row

# Columns of the file, beside those of the answers: the place of the row in the input.
SHARD, ROW, ROUTE = "known_shard", "known_row", "route"
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


class RowPlace(NamedTuple):
    """A row on its route: the number of the input shard, and of the row in it (0-based)."""

    route: str
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Known:
    """The known answers of one unit.

    `numbers` are the numbers of the rows in the unit, and `answers` has a row for each of them, in
    the same order: the columns of a part without the kept columns and without `id`.
    """

    numbers: tuple[int, ...]
    answers: pa.Table


class KnownAnswers:
    """The known answers of a run, from the `files` (at least one) that `write_known` made.

    Raises `OutputError` when one is no such file.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        try:
            table = pa.concat_tables([pq.read_table(io.BytesIO(data)) for data in files])
            places = zip(*(table[name].to_pylist() for name in (ROUTE, SHARD, ROW)), strict=True)
            self._answers = table.drop_columns([SHARD, ROW])
        except (pa.ArrowException, OSError, KeyError) as err:
            raise OutputError(f"the known answers in the output cannot be read: {err}") from err
        self._at = {RowPlace(*place): i for i, place in enumerate(places)}

    def __len__(self) -> int:
        return len(self._at)

    def of(
        self, rows: Iterable[Row], route: str, shard: int, *, fits: Callable[[Row], bool]
    ) -> Known | None:
        """The known answers of these rows, in their order; None when no answer is known.

        `shard` is the shard of the rows that have no `origin`. A row that `fits` refuses gets none.
        """
        found = [
            (row.number, at)
            for row in rows
            if (at := self._at.get(_place(row, route, shard))) is not None and fits(row)
        ]
        if not found:
            return None
        at = pa.array([at for _, at in found], pa.int64())
        return Known(tuple(number for number, _ in found), self._answers.take(at))


def _place(row: Row, route: str, shard: int) -> RowPlace:
    # Rows of a sorted copy, or of a unit of several shards, carry their place in the input.
    if row.origin is not None:
        return RowPlace(route, row.origin.shard, row.origin.row)
    return RowPlace(route, shard, row.number)


def write_known(places: Sequence[RowPlace], answers: pa.Table) -> bytes:
    """The known answers of a run as the bytes of a Parquet file.

    `answers` has the answer of each place: columns as in `Known`.
    """
    table = answers.append_column(SHARD, pa.array([place.shard for place in places], pa.int32()))
    table = table.append_column(ROW, pa.array([place.row for place in places], pa.int64()))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
