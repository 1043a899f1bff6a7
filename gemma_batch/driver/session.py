"""The session: the work of one driver on one leased output, from the cluster to the report.

The driver leaves committed units alone and runs the other units. At the end the output holds one
outcome per row. All state is in the output and none in the driver: the driver can be killed at
any moment, and the next start finds everything it needs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from gemma_batch.cluster.address import starts_here
from gemma_batch.committing.errors_file import put_no_errors
from gemma_batch.committing.kept_types import kept_types
from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.origin import check_parts, check_receipts
from gemma_batch.committing.repair import settle_errors
from gemma_batch.committing.reuse import worked
from gemma_batch.driver.beforehand import check_engines, hardware_here
from gemma_batch.driver.budget import BudgetWatch
from gemma_batch.driver.follow import Follower, ReceiptLog
from gemma_batch.driver.interrupts import check_not_interrupted, interruptible
from gemma_batch.driver.lanes import Lane, LaneThreads
from gemma_batch.driver.reusing import checked_known
from gemma_batch.engines.base import engine_class
from gemma_batch.errors import (
    BudgetError,
    GemmaBatchError,
    LeaseError,
    StoppedError,
    StorageError,
)
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.asking import asked_of
from gemma_batch.planning.plan import Plan, rows_by_route
from gemma_batch.planning.pool import (
    Pool,
    fit_together,
    gpu_wish,
    make_pool,
    not_more_than,
    with_cpu_threads,
)
from gemma_batch.planning.settling import with_kept_types
from gemma_batch.reporting.accounts import RouteFacts, route_facts
from gemma_batch.reporting.alerts import load_alerts
from gemma_batch.reporting.looking import page_rows
from gemma_batch.reporting.page import save_page
from gemma_batch.reporting.progress import Progress, Snapshot
from gemma_batch.reporting.report import Report, RunFacts, make_report, save_report
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.spending import Spending, load_spending, save_spending
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.storage.patience import patient
from gemma_batch.texts import counted
from gemma_batch.units.unit import Unit

logger = logging.getLogger(__name__)


class Session:
    """The work of one driver on one leased output; `run` and `retry` share this class.

    `plan` is the plan as far as it is known: placed once the hardware is known. `lost` is set when
    another driver takes over the lease.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        show: Progress,
        lost: threading.Event,
        *,
        address: str | None,
        verbose: bool,
    ) -> None:
        self.store, self.show = store, show
        self.plan, self.lost = plan, lost
        self._address, self._verbose = address, verbose
        self._opened = contextlib.ExitStack()
        self._hardware: Hardware | None = None
        self._pools: dict[str, Pool] = {}
        self._log = ReceiptLog(store)
        self._follower: Follower | None = None
        self._spending = Spending()
        self._budget: BudgetWatch | None = None

    def close(self) -> None:
        """Leave the cluster and restore the process; Ray that the session started ends."""
        self._opened.close()

    def place(self, prompt_tokens: Mapping[str, float] | None = None) -> Hardware:
        """Connect to the cluster, look at its hardware and place every route on the hardware.

        `prompt_tokens` is the mean number of prompt tokens per row, by route. Raises `UserError`
        before Ray is started when this machine would need an engine that it does not have.
        """
        if starts_here(self._address):  # on a cluster, each node looks for its engine
            check_engines(self.plan.routes, hardware_here(self.plan.routes))
        from gemma_batch.cluster import membership, reach  # slow: after the look for engines
        from gemma_batch.cluster.nodes import cluster_hardware

        self.show.update(Snapshot(phase="connecting to Ray"))
        self._opened.enter_context(membership.joined(self._address, verbose=self._verbose))
        interruptible()  # replaces the signal handler that Ray's native code just set
        check_not_interrupted()
        self.plan = reach.shared(self.plan)
        wish = gpu_wish(self.plan.routes, self.plan.spec.policy.gpu_wait)
        self._hardware = cluster_hardware(wish, self.show.say)
        self.plan = self.plan.placed(self._hardware, prompt_tokens)
        # From here on it costs less to wait for a failing store than to stop the run.
        self._opened.enter_context(patient(self.plan.spec.policy.storage_patience))
        return self._hardware

    def finish(
        self, manifest: Manifest, every: Sequence[Unit], work: Sequence[Unit], started: float
    ) -> Report:
        """Run the units of `work` that are not committed, repair `errors/` and write the report.

        `every` holds all units of the run, for the report; `started` is in Unix seconds. Raises
        the errors of `run`. Before a `BudgetError`, `errors/` and the report are written too.
        """
        stopped: BudgetError | None = None
        ledger = Ledger(self.store)
        done = ledger.committed()
        self._settle(kept_types(self.store, manifest, done))
        known: Mapping[PartKey, Receipt] | None = check_parts(self.store, manifest, every, done)
        with_output = asked_of(self.plan.spec).shaped
        put_no_errors(self.store, self.plan.survey.keep_schema, with_output=with_output)
        remaining = ledger.remaining(work, done)
        self._open_budget(remaining, lambda: ledger.receipts(done, known).values())
        if remaining and self._budget is not None:
            stopped = self._budget.refused(remaining, _rows(work) - _rows(remaining))
        if remaining and stopped is None:
            try:
                self._run(manifest, work, remaining)
            except LeaseError:
                raise  # another driver writes here now
            except StoppedError:
                # The page shows why the run stopped, with the alert on it.
                receipts = ledger.receipts()
                self._save_page(
                    manifest, self._report(manifest, every, receipts, started), receipts
                )
                raise
            done, known = ledger.committed(), None
            if left := ledger.remaining(work, done):
                if self._budget is None or not self._budget.ending:
                    raise GemmaBatchError(
                        f"{len(left)} of {len(work)} units are not committed although every "
                        f"pipeline ended, for example {left[0].name!r}: start again, the rest is "
                        "safe"
                    )
                stopped = self._budget.stopped(_rows(work) - _rows(left), _rows(left))
        self.show.update(Snapshot(phase="writing the report"))
        self._log.save()
        receipts = ledger.receipts(done, known)
        check_receipts(manifest, receipts, done)
        survey = self.plan.survey
        settle_errors(
            self.store,
            manifest.by_number,
            every,
            receipts,
            survey.columns,
            survey.keep_schema,
            with_output=with_output,
            reads_all=survey.reads_all,
        )
        why = str(stopped) if stopped is not None else None
        report = self._report(manifest, every, receipts, started, why)
        save_report(self.store, report)
        self._save_page(manifest, report, receipts)
        if stopped is not None:
            stopped.report = report
            raise stopped
        return report

    def _open_budget(
        self, remaining: Sequence[Unit], receipts: Callable[[], Collection[Receipt]]
    ) -> None:
        """Read what the runs before have cost, and watch the budget where there is one."""
        before, budget = load_spending(self.store), self.plan.spec.policy.budget
        self._spending = replace(before, budget=budget)
        if remaining and budget.is_set:
            self._budget = BudgetWatch(budget, receipts(), before.workers)
        if self._spending != before:
            self._keep_spending()

    def _keep_spending(self) -> None:
        if self._budget is not None:
            self._spending = replace(self._spending, workers=dict(self._budget.meter.workers))
        try:
            save_spending(self.store, self._spending)
        except StorageError as err:
            logger.warning("what was spent of the budget was not kept in the output: %s", err)

    def _settle(self, types: Mapping[str, pa.DataType]) -> None:
        """Take the types of kept columns that all parts of the output have."""
        survey = with_kept_types(self.plan.survey, self.plan.spec, types)
        self.plan = replace(self.plan, survey=survey)

    def _report(
        self,
        manifest: Manifest,
        every: Sequence[Unit],
        receipts: Mapping[PartKey, Receipt],
        started: float,
        why: str | None = None,
    ) -> Report:
        facts = RunFacts(
            started=started,
            finished=time.time(),
            receipts=tuple(self._log.receipts),
            routes=self._route_facts(),
            nodes=tuple(self._follower.nodes.values()) if self._follower is not None else (),
            why=why,
        )
        return make_report(
            manifest,
            self.plan.spec.output.path,
            len(every),
            receipts,
            facts,
            alerts=load_alerts(self.store),
            spending=self._spending,
        )

    def _save_page(
        self, manifest: Manifest, report: Report, receipts: Mapping[PartKey, Receipt]
    ) -> None:
        try:
            shown = self._sample_rows(manifest)
            save_page(self.store, report, list(receipts.values()), manifest.spec, shown)
        except StorageError as err:
            logger.warning("report.html was not written, the report is complete: %s", err)

    def _sample_rows(self, manifest: Manifest) -> list[ShownRow] | None:
        try:
            return page_rows(self.store, manifest, self.plan.spec.report.samples)
        except GemmaBatchError as err:
            logger.warning("report.html has no sample rows, the report is complete: %s", err)
            return None

    def _route_facts(self) -> dict[str, RouteFacts]:
        """Per route: the engines of this run and the hardware limit for their work."""
        facts = {}
        for route in self.plan.routes:
            name = route.route.name
            mine = [r for r in self._log.receipts if r["route"] == name and worked(r, "answered")]
            if (pool := self._pools.get(name)) and mine and self._hardware is not None:
                facts[name] = route_facts(
                    route, pool.most, self._hardware, mine, at_start=pool.least
                )
        return facts

    # -- running ----------------------------------------------------------------------------

    def _run(self, manifest: Manifest, work: Sequence[Unit], remaining: Sequence[Unit]) -> None:
        from gemma_batch.cluster import run_actors
        from gemma_batch.cluster.nodes import say_who_holds_gpus

        hardware = self._hardware or self.place()
        if done := _rows(work) - _rows(remaining):
            self.show.say(
                f"resuming: {done:,} rows are committed already, {_rows(remaining):,} to go"
            )
        lanes = self._lanes(hardware, remaining, manifest)
        self._pools = {lane.job.route: lane.pool for lane in lanes}
        board = run_actors.make_board()
        receipts: queue.Queue[Receipt | BaseException | None] = queue.Queue()
        together = fit_together([(lane.job, lane.pool) for lane in lanes], hardware)
        groups = [lanes] if together else [[lane] for lane in lanes]
        totals = rows_by_route(work)
        before = {
            name: total - rows_by_route(remaining).get(name, 0) for name, total in totals.items()
        }
        threads = LaneThreads(manifest.by_number, board, receipts)
        follower = self._follower = Follower(
            self.plan.spec.policy,
            self._log,
            store=self.store,
            show=self.show,
            lost=self.lost,
            metrics=run_actors.make_metrics(self.plan.spec.name),
            read_board=lambda: run_actors.read_board(board),
            totals=totals,
            before=before,
            budget=self._budget,
            begin_no_more=threads.begin_no_more,
            keep_spending=self._keep_spending,
        )
        gpus = sum(lane.pool.least * lane.pool.num_gpus for lane in groups[0])
        say_who_holds_gpus(gpus, self.show.say)
        try:
            for group in groups:
                threads.start(group)
                follower.follow(len(group), receipts)
                if self._budget is not None and self._budget.ending:
                    break
        finally:
            threads.stop()
            run_actors.end_board(board)
            self._log.save()
            if self._budget is not None:
                self._keep_spending()

    def _lanes(
        self, hardware: Hardware, remaining: Sequence[Unit], manifest: Manifest
    ) -> list[Lane]:
        """One lane per route that has units left, the lane with the most work first.

        Routes that the manifest sorts get the order `prefix` where the spec says `auto`.
        """
        sort = manifest.sorted_routes
        known = checked_known(self.store, manifest)
        if self._budget is not None:
            self._budget.expect(
                {
                    route.route.name: 1 / route.rows_per_second
                    for route in self.plan.routes
                    if engine_class(route.resources.engine).computes
                }
            )
        lanes = []
        for route in self.plan.routes:
            units = [unit for unit in remaining if unit.route == route.route.name]
            if units:
                job = replace(self.plan.job(route), run=manifest.run, known=known)
                if job.order == "auto" and job.route in sort:
                    job = replace(job, order="prefix")
                if job.order == "prefix":
                    job = replace(job, engine=replace(job.engine, keep_prefixes=True))
                pool = not_more_than(make_pool(route, hardware), len(units))
                if self._budget is not None and (paid := self._budget.engines(units)) < pool.most:
                    pool = not_more_than(pool, paid)
                    self.show.say(
                        f"route {job.route!r} starts {counted(pool.most, 'engine')} at most: the "
                        "rest of the budget would not pay for the start of more and a unit each"
                    )
                job = with_cpu_threads(job, hardware, pool)
                lanes.append(Lane(plan=route, job=job, pool=pool, units=units))

        def work(lane: Lane) -> float:
            return sum(unit.expected for unit in lane.units) / lane.plan.rows_per_second

        return sorted(lanes, key=work, reverse=True)


def _rows(units: Sequence[Unit]) -> int:
    return sum(unit.expected for unit in units)
