"""Reads rows together with the keys by which a whole route is sorted (Ray CPU task).

The driver (`driver/sorting.py`) makes the chunks and compares a few keys before it starts tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import RowProblem
from gemma_batch.reading.careful import careful_rows
from gemma_batch.reading.source import unit_rows
from gemma_batch.rows import Row
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.staged import staged_table
from gemma_batch.units.bundle import pack_shards, shards_of, unpack_shards
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shards, Unit

KEY = "key"
KEY_CHARS = 1024  # length of a key, without the common beginning; the feed sorts more finely
CHUNK_ROWS, CHUNK_BYTES = 65_536, 64 * 2**20  # limits of one task; a staged copy is about as large


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """The facts about one route's sort that its tasks need.

    `types` are the types of the input columns; None means that values travel as JSON. `skip` is
    the number of characters that all prompts begin with. `folder` is where copies are put.
    """

    job: RouteJob
    types: pa.Schema | None
    skip: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Units, and their shards by `pack_shards`; one task reads the rows of all of them."""

    shards: bytes
    units: tuple[Unit, ...]


class ReadLog(Protocol):
    """Counts the processes that died while reading a unit; lives outside of these processes."""

    def begin(self, unit: str) -> bool:
        """Note that a process starts to read the unit.

        Returns False when too many processes have already died while reading this unit.
        """
        ...

    def end(self, unit: str) -> None:
        """Note that the unit was read."""


def chunks(shards: Shards, units: Iterable[Unit]) -> list[Chunk]:
    """Group neighbouring units, up to `CHUNK_ROWS` rows and `CHUNK_BYTES` bytes.

    Units of different shards share a chunk only when each holds several small shards.
    """
    found: list[list[Unit]] = []
    rows = weight = 0
    for unit in units:
        rows, weight = rows + unit.expected, weight + unit.bytes
        last = found[-1] if found else None
        if (
            last is not None
            and (last[-1].shard == unit.shard or (last[-1].members and unit.members))
            and rows <= CHUNK_ROWS
            and weight <= CHUNK_BYTES
        ):
            last.append(unit)
        else:
            found.append([unit])
            rows, weight = unit.expected, unit.bytes
    return [Chunk(shards=pack_shards(shards_of(mine, shards)), units=tuple(mine)) for mine in found]


def read_chunk(sorting: Sorting, renderer: Renderer, chunk: Chunk, log: ReadLog) -> pa.Table:
    """The rows of a chunk as a table with their sort keys.

    When the log refuses a unit, every row of the unit fails. The failure is final, because a retry
    reads the same staged copy. Raises `StorageError` when storage does not answer.
    """
    shards, tables = unpack_shards(chunk.shards), list[pa.Table]()
    for unit in chunk.units:
        if log.begin(unit.path):
            rows = unit_rows(shards, unit, sorting.job.columns)
        else:
            rows = careful_rows(shards, unit, sorting.job.columns)
        keys = [sort_text(renderer, row, sorting.skip) for row in rows]
        table = staged_table(rows, unit.shard, shards[unit.shard].url, sorting.types)
        tables.append(table.append_column(KEY, pa.array(keys, pa.large_string())))
        log.end(unit.path)
    return pa.concat_tables(tables)


def sort_text(renderer: Renderer, row: Row, skip: int) -> str:
    """The sort key of a row: `KEY_CHARS` characters of its prompt, from character `skip` on.

    A row that cannot be rendered has the key "".
    """
    try:
        return renderer.preview(row)[skip : skip + KEY_CHARS]
    except RowProblem:
        return ""


def describe(table: pa.Table, file: InputFile) -> dict[str, Any]:
    """The facts about a sorted piece that the driver needs, as plain data.

    `url`, `size` (bytes) and `etag` of its file; `first`, its first key; `origins`: for each input
    shard its number, how many of its rows the piece has and the sum of their row numbers.
    """
    sums = table.group_by("shard").aggregate([("row", "count"), ("row", "sum")])
    return {
        "url": file.url,
        "size": file.size,
        "etag": file.etag,
        "first": table[KEY][0].as_py(),
        "origins": list(
            zip(
                sums["shard"].to_pylist(),
                sums["row_count"].to_pylist(),
                sums["row_sum"].to_pylist(),
                strict=True,
            )
        ),
    }
