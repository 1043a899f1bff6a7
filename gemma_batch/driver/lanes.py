"""The lanes of a run: one thread per route, which consumes the pipeline of the route (driver)."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemma_batch.errors import GemmaBatchError
from gemma_batch.planning.pool import Pool, not_more_than
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.units.unit import Shards, Unit

if TYPE_CHECKING:
    from gemma_batch.cluster.pipeline import RouteRun
    from gemma_batch.units.route_job import RouteJob

logger = logging.getLogger(__name__)
END_SECONDS = 10.0  # how long to wait for the threads of stopped pipelines to end
STOP_SECONDS = 0.5  # the pause before a pipeline that did not end is stopped again


@dataclass(slots=True, kw_only=True)
class Lane:
    """One route's share of the run: its plan, job and pool, and the units that are left."""

    plan: RoutePlan
    job: RouteJob
    pool: Pool
    units: list[Unit]


class LaneThreads:
    """The threads of a run's lanes.

    A lane puts its receipts into `items`, then None when it has ended, or the error that it ended
    with. `shards` are the shards of the run by number.
    """

    def __init__(self, shards: Shards, board: Any, items: queue.Queue[Any]) -> None:
        self._shards, self._board, self._items = shards, board, items
        self._stop, self._no_more = threading.Event(), threading.Event()
        self._running: list[RouteRun] = []
        self._threads: list[threading.Thread] = []

    def start(self, lanes: Sequence[Lane]) -> None:
        """Start a thread for each lane."""
        from gemma_batch.cluster.membership import LANE

        for lane in lanes:
            name = f"{LANE}-{lane.job.route}"
            thread = threading.Thread(target=self._drive, name=name, args=(lane,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def begin_no_more(self) -> None:
        """Start no more pipelines for units that come back, and tell the workers."""
        from gemma_batch.cluster.run_actors import begin_no_more

        self._no_more.set()
        begin_no_more(self._board)

    def stop(self) -> None:
        """Stop every pipeline, all at once, and wait for the threads of the lanes.

        The driver leaves the cluster after this, in `END_SECONDS` at the latest.
        """
        self._stop.set()
        deadline = time.monotonic() + END_SECONDS
        stops: dict[int, threading.Thread] = {}
        while True:
            for number, run in enumerate(list(self._running)):
                # Again, because a pipeline may have begun only now.
                if number not in stops or not stops[number].is_alive():
                    stops[number] = threading.Thread(target=_stop, args=(run,), daemon=True)
                    stops[number].start()
            pause = time.monotonic() + STOP_SECONDS
            for thread in (*stops.values(), *self._threads):
                thread.join(max(0.0, min(pause, deadline) - time.monotonic()))
            alive = any(thread.is_alive() for thread in (*stops.values(), *self._threads))
            if not alive or time.monotonic() >= deadline:
                return

    def _drive(self, lane: Lane) -> None:
        from gemma_batch.cluster.pipeline import RouteRun

        try:
            units = lane.units
            while units and not self._stop.is_set():
                pool = not_more_than(lane.pool, len(units))
                run = RouteRun(lane.job, self._shards, units, pool, self._board)
                self._running.append(run)
                for receipt in run.receipts():
                    self._items.put(receipt)
                    if self._stop.is_set():
                        return
                if self._no_more.is_set():
                    break
                if len(run.returned) == len(units):
                    cause = next(iter(run.returned.values()))
                    raise GemmaBatchError(f"route {lane.job.route!r} stopped: {cause}")
                units = [unit for unit in units if unit.path in run.returned]
            self._items.put(None)
        except BaseException as err:
            self._items.put(err)


def _stop(run: RouteRun) -> None:
    try:
        run.stop()
    except Exception:  # of a cluster that is lost; it is no more than the end of a pipeline
        logger.debug("a pipeline was not stopped in order", exc_info=True)
