"""Runs a job: plan, lease, manifest, pipelines, report."""

from __future__ import annotations

import time

from gemma_batch.cluster.address import check_address
from gemma_batch.committing.manifest import Manifest, check_same
from gemma_batch.committing.outlook import open_output, settled_run
from gemma_batch.driver.clean import sweep
from gemma_batch.driver.guard import leased
from gemma_batch.driver.opening import open_increment, open_run
from gemma_batch.driver.session import Session
from gemma_batch.planning.absolute import absolute
from gemma_batch.planning.plan import Plan, make_plan
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
    store = open_output(absolute(spec).output.path, writes=True)
    manifest = settled_run(store)
    plan, manifest = _planned(spec, manifest, store.url)
    for note in plan.notes:
        show.say(note)
    with leased(store, show) as lost:
        if plan.survey.known and manifest is not None:
            # Another driver may have taken in the new files since.
            latest = settled_run(store)
            if latest is not None and len(latest.increments) > len(manifest.increments):
                plan, manifest = _planned(spec, latest, store.url)
        session = Session(plan, store, show, lost, address=address, verbose=verbose)
        try:
            if manifest is None:
                manifest = open_run(session)
            elif plan.survey.known:
                manifest = open_increment(session, manifest)
            sweep(store, manifest, show)
            units = manifest.units(store)
            return session.finish(manifest, units, units, started)
        finally:
            session.close()


def _planned(spec: JobSpec, manifest: Manifest | None, output: str) -> tuple[Plan, Manifest | None]:
    """The plan, and the manifest with the files as they are now.

    Raises `MismatchError` when the output holds another run.
    """
    if manifest is None:
        return make_plan(spec), None
    plan = make_plan(spec, known=manifest.shards)
    plan = plan.as_recorded(manifest.fingerprint.fields)
    manifest = manifest.with_shards(plan.survey.touched)
    check_same(manifest, plan.fingerprint(), output, grows=spec.input.grow)
    return plan, manifest
