"""Opening: from a plan to the manifest of a new run, with its units (driver).

The sample, the hardware, the types of columns by all rows, the cut into units and the sort of
routes come together here, and the manifest is put, before any engine starts.
"""

from __future__ import annotations

from dataclasses import replace

from gemma_batch.committing.kept_types import pack_types
from gemma_batch.committing.manifest import Manifest, check_same, create_manifest
from gemma_batch.driver.session import Session
from gemma_batch.driver.sorting import Stage
from gemma_batch.errors import LeaseError
from gemma_batch.planning.estimate import estimate_routes, totals
from gemma_batch.planning.foresight import check_usable, warnings
from gemma_batch.planning.plan import check_not_empty, rows_by_route
from gemma_batch.planning.pool import (
    make_pool,
)
from gemma_batch.planning.sample import sample_routes
from gemma_batch.planning.settling import settled
from gemma_batch.prompts.prefixes import WORTH_SHARE
from gemma_batch.reporting.progress import Snapshot


def open_run(session: Session) -> Manifest:
    """Cut the input into units, sort routes where that pays, and put the manifest.

    Raises `InputError` when the input has no rows, or when every sampled row fails.
    """
    samples = sample_routes(session.plan)  # the same samples as in the command `plan`
    check_usable(samples, session.plan.spec.policy)
    from gemma_batch.cluster.exchange import exchange

    hardware = session.place({name: sample.mean_tokens for name, sample in samples.items()})
    session.show.update(Snapshot(phase="settling the types of columns"))
    survey = settled(session.plan.survey, session.plan.spec)
    for note in survey.notes[len(session.plan.survey.notes) :]:
        session.show.say(note)
    session.plan = replace(session.plan, survey=survey)
    session.show.update(Snapshot(phase="cutting the input into units"))
    replicas = max(make_pool(route, hardware).most for route in session.plan.routes)
    units = session.plan.units(replicas, session.show.say)
    check_not_empty(units)
    rows = rows_by_route(units)
    for warning in warnings(samples, session.plan.spec.policy, sum(rows.values())):
        session.show.say(warning)
    answer = session.plan.spec.sampling.max_tokens
    sort = Stage(session.plan, samples, hardware, exchange, session.show)
    units, staged, gains = sort.routes(units)
    if session.lost.is_set():  # then the copies may be gone: a manifest must not name them
        raise LeaseError("the lease of this output was taken over by another driver")
    predicted = totals(
        estimate_routes(session.plan.routes, samples, rows, hardware, output_tokens=answer)
    )
    manifest = create_manifest(
        session.store,
        name=session.plan.spec.name,
        fingerprint=session.plan.fingerprint(),
        shards=session.plan.survey.shards,
        units=units,
        spec=session.plan.spec.to_dict(),
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
    check_same(manifest, session.plan.fingerprint(), session.plan.spec.output.path)
    return manifest
