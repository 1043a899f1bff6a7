"""Committing one unit: its part, create-only, and then the errors file derived from it.

The part's existence is the commit. Its footer carries the receipt and every failure of the
unit, so the one atomic put settles all rows at once; `errors/` repeats the failures in a form
people can query, and is made again from footer and input if a process dies in between.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from gemma_batch.committing.ledger import ERRORS, RESULTS, Ledger, Receipt
from gemma_batch.reading.prepare import keep_table
from gemma_batch.reading.source import unit_rows
from gemma_batch.rows import Completion, Failure, Outcome
from gemma_batch.storage.fs import Store
from gemma_batch.storage.parts import build_errors, build_results, results_schema
from gemma_batch.units.payload import Prepared
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shard, Unit


def committed_receipt(store: Store, unit: Unit) -> Receipt | None:
    """The receipt of a unit that is committed already, None otherwise."""
    path = f"{RESULTS}/{unit.name}"
    return Ledger(store).receipt(path) if store.exists(path) else None


def commit_unit(
    store: Store,
    job: RouteJob,
    prepared: Prepared,
    outcomes: dict[int, Outcome],
    facts: dict[str, Any],
) -> Receipt:
    """Put the part; when another worker was first, theirs stands and is returned.

    Raises `StorageError`; then nothing is committed and the unit will be done again.
    """
    unit = prepared.unit
    missing = [number for number in prepared.numbers if number not in outcomes]
    if missing or len(prepared.numbers) != unit.expected:
        raise AssertionError(
            f"unit {unit.name!r} has {len(prepared.numbers)} rows, {unit.expected} were planned; "
            f"{len(missing)} have no outcome"
        )
    failures = [
        {
            "number": number,
            "id": row,
            "code": outcome.code,
            "message": outcome.message,
            "attempts": outcome.attempts,
            "seconds": round(outcome.seconds, 3),
        }
        for number, row in zip(prepared.numbers, prepared.ids, strict=True)
        if isinstance(outcome := outcomes[number], Failure)
    ]
    if unit.generation:
        failures += _carried(store, unit, set(prepared.numbers))
    receipt = _receipt(job, unit, list(outcomes.values()), failures, facts)
    data = build_results(_columns(job, prepared, outcomes), _schema(job), receipt, failures)
    if not store.create(f"{RESULTS}/{unit.name}", data):
        theirs = committed_receipt(store, unit)
        if theirs is None:
            raise AssertionError(f"{unit.name!r} exists and does not: the storage is inconsistent")
        return {**theirs, "redundant": True}
    if failures and unit.generation == 0:
        # Create-only: a late writer can never undo what a retry has put there since.
        store.create(
            f"{ERRORS}/{unit.name}",
            errors_file(prepared.shard, unit, job.columns, job.keep_schema, failures),
        )
    return receipt


def _carried(store: Store, unit: Unit, tried: set[int]) -> list[dict[str, Any]]:
    """Failures of the generations before that this retry leaves as they are."""
    ledger = Ledger(store)
    for generation in range(unit.generation - 1, -1, -1):
        path = f"{RESULTS}/{replace(unit, generation=generation).name}"
        if store.exists(path):
            found = ledger.failures(path)
            return [failure for failure in found if failure["number"] not in tried]
    raise AssertionError(f"{unit.name!r} retries a unit that was never committed")


def _receipt(
    job: RouteJob,
    unit: Unit,
    outcomes: Sequence[Outcome],
    failures: Sequence[dict[str, Any]],
    facts: dict[str, Any],
) -> Receipt:
    # `rows` were run now; `failed` and `failures` are all that are open for the unit after it.
    answers = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    codes = Counter(failure["code"] for failure in failures)
    return {
        "part": unit.name,
        "route": unit.route,
        "model": job.model,
        "rows": len(outcomes),
        "answered": len(answers),
        "failed": len(failures),
        "failures": dict(codes),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.completion_tokens for answer in answers),
        "cached_tokens": sum(answer.cached_tokens for answer in answers),
        "prompt_sizes": _sizes(answer.prompt_tokens for answer in answers),
        "answer_sizes": _sizes(answer.completion_tokens for answer in answers),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "finished": time.time(),
        **facts,
    }


def _sizes(tokens: Iterable[int]) -> dict[str, int]:
    """Rows by tokens, in powers of two: {n: rows of more than 2^(n-1) and up to 2^n tokens}."""
    counts = Counter(max(0, count - 1).bit_length() for count in tokens)
    return {str(bucket): counts[bucket] for bucket in sorted(counts)}


def _schema(job: RouteJob) -> pa.Schema:
    return results_schema(job.keep_schema, n=job.samples, logprobs=job.logprobs)


def _columns(
    job: RouteJob, prepared: Prepared, outcomes: dict[int, Outcome]
) -> dict[str, list[Any] | pa.ChunkedArray]:
    answered = [
        (i, row, answer)
        for i, (number, row) in enumerate(zip(prepared.numbers, prepared.ids, strict=True))
        if isinstance(answer := outcomes[number], Completion)
    ]
    answers = [answer for _, _, answer in answered]
    single = job.samples == 1
    kept = prepared.keep.take(pa.array([i for i, _, _ in answered], pa.int64()))
    columns: dict[str, list[Any] | pa.ChunkedArray] = {
        **{name: kept[name] for name in kept.column_names},
        "id": [row for _, row, _ in answered],
        "output": [a.outputs[0] if single else a.outputs for a in answers],
        "finish_reason": [a.finish_reasons[0] if single else a.finish_reasons for a in answers],
        "prompt_tokens": [a.prompt_tokens for a in answers],
        "completion_tokens": [a.completion_tokens for a in answers],
        "cached_tokens": [a.cached_tokens for a in answers],
        "model": [job.model] * len(answers),
        "route": [job.route] * len(answers),
        "attempts": [a.attempts for a in answers],
        "seconds": [round(a.seconds, 3) for a in answers],
    }
    if job.logprobs:
        columns["logprobs"] = [a.logprobs for a in answers]
    return columns


def errors_file(
    shard: Shard,
    unit: Unit,
    columns: Sequence[str],
    keep_schema: pa.Schema,
    failures: Sequence[dict[str, Any]],
) -> bytes:
    """The errors file of a unit, from the failures in its part's footer and the input itself."""
    rows = {row.number: row for row in unit_rows(shard, unit, columns)}
    mine = [rows[failure["number"]] for failure in failures]
    kept = keep_table(mine, keep_schema)
    written: dict[str, list[Any] | pa.ChunkedArray] = {
        **{name: kept[name] for name in kept.column_names},
        "id": [failure["id"] for failure in failures],
        "code": [failure["code"] for failure in failures],
        "message": [failure["message"] for failure in failures],
        "attempts": [failure["attempts"] for failure in failures],
        "route": [unit.route] * len(failures),
        "row": [row.values for row in mine],
        "shard": [row.origin.url if row.origin else shard.url for row in mine],
        "row_number": [row.origin.row if row.origin else row.number for row in mine],
    }
    return build_errors(written, keep_schema)
