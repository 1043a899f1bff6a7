"""The circuit breaker ends a run that goes wrong, and lets one with bad rows go on."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.driver.breaker import Breaker
from gemma_batch.errors import StoppedError
from gemma_batch.spec import Stop


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def receipt(rows: int, **failures: int) -> dict[str, Any]:
    return {"rows": rows, "failures": failures}


def state(*starts: int, deaths: int = 0) -> dict[str, Any]:
    workers = {f"w{i}": {"engine_starts": n} for i, n in enumerate(starts)}
    return {"workers": workers, "deaths": deaths}


def test_too_many_rows_failed_by_engines_stop_the_run() -> None:
    """The sentence names the limit, the codes and how many; exit code 4."""
    breaker = Breaker(Stop(failed_share=0.2, last_rows=100))
    for _ in range(20):
        breaker.receipt(receipt(64))
    breaker.receipt(receipt(64, engine_error=15))
    with pytest.raises(StoppedError, match=r"30 of the last 128 rows \(engine_error 15, deadline"):
        breaker.receipt(receipt(64, deadline=15))
    assert StoppedError.exit_code == 4


def test_bad_rows_of_the_input_never_stop_a_run() -> None:
    """A shard full of nulls costs its rows, not the job."""
    breaker = Breaker(Stop(failed_share=0.1, last_rows=100))
    for _ in range(50):
        breaker.receipt(receipt(64, null_value=40, shard_unreadable=24))


def test_answers_of_trials_are_no_sign_of_engines_in_order() -> None:
    """They came from other engines: only rows that this run asked are judged."""
    breaker = Breaker(Stop(failed_share=0.5, last_rows=100))
    breaker.receipt({**receipt(1000), "reused": 1000, "reused_tokens": {}})
    with pytest.raises(StoppedError, match="60 of the last 100 rows"):
        breaker.receipt({**receipt(150, engine_error=60), "reused": 50, "reused_tokens": {}})


def test_a_small_job_is_not_judged_by_its_first_unit() -> None:
    """Below `last_rows` rows there is nothing to judge by."""
    Breaker(Stop(last_rows=1000)).receipt(receipt(999, engine_crash=999))


def test_old_failures_leave_the_window() -> None:
    """Only the last rows count."""
    breaker = Breaker(Stop(failed_share=0.4, last_rows=128))
    breaker.receipt(receipt(64, engine_crash=50))
    for _ in range(10):
        breaker.receipt(receipt(64))
    breaker.receipt(receipt(64, engine_crash=50))


def test_restarts_are_counted_per_engine_and_per_span_of_time() -> None:
    """Ten restarts over hours are life; ten within minutes on one engine are a defect."""
    clock = Clock()
    breaker = Breaker(Stop(engine_restarts=4, minutes=10), clock)
    for hour in range(10):
        clock.now = hour * 3600.0
        breaker.engines(state(1 + hour))
    breaker.engines(state(10, 1, 1, deaths=0))
    clock.now += 60
    breaker.engines(state(16, 3, 2))  # 9 within the span on 3 engines
    with pytest.raises(StoppedError, match=r"policy\.stop\.engine_restarts=4"):
        breaker.engines(state(16, 8, 2))


def test_a_run_that_stands_still_ends() -> None:
    """Any movement starts the time again."""
    clock = Clock()
    breaker = Breaker(Stop(stalled_minutes=1), clock)
    for signs in (1, 2, 3):
        breaker.moving(signs)
        clock.now += 59
    breaker.moving(3)
    clock.now += 2
    with pytest.raises(StoppedError, match=r"policy\.stop\.stalled_minutes"):
        breaker.moving(3)
