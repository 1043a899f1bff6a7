"""Whoever failed together does not come back together, and nobody waits for ever."""

from __future__ import annotations

from gemma_batch.backoff import pause


def test_pauses_double_up_to_the_cap_and_differ() -> None:
    """Half to all of the doubled time; never above the cap, however often it failed."""
    for attempt, most in ((0, 0.5), (1, 1.0), (3, 4.0), (10, 5.0), (100_000, 5.0)):
        pauses = {pause(attempt, base=0.5, cap=5.0) for _ in range(200)}
        assert all(most / 2 <= seconds <= most for seconds in pauses)
        assert len(pauses) > 100
