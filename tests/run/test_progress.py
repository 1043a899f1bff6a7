"""What people see while a run goes on: true numbers, and not too many lines."""

from __future__ import annotations

import io

from rich.console import Console

from gemma_batch.run.progress import LogProgress, Snapshot, duration, make_progress


def test_durations_read_like_a_clock() -> None:
    """Seconds in, hours only where there are any."""
    assert [duration(s) for s in (None, 5, 65, 3600, 86_399.6)] == [
        "-", "0:05", "1:05", "1:00:00", "24:00:00",
    ]  # fmt: skip


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
    assert lines[1].startswith("running: 250/1,000 rows 25.0%, 100 committed,")
    assert lines[1].endswith("- left - 2 failed (null_value 2)")
    assert lines[2] == "a sentence"


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
    for text in ("long", "10/100", "rest", "50/200", "3 engines", "1 failed (engine_crash 1)"):
        assert text in drawn
    assert isinstance(make_progress(10, Console(file=io.StringIO())), LogProgress)
