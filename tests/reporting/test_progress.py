"""What people see while a run goes on: true numbers, and not too many lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gemma_batch.reporting.progress import WINDOW, LogProgress, Snapshot, Speed, make_progress
from gemma_batch.texts import duration


def test_durations_read_like_a_clock() -> None:
    """Seconds in, hours only where there are any."""
    assert [duration(s) for s in (None, 5, 65, 3600, 86_399.6)] == [
        "-", "0:05", "1:05", "1:00:00", "24:00:00",
    ]  # fmt: skip


def test_the_time_left_is_told_by_work_alone() -> None:
    """Neither the start of engines, nor what was committed before, nor a standstill counts."""
    speed = Speed()

    def at(now: float, done: int, phase: str = "running") -> tuple[float, float, float | None]:
        state = Snapshot(phase=phase, rows=2000, done=done, completion_tokens=10 * done)
        return speed.add(state, now)

    unknown = (0.0, 0.0, None)
    assert at(0, 0, "planning") == unknown
    assert [at(now, 1000) for now in range(10, 100)] == [unknown] * 90, "1,000 were there before"
    assert at(100, 1004) == at(101, 1020) == unknown, "too early to tell"
    assert at(109, 1100) == (10.0, 100.0, 90.0)
    for now in range(110, 110 + 2 * int(WINDOW)):  # an engine is lost
        last = at(now, 1100)
    assert last == unknown
    assert at(150, 1105) == unknown
    assert at(159, 1200) == (10.0, 100.0, 80.0)


def test_a_log_gets_a_line_when_the_phase_changes_and_not_at_every_update() -> None:
    """One line per `every` seconds and phase, with rows, failures by code, and no false ETA."""
    stream = io.StringIO()
    progress = LogProgress(3600, stream)
    progress.update(Snapshot(phase="planning"))
    running = Snapshot(
        phase="running", rows=1000, committed=100, done=250, failures={"null_value": 2}
    )
    for _ in range(5):
        progress.update(running)
    progress.say("a sentence")
    lines = [line[9:] for line in stream.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[0] == "planning"
    assert lines[1].startswith("running: 250/1,000 rows done (25.0%), 100 committed, a kill now")
    assert lines[1].endswith("- left - 2 failed (null_value 2)")
    assert lines[2] == "a sentence"


@pytest.mark.parametrize(
    ("rows", "done", "committed", "text"),
    [
        (
            1000,
            412,
            100,
            "412/1,000 rows done (41.2%), 100 committed, a kill now would redo 312 rows",
        ),
        (1000, 101, 100, "101/1,000 rows done (10.1%), 100 committed, a kill now would redo 1 row"),
        (1000, 1000, 1000, "1,000/1,000 rows done (100.0%), 1,000 committed"),
        (0, 0, 0, "0/0 rows done, 0 committed"),
    ],
)
def test_rows_done_and_committed_and_what_a_kill_would_cost(
    rows: int, done: int, committed: int, text: str
) -> None:
    """In the words of the log line and of the panel."""
    assert Snapshot(rows=rows, done=done, committed=committed).counts == text


def test_a_terminal_gets_a_live_panel_with_a_bar_per_route() -> None:
    """Drawn by rich, gone at the end; elsewhere plain lines."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = make_progress(10, console)
    progress.update(
        Snapshot(
            phase="running",
            rows=300,
            done=60,
            committed=50,
            engines=3,
            routes={"long": (10, 100), "rest": (50, 200)},
            failures={"engine_crash": 1},
        )
    )
    progress.close()
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "long",
        "10/100",
        "rest",
        "50/200",
        "3 engines",
        "1 failed (engine_crash 1)",
        "a kill now would redo 10 rows",
    ):
        assert text in drawn
    assert isinstance(make_progress(10, Console(file=io.StringIO())), LogProgress)
