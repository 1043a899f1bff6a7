"""Runs a job: plan, lease, manifest, pipelines, receipts, report.

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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from gemma_batch.cluster.address import check_address
from gemma_batch.committing.kept_types import kept_types, pack_types
from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.committing.manifest import Manifest, check_same, create_manifest
from gemma_batch.committing.origin import check_parts, check_receipts
from gemma_batch.committing.outlook import open_output, settled_run
from gemma_batch.committing.repair import settle_errors
from gemma_batch.driver.clean import sweep
from gemma_batch.driver.follow import Follower, ReceiptLog
from gemma_batch.driver.guard import interruptible, leased
from gemma_batch.driver.lanes import Lane, LaneThreads
from gemma_batch.driver.sorting import Stage
from gemma_batch.errors import GemmaBatchError, LeaseError, StoppedError, StorageError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.asking import asked_of
from gemma_batch.planning.estimate import estimate_routes, totals
from gemma_batch.planning.foresight import check_usable, warnings
from gemma_batch.planning.plan import Plan, check_not_empty, make_plan, rows_by_route
from gemma_batch.planning.pool import (
    Pool,
    fit_together,
    gpu_wish,
    make_pool,
    not_more_than,
    with_cpu_threads,
)
from gemma_batch.planning.sample import sample_routes
from gemma_batch.planning.settling import settled, with_kept_types
from gemma_batch.prompts.prefixes import WORTH_SHARE
from gemma_batch.reporting.accounts import RouteFacts, route_facts
from gemma_batch.reporting.alerts import load_alerts
from gemma_batch.reporting.page import save_page
from gemma_batch.reporting.progress import LogProgress, Progress, Snapshot
from gemma_batch.reporting.report import Report, RunFacts, make_report, save_report
from gemma_batch.spec import JobSpec
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.storage.patience import patient
from gemma_batch.units.unit import Unit

logger = logging.getLogger(__name__)


def run(
    spec: JobSpec,
    *,
    address: str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Report:
    """Run a job to its end, or go on with a job that was stopped.

    `address` is the address of a Ray cluster (default: the cluster that this process is connected
    to, then RAY_ADDRESS, then a new local cluster). The caller's Ray stays up. What the run opens
    or changes in the process is closed or restored at its end.

    Raises `UserError` before any engine is started, `LeaseError` when another driver works on the
    output, `StoppedError` when the breaker or an alert stops the run, and `GemmaBatchError` when
    engines or storage gave up. On Ctrl-C or SIGTERM everything is stopped and KeyboardInterrupt is
    raised. Committed parts stay in each of these cases.
    """
    check_address(address)
    show = progress or LogProgress(spec.policy.progress_seconds)
    started = time.time()
    show.update(Snapshot(phase="planning"))
    plan = make_plan(spec)
    for note in plan.notes:
        show.say(note)
    store = open_output(plan.spec.output.path, writes=True)
    manifest = settled_run(store)
    if manifest is not None:
        plan = plan.as_recorded(manifest.fingerprint.fields)
        check_same(manifest, plan.fingerprint(), store.url)
    with leased(store, show) as lost:
        session = Session(plan, store, show, lost, address=address, verbose=verbose)
        try:
            if manifest is None:
                manifest = session.create_manifest()
            sweep(store, manifest, show)
            units = manifest.units(store)
            return session.finish(manifest, units, units, started)
        finally:
            session.close()


class Session:
    """The work of one driver on one leased output; `run` and `retry` share this class."""

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
        self._plan, self._lost = plan, lost
        self._address, self._verbose = address, verbose
        self._opened = contextlib.ExitStack()
        self._hardware: Hardware | None = None
        self._pools: dict[str, Pool] = {}
        self._log = ReceiptLog(store)
        self._follower: Follower | None = None

    def close(self) -> None:
        """Leave the cluster and restore the process; Ray that the session started ends."""
        self._opened.close()

    def _place(self, prompt_tokens: Mapping[str, float] | None = None) -> Hardware:
        """Connect to the cluster, look at its hardware and place every route on the hardware.

        `prompt_tokens` is the mean number of prompt tokens per row, by route.
        """
        from gemma_batch.cluster import membership, reach
        from gemma_batch.cluster.nodes import cluster_hardware

        self.show.update(Snapshot(phase="connecting to Ray"))
        self._opened.enter_context(membership.joined(self._address, verbose=self._verbose))
        interruptible()  # replaces the signal handler that Ray just set, which exits with 15
        self._plan = reach.shared(self._plan)
        wish = gpu_wish(self._plan.routes, self._plan.spec.policy.gpu_wait)
        self._hardware = cluster_hardware(wish, self.show.say)
        self._plan = self._plan.placed(self._hardware, prompt_tokens)
        # From here on it costs less to wait for a failing store than to stop the run.
        self._opened.enter_context(patient(self._plan.spec.policy.storage_patience))
        return self._hardware

    def create_manifest(self) -> Manifest:
        """Cut the input into units, sort routes where that pays, and put the manifest.

        Raises `InputError` when the input has no rows, or when every sampled row fails.
        """
        samples = sample_routes(self._plan)  # the same samples as in the command `plan`
        check_usable(samples, self._plan.spec.policy)
        from gemma_batch.cluster.exchange import exchange

        hardware = self._place({name: sample.mean_tokens for name, sample in samples.items()})
        self.show.update(Snapshot(phase="settling the types of columns"))
        survey = settled(self._plan.survey, self._plan.spec)
        for note in survey.notes[len(self._plan.survey.notes) :]:
            self.show.say(note)
        self._plan = replace(self._plan, survey=survey)
        self.show.update(Snapshot(phase="cutting the input into units"))
        replicas = max(make_pool(route, hardware).most for route in self._plan.routes)
        units = self._plan.units(replicas, self.show.say)
        check_not_empty(units)
        rows = rows_by_route(units)
        for warning in warnings(samples, self._plan.spec.policy, sum(rows.values())):
            self.show.say(warning)
        answer = self._plan.spec.sampling.max_tokens
        sort = Stage(self._plan, samples, hardware, exchange, self.show)
        units, staged, gains = sort.routes(units)
        if self._lost.is_set():  # then the copies may be gone: a manifest must not name them
            raise LeaseError("the lease of this output was taken over by another driver")
        predicted = totals(
            estimate_routes(self._plan.routes, samples, rows, hardware, output_tokens=answer)
        )
        manifest = create_manifest(
            self.store,
            name=self._plan.spec.name,
            fingerprint=self._plan.fingerprint(),
            shards=self._plan.survey.shards,
            units=units,
            spec=self._plan.spec.to_dict(),
            facts={
                "rows_by_route": rows,
                "predicted": predicted if predicted["routes"] else None,
                "sort": [
                    name
                    for name, sample in samples.items()
                    if name in gains or sample.gain >= WORTH_SHARE
                ],
                "staged": gains,
            },
            staged=staged,
            kept=pack_types(survey.kept_types),
        )
        # Another driver may have put its manifest first. That manifest counts, so it has to match.
        check_same(manifest, self._plan.fingerprint(), self._plan.spec.output.path)
        return manifest

    def finish(
        self, manifest: Manifest, every: Sequence[Unit], work: Sequence[Unit], started: float
    ) -> Report:
        """Run the units of `work` that are not committed, repair `errors/` and write the report.

        `every` holds all units of the run, for the report; `started` is in Unix seconds. Raises
        the errors of `run`.
        """
        ledger = Ledger(self.store)
        done = ledger.committed()
        self._settle(kept_types(self.store, manifest, done))
        known: Mapping[PartKey, Receipt] | None = check_parts(self.store, manifest, every, done)
        if remaining := ledger.remaining(work, done):
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
                raise GemmaBatchError(
                    f"{len(left)} of {len(work)} units are not committed although every pipeline "
                    f"ended, for example {left[0].name!r}: start again, the rest is safe"
                )
        self.show.update(Snapshot(phase="writing the report"))
        self._log.save()
        receipts = ledger.receipts(done, known)
        check_receipts(manifest, receipts, done)
        survey = self._plan.survey
        settle_errors(
            self.store,
            manifest.by_number,
            every,
            receipts,
            survey.columns,
            survey.keep_schema,
            with_output=asked_of(self._plan.spec).shaped,
        )
        report = self._report(manifest, every, receipts, started)
        save_report(self.store, report)
        self._save_page(manifest, report, receipts)
        return report

    def _settle(self, types: Mapping[str, pa.DataType]) -> None:
        """Take the types of kept columns that all parts of the output have."""
        survey = with_kept_types(self._plan.survey, self._plan.spec, types)
        self._plan = replace(self._plan, survey=survey)

    def _report(
        self,
        manifest: Manifest,
        every: Sequence[Unit],
        receipts: Mapping[PartKey, Receipt],
        started: float,
    ) -> Report:
        facts = RunFacts(
            started=started,
            finished=time.time(),
            receipts=tuple(self._log.receipts),
            routes=self._route_facts(),
            nodes=tuple(self._follower.nodes.values()) if self._follower is not None else (),
        )
        return make_report(
            manifest,
            self._plan.spec.output.path,
            len(every),
            receipts,
            facts,
            alerts=load_alerts(self.store),
        )

    def _save_page(
        self, manifest: Manifest, report: Report, receipts: Mapping[PartKey, Receipt]
    ) -> None:
        try:
            save_page(self.store, report, list(receipts.values()), manifest.spec)
        except StorageError as err:
            logger.warning("report.html was not written, the report is complete: %s", err)

    def _route_facts(self) -> dict[str, RouteFacts]:
        """Per route: the engines of this run and the hardware limit for their work."""
        facts = {}
        for route in self._plan.routes:
            name = route.route.name
            mine = [r for r in self._log.receipts if r["route"] == name and r["answered"]]
            if (pool := self._pools.get(name)) and mine and self._hardware is not None:
                facts[name] = route_facts(
                    route, pool.most, self._hardware, mine, at_start=pool.least
                )
        return facts

    # -- running ----------------------------------------------------------------------------

    def _run(self, manifest: Manifest, work: Sequence[Unit], remaining: Sequence[Unit]) -> None:
        from gemma_batch.cluster import run_actors
        from gemma_batch.cluster.nodes import say_who_holds_gpus

        hardware = self._hardware or self._place()
        done = sum(unit.expected for unit in work) - sum(unit.expected for unit in remaining)
        if done:
            self.show.say(
                f"resuming: {done:,} rows are committed already, "
                f"{sum(unit.expected for unit in remaining):,} to go"
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
            self._plan.spec.policy,
            self._log,
            store=self.store,
            show=self.show,
            lost=self._lost,
            metrics=run_actors.make_metrics(self._plan.spec.name),
            read_board=lambda: run_actors.read_board(board),
            totals=totals,
            before=before,
        )
        gpus = sum(lane.pool.least * lane.pool.num_gpus for lane in groups[0])
        say_who_holds_gpus(gpus, self.show.say)
        try:
            for group in groups:
                threads.start(group)
                follower.follow(len(group), receipts)
        finally:
            threads.stop()
            run_actors.end_board(board)
            self._log.save()

    def _lanes(
        self, hardware: Hardware, remaining: Sequence[Unit], manifest: Manifest
    ) -> list[Lane]:
        """One lane per route that has units left, the lane with the most work first.

        Routes that the manifest sorts get the order `prefix` where the spec says `auto`.
        """
        sort: Collection[str] = manifest.facts.get("sort", ())
        lanes = []
        for route in self._plan.routes:
            units = [unit for unit in remaining if unit.route == route.route.name]
            if units:
                job = replace(self._plan.job(route), run=manifest.run)
                if job.order == "auto" and job.route in sort:
                    job = replace(job, order="prefix")
                if job.order == "prefix":
                    job = replace(job, engine=replace(job.engine, keep_prefixes=True))
                pool = not_more_than(make_pool(route, hardware), len(units))
                job = with_cpu_threads(job, hardware, pool)
                lanes.append(Lane(plan=route, job=job, pool=pool, units=units))

        def work(lane: Lane) -> float:
            return sum(unit.expected for unit in lane.units) / lane.plan.rows_per_second

        return sorted(lanes, key=work, reverse=True)
