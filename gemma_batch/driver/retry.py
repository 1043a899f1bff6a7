"""Retry: runs the failed rows of a finished run once more, as a new generation.

The rows of a generation come from the failures in the newest parts. They are kept as a list of
units, which is put create-only before the generation starts. The parts of the generation carry
the new answers. Their footers carry every failure that is still open for the unit, so the newest
part alone says which rows belong into `errors/`. When a retry was killed, the same command goes
on with the same generation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from gemma_batch.cluster.address import check_address
from gemma_batch.committing.generations import Pass, last_pass, settle_pass
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.leftovers import missing_copies
from gemma_batch.committing.manifest import KEY, Manifest, check_same
from gemma_batch.committing.origin import check_parts
from gemma_batch.committing.outlook import open_output, settled_run
from gemma_batch.driver.clean import sweep
from gemma_batch.driver.guard import leased
from gemma_batch.driver.session import Session
from gemma_batch.errors import FAILURE_MEANING, FailureCode, OutputError, SpecError
from gemma_batch.planning.passes import Failed, Pick, derive
from gemma_batch.planning.plan import make_plan
from gemma_batch.reporting.progress import LogProgress, Progress, Snapshot
from gemma_batch.reporting.report import Report
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import apply_overrides
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Unit

# A row with one of these codes may succeed without a change of the job. Every other code is a
# fact about the row itself.
WORTH_A_RETRY = (
    FailureCode.ENGINE_CRASH,
    FailureCode.ENGINE_ERROR,
    FailureCode.ENGINE_REJECTED,
    FailureCode.DEADLINE,
    FailureCode.SHARD_UNREADABLE,
)


def retried_spec(output: str, overrides: Sequence[str] = ()) -> JobSpec:
    """The spec for a retry of `output`: the spec of the run, with `overrides` such as "a.b=c".

    Raises `OutputError` when the output holds no run, `SpecError` for an override that is wrong.
    """
    return _settled(open_output(output), output, overrides)[1]


def retry(
    output: str,
    *,
    codes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    address: str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Report:
    """Run the failed rows of `output` again.

    `codes` chooses the failure codes to retry; ["all"] means every code (default:
    `WORTH_A_RETRY`). `overrides` may change fields that do not change results, such as resources
    and policy. Raises `OutputError` when the output holds no finished run, and every error that
    `run` raises.
    """
    check_address(address)
    chosen = _codes(codes)
    store = open_output(output, writes=True)
    manifest, spec = _settled(store, output, overrides)
    show = progress or LogProgress(spec.policy.progress_seconds)
    started = time.time()
    show.update(Snapshot(phase="planning"))
    plan = make_plan(spec, known=manifest.shards, only_known=True)
    plan = plan.as_recorded(manifest.fingerprint.fields)
    manifest = manifest.with_shards(plan.survey.touched)
    check_same(manifest, plan.fingerprint(), output)
    units = manifest.units(store)
    with leased(store, show) as lost:
        sweep(store, manifest, show)
        done = Ledger(store).committed()
        check_parts(store, manifest, units, done)
        if left := Ledger(store).remaining(units, done):
            raise OutputError(
                f"the run in {output!r} is not finished ({len(left)} of {len(units)} units are "
                "missing): run it to its end first"
            )
        work = _next_pass(store, manifest, units, Failed(chosen), done)
        if work.units:
            rows = sum(unit.expected for unit in work.units)
            show.say(f"retry {work.generation}: {rows:,} rows in {len(work.units):,} units")
        session = Session(plan, store, show, lost, address=address, verbose=verbose)
        try:
            return session.finish(manifest, units, work.units, started)
        finally:
            session.close()


def _settled(store: Store, output: str, overrides: Sequence[str]) -> tuple[Manifest, JobSpec]:
    manifest = settled_run(store)
    if manifest is None:
        raise OutputError(
            f"{output!r} holds no run (there is no '{store.url}/{KEY}'): there is nothing to retry"
        )
    # The output may have been moved, or may be mounted elsewhere, since its manifest was written.
    place = {"output": {**manifest.spec["output"], "path": store.url}}
    return manifest, JobSpec.from_dict(apply_overrides({**manifest.spec, **place}, overrides))


def _codes(codes: Sequence[str]) -> set[str]:
    if list(codes) == ["all"]:
        return {code.value for code in FailureCode}
    for code in codes:
        if code not in FAILURE_MEANING:
            raise SpecError(
                f"--code {code!r} is no failure code; there are {', '.join(FAILURE_MEANING)}, "
                "and 'all'"
            )
    return set(codes) or {code.value for code in WORTH_A_RETRY}


def _next_pass(
    store: Store,
    manifest: Manifest,
    units: Sequence[Unit],
    pick: Pick,
    done: Mapping[PartKey, str],
) -> Pass:
    """The last pass when it is unfinished, otherwise a new pass.

    Raises `OutputError` when sorted copies that the pass reads are gone.
    """
    ledger = Ledger(store)
    last = last_pass(store)
    if last is not None and ledger.remaining(last.units, done):
        return last
    generation = last.generation + 1 if last is not None else 1
    work = derive(store, units, ledger.receipts(done), pick, generation)
    if rows := missing_copies(store, manifest, work):
        raise OutputError(
            f"{rows:,} of the failed rows were read from sorted copies of the input, which are no "
            f"longer in {store.url!r} (`clean --all-copies` removes them): run these rows as a "
            "new job, with the rows in errors/ as its input"
        )
    return settle_pass(store, generation, work) if work else Pass(generation, ())
