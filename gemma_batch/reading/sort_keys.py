"""Reading rows with the keys by which a route is sorted as a whole (Ray CPU task)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import RowProblem
from gemma_batch.reading.source import given_up, unit_rows
from gemma_batch.rows import Row
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.staged import staged_table
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shard, Unit

KEY = "key"
KEY_CHARS = 1024  # of a prompt, after what all begin with; finer order is the feed's business
CHUNK_ROWS, CHUNK_BYTES = 65_536, 64 * 2**20  # that one task reads, and about what a copy holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """One route's sort, as its tasks need it. `types` None: values travel as JSON."""

    job: RouteJob
    types: pa.Schema | None
    skip: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Units of one shard whose rows one task reads."""

    shard: Shard
    units: tuple[Unit, ...]


class ReadLog(Protocol):
    """Who reads what, kept outside of the process that reads."""

    def begin(self, unit: str) -> bool:
        """It starts to read a unit; False when too many have died with it already."""
        ...

    def end(self, unit: str) -> None:
        """The unit was read."""


def chunks(shards: Sequence[Shard], units: Iterable[Unit]) -> list[Chunk]:
    """Neighbouring units of a shard put together, up to what one task should read."""
    found: list[Chunk] = []
    rows = weight = 0
    for unit in units:
        rows, weight = rows + unit.expected, weight + unit.bytes
        last = found[-1] if found else None
        if (
            last is not None
            and last.shard.number == unit.shard
            and rows <= CHUNK_ROWS
            and weight <= CHUNK_BYTES
        ):
            found[-1] = replace(last, units=(*last.units, unit))
        else:
            found.append(Chunk(shard=shards[unit.shard], units=(unit,)))
            rows, weight = unit.expected, unit.bytes
    return found


def read_chunk(sorting: Sorting, renderer: Renderer, chunk: Chunk, log: ReadLog) -> pa.Table:
    """A chunk's rows with their sort keys.

    Rows of a unit that the log refuses fail, for good: a retry reads the same copy.
    """
    shard, rows, keys = chunk.shard, list[Row](), list[str]()
    for unit in chunk.units:
        if log.begin(unit.path):
            mine = unit_rows(shard, unit, sorting.job.columns)
        else:
            mine = given_up(shard, unit)
        keys += [sort_text(renderer, row, sorting.skip) for row in mine]
        rows += mine
        log.end(unit.path)
    table = staged_table(rows, shard.number, shard.url, sorting.types)
    return table.append_column(KEY, pa.array(keys, pa.large_string()))


def sort_text(renderer: Renderer, row: Row, skip: int) -> str:
    """The part of a row's prompt that decides about its place; "" for one without a prompt."""
    try:
        return renderer.preview(row)[skip : skip + KEY_CHARS]
    except RowProblem:
        return ""


def describe(table: pa.Table, file: InputFile) -> dict[str, Any]:
    """What the driver has to know of a sorted piece: its file, its first key, which rows it has."""
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
