"""How long to wait before trying again: one rule for storage, rows and engines."""

from __future__ import annotations

import random


def pause(attempt: int, *, base: float, cap: float) -> float:
    """Seconds to wait after failure number `attempt` (from 0): half to all of `base * 2**attempt`,
    at most `cap`.

    The jitter keeps many workers that failed together from coming back together.
    """
    return min(cap, base * 2.0 ** min(attempt, 60)) * random.uniform(0.5, 1.0)
