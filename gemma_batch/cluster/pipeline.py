"""The Ray Data pipeline of a route (driver; `_read` is a Ray CPU task).

Units go into the pipeline and receipts come out:

    WorkSource (Ray CPU tasks: read and render, one task and one block per unit)
        → Worker (a pool of GPU actors: answer and commit)
        → receipts (back in the driver)

A unit is the only row of a block, so Ray Data can neither split nor merge a unit. The two stages
ask for different resources, so Ray Data never fuses the stages.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.util.metrics
from ray.data import ActorPoolStrategy

from gemma_batch.cluster.datasets import executors_of, stop, tune
from gemma_batch.cluster.handover import undone
from gemma_batch.cluster.reach import require
from gemma_batch.cluster.run_actors import answer, read_elsewhere
from gemma_batch.cluster.work_source import WorkItem, WorkSource
from gemma_batch.cluster.worker import Worker
from gemma_batch.errors import FailureCode, GemmaBatchError, StorageError
from gemma_batch.planning.flight import flight
from gemma_batch.planning.pool import READ_CORES, READ_CPUS, Pool
from gemma_batch.prompts.prefixes import SORTED_ROWS
from gemma_batch.prompts.tokens import TokenizerFiles
from gemma_batch.reading.cores import cores
from gemma_batch.reading.prepare import Preparer, tokenizer_files
from gemma_batch.storage.patience import set_patience
from gemma_batch.units.bundle import pack_shards, shards_of, unpack_shards
from gemma_batch.units.payload import encode, encode_outcome
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shards, Unit

PREPARERS = 8  # routes whose tokenizers a process keeps; routes of equal tokenizers share one


def _source(job: RouteJob, shards: Shards, units: Sequence[Unit], board: Any) -> WorkSource:
    """One task per unit, which makes one row of the unit, the only row of its block."""
    # Readers get the tokenizer from the driver: a thousand of them must not ask the hub.
    shared = ray.put((job, tokenizer_files(job)))
    return WorkSource(
        "ReadAndRender",
        [
            WorkItem(
                read=functools.partial(
                    _read, shared, board, pack_shards(shards_of([unit], shards)), unit
                ),
                rows=1,
                bytes=unit.bytes * unit.expected // max(unit.rows, 1),
            )
            for unit in units
        ],
    )


_preparers: dict[str, Preparer] = {}  # by the route's job, the oldest first


def _preparer(key: str, load: Callable[[], tuple[RouteJob, TokenizerFiles]]) -> Preparer:
    """The preparer of a route's job. A process keeps several, as tokenizers are slow to load."""
    if key not in _preparers:
        job, files = load()
        set_patience(job.storage_patience)
        require(job.landmarks)
        while len(_preparers) >= PREPARERS:
            _preparers.pop(next(iter(_preparers)))
        _preparers[key] = Preparer(job, files)
    return _preparers[key]


@cores(READ_CORES)
def _read(job_ref: Any, board: Any, packed: bytes, unit: Unit) -> list[pa.Table]:
    shards = unpack_shards(packed)
    here = ray.get_runtime_context().get_node_id()
    if answer(board.no_more.remote(), default=False):
        return [encode_outcome(undone(unit.path))]
    try:
        if (cause := answer(board.cannot_read.remote(here), default=None)) is not None:
            raise StorageError(cause)
        preparer = _preparer(job_ref.hex(), lambda: ray.get(job_ref))
        # When the process of a task dies, Ray repeats the task, and sets no limit to the number of
        # repeats. So the board counts the repeats. After `READ_DEATHS` deaths, the rows of the unit
        # fail.
        if not answer(board.begin_read.remote(unit.path), default=True):
            return [encode(preparer.give_up(shards, unit))]
        read = preparer.prepare(shards, unit)
        if any(one.code == FailureCode.SHARD_UNREADABLE for one in read.failures.values()):
            # The fault of the file, or of this node, which may have lost a disk of others.
            require(preparer.job.landmarks)
        prepared = encode(read)
        board.end_read.remote(unit.path, here)
    except GemmaBatchError as err:
        read_elsewhere(board, unit.path, err)
        return [encode_outcome({"error": str(err)})]
    return [prepared]


class RouteRun:
    """The pipeline of one route over its units (at least one unit), whose `shards` are by number.

    `returned` are units that the pipeline gave back, by `Unit.path`, with the cause: the workers
    that could do them had ended, or no more units are begun. Another pipeline may do them.
    """

    def __init__(
        self, job: RouteJob, shards: Shards, units: Sequence[Unit], pool: Pool, board: Any
    ) -> None:
        self._route = job.route
        self.returned: dict[str, str] = {}
        board.expect.remote(job.route, pool.least)
        window = SORTED_ROWS if job.order == "prefix" else 0
        held = flight(job.in_flight, [unit.expected for unit in units], window=window)
        if pool.least < pool.most:
            held = held.growing(pool.num_gpus or pool.num_cpus)
        dataset = ray.data.read_datasource(
            _source(job, shards, units, board),
            override_num_blocks=len(units),
            num_cpus=READ_CPUS,
        ).map_batches(
            Worker,
            fn_constructor_kwargs={"job": job, "board": board},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                max_concurrent_calls_per_actor=held.calls,
                max_tasks_in_flight_per_actor=held.units,
                enable_true_multi_threading=True,
            ),
            num_gpus=pool.num_gpus or None,
            num_cpus=pool.num_cpus,
        )
        self._dataset = tune(dataset)
        self._executors = executors_of(self._dataset)

    def receipts(self) -> Iterator[dict[str, Any]]:
        """Run the pipeline, and yield the receipt of each unit once its part is committed.

        Raises `GemmaBatchError` when engines or storage gave up. Committed parts stay.
        """
        try:
            for batch in self._dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for receipt in map(json.loads, batch["receipt"].to_pylist()):
                    if receipt.get("returned"):
                        self.returned[receipt["unit"]] = receipt["error"]
                        continue
                    if "error" in receipt:
                        raise GemmaBatchError(f"route {self._route!r} stopped: {receipt['error']}")
                    yield receipt
        except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as err:
            raise GemmaBatchError(f"route {self._route!r} stopped unexpectedly: {err}") from err

    def stop(self) -> None:
        """End the pipeline, from another thread. After this, `receipts` yields nothing more.

        The thread that consumes `receipts` may stay blocked until the current part is committed.
        """
        stop(self._executors)
