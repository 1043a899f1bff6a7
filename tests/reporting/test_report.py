"""The report adds up what is committed, across generations and resumed runs."""

from __future__ import annotations

from typing import Any

from gemma_batch.cli.show import report_text
from gemma_batch.committing.manifest import Fingerprint, Manifest
from gemma_batch.reporting.cost import Cost
from gemma_batch.reporting.report import RunFacts, make_report
from gemma_batch.reporting.spending import Spending
from gemma_batch.spec import Budget
from gemma_batch.storage.parts import PartKey

MANIFEST = Manifest(
    name="job",
    run="a",
    names_parts=True,
    created="2026-01-01T00:00:00+00:00",
    fingerprint=Fingerprint(fields={}, inputs={}),
    shards=(),
    units_key="_run/units-x.parquet",
    rows=200,
    spec={},
)


def receipt(rows: int, *, finished: float = 0.0, ready: float = 0.0, **failures: int) -> Any:
    failed = sum(failures.values())
    return {
        "route": "all",
        "model": "m",
        "rows": rows,
        "answered": rows - failed,
        "failed": failed,
        "failures": failures,
        "prompt_tokens": 10 * rows,
        "completion_tokens": 2 * rows,
        "cached_tokens": rows,
        "finished": finished,
        "engine_ready": ready,
    }


def test_a_retry_supersedes_the_failures_before_it() -> None:
    """What it answered counts as answered, what is still open as failed, nothing twice."""
    receipts = {
        PartKey(0, 0, None, 0): receipt(100, engine_crash=3, bad_row=2),
        PartKey(0, 100, None, 0): receipt(100),
        # Two of the three were answered; the footer carries every failure that is still open.
        PartKey(0, 0, None, 1): {
            **receipt(3, engine_crash=1),
            "failures": {"engine_crash": 1, "bad_row": 2},
        },
    }
    report = make_report(MANIFEST, "out", 2, receipts)
    assert (report.rows, report.answered, report.failed) == (200, 197, 3)
    assert report.failures == {"bad_row": 2, "engine_crash": 1}
    assert (report.complete, report.generations, report.parts) == (True, 1, 3)


def test_a_run_whose_every_row_failed_can_be_told() -> None:
    """No token was ever counted: the summary must not divide by that."""
    failed = {**receipt(200, null_value=200), "prompt_tokens": 0, "cached_tokens": 0}
    report = make_report(MANIFEST, "out", 1, {PartKey(0, 0, None, 0): failed})
    assert "200 failed (null_value 200)" in report_text(report)


def test_tokens_of_refused_answers_are_told_apart() -> None:
    """They were paid for and are in no result. Receipts of older versions have no such number."""
    receipts = {
        PartKey(0, 0, None, 0): receipt(100),
        PartKey(0, 100, None, 0): {**receipt(100), "refused_tokens": 1234},
    }
    report = make_report(MANIFEST, "out", 2, receipts)
    assert (report.prompt_tokens, report.refused_tokens) == (2000, 1234)
    assert "400 out; 1,234 in answers that were refused, and their prompts" in report_text(report)
    del receipts[PartKey(0, 100, None, 0)]
    assert "refused" not in report_text(make_report(MANIFEST, "out", 2, receipts))


def test_a_run_that_is_not_finished_says_so() -> None:
    """Parts of a retry do not make up for units that are missing."""
    receipts = {PartKey(0, 0, None, 0): receipt(100), PartKey(0, 0, None, 1): receipt(1)}
    report = make_report(MANIFEST, "out", 2, receipts)
    assert (report.complete, report.units, report.units_committed) == (False, 2, 1)


def test_speeds_are_those_of_this_run_alone() -> None:
    """What an earlier start committed makes no later one look fast."""
    old, mine = receipt(100), receipt(100, finished=130.0, ready=110.0)
    receipts = {PartKey(0, 0, None, 0): old, PartKey(0, 100, None, 0): mine}
    facts = RunFacts(started=100.0, finished=140.0, receipts=(mine,))
    report = make_report(MANIFEST, "out", 2, receipts, facts)
    assert (report.run_rows, report.seconds, report.first_commit) == (100, 40.0, 30.0)
    assert (report.rows_per_second, report.steady_rows_per_second) == (2.5, 5.0)
    assert report.tokens_per_second == 5.0
    idle = make_report(MANIFEST, "out", 2, receipts, RunFacts(started=1.0, finished=2.0))
    assert (idle.run_rows, idle.rows_per_second, idle.first_commit) == (0, 0.0, None)


def test_answers_of_trials_are_in_the_totals_and_no_work_of_the_run() -> None:
    """A run that took 80 of 200 rows from trials did 120; a unit of them alone had no engine."""
    old = {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 1}

    def reused(rows: int) -> dict[str, Any]:
        return {"reused": rows, "reused_tokens": {name: n * rows for name, n in old.items()}}

    receipts = {
        PartKey(0, 0, None, 0): {**receipt(50, finished=101.0), **reused(50)},
        PartKey(0, 50, None, 0): {**receipt(150, finished=130.0, ready=110.0), **reused(30)},
    }
    facts = RunFacts(started=100.0, finished=140.0, receipts=tuple(receipts.values()))
    report = make_report(MANIFEST, "out", 2, receipts, facts)
    assert (report.answered, report.reused, report.run_rows) == (200, 80, 120)
    assert (report.prompt_tokens, report.completion_tokens) == (2000, 400)
    assert report.rows_per_second == 120 / 40
    assert report.tokens_per_second == 240 / 40
    assert report.steady_rows_per_second == 120 / 20
    assert "200 answered of 200; none failed; 80 of them reused from trials" in report_text(report)
    alone = tuple(list(receipts.values())[:1])
    nothing = make_report(
        MANIFEST, "out", 2, receipts, RunFacts(started=100.0, finished=140.0, receipts=alone)
    )
    assert (nothing.run_rows, nothing.steady_rows_per_second) == (0, 0.0)


def test_a_run_that_its_budget_ended_is_incomplete() -> None:
    """The hours that only its driver saw count; without a budget nothing is said of one."""
    receipts = {PartKey(0, 0, None, 0): receipt(100)}
    spending = Spending(
        budget=Budget(gpu_hours=2.0), workers={"died": Cost(hours=1.97, price=None)}
    )
    facts = RunFacts(started=0.0, finished=9.0, why="stopped by the budget")
    report = make_report(MANIFEST, "out", 2, receipts, facts, spending=spending)
    assert (report.complete, report.incomplete, report.why) == (
        False,
        True,
        "stopped by the budget",
    )
    assert (report.budget, report.device_hours) == ({"gpu_hours": 2.0}, 1.97)
    text = report_text(report)
    assert ": incomplete\n" in text
    assert "1.97 of policy.budget.gpu_hours=2 spent, all runs together; no more units" in text
    report = make_report(MANIFEST, "out", 2, receipts, RunFacts(started=0.0, finished=9.0))
    assert (report.incomplete, report.why, report.budget) == (False, None, {})
    assert "budget" not in report_text(report)
