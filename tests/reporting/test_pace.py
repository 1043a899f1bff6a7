"""Pace: the speed of a full engine, by the times of rows in an engine that was not always full."""

from __future__ import annotations

import random

import pytest

from gemma_batch.reporting.pace import in_slots, pace

SLOTS = 32


def engine(rows: int, *, step: float = 0.01, share: float = 0.0) -> list[tuple[float, float]]:
    """Times of rows that are all there from the start, in an engine of steps.

    Each row takes some steps, and a step takes `step` seconds, and `share` more for each row in it.
    """
    chance = random.Random(rows)
    left = [chance.randint(20, 60) for _ in range(rows)]
    waiting, running, clock, ends = list(range(rows)), list[int](), 0.0, [0.0] * rows
    while waiting or running:
        while waiting and len(running) < SLOTS:
            running.append(waiting.pop(0))
        clock += step + share * len(running)
        for row in list(running):
            left[row] -= 1
            if not left[row]:
                running.remove(row)
                ends[row] = clock
    return [(0.0, end) for end in ends]


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_a_small_sample_tells_the_speed_of_a_long_run(share: float) -> None:
    """Four times the slots are enough for 10%, and nearer to the truth than the mean is."""
    times = engine(4000, share=share)
    truth = 4000 / max(end for _, end in times)
    few = engine(4 * SLOTS, share=share)
    found = pace(few, SLOTS)
    assert found is not None
    assert found.full
    assert found.rows_per_second == pytest.approx(truth, rel=0.10)
    plain = len(few) / max(end for _, end in few)
    assert abs(found.rows_per_second - truth) < abs(plain - truth)


def test_an_engine_that_was_never_full_says_so() -> None:
    """All rows over all of the time, and how many were running."""
    found = pace(engine(SLOTS // 2), SLOTS)
    assert found is not None
    assert not found.full
    assert found.rows == SLOTS // 2
    assert 8 < found.running < 16


def test_time_without_a_row_does_not_count() -> None:
    """An engine that waits for rows is not slow."""
    times = [(0.0, 1.0), (0.0, 1.0), (10.0, 11.0), (10.0, 11.0)]
    found = pace(times, SLOTS)
    assert found is not None
    assert found.seconds == pytest.approx(2.0)
    assert found.rows_per_second == pytest.approx(2.0)
    assert found.running == pytest.approx(2.0)
    assert pace([], SLOTS) is None


def test_rows_wait_for_a_slot() -> None:
    """A row that came while all slots were in use is worked on from when one was free."""
    spans = in_slots([(0.0, 1.0), (0.0, 3.0), (0.0, 2.0), (0.5, 4.0)], 2)
    assert spans == [(0.0, 1.0), (0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]
