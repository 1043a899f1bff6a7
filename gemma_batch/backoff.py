"""Backoff: how long to wait before trying again; one rule for storage, rows and engines."""

from __future__ import annotations

import random


def pause(attempt: int, *, base: float, cap: float) -> float:
    """Seconds to wait after failure number `attempt` (from 0).

    The pause is `base * 2**attempt` seconds, at most `cap`, times a random factor from 0.5 to 1.
    The random factor keeps workers that failed at the same time from trying again at the same
    time.
    """
    return min(cap, base * 2.0 ** min(attempt, 60)) * random.uniform(0.5, 1.0)
