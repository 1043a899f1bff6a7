"""Alerts are raised once per crossing, for what they name and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.errors import SpecError
from gemma_batch.reporting.alerts import LEAST_ROWS, Alert, Watcher, load_alerts, save_alert
from gemma_batch.reporting.progress import Snapshot
from gemma_batch.spec import Alerts, JobSpec
from gemma_batch.storage.fs import open_store


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(**numbers: Any) -> dict[str, Any]:
    usual = {
        "answered": 0,
        "failed": 0,
        "in_flight": 10,
        "oldest_seconds": 1.0,
        "memory_share": 0.3,
        "silent_seconds": 0.5,
    }
    return {**usual, **numbers}


def running(tokens: int, *, done: int = 0, rows: int = 1000, **failures: int) -> Snapshot:
    return Snapshot(
        rows=rows, done=done, engines=1, completion_tokens=tokens, failures=dict(failures)
    )


def names(alerts: list[Alert]) -> list[str]:
    return [alert.name for alert in alerts]


def test_a_job_without_alerts_raises_none() -> None:
    """Nothing has a threshold by default, however bad things are."""
    watcher = Watcher(Alerts())
    bad = worker(failed=1000, oldest_seconds=1e6, memory_share=1.0)
    assert watcher.look(running(0, bad_row=1000), {"w": bad}) == []


def test_a_slow_run_is_told_after_its_time_and_only_once() -> None:
    """The mean over `for_seconds` counts; a burst at the right moment is enough to keep quiet."""
    clock = Clock()
    watcher = Watcher(Alerts(min_tokens_per_second=100, for_seconds=60), clock)
    found = []
    for second in range(300):
        clock.now = float(second)
        # Quick for two minutes, though in bursts of 30 s; then half as fast as it has to be.
        tokens = 150 * 30 * (second // 30) if second < 120 else 18_000 + 50 * (second - 120)
        found += [(second, alert) for alert in watcher.look(running(tokens), {"w": worker()})]
    ((second, alert),) = found
    assert 120 < second <= 181
    assert (alert.name, alert.threshold) == ("min_tokens_per_second", 100)
    assert alert.value < 100
    assert "less than policy.alerts.min_tokens_per_second=100" in alert.text


def test_engines_that_start_or_run_out_of_rows_are_not_slow() -> None:
    """Before the first engine is up, when all rows left are in the engines, or no unit begins."""
    clock = Clock()
    watcher = Watcher(Alerts(min_tokens_per_second=100, for_seconds=10), clock)
    starting = Snapshot(rows=1000, engines=0)
    ending = running(5000, done=992)
    spent = replace(running(5000), ending=True)
    for snapshot in (starting, ending, spent):
        for _ in range(60):
            clock.now += 1
            assert watcher.look(snapshot, {"w": worker()}) == []


def test_failed_rows_count_whatever_the_cause_but_not_the_first_few() -> None:
    """A share of five rows says nothing; a job of five rows is judged when it is through."""
    watcher = Watcher(Alerts(max_failed_share=0.2))
    few = worker(failed=LEAST_ROWS - 1)
    assert watcher.look(running(0, null_value=LEAST_ROWS - 1), {"w": few}) == []
    enough = {"a": worker(failed=30), "b": worker(answered=70)}
    (alert,) = watcher.look(running(0, null_value=30), enough)
    assert (alert.name, alert.value) == ("max_failed_share", 0.3)
    small = Watcher(Alerts(max_failed_share=0.2))
    ended = {"w": worker(answered=3, failed=2)}
    assert names(small.look(running(0, rows=5, null_value=2), ended)) == ["max_failed_share"]


def test_the_oldest_row_of_all_engines_counts() -> None:
    """At once, without waiting."""
    watcher = Watcher(Alerts(max_row_seconds=120))
    workers = {"a": worker(oldest_seconds=5), "b": worker(oldest_seconds=121)}
    assert names(watcher.look(running(0), workers)) == ["max_row_seconds"]
    assert watcher.look(running(0), workers) == []


def test_what_a_dead_worker_said_last_is_no_alert() -> None:
    """Its rows are elsewhere, its node may be gone; the rows that it failed stay failed."""
    watcher = Watcher(Alerts(max_row_seconds=120, max_memory_share=0.9, for_seconds=0))
    dead = worker(oldest_seconds=500, memory_share=0.99, failed=50, silent_seconds=60)
    assert watcher.look(running(0), {"dead": dead, "w": worker()}) == []
    counting = Watcher(Alerts(max_failed_share=0.2))
    workers = {"dead": dead, "w": worker(answered=50)}
    assert names(counting.look(running(0, deadline=50), workers)) == ["max_failed_share"]


def test_full_memory_has_to_last() -> None:
    """A peak is not told; a node that stays full is."""
    clock = Clock()
    watcher = Watcher(Alerts(max_memory_share=0.9, for_seconds=30), clock)
    full, fine = {"w": worker(memory_share=0.95)}, {"w": worker(memory_share=0.5)}
    for second in range(100):
        clock.now = float(second)
        assert watcher.look(running(0), fine if second % 20 == 0 else full) == []
    for _ in range(31):
        assert watcher.look(running(0), full) == [] or clock.now == 111
        clock.now += 1
    clock.now = 200.0
    assert watcher.look(running(0), full) == [], "it was told at second 111"


def test_one_that_comes_back_is_told_again_but_not_all_the_time() -> None:
    """A value that swings about its threshold makes one event per `for_seconds`."""
    clock = Clock()
    watcher = Watcher(Alerts(max_row_seconds=10, for_seconds=60), clock)
    slow, quick = {"w": worker(oldest_seconds=11)}, {"w": worker(oldest_seconds=9)}
    told = []
    for second in range(180):
        clock.now = float(second)
        told += [second for _ in watcher.look(running(0), quick if second % 2 else slow)]
    assert told == [0, 60, 120]


def test_only_what_is_named_stops_the_run() -> None:
    """The sentence says what, the rule, and how to go on."""
    watcher = Watcher(Alerts(max_row_seconds=10, max_failed_share=0.1, stop=("max_row_seconds",)))
    slow = Alert(time=0, name="max_row_seconds", value=12, threshold=10)
    failed = Alert(time=0, name="max_failed_share", value=0.2, threshold=0.1)
    assert watcher.stop_text(failed) is None
    text = watcher.stop_text(slow) or ""
    assert "12 s, more than policy.alerts.max_row_seconds=10" in text
    assert "start again to go on" in text


def test_events_are_kept_in_the_output(tmp_path: Path) -> None:
    """Those of every run, in the order of time."""
    store = open_store(str(tmp_path))
    late = Alert(time=20.0, name="max_row_seconds", value=12.0, threshold=10.0)
    early = Alert(time=10.0, name="max_failed_share", value=0.2, threshold=0.1)
    assert load_alerts(store) == []
    save_alert(store, late)
    save_alert(store, early)
    assert load_alerts(store) == [early, late]


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ({"stop": ["max_row_seconds"]}, "'max_row_seconds', which has no threshold"),
        ({"stop": ["max_rows"]}, "stop"),
        ({"max_failed_share": 5}, "max_failed_share"),
        ({"min_tokens_per_sec": 5}, "min_tokens_per_second"),
    ],
)
def test_a_spec_that_cannot_mean_what_it_says_is_refused(alerts: Any, words: str) -> None:
    """An alert that could never be raised would be a false promise."""
    job = {"input": {"path": "x"}, "model": "m", "output": {"path": "o"}}
    with pytest.raises(SpecError, match=words):
        JobSpec.from_dict({**job, "policy": {"alerts": alerts}})
