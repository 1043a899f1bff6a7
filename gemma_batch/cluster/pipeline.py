"""The Ray Data pipeline of a route, and the connection to Ray (driver and Ray tasks).

Units go into the pipeline and receipts come out:

    UnitSource (Ray CPU tasks: read and render, one task and one block per unit)
        → Worker (a pool of GPU actors: answer and commit)
        → receipts (back in the driver)

The driver runs this module, except `_read` (Ray CPU task) and `_query_gpu` (Ray task on a node
with a GPU). A unit is the only row of a block, so Ray Data can neither split nor merge a unit. The
two stages ask for different resources, so Ray Data never fuses the stages.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.util.metrics
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gemma_batch.cluster.board import Board
from gemma_batch.cluster.worker import BOARD_SECONDS, Worker
from gemma_batch.errors import GemmaBatchError, UserError
from gemma_batch.family.gpus import GPU, gpu_from_device
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.pool import READ_CPUS, Pool
from gemma_batch.prompts.prefixes import SORTED_ROWS
from gemma_batch.reading.prepare import Preparer
from gemma_batch.reporting.metrics import RunMetrics
from gemma_batch.storage.patience import set_patience
from gemma_batch.units.payload import encode, encode_error
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shard, Unit

PROBE_SECONDS = 10  # the time limit for a first connection to the cluster
UNITS_IN_FLIGHT = (2, 32)  # the least and the most units that an actor works on at a time


def connect(address: str | None, *, verbose: bool = False) -> None:
    """Join the cluster at `address` (default: RAY_ADDRESS), or start a local cluster.

    Does nothing when this process is connected already. `verbose` shows the logs of Ray and of the
    workers. Raises `UserError` when the cluster cannot be reached.
    """
    if ray.is_initialized():
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.WARNING}
    if target == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_worker_niceness", "0")  # see worker._ask_for_normal_priority
    _probe(target)
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with contextlib.nullcontext() if verbose else _quiet():
            ray.init(address=target, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise UserError(
            f"no Ray cluster could be reached at {target!r}: {err}. Check the address, or leave "
            "it out to run on this machine"
        ) from err


def _probe(target: str) -> None:
    # Without this test, Ray waits for minutes for a cluster that does not exist.
    host, found, port = target.removeprefix("ray://").rpartition(":")
    if not found or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as err:
        raise UserError(
            f"no Ray cluster answers at {target!r} ({err}): check --address or RAY_ADDRESS, or "
            "leave both out to run on this machine"
        ) from err


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Ray's native code writes to file descriptor 2 while it starts. Nothing is lost: errors are
    # raised as exceptions.
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def disconnect() -> None:
    """Leave the cluster. A local cluster ends."""
    ray.shutdown()


def cluster_hardware() -> Hardware:
    """The hardware of the connected cluster, as Ray knows it.

    nvidia-smi on one node tells the name, memory and generation of a GPU. All other GPUs are taken
    to be like this GPU.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0))
    per_node = int(max((node["Resources"].get("GPU", 0) for node in nodes), default=0))
    cpus = [node["Resources"].get("CPU", 0) for node in nodes]
    memory = min((node["Resources"].get("memory", 8 * 2**30) for node in nodes), default=0)
    gpu: GPU | None = None
    if gpus:
        name, mib, capability = ray.get(
            ray.remote(_query_gpu).options(num_gpus=0.01, num_cpus=0).remote()
        )
        gpu = gpu_from_device(name, memory_mib=mib, compute_capability=capability)
    return Hardware(
        gpu=gpu,
        gpus=gpus,
        gpus_per_node=per_node,
        cpus=max(1, int(total.get("CPU", 1))),
        cpus_per_node=max(1, int(min(filter(None, cpus), default=1))),
        memory_gib=memory / 2**30,
    )


def _query_gpu() -> tuple[str, int, float]:
    answer = subprocess.run(
        [
            "nvidia-smi",
            "--query-gpu=name,memory.total,compute_cap",
            "--format=csv,noheader,nounits",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[0]
    name, mib, capability = (part.strip() for part in answer.split(","))
    return name, int(mib), float(capability)


def make_metrics(run: str) -> RunMetrics:
    """The driver's metrics of the run with this name."""
    return RunMetrics(ray.util.metrics, run=run)


def make_board() -> Any:
    """Start a board as an actor, on the driver's node if Ray can place the actor there."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(Board).options(**options).remote()


def read_board(board: Any) -> dict[str, Any] | None:
    """The board's state; None when the board does not answer within 2 seconds."""
    try:
        state: dict[str, Any] = ray.get(board.state.remote(), timeout=2)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return state


class UnitSource(Datasource):  # type: ignore[misc]  # ray is not typed for mypy's reading
    """Ray Data's source of units: one read task per unit, which makes one row of the unit.

    This row is the only row of its block.
    """

    def __init__(self, job: RouteJob, work: Sequence[tuple[Shard, Unit]], board: Any) -> None:
        super().__init__()
        self._job = ray.put(job)
        self._work = work
        self._board = board

    def get_name(self) -> str:
        """The stage's name in Ray's displays."""
        return "ReadAndRender"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all units in the input, as the readers estimated them."""
        return sum(unit.bytes for _, unit in self._work)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task per unit, for any `parallelism`."""
        return [
            ReadTask(
                functools.partial(_read, self._job, self._board, shard, unit),
                BlockMetadata(
                    num_rows=1, size_bytes=max(1, unit.bytes), input_files=None, exec_stats=None
                ),
            )
            for shard, unit in self._work
        ]


_preparers: dict[str, Preparer] = {}


def _read(job_ref: Any, board: Any, shard: Shard, unit: Unit) -> list[pa.Table]:
    # Tokenizers are slow to load, so a process keeps the Preparer of its job for all units.
    key = job_ref.hex()
    try:
        if key not in _preparers:
            job: RouteJob = ray.get(job_ref)
            set_patience(job.storage_patience)
            _preparers.clear()
            _preparers[key] = Preparer(job)
        # When the process of a task dies, Ray repeats the task, and sets no limit to the number of
        # repeats. So the board counts the repeats. After `READ_DEATHS` deaths, the rows of the unit
        # fail.
        if not answer(board.begin_read.remote(unit.path), default=True):
            return [encode(_preparers[key].give_up(shard, unit))]
        prepared = encode(_preparers[key].prepare(shard, unit))
        board.end_read.remote(unit.path)
    except GemmaBatchError as err:
        return [encode_error(err)]
    return [prepared]


def answer(call: Any, *, default: Any) -> Any:
    """The board's answer to a call; `default` when the board is gone or slow."""
    try:
        return ray.get(call, timeout=BOARD_SECONDS)
    except (ray.exceptions.RayError, TimeoutError):
        return default


class RouteRun:
    """The pipeline of one route over its units (at least one unit)."""

    def __init__(
        self, job: RouteJob, work: Sequence[tuple[Shard, Unit]], pool: Pool, board: Any
    ) -> None:
        self._route = job.route
        flight = _units_in_flight(job, work)
        self._dataset = ray.data.read_datasource(
            UnitSource(job, work, board),
            override_num_blocks=len(work),
            num_cpus=READ_CPUS,
        ).map_batches(
            Worker,
            fn_constructor_kwargs={"job": job, "board": board},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                max_concurrent_calls_per_actor=flight,
                max_tasks_in_flight_per_actor=flight + 2,
                enable_true_multi_threading=True,
            ),
            num_gpus=pool.num_gpus or None,
            num_cpus=pool.num_cpus,
        )

    def receipts(self) -> Iterator[dict[str, Any]]:
        """Run the pipeline, and yield the receipt of each unit once its part is committed.

        Raises `GemmaBatchError` when engines or storage gave up. Committed parts stay.
        """
        try:
            for batch in self._dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for receipt in map(json.loads, batch["receipt"].to_pylist()):
                    if "error" in receipt:
                        raise GemmaBatchError(f"route {self._route!r} stopped: {receipt['error']}")
                    yield receipt
        except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as err:
            raise GemmaBatchError(f"route {self._route!r} stopped unexpectedly: {err}") from err

    def stop(self) -> None:
        """End the pipeline, from another thread. After this, `receipts` yields nothing more.

        The thread that consumes `receipts` may stay blocked until the current part is committed.
        """
        stop_dataset(self._dataset)


def stop_dataset(dataset: Any) -> None:
    """End the pipeline of a data set that a thread may still consume.

    Ray Data itself ends a pipeline only when the consumer ends. A pipeline that still runs when
    this process leaves the cluster ends this process, with exit code 1.
    """
    executor = dataset._current_executor
    if executor is not None:
        executor.shutdown(force=False)


def _units_in_flight(job: RouteJob, work: Sequence[tuple[Shard, Unit]]) -> int:
    # How many units an actor holds: enough that the next rows are waiting when a unit ends. (With
    # large units the feed loads fewer.)
    rows = max(1, min(unit.expected for _, unit in work))
    wanted = max(job.in_flight, SORTED_ROWS if job.order == "prefix" else 0)
    least, most = UNITS_IN_FLIGHT
    return int(min(max(wanted / rows + 2, least), most))


def configure() -> None:
    """Set Ray Data's limits for engines that load for a long time, and keep the terminal quiet."""
    context = DataContext.get_current()
    # Ray Data's limit, 30 minutes without a finished block, would end a slow load or a long unit.
    # This package has limits instead: policy.row_deadline, policy.engine_start_timeout and
    # policy.stop.stalled_minutes.
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
