"""Metrics of one worker, for Prometheus through Ray's own exporter.

The one list of what is measured, by name; the numbers are the feed's running totals, given as
counters grow. Names get Ray's prefix (`ray_gemma_batch_rows_total`) and labels (job, node) on their
way. Knows no Ray: the classes of `ray.util.metrics` are handed in.
"""

from __future__ import annotations

from typing import Any

from gemma_batch.run.feed import FeedStats

PREFIX = "gemma_batch_"
LABELS = ("route", "replica")
UNIT_SECONDS = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0]

# name -> (meaning, further labels)
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rows": ("Rows with an outcome, by `outcome`: answered or failed.", ("outcome",)),
    "failures": ("Failed rows by `code`.", ("code",)),
    "tokens": ("Tokens by `kind`: prompt, cached (part of prompt) or output.", ("kind",)),
    "starved_seconds": ("Seconds in which a ready engine had nothing to do.", ()),
    "recovering_seconds": ("Seconds spent on replacing an engine and isolating a row.", ()),
    "engine_starts": ("Starts of an engine; all but the first replaced one that was lost.", ()),
    "engine_hangs": ("Engines that were killed because they gave no sign of life.", ()),
}
GAUGES = {
    "rows_in_flight": "Rows in the engine now.",
    "rows_waiting": "Rows that wait for the engine now.",
}
HISTOGRAM = ("unit_seconds", "Seconds from a unit's arrival at a replica to its commit.")


class Metrics:
    """Gives the growth of a feed's totals to counters. `kinds` is `ray.util.metrics`."""

    def __init__(self, kinds: Any, *, route: str, replica: str) -> None:
        tags = {"route": route, "replica": replica}

        def made(metric: Any) -> Any:
            metric.set_default_tags(tags)
            return metric

        self._counters = {
            name: made(kinds.Counter(PREFIX + name, meaning, tag_keys=(*LABELS, *labels)))
            for name, (meaning, labels) in COUNTERS.items()
        }
        self._gauges = {
            name: made(kinds.Gauge(PREFIX + name, meaning, tag_keys=LABELS))
            for name, meaning in GAUGES.items()
        }
        name, meaning = HISTOGRAM
        self._units = made(
            kinds.Histogram(PREFIX + name, meaning, boundaries=UNIT_SECONDS, tag_keys=LABELS)
        )
        self._given: dict[tuple[str, str, str], float] = {}

    def update(self, stats: FeedStats) -> None:
        """Bring every metric up to the totals; called about once a second."""
        self._grow("rows", stats.answered, outcome="answered")
        self._grow("rows", stats.failed, outcome="failed")
        for code, count in dict(stats.failures).items():
            self._grow("failures", count, code=code)
        self._grow("tokens", stats.prompt_tokens, kind="prompt")
        self._grow("tokens", stats.cached_tokens, kind="cached")
        self._grow("tokens", stats.completion_tokens, kind="output")
        self._grow("starved_seconds", stats.starved_seconds)
        self._grow("recovering_seconds", stats.recovering_seconds)
        self._grow("engine_starts", stats.engine_starts)
        self._grow("engine_hangs", stats.engine_hangs)
        self._gauges["rows_in_flight"].set(stats.in_flight)
        self._gauges["rows_waiting"].set(stats.waiting)

    def unit(self, seconds: float) -> None:
        """A unit was committed."""
        self._units.observe(seconds)

    def _grow(self, name: str, total: float, **labels: str) -> None:
        key = (name, *next(iter(labels.items()), ("", "")))
        grown = total - self._given.get(key, 0.0)
        if grown > 0:  # Ray's counters take nothing else
            self._given[key] = total
            self._counters[name].inc(grown, tags=labels or None)
