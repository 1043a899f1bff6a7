"""Foresight: the failures that the sample shows, before the run makes them (driver, laptop).

A failure of a row that has nothing to do with an engine is the same in the plan and in the run, so
a plan can count such failures and show one of each kind. When every sampled row fails, nothing is
started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gemma_batch.errors import InputError
from gemma_batch.reading.source import row_id
from gemma_batch.rows import Failure, Row
from gemma_batch.spec import Budget, Policy
from gemma_batch.texts import failures_text
from gemma_batch.units.unit import Shard

SHOWN_CHARS = 300  # of an example's message


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """One failure code: how many sampled rows will fail with it, and the first of them.

    `id`, `shard` (the file), `row_number` (from 0) and `message` are those that the row will have
    in `errors`.
    """

    code: str
    rows: int
    id: str
    shard: str
    row_number: int
    message: str

    @property
    def example(self) -> str:
        """The first of the rows, for people."""
        text = " ".join(self.message.split())
        text = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " ..."
        if repr(self.shard) in self.message:  # the message of a bad row says where the row is
            return f"id {self.id!r}: {text}"
        return f"row {self.row_number:,} of {self.shard!r} (id {self.id!r}): {text}"


class Sampled(Protocol):
    """A sample of rows (`RouteSample`): how many there are, and the failures among them."""

    @property
    def rows(self) -> int:
        """The number of sampled rows."""
        ...

    @property
    def foreseen(self) -> tuple[Foreseen, ...]:
        """Their failures, by code."""
        ...


def foresee(
    failed: Iterable[tuple[Shard, Row, Failure]], id_column: str | None
) -> tuple[Foreseen, ...]:
    """The failures of sampled rows, by code, the most frequent code first."""
    counts: Counter[str] = Counter()
    first: dict[str, tuple[Shard, Row, Failure]] = {}
    for shard, row, failure in failed:
        counts[failure.code] += 1
        first.setdefault(failure.code, (shard, row, failure))
    return tuple(
        Foreseen(
            code=code,
            rows=count,
            id=row_id(shard.number, row, id_column),
            shard=shard.url,
            row_number=row.number,
            message=failure.message,
        )
        for code, count in counts.most_common()
        for shard, row, failure in [first[code]]
    )


def foreseen_facts(sample: Sampled) -> list[dict[str, Any]]:
    """The failures of a route's sample as plain data; `share` is of the sampled rows, 0 to 1."""
    return [
        {**asdict(one), "share": round(one.rows / sample.rows, 4), "example": one.example}
        for one in sample.foreseen
    ]


def check_usable(samples: Mapping[str, Sampled], policy: Policy) -> None:
    """Raise `InputError`, with the first failures, when every sampled row will fail.

    Not where `policy.max_failed` allows that every row fails.
    """
    rows, failed = _totals(samples)
    if not rows or failed < rows or policy.failure_limit(rows) >= rows:
        return
    every = _together(samples)
    examples = "; ".join(f"{one.code}: {one.example}" for one in every)
    raise InputError(
        f"not one of {rows:,} sampled rows, from the start of the files, can be answered "
        f"({failures_text(_counts(every))}), so nothing was started. The "
        f"first of each code: {examples}. Mend the input or the spec; "
        "policy.max_failed: 100% runs the job all the same"
    )


def warnings(samples: Mapping[str, Sampled], policy: Policy, rows: int | None = None) -> list[str]:
    """A sentence when the failures in the sample are more than `policy.max_failed` allows.

    `rows` is the number of rows of the whole input; None: it is not known.
    """
    sampled, failed = _totals(samples)
    if not failed:
        return []
    total = max(rows or sampled, sampled)
    expected = failed * total / sampled
    limit = policy.failure_limit(total)
    if expected <= limit:
        return []
    whole = f" (about {expected:,.0f} of {total:,} rows)" if total > sampled else ""
    return [
        f"{100 * failed / sampled:.1f}% of the sampled rows will fail{whole}, more than "
        f"policy.max_failed: {policy.max_failed} allows: the run would end with exit code 3. Mend "
        "these rows, leave them out of the input, or raise policy.max_failed"
    ]


def over_budget(budget: Budget, estimate: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each limit of the budget that is less than the estimate of the whole job.

    `estimate` are the totals of an estimate. On a CPU, hours are those of engines.
    """
    if estimate is None:
        return []
    hours = sum(
        one["seconds"] / 3600 * (one["gpus"] or one["engines"]) for one in estimate["routes"]
    )
    needed = {"gpu_hours": hours, "cost": estimate["cost"]}
    return [
        f"the estimate of {needed[name]:,.2f} is more than policy.budget.{name}={limit:g}: the run "
        "ends in order at the budget, and goes on when it is raised"
        for name, limit in budget.model_dump(exclude_none=True).items()
        if (needed[name] or 0.0) > limit
    ]


def same_ids(rows: Sequence[tuple[Shard, Row]], id_column: str | None) -> str | None:
    """A sentence when several of the sampled rows have the same id, else None."""
    if id_column is None:
        return None
    ids = Counter(
        row_id(shard.number, row, id_column)
        for shard, row in rows
        if row.values is not None and row.values.get(id_column) is not None
    )
    doubled = [(one, count) for one, count in ids.items() if count > 1]
    if not doubled:
        return None
    first, count = doubled[0]
    return (
        f"the id column {id_column!r} has the same value in several of the sampled rows "
        f"({len(doubled):,} such value{'s' * (len(doubled) > 1)}, {first!r} in {count} rows): each "
        "row gets an answer, and these have the same id"
    )


def _totals(samples: Mapping[str, Sampled]) -> tuple[int, int]:
    failed = sum(one.rows for sample in samples.values() for one in sample.foreseen)
    return sum(sample.rows for sample in samples.values()), failed


def _together(samples: Mapping[str, Sampled]) -> list[Foreseen]:
    """The failures of all routes, one for each code."""
    first: dict[str, Foreseen] = {}
    counts: Counter[str] = Counter()
    for sample in samples.values():
        for one in sample.foreseen:
            first.setdefault(one.code, one)
            counts[one.code] += one.rows
    return [
        Foreseen(**{**asdict(first[code]), "rows": count}) for code, count in counts.most_common()
    ]


def _counts(every: Iterable[Foreseen]) -> dict[str, int]:
    return {one.code: one.rows for one in every}
