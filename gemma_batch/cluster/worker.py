"""The worker: answers and commits several units at a time, with one engine (GPU actor).

Ray Data calls the worker in several threads, one unit per call. The feed of the engine runs on an
event loop in another thread, so nothing that Ray does on these threads can delay the engine. The
engine starts to load while Ray CPU tasks still read the first units. Only receipts leave this
process.

A worker whose engine does not start, or that cannot reach the storage, becomes unfit: it gives the
units that Ray Data brings to other workers (see `relay.py`), and tries again after a pause.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from gemma_batch.answering.host import Host
from gemma_batch.answering.host_memory import memory_share
from gemma_batch.answering.shapes import shape_of
from gemma_batch.answering.stats import FeedStats, row_times
from gemma_batch.cluster.board import Case
from gemma_batch.cluster.handover import NO_MORE, undone
from gemma_batch.cluster.reach import require_output
from gemma_batch.cluster.relay import Relay
from gemma_batch.cluster.station import Station
from gemma_batch.committing.commit import commit_unit, committed_receipt
from gemma_batch.errors import (
    EngineError,
    FailureCode,
    GemmaBatchError,
    StorageError,
    StorageFullError,
)
from gemma_batch.reporting.metrics import Metrics
from gemma_batch.rows import Failure, Outcome, Request
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.patience import set_patience
from gemma_batch.units.payload import Prepared, decode, decode_head
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Unit

logger = logging.getLogger(__name__)
WARM_ROWS = 16  # of a try, that an engine answers before its speed is measured
REPORT_SECONDS = 1.0  # the pause between two reports to the board and the metrics
REPLY_SECONDS = 0.5  # the longest wait for the board's reply to a report
CONDEMNED = "the worker's process died with this row alone in flight"


class Gate:
    """Lets units in side by side, except a unit that has to be alone in the process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone_wanted = 0, 0

    @contextlib.contextmanager
    def pass_through(self, *, alone: bool) -> Iterator[None]:
        """Be inside with other units, or `alone`. While an `alone` unit waits, no unit gets in."""
        with self._changed:
            if alone:
                self._alone_wanted += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._alone_wanted -= 1
                self._inside = -1
            else:
                self._changed.wait_for(lambda: self._inside >= 0 and not self._alone_wanted)
                self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0 if alone else self._inside - 1
                self._changed.notify_all()


def _ask_for_normal_priority() -> None:
    # Ray starts its workers with niceness 15, a low priority. The process that keeps a GPU busy, or
    # that is the engine on a CPU, must not wait for every other process of the host. Only root may
    # raise the priority.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


class Worker:
    """One replica of one route: the class that Ray Data calls in the pipeline's last stage.

    Without a `board`, nothing is reported.
    """

    def __init__(self, job: RouteJob, board: Any = None) -> None:
        set_patience(job.storage_patience)
        self._born, self._began = time.time(), time.monotonic()
        self._job = job
        self._price = None if job.price is None else job.price * job.devices
        self._store = open_store(job.output)
        self._board = board
        _ask_for_normal_priority()
        self._name = f"{os.uname().nodename}-{uuid.uuid4().hex[:8]}"
        self._relay = Relay(board, self._name)
        self._shape = shape_of(job.sampling, job.asked)
        self._gate = Gate()
        self._closed, self._no_more = threading.Event(), threading.Event()
        self._totals = FeedStats()
        self._station = Station(job, self._name, self._relay, self._make_host)
        self._station.open(alone=board is None)
        self._timed_from = 0.0
        self._metrics: Metrics | None = None
        if board is not None:
            import ray.util.metrics

            self._metrics = Metrics(
                ray.util.metrics,
                run=job.name,
                route=job.route,
                replica=self._name,
                devices=job.devices,
                price=job.price,
            )
            threading.Thread(target=self._report, name="report", daemon=True).start()

    def _make_host(self, on_ready: Callable[[], None]) -> Host:
        host = Host(
            self._job.engine,
            in_flight=self._job.in_flight,
            policy=self._job.policy,
            order=self._job.order,
            check=self._shape.check,
            retries=self._job.asked.answer.retries,
            on_ready=on_ready,
            stats=self._totals,
        )
        if self._no_more.is_set():
            host.begin_no_more()
        return host

    def _begin_no_more(self) -> None:
        """Give back the units that have not begun, now and later."""
        self._no_more.set()
        if (host := self._station.host) is not None:
            host.begin_no_more()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take a unit (one row), answer and commit it, and return one row with `receipt` as JSON.

        When no worker could answer or commit the unit, the JSON is `{"error": ...}`, and "returned"
        is true in it when another pipeline may do the unit.
        """
        receipts = [
            json.dumps(self._run_unit(unit.as_py(), rows))
            for unit, rows in zip(batch["unit"], batch["rows"], strict=True)
        ]
        return pa.table({"receipt": pa.array(receipts, pa.string())})

    def _run_unit(self, head: str, rows: Any) -> dict[str, Any]:
        if not rows.is_valid:
            return dict(json.loads(head))
        outcome = self._try_unit(head, rows.as_buffer())
        if isinstance(outcome, str):
            unit = decode_head(head)
            if outcome == NO_MORE:
                return undone(unit.path)
            return self._relay.give(unit, head, rows.as_buffer(), outcome)
        # Ray Data ends a worker that has no call, so units of others are run inside of this call.
        if not self._relay.take(self._try_unit):
            self._station.rejoin()
        return outcome

    def _try_unit(self, head: str, rows: pa.Buffer) -> dict[str, Any] | str:
        """The receipt of the unit, or the reason why this worker cannot answer or commit it.

        The reason is "" when another worker has the unit, `NO_MORE` when the unit was not begun.
        """
        unit, host = decode_head(head), self._station.host
        if self._station.unfit is not None or host is None:
            return self._station.unfit or "the engine of this worker has ended"
        case = self._relay.tell("begin", self._name, unit.path) or Case()
        if case.elsewhere:
            return ""
        if case.refused:
            self._begin_no_more()
            return NO_MORE
        try:
            with self._gate.pass_through(alone=case.careful):
                receipt = self._outcomes(unit, case, host, head, rows)
        except StorageFullError as err:
            receipt = {"error": str(err)}  # ends the run: no other node has room there
        except (EngineError, StorageError) as err:
            self._relay.tell("let_go", unit.path)
            self._station.failed(str(err), engine=host if isinstance(err, EngineError) else None)
            return str(err)
        except GemmaBatchError as err:
            receipt = {"error": str(err)}
        if receipt is None:
            self._relay.tell("let_go", unit.path)
            return NO_MORE
        self._relay.tell("end", unit.path)
        return receipt

    def _outcomes(
        self, unit: Unit, case: Case, host: Host, head: str, rows: pa.Buffer
    ) -> dict[str, Any] | None:
        """The receipt of the unit; None when the unit was not begun."""
        started = time.time()
        require_output(self._job.landmarks)
        # When a worker dies between the commit and the receipt, Ray gives out the unit again.
        done = committed_receipt(self._store, unit)
        if done is not None:
            return done
        if self._no_more.is_set():
            return None
        if case.careful:
            prepared = decode(head, rows)
            answers = self._carefully(unit, case, host, prepared.requests)
        else:
            loaded: list[Prepared] = []
            first: dict[int, Outcome] = {}

            def load() -> list[Request]:
                loaded.append(decode(head, rows))
                requests = loaded[0].requests
                if not self._job.timed or self._timed_from or not requests:
                    return requests
                # An engine's first steps are slow, and are not to be taken for its speed. No other
                # unit is loaded while this one is.
                first.update(host.run(requests[:WARM_ROWS]))
                self._timed_from = time.time()
                return requests[WARM_ROWS:]

            given = host.run_when_needed(load)
            if given is None:
                return None
            answers, (prepared,) = {**given, **first}, loaded
        outcomes: dict[int, Outcome] = {**prepared.failures, **answers}
        for failure in prepared.failures.values():
            self._totals.count(failure)
        stats = self._totals
        facts = {
            "started": started,
            "worker": self._name,
            "born": self._born,
            "engine_ready": stats.ready_at,
            "starved": round(stats.starved_seconds, 3),
            "recovering": round(stats.recovering_seconds, 3),
            "engine_starts": stats.engine_starts,
            "device": self._job.engine.device,
            "devices": self._job.devices,
            "price": self._price,
        }
        if self._job.timed:
            facts["times"] = row_times(outcomes)
            facts["timed_from"] = self._timed_from
            facts["slots"] = self._job.engine.max_num_seqs
        require_output(self._job.landmarks)
        receipt = commit_unit(self._store, self._job, prepared, outcomes, facts, shape=self._shape)
        if self._metrics is not None:
            self._metrics.unit(time.time() - started)
        return receipt

    def _carefully(
        self, unit: Unit, case: Case, host: Host, requests: list[Request]
    ) -> dict[int, Outcome]:
        """Run the rows of a unit with which workers died, in the groups that the board wants."""
        logger.warning("unit %s saw %d workers die: taken apart", unit.name, case.deaths)
        outcomes: dict[int, Outcome] = {}
        for number in case.condemned:
            outcomes[number] = Failure(FailureCode.ENGINE_CRASH.value, CONDEMNED, case.deaths)
            self._totals.count(outcomes[number])
        groups = [set(group) for group in case.groups]
        # The last group has all other rows: all rows of the unit at first, later the rows that ran
        # before and are known to be harmless.
        groups.append({r.number for r in requests}.difference(case.condemned, *groups))
        for group in groups:
            if mine := [request for request in requests if request.number in group]:
                self._relay.tell("trying", unit.path, [request.number for request in mine])
                outcomes.update(host.run(mine))
        return outcomes

    def _report(self) -> None:
        import ray

        while not self._closed.wait(REPORT_SECONDS):
            host = self._station.host
            if self._metrics is not None:
                measured = host.engine_numbers() if host is not None else {}
                self._metrics.update(self._totals, time.time() - self._born, measured)
            numbers = {**self._totals.numbers(), "memory_share": memory_share()}
            numbers.update(self._spending())
            try:
                told = self._board.put.remote(self._name, numbers)
                if ray.wait([told], timeout=REPLY_SECONDS)[0] and ray.get(told):
                    self._begin_no_more()
            except ray.exceptions.RayError as err:
                logger.debug("progress was not reported: %s", err)
            self._station.try_again()

    def _spending(self) -> dict[str, Any]:
        """The route, and what this worker holds: for how long, and since when with an engine."""
        ready = self._totals.ready_at
        return {
            "route": self._job.route,
            "devices": self._job.devices,
            "price": self._price,
            "held_seconds": time.monotonic() - self._began,
            "ready_seconds": max(0.0, time.time() - ready) if ready else 0.0,
        }

    def close(self) -> None:
        """End the engine's processes."""
        self._closed.set()
        self._station.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed") and not self._closed.is_set():
            self.close()
