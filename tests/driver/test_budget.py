"""The budget: what is spent and foreseen, when no more units begin, and which start is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from gemma_batch.driver.budget import NOTICE_SECONDS, QUIET_LOOKS, BudgetWatch
from gemma_batch.errors import BudgetError, StoppedError
from gemma_batch.reporting.cost import Cost
from gemma_batch.spec import Budget
from gemma_batch.units.unit import Unit

HOUR = 3600.0


def receipt(worker: str, rows: int, finished: float, **other: Any) -> dict[str, Any]:
    """Of a worker that was born at 0 and had its engine after 100 seconds."""
    usual = {
        "route": "all", "worker": worker, "rows": rows, "born": 0.0, "engine_ready": 100.0,
        "finished": finished, "devices": 1.0, "price": None,
    }  # fmt: skip
    return {**usual, **other}


def worker(held: float, **other: Any) -> dict[str, Any]:
    """The live numbers of a worker that loads its engine."""
    usual = {
        "route": "all", "held_seconds": held, "ready_seconds": 0.0, "devices": 1.0, "price": None,
        "answered": 0, "failed": 0, "in_flight": 0, "in_hand": 0, "silent_seconds": 0.0,
        "gone": False,
    }  # fmt: skip
    return {**usual, **other}


def working(held: float, **other: Any) -> dict[str, Any]:
    """It has answered 100 rows in 50 seconds, and 60 rows are in hand, 20 of them in the engine.

    Half of those 20 count as answered: 110 rows took 50 seconds, and 50 rows are to come.
    """
    usual = {"ready_seconds": 50.0, "answered": 98, "failed": 2, "in_flight": 20, "in_hand": 60}
    return worker(held, **{**usual, **other})


def state(*workers: dict[str, Any], held: int = 1) -> dict[str, Any]:
    return {"workers": {f"w{n}": one for n, one in enumerate(workers)}, "held": held}


def unit(rows: int, route: str = "all") -> Unit:
    return Unit(
        shard=0, first_row=0, rows=rows, mark=0, bytes=1, route=route, expected=rows
    )  # fmt: skip


IN_HAND = 50 * 50.0 / 110  # seconds of one engine: 60 rows less half of 20, at 50 s per 110 rows


@pytest.mark.parametrize(
    ("hours", "workers", "spent"),
    [
        ({}, [worker(HOUR)], 1.0),
        ({"before": 2.0}, [worker(HOUR)], 3.0),  # other runs count
        ({}, [worker(HOUR, devices=4.0), worker(HOUR, devices=0.5)], 4.5),
        ({"w0": 0.9}, [worker(HOUR)], 1.0),  # a receipt of the same worker counts once
        ({"w0": 1.1}, [worker(HOUR)], 1.1),
        ({}, [worker(HOUR - 20, silent_seconds=20.0)], 1.0),  # it holds its GPU meanwhile
        ({}, [worker(HOUR, silent_seconds=400.0)], 1.0),  # it does not: it died
        ({}, [worker(HOUR, silent_seconds=20.0, gone=True)], 1.0),
    ],
)
def test_every_worker_counts_as_long_as_it_holds_its_gpus(
    hours: dict[str, float], workers: list[dict[str, Any]], spent: float
) -> None:
    """From its birth, also before it commits anything."""
    kept = {name: Cost(hours=value, price=None) for name, value in hours.items()}
    watch = BudgetWatch(Budget(gpu_hours=100), [], kept)
    watch.look(state(*workers))
    assert watch.meter.total.hours == pytest.approx(spent)
    assert not watch.ending


@pytest.mark.parametrize(
    ("budget", "workers", "seconds"),
    [
        # the worker's numbers, and the seconds of spending at which no more units begin
        ({"gpu_hours": 1}, [working(0)], HOUR - NOTICE_SECONDS - IN_HAND),
        ({"gpu_hours": 1}, [worker(0)], HOUR - NOTICE_SECONDS),
        ({"gpu_hours": 2}, [working(0), worker(HOUR)], HOUR - 2 * NOTICE_SECONDS - IN_HAND),
        ({"gpu_hours": 4}, [working(0, devices=4.0)], HOUR - NOTICE_SECONDS - IN_HAND),
        ({"cost": 3}, [working(0, price=3.0)], HOUR - NOTICE_SECONDS - IN_HAND),
        ({"cost": 3, "gpu_hours": 9}, [working(0, price=3.0)], HOUR - NOTICE_SECONDS - IN_HAND),
        ({"cost": 99, "gpu_hours": 1}, [working(0, price=3.0)], HOUR - NOTICE_SECONDS - IN_HAND),
        # a worker that is gone needs nothing more
        ({"gpu_hours": 2}, [worker(0), working(HOUR, gone=True)], HOUR - NOTICE_SECONDS),
    ],
)
def test_no_more_units_begin_when_those_in_hand_take_the_rest(
    budget: dict[str, float], workers: list[dict[str, Any]], seconds: float
) -> None:
    """A second before, they begin; a second later, they do not, and it stays so."""
    for passed, ending in ((seconds - 1, False), (seconds + 1, True)):
        watch = BudgetWatch(Budget(**budget), [], {})
        watch.look(state({**workers[0], "held_seconds": passed}, *workers[1:]))
        assert watch.ending is ending
    watch.look(state({**workers[0], "held_seconds": seconds - 1}, *workers[1:]))
    assert watch.ending


@pytest.mark.parametrize(
    ("past", "expected", "foreseen"),
    [
        ([], {}, 0.0),  # nobody knows yet: half of the rows in the engine, at its time so far
        ([], {"all": 2.0}, 50 * 2.0),  # by the plan
        ([receipt("old", 100, 150.0)], {"all": 2.0}, 50 * 0.5),  # by an earlier run
    ],
)
def test_before_the_first_answer_the_past_or_the_plan_say_how_long_rows_take(
    past: list[Any], expected: dict[str, float], foreseen: float
) -> None:
    """With nothing known, the time since the engine was ready stands for it."""
    begun = working(0, answered=0, failed=0, ready_seconds=6.0)
    foreseen = foreseen or 50 * 6.0 / 10
    before = 150.0 if past else 0.0
    for passed, ending in ((-1.0, False), (1.0, True)):
        watch = BudgetWatch(Budget(gpu_hours=1), past, {})
        watch.expect(expected)
        held = HOUR - before - NOTICE_SECONDS - foreseen + passed
        watch.look(state({**begun, "held_seconds": held}))
        assert watch.ending is ending


def test_the_run_is_over_when_no_worker_holds_a_unit() -> None:
    """Not while a unit is held or rows are in hand, and only after some looks in a row."""
    watch = BudgetWatch(Budget(gpu_hours=1), [], {})
    spent = worker(2 * HOUR)
    for held, in_hand in ((0, 3), (2, 0), (0, 0), (1, 0)):
        watch.look(state({**spent, "in_hand": in_hand}, held=held))
        assert (watch.ending, watch.over) == (True, False)
    for _ in range(QUIET_LOOKS):
        watch.look(state(spent, held=0))
        assert not watch.over
    watch.look(state(spent, held=0))
    assert watch.over


def test_a_run_that_has_budget_is_never_over_for_idle_workers() -> None:
    """Engines that load hold no unit."""
    watch = BudgetWatch(Budget(gpu_hours=9), [], {})
    for _ in range(10):
        watch.look(state(worker(HOUR), held=0))
    assert not watch.over


# By these receipts an engine starts in 100 s, and a row takes 2 s: 60 rows cost 220 s.
PAST = [receipt("a", 100, 300.0), receipt("b", 50, 200.0, price=2.0)]


@pytest.mark.parametrize(
    ("budget", "sizes", "refused"),
    [
        ({"gpu_hours": 500 / HOUR}, [60], "nothing was started: the budget is spent: "),
        ({"gpu_hours": 715 / HOUR}, [60, 900], "the rest of the budget does not pay for"),
        ({"gpu_hours": 725 / HOUR}, [60, 900], None),
        ({"cost": 200 * 2 / HOUR}, [60], "nothing was started: the budget is spent: "),
        ({"cost": 415 * 2 / HOUR}, [60], "(about 0.0611 hours, cost 0.122)"),
        ({"cost": 425 * 2 / HOUR}, [60], None),
    ],
)
def test_a_start_that_could_not_finish_a_unit_is_refused(
    budget: dict[str, float], sizes: list[int], refused: str | None
) -> None:
    """Before an engine is paid for."""
    watch = BudgetWatch(Budget(**budget), PAST, {})
    error = watch.refused([unit(rows) for rows in sizes], 150)
    if refused is None:
        assert error is None
    else:
        assert refused in str(error)


def test_without_a_past_only_a_spent_budget_is_refused() -> None:
    """What the first unit of a route costs is not known."""
    watch = BudgetWatch(Budget(gpu_hours=501 / HOUR), PAST, {})
    assert watch.refused([unit(60), unit(60, route="new")], 150) is None
    assert BudgetWatch(Budget(gpu_hours=0.001), [], {}).refused([unit(60)], 0) is None
    kept = {"died-loading": Cost(hours=0.001, price=None)}
    assert BudgetWatch(Budget(gpu_hours=0.001), [], kept).refused([unit(60)], 0) is not None


@pytest.mark.parametrize(
    ("rest", "engines"), [(10.0, 1), (230.0, 1), (450.0, 2), (2210.0, 10)]
)  # fmt: skip
def test_no_more_engines_start_than_the_rest_pays_for(rest: float, engines: int) -> None:
    """Eight starts that use up the rest would answer nothing."""
    watch = BudgetWatch(Budget(gpu_hours=(500 + rest) / HOUR), PAST, {})
    assert watch.engines([unit(60), unit(900)]) == engines
    assert BudgetWatch(Budget(gpu_hours=1), [], {}).engines([unit(60)]) > 1000


def test_the_sentence_says_everything() -> None:
    """Budget, spending, rows, and how to go on; exit code 4, also from another process."""
    watch = BudgetWatch(Budget(gpu_hours=0.5, cost=3), [], {"a": Cost(hours=0.4987, price=1.5)})
    error = watch.stopped(12_400, 27_600)
    assert str(error) == (
        "stopped by the budget: 0.499 of policy.budget.gpu_hours=0.5 and 1.50 of "
        "policy.budget.cost=3 is spent; 12,400 of 40,000 rows are committed and 27,600 are left; "
        "raise policy.budget (in the spec, or by --set) and run the same command to go on"
    )
    assert (type(error), error.exit_code) == (BudgetError, 4)
    assert isinstance(error, StoppedError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
