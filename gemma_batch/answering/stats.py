"""FeedStats: the running totals of one feed, for progress, metrics and alerts (GPU actor)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gemma_batch.rows import Failure, Outcome


@dataclass(slots=True)
class FeedStats:
    """Totals that the feed's event loop writes and other threads read.

    `in_hand` are the rows without an outcome of units of which a row has gone to the engine.
    `oldest` is the time when the oldest row in the engine first went there (monotonic clock in
    seconds; 0 when the engine has no row). `ready_at` is the Unix time when an engine was first
    ready (0: not yet). `refused_tokens` are the tokens of answers without the right shape, and of
    their prompts; no other total counts them. `failures` counts failed rows by code. `retries`
    counts all attempts after a row's first attempt, by the cause that ended the attempt before.
    """

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    refused_tokens: int = 0
    in_flight: int = 0
    waiting: int = 0
    in_hand: int = 0
    oldest: float = 0.0
    engine_starts: int = 0
    engine_hangs: int = 0
    start_seconds: float = 0.0
    ready_at: float = 0.0
    starved_seconds: float = 0.0
    recovering_seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        """Count one finished row."""
        self.refused_tokens += outcome.refused_tokens
        if isinstance(outcome, Failure):
            self.failed += 1
            self.failures[outcome.code] = self.failures.get(outcome.code, 0) + 1
        else:
            self.answered += 1
            self.prompt_tokens += outcome.prompt_tokens
            self.completion_tokens += outcome.completion_tokens
            self.cached_tokens += outcome.cached_tokens

    def count_retry(self, cause: str) -> None:
        """Count one more attempt of a row."""
        self.retries[cause] = self.retries.get(cause, 0) + 1

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest row went to the engine; 0 when the engine has no row."""
        oldest = self.oldest
        return round(time.monotonic() - oldest, 3) if oldest else 0.0

    def numbers(self) -> dict[str, Any]:
        """All totals as plain data, for the board."""
        return {**asdict(self), "oldest_seconds": self.oldest_seconds}


def row_times(outcomes: Mapping[int, Outcome]) -> list[tuple[int, float, float]]:
    """The number of each row that went to an engine, and when it came and left (Unix seconds).

    The rows are in the order in which they came.
    """
    times = [
        (number, round(outcome.began, 4), round(outcome.ended, 4))
        for number, outcome in outcomes.items()
        if outcome.began
    ]
    return sorted(times, key=lambda row: (row[1], row[0]))
