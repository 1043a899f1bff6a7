"""Trials and runs without Ray: real plans, units, payloads and parts, and answers made by hand.

Each answer says who gave it, so a test sees from the data set whether a row was asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.generations import settle_pass
from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.committing.manifest import KEY, Manifest, create_manifest
from gemma_batch.committing.taken import FOLDER
from gemma_batch.planning.passes import Failed, derive
from gemma_batch.planning.plan import Plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Failure, Outcome, Request
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import decode, encode
from gemma_batch.units.unit import Shards, Unit, make_mask

Answer = Callable[[str, int], Completion]
Rows = dict[str, Collection[int]]  # by the end of a file's name: the numbers of its rows


def text_answer(who: str, number: int) -> Completion:
    """An answer that says who gave it, with tokens of that number."""
    return Completion([f"{who} {number}"], ["stop"], 10 + number, 2, cached_tokens=1)


def sampled(plan: Plan, rows: Rows) -> list[Unit]:
    """The plan's units, with masks that hold only these rows of its files."""
    wanted: dict[int, Collection[int]] = {}
    for end, numbers in rows.items():
        (shard,) = [shard for shard in plan.survey.shards if shard.url.endswith(end)]
        wanted[shard.number] = numbers
    units = []
    for unit in plan.units():
        mine = [
            place.first + number
            for place in unit.places
            for number in place.numbers
            if number in wanted.get(place.shard, ())
        ]
        if mine:
            mask = make_mask(unit.first_row, unit.rows, mine)
            units.append(replace(unit, mask=mask, expected=len(mine)))
    return units


def commit_all(
    store: Store,
    plan: Plan,
    shards: Shards,
    units: Sequence[Unit],
    run: str,
    who: str,
    *,
    known: tuple[str, ...] = (),
    fail: Collection[int] = (),
    answer: Answer = text_answer,
) -> list[Receipt]:
    """Prepare each unit, carry it as Ray would, answer its requests and commit it.

    Requests for rows with a number in `fail` fail.
    """
    receipts = []
    for route in plan.routes:
        job = replace(plan.job(route), output=store.url, run=run, known=known)
        shape, preparer = shape_of(job.sampling, job.asked), Preparer(job)
        for unit in units:
            if unit.route != route.route.name:
                continue
            row = encode(preparer.prepare(shards, unit))
            prepared = decode(row["unit"][0].as_py(), row["rows"][0].as_buffer())
            outcomes: dict[int, Outcome] = dict(prepared.failures)
            for request in prepared.requests:
                if request.number in fail:
                    outcomes[request.number] = Failure("engine_error", f"by {who}", 1)
                    continue
                made = answer(who, request.number)
                assert shape.check(made, Request(request.number, request.prompt)) is None
                outcomes[request.number] = made
            receipts.append(commit_unit(store, job, prepared, outcomes, {}))
    return receipts


def trial(
    plan: Plan,
    name: str,
    rows: Rows,
    *,
    created: str = "",
    fail: Collection[int] = (),
    answer: Answer = text_answer,
) -> Store:
    """A trial of the plan that asked these rows, as another run below the plan's output."""
    store = open_store(f"{plan.spec.output.path}/{FOLDER}/{name}")
    units = sampled(plan, rows)
    manifest = create_manifest(
        store,
        name=name,
        fingerprint=plan.fingerprint(),
        shards=plan.survey.shards,
        units=units,
        spec=plan.spec.to_dict(),
        facts={},
    )
    if created:
        store.put(KEY, json.dumps({**json.loads(store.read(KEY)), "created": created}).encode())
    by_number = {shard.number: shard for shard in plan.survey.shards}
    run = manifest.run
    commit_all(store, plan, by_number, units, run, name, fail=fail, answer=answer)
    return store


def retried(plan: Plan, store: Store, manifest: Manifest, who: str) -> None:
    """Ask the rows of a trial that failed again, as a retry does."""
    receipts = Ledger(store).receipts()
    work = derive(store, manifest.units(store), receipts, Failed({"engine_error"}), 1)
    units = settle_pass(store, 1, work).units
    commit_all(store, plan, manifest.by_number, units, manifest.run, who)


def results(store: Store) -> list[dict[str, Any]]:
    """All rows of `results`, part by part."""
    tables = [pq.read_table(pa.BufferReader(store.read(key))) for key in store.list("results")]
    return [row for table in tables for row in table.to_pylist()]
