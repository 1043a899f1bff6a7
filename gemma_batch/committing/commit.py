"""Commits one unit: puts its part, create-only, and then its errors file (GPU actor).

The part's existence is the commit. The footer of the part carries the receipt and every failure
of the unit, so one atomic put settles all rows of the unit at once. Known answers (see
`units/known.py`) go into the part as they are. The files in `errors/` repeat the failures in a form
that people can query. The columns that the job reads came with the unit; a child process reads the
other columns of the failed rows (see `whole_rows`). If a process dies between the two puts, or the
input cannot be read then, the driver makes the errors file again from
the footer and the input (see `repair`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import AnswerShape
from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.errors_file import errors_file
from gemma_batch.committing.ledger import Receipt, part_failures, part_receipt
from gemma_batch.committing.reuse import reused_counts, with_known
from gemma_batch.committing.whole_rows import with_whole_rows
from gemma_batch.errors import StorageError
from gemma_batch.rows import Completion, Failure, Outcome
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import build_results, results_schema
from gemma_batch.units.known import TOKENS
from gemma_batch.units.payload import Prepared
from gemma_batch.units.raw_rows import unpack
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Unit

logger = logging.getLogger(__name__)


def committed_receipt(store: Store, unit: Unit) -> Receipt | None:
    """The receipt of a unit that is already committed; None for any other unit."""
    return part_receipt(store, unit.path) if store.exists(unit.path) else None


def commit_unit(
    store: Store,
    job: RouteJob,
    prepared: Prepared,
    outcomes: dict[int, Outcome],
    facts: dict[str, Any],
    *,
    shape: AnswerShape | None = None,
) -> Receipt:
    """Put the part of a unit and return the receipt.

    Each row of the unit has either an entry in `outcomes` or a known answer.

    When another worker has already put the part, that part stands. The receipt of that part is
    returned, with `redundant` set. `facts` are added to the receipt as they are. `shape` says
    which columns an answer fills (default: the shape for the job's sampling parameters).

    Raises `StorageError` when storage fails. Unless the part exists by then, the unit is not
    committed and a later start runs it again.
    """
    unit = prepared.unit
    settled = Counter([*outcomes, *(prepared.known.numbers if prepared.known else ())])
    missing = [number for number in prepared.numbers if settled[number] != 1]
    if missing or len(prepared.numbers) != unit.expected:
        raise AssertionError(
            f"unit {unit.name!r} has {len(prepared.numbers)} rows, {unit.expected} were planned; "
            f"{len(missing)} have no outcome, or two"
        )
    failures = [
        {
            "number": number,
            "id": row,
            "code": outcome.code,
            "message": outcome.message,
            "attempts": outcome.attempts,
            "seconds": round(outcome.seconds, 3),
            **({} if outcome.output is None else {"output": outcome.output}),
        }
        for number, row in zip(prepared.numbers, prepared.ids, strict=True)
        if isinstance(outcome := outcomes.get(number), Failure)
    ]
    if unit.generation:
        failures += _carried(store, unit, set(prepared.numbers))
    receipt = _receipt(job, prepared, list(outcomes.values()), failures, facts)
    shape = shape or shape_of(job.sampling, job.asked)
    schema = results_schema(job.keep_schema, shape.fields(), shape.details())
    columns: Mapping[str, Any] = _columns(job, shape, prepared, outcomes)
    if prepared.known is not None:
        columns = with_known(columns, schema, prepared, prepared.known, outcomes)
    data = build_results(columns, schema, receipt, failures)
    if not store.create(unit.path, data):
        theirs = committed_receipt(store, unit)
        if theirs is None:
            raise AssertionError(f"{unit.name!r} exists and does not: the storage is inconsistent")
        return {**theirs, "redundant": True}
    if failures and unit.generation == 0:
        failed = pa.array(
            [i for i, n in enumerate(prepared.numbers) if isinstance(outcomes.get(n), Failure)],
            pa.int64(),
        )
        kept, raw = prepared.keep.take(failed), unpack(prepared.raw).take(failed)
        try:
            raw = raw if job.reads_all else with_whole_rows(raw, store.url, unit)
        except StorageError as err:
            logger.warning("the driver will write %r at the end: %s", unit.key.errors_path, err)
            return receipt
        # Create-only: a late writer must not overwrite an errors file that a retry has replaced.
        data = errors_file(unit, job.keep_schema, failures, kept, raw, with_output=job.asked.shaped)
        store.create(unit.key.errors_path, data)
    return receipt


def _carried(store: Store, unit: Unit, tried: set[int]) -> list[dict[str, Any]]:
    """Failures in the newest earlier part of the unit, without the rows that this pass tried."""
    for generation in range(unit.generation - 1, -1, -1):
        path = replace(unit, generation=generation).path
        if store.exists(path):
            found = part_failures(store, path)
            return [failure for failure in found if failure["number"] not in tried]
    raise AssertionError(f"{unit.name!r} retries a unit that was never committed")


def _receipt(
    job: RouteJob,
    prepared: Prepared,
    outcomes: Sequence[Outcome],
    failures: Sequence[dict[str, Any]],
    facts: dict[str, Any],
) -> Receipt:
    # `rows` counts the rows of this pass. `failed` and `failures` count every row of the unit
    # that is still without an answer after this pass. Known answers count like others, and
    # `reused` says how many of the counts are theirs.
    unit = prepared.unit
    answers = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    codes = Counter(failure["code"] for failure in failures)
    refused = sum(outcome.refused_tokens for outcome in outcomes)
    tokens = {name: [int(getattr(answer, name)) for answer in answers] for name in TOKENS}
    known = 0
    if prepared.known is not None:
        known = len(prepared.known.numbers)
        for name in TOKENS:
            tokens[name] += prepared.known.answers[name].to_pylist()
    return {
        "part": unit.name,
        **({"step": unit.step} if unit.step is not None else {}),
        "run": job.run,
        "route": unit.route,
        "model": job.model,
        "rows": len(outcomes) + known,
        "answered": len(answers) + known,
        **reused_counts(prepared.known),
        "failed": len(failures),
        "failures": dict(codes),
        **{name: sum(counts) for name, counts in tokens.items()},
        **({"refused_tokens": refused} if refused else {}),
        "prompt_sizes": _sizes(tokens["prompt_tokens"]),
        "answer_sizes": _sizes(tokens["completion_tokens"]),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "finished": time.time(),
        **facts,
    }


def _sizes(tokens: Iterable[int]) -> dict[str, int]:
    """Number of rows by size: {n: rows with more than 2^(n-1) and at most 2^n tokens}."""
    counts = Counter(max(0, count - 1).bit_length() for count in tokens)
    return {str(bucket): counts[bucket] for bucket in sorted(counts)}


def _columns(
    job: RouteJob, shape: AnswerShape, prepared: Prepared, outcomes: dict[int, Outcome]
) -> dict[str, list[Any] | pa.ChunkedArray]:
    answered = [
        (i, row, answer)
        for i, (number, row) in enumerate(zip(prepared.numbers, prepared.ids, strict=True))
        if isinstance(answer := outcomes.get(number), Completion)
    ]
    answers = [answer for _, _, answer in answered]
    kept = prepared.keep.take(pa.array([i for i, _, _ in answered], pa.int64()))
    return {
        **{name: kept[name] for name in kept.column_names},
        "id": [row for _, row, _ in answered],
        **shape.columns(answers),
        "prompt_tokens": [a.prompt_tokens for a in answers],
        "completion_tokens": [a.completion_tokens for a in answers],
        "cached_tokens": [a.cached_tokens for a in answers],
        "model": [job.model] * len(answers),
        "route": [job.route] * len(answers),
        "attempts": [a.attempts for a in answers],
        "seconds": [round(a.seconds, 3) for a in answers],
    }
