"""Reusing: a new run takes the answers that trials of its job have paid for (driver)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.taken import known_keys, take_known
from gemma_batch.errors import OutputError
from gemma_batch.planning.plan import Plan
from gemma_batch.reading.known_rows import missing
from gemma_batch.reporting.progress import Progress
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import results_schema
from gemma_batch.units.unit import Unit


def answers_of_trials(
    store: Store, plan: Plan, units: Sequence[Unit], show: Progress, increment: int
) -> dict[str, Any]:
    """Take what trials have answered; returns facts for the manifest (see `take_known`).

    `increment` is the number of the increment that is opened, 0 for the first run.

    The plan is placed, and `units` are those of the input, before any route is sorted.
    """
    jobs = {route.route.name: plan.job(route) for route in plan.routes}
    shapes = {name: shape_of(job.sampling, job.asked) for name, job in jobs.items()}
    schemas = {
        name: _without_id(results_schema(pa.schema([]), shape.fields(), shape.details()))
        for name, shape in shapes.items()
    }
    asked, shards = plan.fingerprint(), plan.survey.shards
    return take_known(store, asked, shards, units, schemas, show.say, increment)


def rows_to_ask(rows: Mapping[str, int], known: Mapping[str, Any]) -> dict[str, int]:
    """The rows of each route without the rows in these facts of `answers_of_trials`."""
    taken = known["known"]["rows"] if known else {}
    return {route: count - taken.get(route, 0) for route, count in rows.items()}


def _without_id(schema: pa.Schema) -> pa.Schema:
    return schema.remove(schema.get_field_index("id"))


def checked_known(store: Store, manifest: Manifest) -> tuple[str, ...]:
    """The keys of the run's files of known answers. Raises `OutputError` when one is missing."""
    keys = known_keys(manifest)
    for key in keys:
        if not store.exists(key):
            raise OutputError(missing(key))
    return keys
