"""The station: one worker's engine and its place in the cluster (GPU actor).

A worker is unfit while its engine does not start, the storage does not answer on its node, or the
node does not share the job's local paths. An unfit worker gives its units away (see `relay.py`).
When another node has room for the actor, the process ends, and Ray starts it anew there. Otherwise
the station tries again after a pause that the board sets (see `handover.py`), or never.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from gemma_batch.answering.host import Host
from gemma_batch.cluster.reach import missing_here
from gemma_batch.cluster.relay import Relay
from gemma_batch.cluster.run_actors import ELSEWHERE, node_name
from gemma_batch.errors import StorageError
from gemma_batch.units.route_job import RouteJob

logger = logging.getLogger(__name__)
NEVER = float("inf")


class Station:
    """Keeps the engine of the worker named `worker`. Any thread may call the methods.

    `make` returns a host whose engine loads; the station passes the function to call when the
    engine is ready.
    """

    def __init__(
        self, job: RouteJob, worker: str, relay: Relay, make: Callable[[Callable[[], None]], Host]
    ) -> None:
        self._job, self._worker, self._relay, self._make = job, worker, relay, make
        self._turn = threading.Lock()
        self._host: Host | None = None
        self._unfit: str | None = None
        self._again = NEVER
        self._was_ready = False
        self._closed = False

    def open(self, *, alone: bool) -> None:
        """Start the engine, unless this node lacks the job's paths or the board knows a reason.

        A worker that is `alone` has no board.
        """
        if not alone:
            cause = self._relay.tell("join", self._worker, route=self._job.route, **this_node())
            if cause is not None:
                self._unfit = str(cause)
                self._move()
                self._rest(self._relay.tell("pause_of", self._worker))
                return
        self._start()

    @property
    def host(self) -> Host | None:
        """The host of the engine; None while there is no engine."""
        return self._host

    @property
    def unfit(self) -> str | None:
        """The reason why the worker has to give its units away; None when it is fit."""
        return self._unfit

    def failed(self, cause: str, *, engine: Host | None) -> None:
        """The worker cannot go on for this cause. `engine` is the host whose engine failed."""
        with self._turn:
            stale = engine is not None and engine is not self._host
            if self._unfit is not None or stale or self._closed:
                return
            self._unfit = cause
            if engine is not None:
                self._host, self._was_ready = None, False
        logger.warning("this worker gives its units to other workers: %s", cause)
        self._rest(self._relay.tell("unfit", self._worker, cause))
        if engine is not None:
            threading.Thread(target=engine.close, name="close", daemon=True).start()
        self._move()

    def try_again(self) -> None:
        """When the pause is over: start a new engine, or use the storage again."""
        if self._unfit is None or time.monotonic() < self._again or self._closed:
            return
        self._again = NEVER
        self._start()

    def rejoin(self) -> None:
        """Tell a new board what the old one knew. The old board was lost with its node."""
        self._relay.tell("join", self._worker, route=self._job.route, **this_node())
        if self._unfit is not None:
            self._relay.tell("unfit", self._worker, self._unfit)
        elif self._was_ready:
            self._relay.tell("ready", self._worker)

    def close(self) -> None:
        """End the engine's processes."""
        self._closed = True
        self._relay.leave()
        if self._host is not None:
            self._host.close()

    def _start(self) -> None:
        """Start the engine, or use the engine that runs, unless this node lacks the job's paths."""
        try:
            cause = missing_here(self._job.landmarks)
        except StorageError as err:
            cause = str(err)
        self._unfit = None
        if cause is not None:
            self.failed(cause, engine=None)
        elif self._host is None:
            self._host = self._make(self._ready)
        else:
            self._ready()

    def _ready(self) -> None:
        self._unfit, self._again, self._was_ready = None, NEVER, True
        self._relay.tell("ready", self._worker)

    def _rest(self, pause: float | None) -> None:
        self._again = NEVER if pause is None else time.monotonic() + pause

    def _move(self) -> None:
        """End this process when another node has room and nothing speaks against that node."""
        gpus = self._job.devices if self._job.engine.device == "gpu" else 0.0
        room = nodes_with_room(gpus)
        if room and self._relay.tell("may_move", self._worker, room):
            logger.warning("this worker's process ends, so that Ray starts it on another node")
            os._exit(ELSEWHERE)


def this_node() -> dict[str, str]:
    """The actor and the node of this process: Ray's ids, and the node's name for people."""
    context = ray.get_runtime_context()
    return {
        "actor": context.get_actor_id() or "",
        "node": context.get_node_id(),
        "name": node_name(),
    }


def nodes_with_room(gpus: float) -> list[str]:
    """The ids of other nodes with so many free GPUs; for 0 GPUs, of nodes with a free CPU."""
    here = ray.get_runtime_context().get_node_id()
    wanted = {"GPU": gpus} if gpus else {"CPU": 1.0}
    free: dict[str, dict[str, Any]] = available_resources_per_node()
    return [
        node
        for node, resources in free.items()
        if node != here and all(resources.get(k, 0) >= v for k, v in wanted.items())
    ]
