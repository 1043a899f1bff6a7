"""Row policy: the limits of a row and an engine, and the names of the orders of waiting rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPolicy:
    """The limits of a row and an engine. Times are in seconds.

    `deadline` limits the time of one attempt, `max_attempts` the number of attempts of a row. An
    engine that gives no sign of life for `hang` seconds is killed. `backoff` is the base of the
    growing pause before another attempt (see `gemma_batch/backoff.py`).
    """

    max_attempts: int = 3
    deadline: float = 1800.0
    hang: float = 300.0
    backoff: float = 0.5


Order = Literal["auto", "input", "prefix", "length"]
