"""Opening: from a plan to the manifest of a new run, with its units (driver).

The sample, the hardware, the types of columns by all rows, the cut into units and the sort of
routes come together here, and the manifest is put, before any engine starts. So is each increment
of a growing input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from gemma_batch.committing.increments import settle_increment
from gemma_batch.committing.kept_types import kept_types, pack_types, unpack_types
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.manifest import Manifest, check_same, create_manifest, now
from gemma_batch.driver.reusing import answers_of_trials, rows_to_ask
from gemma_batch.driver.session import Session
from gemma_batch.driver.sorting import Stage
from gemma_batch.errors import LeaseError
from gemma_batch.planning.estimate import estimate_routes, totals
from gemma_batch.planning.foresight import check_usable, over_budget, warnings
from gemma_batch.planning.growth import with_digests
from gemma_batch.planning.plan import check_not_empty, rows_by_route, units_by_route
from gemma_batch.planning.pool import (
    make_pool,
)
from gemma_batch.planning.sample import sample_routes
from gemma_batch.planning.settling import fitted, settled
from gemma_batch.prompts.prefixes import WORTH_SHARE
from gemma_batch.reporting.progress import Snapshot
from gemma_batch.texts import counted
from gemma_batch.units.unit import Shard, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The units of new input, the sorted copies that they read, and facts for the manifest."""

    units: list[Unit]
    staged: list[Shard]
    facts: dict[str, Any]


def open_run(session: Session) -> Manifest:
    """Put the manifest of a new run, with its units.

    Raises `InputError` when the input has no rows, or when every sampled row fails.
    """
    work = _work(session)
    check_not_empty(work.units)
    survey = session.plan.survey
    shards = with_digests(survey.shards) if session.plan.spec.input.grow else survey.shards
    manifest = create_manifest(
        session.store,
        name=session.plan.spec.name,
        fingerprint=session.plan.fingerprint(),
        shards=shards,
        units=work.units,
        spec=session.plan.spec.to_dict(),
        facts={**work.facts, "when": pack_types(survey.router.types)},
        staged=work.staged,
        kept=pack_types(survey.kept_types),
    )
    # Another driver may have put its manifest first. That manifest counts, so it has to match.
    check_same(manifest, session.plan.fingerprint(), session.plan.spec.output.path)
    return manifest


def open_increment(session: Session, manifest: Manifest) -> Manifest:
    """Put the new files of a growing input as the next increment; returns the manifest with it.

    The types of columns stay those of the first run. Raises `InputError` when every sampled row of
    the new files fails, or when the files cannot go into the same output.
    """
    number = len(manifest.increments) + 1
    files = counted(len(session.plan.survey.shards), "new file")
    session.show.say(f"the input has grown: {files}, increment {number}")
    settled_types = kept_types(session.store, manifest, Ledger(session.store).committed())
    whens = unpack_types(manifest.facts.get("when", ""), session.store.url)
    work = _work(session, manifest, settled_types, whens)
    increment = settle_increment(
        session.store,
        manifest.run,
        number,
        created=now(),
        shards=with_digests(session.plan.survey.shards),
        units=work.units,
        staged=work.staged,
        facts=work.facts,
    )
    grown = manifest.with_increments([increment])
    # Another driver may have put this increment first. Its files count, so they have to match.
    check_same(grown, session.plan.fingerprint(), session.plan.spec.output.path, grows=True)
    session.show.say(f"increment {number}: {files}, {counted(increment.rows, 'row')}")
    return grown


def _work(
    session: Session,
    manifest: Manifest | None = None,
    kept: Mapping[str, pa.DataType] | None = None,
    whens: Mapping[str, pa.DataType] | None = None,
) -> Work:
    """Cut the new input into units, and sort routes where that pays.

    `manifest` is what the output holds already; `kept` and `whens` are the types that it settled,
    of kept columns and of those in a `when`.
    """
    samples = sample_routes(session.plan)  # the same samples as in the command `plan`
    check_usable(samples, session.plan.spec.policy)
    hardware = session.place({name: sample.mean_tokens for name, sample in samples.items()})
    from gemma_batch.cluster.exchange import exchange  # slow: after the look for engines

    session.show.update(Snapshot(phase="settling the types of columns"))
    survey = settled(session.plan.survey, session.plan.spec)
    survey = fitted(survey, session.plan.spec, kept or {}, whens or {})
    for note in survey.notes[len(session.plan.survey.notes) :]:
        session.show.say(note)
    session.plan = replace(session.plan, survey=survey)
    session.show.update(Snapshot(phase="cutting the input into units"))
    replicas = max(make_pool(route, hardware).most for route in session.plan.routes)
    units = session.plan.units(replicas, session.show.say)
    rows = rows_by_route(units)
    for warning in warnings(samples, session.plan.spec.policy, sum(rows.values())):
        session.show.say(warning)
    answer = session.plan.spec.sampling.max_tokens
    sort = Stage(session.plan, samples, hardware, exchange, session.show)
    number = len(manifest.increments) + 1 if manifest else 0
    known = answers_of_trials(session.store, session.plan, units, session.show, number)
    asked = rows_to_ask(rows, known)
    units, staged, gains = sort.routes(units, number, len(manifest.staged) if manifest else 0)
    if session.lost.is_set():  # then the copies may be gone: a manifest must not name them
        raise LeaseError("the lease of this output was taken over by another driver")
    predicted = totals(
        estimate_routes(
            session.plan.routes,
            samples,
            asked,
            hardware,
            output_tokens=answer,
            units=units_by_route(units),
        )
    )
    for warning in over_budget(session.plan.spec.policy.budget, predicted):
        session.show.say(warning)
    facts = {
        "rows_by_route": rows,
        "predicted": predicted if predicted["routes"] else None,
        "sort": [
            name for name, sample in samples.items() if name in gains or sample.gain >= WORTH_SHARE
        ],
        "staged": gains,
        **known,
    }
    return Work(units=units, staged=staged, facts=facts)
