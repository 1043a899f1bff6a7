"""The result of a try: failures, speed, tokens and the bill of the whole job (driver, laptop).

Everything is made from the manifest, the receipts and the parts of the try, so a try that is
committed already gives the same result again, at the prices and with the engines of today's spec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemma_batch.committing.ledger import Receipt
from gemma_batch.engines.base import engine_class
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.draw import Population
from gemma_batch.planning.plan import Plan
from gemma_batch.prompts.prefixes import WORTH_SHARE
from gemma_batch.reporting.bill import Bill, make_bill
from gemma_batch.reporting.intervals import effect, grouped, wilson
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.tried_rows import code_of, of_route
from gemma_batch.reporting.tried_speed import RouteSpeed, route_speed

SHORT_SECONDS = 5.0  # of engine work, below which a speed is not worth much
TELLING = 1.1  # a gain that is less than this needs no sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCode:
    """A failure code in the sample: its rows, their share with its interval, and an example.

    `whole` are the rows of the whole input to expect, `low` and `high` their interval.
    """

    code: str
    rows: int
    share: float
    whole: int
    low: int
    high: int
    id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A try of one job. `folder` holds its answers; `fresh` says that engines worked now.

    `rows` is the number of sampled rows, `limit` the failed rows that the job's policy allows in
    the whole, `expected_failures` those to expect, `passes` whether they are not more. `bill` is
    None for a dry run, and where no row reached an engine. `notes` are sentences for people.
    """

    name: str
    output: str
    folder: str
    model: str
    seed: int
    fresh: bool
    rows: int
    answered: int
    failed: int
    failures: list[FailedCode]
    population: Population
    expected_failures: int
    limit: int
    passes: bool
    speeds: list[RouteSpeed]
    bill: Bill | None
    notes: list[str]
    samples: list[ShownRow]

    def to_dict(self) -> dict[str, Any]:
        """The try as plain data."""
        data = {name: getattr(self, name) for name in self.__slots__ if name != "samples"}
        for name in ("failures", "speeds"):
            data[name] = [asdict(one) for one in data[name]]
        data["population"] = asdict(self.population)
        data["bill"] = None if self.bill is None else asdict(self.bill)
        return {**data, "samples": [row.plain() for row in self.samples]}

    def to_json(self) -> str:
        """The try as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str)


def make_trial(
    plan: Plan,
    facts: Mapping[str, Any],
    receipts: Sequence[Receipt],
    rows: Sequence[ShownRow],
    hardware: Hardware,
    *,
    folder: str,
    fresh: bool,
) -> Trial:
    """The result of a try of the placed `plan`. `facts` are those of the manifest about the try."""
    population = Population(**facts["population"])
    by_shard = (lambda row: row.shard) if population.clustered else None
    groups = grouped(rows, by_shard)
    speeds = [
        route_speed(route, mine, receipts, hardware)
        for route in plan.routes
        if (mine := of_route(rows, route.route.name))
    ]
    failed = [row for row in rows if code_of(row) is not None]
    expected = round(population.rows * len(failed) / max(len(rows), 1))
    limit = plan.spec.policy.failure_limit(population.rows)
    dry = not any(engine_class(route.resources.engine).computes for route in plan.routes)
    bill = None if dry else make_bill(plan.routes, speeds, groups, population, hardware)
    return Trial(
        name=plan.spec.name,
        output=plan.spec.output.path,
        folder=folder,
        model=plan.spec.model or ", ".join(route.route.model for route in plan.routes),
        seed=facts["seed"],
        fresh=fresh,
        rows=len(rows),
        answered=len(rows) - len(failed),
        failed=len(failed),
        failures=failed_codes(groups, population),
        population=population,
        expected_failures=expected,
        limit=limit,
        passes=expected <= limit,
        speeds=speeds,
        bill=bill,
        notes=[*_notes(speeds, population, dry=dry), *_prefix_notes(facts.get("gain", {}))],
        samples=list(rows),
    )


def failed_codes(groups: Sequence[Sequence[ShownRow]], population: Population) -> list[FailedCode]:
    """The failures of the sample by code, the most frequent code first."""
    rows = [row for group in groups for row in group]
    codes = {code: row for row in reversed(rows) if (code := code_of(row)) is not None}
    found = []
    for code, first in codes.items():
        hits = [[float(code_of(row) == code) for row in group] for group in groups]
        count = sum(map(sum, hits))
        wide = effect(hits)
        low, high = wilson(count / wide, len(rows) / wide)
        found.append(
            FailedCode(
                code=str(code),
                rows=int(count),
                share=round(count / len(rows), 6),
                whole=round(population.rows * count / len(rows)),
                low=round(population.rows * low),
                high=round(population.rows * high),
                id=first.id,
                message=first.answers[0].message or "",
            )
        )
    return sorted(found, key=lambda one: -one.rows)


def _prefix_notes(gains: Mapping[str, float]) -> list[str]:
    return [
        f"route {name!r}: the run puts rows together that begin alike, which brings about "
        f"{100 * gain:.0f}% of the prompt tokens from the prefix cache: it may be faster than this"
        for name, gain in gains.items()
        if gain >= WORTH_SHARE
    ]


def _notes(speeds: Sequence[RouteSpeed], population: Population, *, dry: bool) -> list[str]:
    notes = []
    if population.clustered:
        notes.append(
            f"the sample is of {population.looked:,} of {population.shards:,} files, drawn at "
            "random; its intervals allow for rows of one file being alike"
        )
    if not population.exact:
        notes.append(
            "the rows of the whole are an estimate by the bytes of the files: files of text tell "
            "their rows only when they are read"
        )
    if dry:
        notes.append("the engine computes nothing (a dry run): there is no bill")
    for one in speeds:
        if one.measured is None or dry:
            continue
        if not one.full and one.gain is not None:
            how = (
                f"the speed is {one.gain:.2f} times that, by the roofline"
                if one.gain >= TELLING
                else "the speed is taken as it was measured"
            )
            notes.append(
                f"route {one.route!r}: the sample does not fill an engine ({one.running:,.0f} of "
                f"{one.slots:,} sequences on average): {how}. A larger -n measures it"
            )
        if one.seconds is not None and one.seconds < SHORT_SECONDS:
            notes.append(
                f"route {one.route!r}: an engine answered the sample in {one.seconds:.1f} s, in "
                "which other work on the machine weighs much: a larger -n measures the speed better"
            )
    return notes
