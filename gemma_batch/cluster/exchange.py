"""The exchange of a distributed sort: chunks in, sorted files out (driver and Ray CPU tasks).

The driver builds a Ray Data pipeline and gets the descriptions of the files. The tasks do the rest:

WorkSource (read and render, one task per chunk)
    → Ray Data's sort, by the text of the prompts
    → one file per block, which the block's task puts into the output
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from gemma_batch.cluster.datasets import executors_of, stop, tune
from gemma_batch.cluster.reach import require, require_output
from gemma_batch.cluster.run_actors import answer, end_board, make_board, read_elsewhere
from gemma_batch.cluster.work_source import WorkItem, WorkSource
from gemma_batch.errors import GemmaBatchError
from gemma_batch.planning.pool import READ_CORES, READ_CPUS
from gemma_batch.prompts.render import Renderer
from gemma_batch.reading.cores import cores
from gemma_batch.reading.prepare import make_renderer, tokenizer_files
from gemma_batch.reading.sort_keys import KEY, Chunk, Sorting, describe, read_chunk
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.listing import stat
from gemma_batch.storage.patience import set_patience
from gemma_batch.storage.readers.staged import staged_file


class BoardLog:
    """A `ReadLog` on a board: without it, Ray repeats a task for ever when its process dies."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def begin(self, unit: str) -> bool:
        """See `ReadLog`."""
        return bool(answer(self.board.begin_read.remote(unit), default=True))

    def end(self, unit: str) -> None:
        """See `ReadLog`."""
        self.board.end_read.remote(unit)


def _source(sorting: Sorting, work: Sequence[Chunk], board: Any) -> WorkSource:
    """One task per chunk of rows."""
    shared, log = ray.put((sorting, tokenizer_files(sorting.job))), BoardLog(board)
    return WorkSource(
        "ReadToSort",
        [
            WorkItem(
                read=functools.partial(_read_chunk, shared, log, chunk),
                rows=sum(unit.expected for unit in chunk.units),
                bytes=sum(unit.bytes for unit in chunk.units),
            )
            for chunk in work
        ],
    )


_renderers: dict[str, tuple[Sorting, Renderer]] = {}


@cores(READ_CORES)
def _read_chunk(sorting_ref: Any, log: BoardLog, chunk: Chunk) -> list[pa.Table]:
    key = sorting_ref.hex()
    try:
        if key not in _renderers:
            sorting, files = ray.get(sorting_ref)
            set_patience(sorting.job.storage_patience)
            _renderers.clear()
            _renderers[key] = sorting, make_renderer(sorting.job, files)
        sorting, renderer = _renderers[key]
        require(sorting.job.landmarks)
        return [read_chunk(sorting, renderer, chunk, log)]
    except GemmaBatchError as err:
        first, *others = chunk.units
        for unit in others:
            log.end(unit.path)  # this process did not die, so no unit is to blame
        read_elsewhere(log.board, first.path, err)
        raise


@cores(READ_CORES)
def _write_piece(table: pa.Table, sorting: Sorting) -> pa.Table:
    pieces: list[str] = []
    if table.num_rows:
        set_patience(sorting.job.storage_patience)
        require_output(sorting.job.landmarks)
        store = open_store(sorting.job.output)
        # Each call writes a file with a new name. So a task that Ray repeats writes a second file,
        # and only the file in the description that comes back counts.
        name = f"{sorting.folder}/{uuid.uuid4().hex}.parquet"
        store.create(name, staged_file(table.drop_columns([KEY])))
        pieces = [json.dumps(describe(table, stat(f"{store.url}/{name}")))]
    return pa.table({"piece": pa.array(pieces, pa.string())})


def exchange(sorting: Sorting, work: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
    """Sort the rows of all chunks across the cluster. Yields the description of each sorted file.

    `describe` in `reading/sort_keys.py` makes the descriptions. Raises `GemmaBatchError` when a
    task fails.
    """
    board = make_board()
    dataset = (
        ray.data.read_datasource(
            _source(sorting, work, board), override_num_blocks=len(work), num_cpus=READ_CPUS
        )
        .sort(KEY)
        .map_batches(
            _write_piece,
            fn_kwargs={"sorting": sorting},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READ_CPUS,
        )
    )
    executors = executors_of(tune(dataset))
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(json.loads, batch["piece"].to_pylist())
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as err:
        raise GemmaBatchError(f"sorting the input by prefix failed: {err}") from err
    finally:
        stop(executors)
        end_board(board)
