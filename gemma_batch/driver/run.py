"""Runs a job: plan, lease, manifest, pipelines, report."""

from __future__ import annotations

import time

from gemma_batch.cluster.address import check_address
from gemma_batch.committing.manifest import check_same
from gemma_batch.committing.outlook import open_output, settled_run
from gemma_batch.driver.clean import sweep
from gemma_batch.driver.guard import leased
from gemma_batch.driver.opening import open_run
from gemma_batch.driver.session import Session
from gemma_batch.planning.plan import make_plan
from gemma_batch.reporting.progress import LogProgress, Progress, Snapshot
from gemma_batch.reporting.report import Report
from gemma_batch.spec import JobSpec


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
                manifest = open_run(session)
            sweep(store, manifest, show)
            units = manifest.units(store)
            return session.finish(manifest, units, units, started)
        finally:
            session.close()
