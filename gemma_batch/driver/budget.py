"""The budget: ends a run in order before its output costs more than `policy.budget` (driver).

The follower gives the watch the receipts and the state of the board. The watch adds up what all
runs on the output have cost, and foresees the cost of the units that engines have begun. When both
together reach the budget, engines begin no more units, finish those that they have begun, and the
run ends. Everything is counted in the seconds for which workers hold their GPUs, from the birth of
a worker on: the start of an engine costs as much as its work.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_batch.committing.ledger import Receipt
from gemma_batch.committing.reuse import worked
from gemma_batch.errors import BudgetError
from gemma_batch.reporting.cost import Cost, Meter
from gemma_batch.reporting.spending import exact, spent_text
from gemma_batch.spec import Budget
from gemma_batch.units.unit import Unit

# From the moment of a look until engines begin no more units, on average: the age of the numbers,
# and the time until the workers hear of it.
NOTICE_SECONDS = 1.5
SILENT_SECONDS = 30.0  # a worker that reports nothing for so long is taken to hold no GPU any more
QUIET_LOOKS = 2  # looks in a row at which no worker holds a unit, before the run ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The work of one route so far, by its receipts, as means over its workers.

    `start` is in seconds per start of an engine, `row` in seconds of one engine per row. `devices`
    and `price` (per hour) are those of one worker.
    """

    start: float
    row: float
    devices: float
    price: float | None

    def cost(self, rows: int) -> Cost:
        """The cost of one more engine that answers so many rows."""
        hours = (self.start + rows * self.row) / 3600
        return Cost(
            hours=hours * self.devices, price=None if self.price is None else hours * self.price
        )


def past_of(receipts: Iterable[Receipt]) -> dict[str, Past]:
    """The work so far, by route. Receipts of old versions, without a worker's birth, are left out.

    The work of a worker on rows ends with its last commit.
    """
    workers: dict[tuple[str, str], list[Receipt]] = {}
    for receipt in receipts:
        if "devices" in receipt and receipt["engine_ready"]:
            workers.setdefault((receipt["route"], receipt["worker"]), []).append(receipt)
    found = {}
    for route in {route for route, _ in workers}:
        mine = [done for (name, _), done in workers.items() if name == route]
        rows = sum(worked(one, "rows") for done in mine for one in done)
        start = sum(max(0.0, done[0]["engine_ready"] - done[0]["born"]) for done in mine)
        work = sum(
            max(0.0, max(one["finished"] for one in done) - done[0]["engine_ready"])
            for done in mine
        )
        found[route] = Past(
            start=start / len(mine),
            row=work / max(1, rows),
            devices=mine[-1][-1]["devices"],
            price=mine[-1][-1]["price"],
        )
    return found


class BudgetWatch:
    """Watches what one run adds to the cost of its output.

    `receipts` are those of all runs before, and `workers` the cost by worker that was kept.
    `ending`: no more units may begin.
    """

    def __init__(
        self, budget: Budget, receipts: Collection[Receipt], workers: Mapping[str, Cost]
    ) -> None:
        self.budget, self.meter = budget, Meter(workers)
        for receipt in receipts:
            self.meter.receipt(receipt)
        self.ending = False
        self._past = past_of(receipts)
        self._rows = {route: past.row for route, past in self._past.items()}
        self._quiet = 0

    def expect(self, rows: Mapping[str, float]) -> None:
        """Take the seconds per row of one engine that the plan expects, by route.

        They count until an engine has answered a row on the route, in this run or before.
        """
        self._rows = {**rows, **self._rows}

    @property
    def spent(self) -> str:
        """What is spent of the budget, in words."""
        total = self.meter.total
        return spent_text(self.budget.model_dump(exclude_none=True), total.hours, total.price)

    def look(self, state: Mapping[str, Any]) -> None:
        """Take the board's state, and decide whether more units may begin."""
        workers: Mapping[str, Mapping[str, Any]] = state["workers"]
        for name, one in workers.items():
            passed = one["silent_seconds"] if _lives(one) else 0.0
            self.meter.held(name, one["held_seconds"] + passed, one["devices"], one["price"])
        living = [one for one in workers.values() if _lives(one)]
        pace = self._pace(list(workers.values()))
        hours = price = 0.0
        for one in living:
            seconds = NOTICE_SECONDS + _undone(one) * pace.get(one["route"], 0.0)
            hours += seconds * one["devices"] / 3600
            price += seconds * (one["price"] or 0.0) / 3600
        self.ending = self.ending or self._reached(Cost(hours=hours, price=price))
        busy = state["held"] or any(one["in_hand"] for one in living)
        self._quiet = 0 if busy or not self.ending else self._quiet + 1

    @property
    def over(self) -> bool:
        """Whether no worker holds a unit any more, after no more units were begun."""
        return self._quiet > QUIET_LOOKS

    def first(self, units: Sequence[Unit]) -> Cost | None:
        """The least that one more engine costs until it commits one of these units.

        None when that is not known, because a route has done nothing so far.
        """
        smallest: dict[str, int] = {}
        for unit in units:
            smallest[unit.route] = min(unit.expected, smallest.get(unit.route, unit.expected))
        if not smallest.keys() <= self._past.keys():
            return None
        costs = [self._past[route].cost(rows) for route, rows in smallest.items()]
        return min(costs, key=lambda cost: cost.hours)

    def refused(self, units: Sequence[Unit], committed: int) -> BudgetError | None:
        """The error of a start when the budget is spent, or does not pay for one of the `units`.

        `units` are all that are left; `committed` counts rows.
        """
        first, left = self.first(units), sum(unit.expected for unit in units)
        if self._reached(Cost(hours=0.0, price=0.0)):
            return self._error("nothing was started: the budget is spent", committed, left)
        if first is None or not self._reached(first):
            return None
        about = f"about {exact(first.hours)} hours"
        if first.price is not None and self.budget.cost is not None:
            about = f"{about}, cost {exact(first.price)}"
        head = (
            "nothing was started: the rest of the budget does not pay for the start of an engine "
            f"and one unit ({about})"
        )
        return self._error(head, committed, left)

    def stopped(self, committed: int, left: int) -> BudgetError:
        """The error of a run that ended in order, with `left` rows undone."""
        return self._error("stopped by the budget", committed, left)

    def engines(self, units: Sequence[Unit]) -> int:
        """How many engines the rest of the budget pays for, if each does one of `units`.

        At least 1. More engines than that would spend the rest on their start.
        """
        if (first := self.first(units)) is None:
            return sys.maxsize
        total = self.meter.total
        counts = [math.inf]
        if self.budget.gpu_hours is not None and first.hours:
            counts.append((self.budget.gpu_hours - total.hours) / first.hours)
        if self.budget.cost is not None and first.price:
            counts.append((self.budget.cost - (total.price or 0.0)) / first.price)
        return max(1, math.floor(min(counts))) if min(counts) < math.inf else sys.maxsize

    def _error(self, head: str, committed: int, left: int) -> BudgetError:
        return BudgetError(
            f"{head}: {self.spent} is spent; {committed:,} of {committed + left:,} rows are "
            f"committed and {left:,} are left; raise policy.budget (in the spec, or by --set) and "
            "run the same command to go on"
        )

    def _reached(self, more: Cost) -> bool:
        """Whether the cost so far and `more` together reach a limit of the budget."""
        total = self.meter.total
        hours, price = total.hours + more.hours, (total.price or 0.0) + (more.price or 0.0)
        limits = (self.budget.gpu_hours or math.inf, self.budget.cost or math.inf)
        return hours >= limits[0] or price >= limits[1]

    def _pace(self, workers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Seconds of one engine per row, by route: by the answers of this run, once there are."""
        seconds: dict[str, float] = {}
        answers: dict[str, float] = {}
        halves: dict[str, float] = {}
        for one in workers:
            route = one["route"]
            seconds[route] = seconds.get(route, 0.0) + one["ready_seconds"]
            answers[route] = answers.get(route, 0.0) + one["answered"] + one["failed"]
            # A row in the engine is half done, on average.
            halves[route] = halves.get(route, 0.0) + one["in_flight"] / 2
        pace = dict(self._rows)
        for route, passed in seconds.items():
            if (done := answers[route] + halves[route]) and (answers[route] or route not in pace):
                pace[route] = passed / done
        return pace


def _lives(worker: Mapping[str, Any]) -> bool:
    return not worker["gone"] and worker["silent_seconds"] < SILENT_SECONDS


def _undone(worker: Mapping[str, Any]) -> float:
    """Rows that a worker still has to answer in units that it has begun."""
    return max(0.0, float(worker["in_hand"] - worker["in_flight"] / 2))
