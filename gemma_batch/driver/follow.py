"""Follows a run: the driver's loop while pipelines run.

The loop takes in receipts and the workers' live numbers. It gives out progress, metrics and
alerts. It hands out no work. The loop ends when every lane has ended, or when the budget is spent
and no worker holds a unit. It raises when a lane failed, when the breaker or an alert stops the
run, when the lease was lost, or when a signal asked the run to stop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gemma_batch.committing.ledger import Receipt, save_receipts
from gemma_batch.committing.reuse import REUSED, worked
from gemma_batch.driver.breaker import Breaker
from gemma_batch.driver.budget import BudgetWatch
from gemma_batch.driver.interrupts import check_not_interrupted
from gemma_batch.errors import LeaseError, StoppedError, StorageError
from gemma_batch.reporting.alerts import Watcher, save_alert
from gemma_batch.reporting.metrics import RunMetrics
from gemma_batch.reporting.progress import Progress, Snapshot
from gemma_batch.spec import Policy
from gemma_batch.storage.interfaces import Store

logger = logging.getLogger(__name__)
TICK = 0.5
LOOK_SECONDS = 1.0
WAITING_SECONDS = 180.0
NODE_SECONDS = 300.0  # the least time between two lines about one node
KEEP_SECONDS = 60.0  # between two copies of the spending in the output
RECEIPTS_KEPT = 200  # receipts between two copies of them in the output
_NOTHING = object()


class ReceiptLog:
    """The receipts of one run. Copies of them go to the output from time to time."""

    def __init__(self, store: Store) -> None:
        self.receipts: list[Receipt] = []
        self._store, self._saved = store, 0

    def add(self, receipt: Receipt) -> None:
        """Add a receipt; save copies when enough receipts are new."""
        self.receipts.append(receipt)
        if len(self.receipts) - self._saved >= RECEIPTS_KEPT:
            self.save()

    def save(self) -> None:
        """Copy the new receipts to the output.

        A failing store is only logged, because the parts hold the same receipts.
        """
        try:
            save_receipts(self._store, self.receipts[self._saved :])
        except StorageError as err:
            logger.warning("copies of receipts were not saved, parts hold them anyway: %s", err)
        else:
            self._saved = len(self.receipts)


class Follower:
    """Follows one run; call `follow` once for each group of lanes.

    `totals` are the planned rows by route. `before` are the rows by route that were committed when
    the run started. `lost` is set when the lease is lost. `read_board` returns the board's state,
    or None while there is no state. `budget` watches the cost, and `begin_no_more` tells lanes and
    workers to begin no more units. `keep_spending` is called from time to time.
    """

    def __init__(
        self,
        policy: Policy,
        log: ReceiptLog,
        *,
        store: Store,
        show: Progress,
        lost: threading.Event,
        metrics: RunMetrics,
        read_board: Callable[[], Mapping[str, Any] | None],
        totals: Mapping[str, int],
        before: Mapping[str, int],
        budget: BudgetWatch | None = None,
        begin_no_more: Callable[[], None] = lambda: None,
        keep_spending: Callable[[], None] = lambda: None,
    ) -> None:
        self._budget, self._begin_no_more = budget, begin_no_more
        self._keep_spending, self._kept = keep_spending, time.monotonic()
        self._log, self._store, self._show, self._lost = log, store, show, lost
        self._metrics, self._read_board = metrics, read_board
        self._totals, self._before = totals, before
        self._breaker, self._watcher = Breaker(policy.stop), Watcher(policy.alerts)
        done = sum(before.values())
        self._snapshot = Snapshot(
            phase="starting engines", rows=sum(totals.values()), committed=done, done=done
        )
        self._hinted = False
        self.nodes: dict[str, dict[str, Any]] = {}  # by name: the nodes with trouble
        self._told: dict[str, float] = {}

    def follow(self, lanes: int, items: queue.Queue[Any]) -> None:
        """Follow until `lanes` lanes have ended, or the budget is spent and every unit is done.

        A lane puts its receipts into `items`, then None when it has ended, or the error that it
        ended with. Raises such an error, `StoppedError`, `LeaseError` or KeyboardInterrupt.
        """
        ended, last, begun = 0, 0.0, time.monotonic()
        while ended < lanes and not (self._budget is not None and self._budget.over):
            check_not_interrupted()
            if self._lost.is_set():
                raise LeaseError("the lease of this output was taken over by another driver")
            try:
                item = items.get(timeout=TICK)
            except queue.Empty:
                item = _NOTHING
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            elif item is not _NOTHING:
                self._log.add(item)
                self._snapshot.committed += item["rows"]
                self._breaker.receipt(item)
                if self._budget is not None:
                    self._budget.meter.receipt(item)
            if time.monotonic() - last > LOOK_SECONDS or ended == lanes:
                last = time.monotonic()
                self._look(waited=last - begun)

    def _look(self, *, waited: float) -> None:
        snapshot, state = self._snapshot, self._read_board()
        if state is not None:
            self._breaker.engines(state)
            fill(snapshot, state["workers"], self._log.receipts, self._totals, self._before)
            self._tell_of_nodes(state["nodes"])
            self._alert(state["workers"])
            self._watch_budget(state)
            if not (self._hinted or state["workers"] or waited < WAITING_SECONDS):
                self._hinted = True
                self._show.say(
                    f"no worker has started for {WAITING_SECONDS / 60:g} minutes: is there "
                    "room for an engine on the cluster? `ray status` shows what it has"
                )
        self._breaker.moving((snapshot.committed, snapshot.done, snapshot.engines))
        self._metrics.update(snapshot)
        self._show.update(snapshot)

    def _watch_budget(self, state: Mapping[str, Any]) -> None:
        if self._budget is None:
            return
        known = self._budget.ending
        self._budget.look(state)
        if self._budget.ending:
            if not known:
                self._snapshot.phase = "finishing the units that have begun"
                self._snapshot.ending = True
                self._show.say(
                    f"the budget is almost spent: {self._budget.spent}. Engines finish the units "
                    "that they have begun, and begin no more"
                )
            self._begin_no_more()  # again and again: a new board may know nothing of it
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self._kept = time.monotonic()
            self._keep_spending()

    def _tell_of_nodes(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        for node in nodes:
            name, now = node["node"], time.monotonic()
            known = self.nodes.get(name)
            self.nodes[name] = dict(node)
            new = known is None or known["cause"] != node["cause"]
            if new and now - self._told.get(name, -NODE_SECONDS) >= NODE_SECONDS:
                self._told[name] = now
                self._show.say(
                    f"trouble on node {name}: {node['cause']}. Its units go to other nodes"
                )

    def _alert(self, workers: Mapping[str, Mapping[str, Any]]) -> None:
        ends = []
        for alert in self._watcher.look(self._snapshot, workers):
            self._show.say(f"alert: {alert.text}")
            self._metrics.alert(alert.name)
            try:
                save_alert(self._store, alert)
            except StorageError as err:
                logger.warning("an alert was not kept in the output: %s", err)
            if (text := self._watcher.stop_text(alert)) is not None:
                ends.append(text)
        if ends:
            raise StoppedError(ends[0])


def fill(
    snapshot: Snapshot,
    numbers: Mapping[str, Mapping[str, Any]],
    receipts: Sequence[Receipt],
    totals: Mapping[str, int],
    before: Mapping[str, int],
) -> None:
    """Update a snapshot from the receipts and the workers' live numbers (`numbers`, by worker)."""
    # The numbers of a worker that died stay on the board, and they count rows that the worker
    # never committed. Receipts may also come before the board's numbers: never show fewer rows
    # than are committed.
    workers = list(numbers.values())
    committed = {name: before.get(name, 0) for name in totals}
    live = dict(before)
    reused = 0
    for receipt in receipts:
        committed[receipt["route"]] += receipt["rows"]
        if known := receipt.get(REUSED, 0):
            reused += known
            live[receipt["route"]] = live.get(receipt["route"], 0) + known
    for worker in workers:
        live[worker["route"]] = live.get(worker["route"], 0) + worker["answered"] + worker["failed"]
    routes = {
        name: (min(total, max(committed[name], live.get(name, 0))), total)
        for name, total in totals.items()
    }
    failures: dict[str, int] = {}
    for worker in workers:
        for code, count in worker["failures"].items():
            failures[code] = failures.get(code, 0) + count
    snapshot.routes = routes
    snapshot.done = sum(done for done, _ in routes.values())
    snapshot.reused = reused
    snapshot.failures = failures
    snapshot.engines = sum(1 for worker in workers if worker["engine_starts"])
    snapshot.completion_tokens = max(
        sum(worker["completion_tokens"] for worker in workers),
        sum(worked(receipt, "completion_tokens") for receipt in receipts),
    )
    if snapshot.engines and snapshot.phase == "starting engines":
        snapshot.phase = "running"
