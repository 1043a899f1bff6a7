"""A run's board as a Ray actor, and the run's metrics (made in the driver).

Workers and reading tasks call the board too, with `answer`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any

import ray
import ray.util.metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gemma_batch.cluster.board import Board
from gemma_batch.errors import GemmaBatchError
from gemma_batch.planning.pool import READ_CPUS
from gemma_batch.reporting.metrics import RunMetrics

logger = logging.getLogger(__name__)
ELSEWHERE = 75  # exit code of a process that ends so that its task runs elsewhere (EX_TEMPFAIL)
BOARD_SECONDS = 10.0  # the time limit for an answer of the board


def make_metrics(run: str) -> RunMetrics:
    """The driver's metrics of the run with this name."""
    return RunMetrics(ray.util.metrics, run=run)


def make_board() -> Any:
    """Start a board as an actor, on the driver's node."""
    # Ray places an actor without CPUs on any node, unless the affinity is hard.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(Board).options(**options).remote()


def end_board(board: Any) -> None:
    """End a board at once. An error of the run that is kept somewhere would keep it alive."""
    if ray.is_initialized():
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(board)


def read_board(board: Any) -> dict[str, Any] | None:
    """The board's state; None when the board does not answer within 2 seconds."""
    try:
        state: dict[str, Any] = ray.get(board.state.remote(), timeout=2)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return state


def begin_no_more(board: Any) -> None:
    """Tell the board that no more units begin, without waiting for it."""
    with contextlib.suppress(ray.exceptions.RayError):
        board.begin_no_more.remote()


def answer(call: Any, *, default: Any) -> Any:
    """The board's answer to a call; `default` when the board is gone or slow."""
    try:
        return ray.get(call, timeout=BOARD_SECONDS)
    except (ray.exceptions.RayError, TimeoutError):
        return default


def read_elsewhere(board: Any, unit: str, err: GemmaBatchError) -> None:
    """In a reading task: end this process, unless enough nodes have tried to read the unit.

    Ray repeats the task of a process that ended, and places it anew. An exception would not do: Ray
    gives the repeated task, and the next ones, to the process that raised it. `err` is why this
    node could not read.
    """
    here = ray.get_runtime_context().get_node_id()
    able = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= READ_CPUS]
    call = board.put_back.remote(unit, here, node_name(), str(err), len(able))
    if (pause := answer(call, default=None)) is not None:
        logger.warning("unit %s is read on another node: %s", unit, err)
        time.sleep(pause)
        os._exit(ELSEWHERE)


def node_name() -> str:
    """The name of this process's node for people: its address and its host name."""
    return f"{ray.util.get_node_ip_address()} ({os.uname().nodename})"
