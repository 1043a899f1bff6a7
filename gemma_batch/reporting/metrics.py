"""Metrics for Prometheus, through Ray's own exporter (GPU actor, driver).

This module is the one list of all metrics, by name. Each GPU actor reports the running totals of
its feed. The driver reports the numbers of the whole run. Ray adds its prefix to each name, such
as `ray_gemma_batch_rows_total`, and its labels (job, node). This module does not import Ray: the
caller passes in `ray.util.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.answering.stats import FeedStats
from gemma_batch.reporting.progress import Snapshot

PREFIX = "gemma_batch_"
LABELS = ("run", "route", "replica")  # `run` is the name of the job, `job` is Prometheus' own
UNIT_SECONDS = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0]

# name -> (meaning, further labels)
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rows": ("Rows with an outcome, by `outcome`: answered or failed.", ("outcome",)),
    "failures": ("Failed rows by `code`.", ("code",)),
    "retries": ("Attempts beyond a row's first, by `cause`.", ("cause",)),
    "tokens": ("Tokens by `kind`: prompt, cached (part of prompt), output, or refused.", ("kind",)),
    "starved_seconds": ("Seconds in which a ready engine had nothing to do.", ()),
    "recovering_seconds": ("Seconds spent on replacing an engine and isolating a row.", ()),
    "engine_starts": ("Starts of an engine; all but the first replaced one that was lost.", ()),
    "engine_hangs": ("Engines that were killed because they gave no sign of life.", ()),
    "engine_prefix_tokens": ("Prompt tokens that vLLM looked for in its prefix cache.", ()),
    "engine_prefix_hit_tokens": ("Those of them that were there.", ()),
    "engine_preemptions": ("Requests that vLLM took out again for lack of KV cache.", ()),
    "device_seconds": ("Seconds for which GPUs were held; engines, where there are none.", ()),
    "cost": ("What they cost, where resources.price_per_hour is given.", ()),
}
GAUGES = {
    "rows_in_flight": "Rows in the engine now.",
    "rows_waiting": "Rows that wait for the engine now.",
    "oldest_row_seconds": "For how long the oldest row in the engine has been there.",
    "engine_running": "Requests that vLLM computes now.",
    "engine_waiting": "Requests that wait inside vLLM now.",
    "engine_kv_cache_share": "Share of vLLM's KV cache that is in use, from 0 to 1.",
}
RUN_GAUGES = {
    "run_rows": "Rows of the run, done or not.",
    "run_rows_done": "Rows that have an outcome, in this run or an earlier one.",
    "run_engines": "Engines that are up.",
}
ALERTS = ("alerts", "Alerts that policy.alerts raised, by `alert`.")
HISTOGRAM = ("unit_seconds", "Seconds from a unit's arrival at a replica to its commit.")


class RunMetrics:
    """The metrics of a whole run, reported by the driver. `kinds` is `ray.util.metrics`."""

    def __init__(self, kinds: Any, *, run: str) -> None:
        tags = {"run": run}
        self._gauges = {
            name: _with(tags, kinds.Gauge(PREFIX + name, meaning, tag_keys=("run",)))
            for name, meaning in RUN_GAUGES.items()
        }
        name, meaning = ALERTS
        counter = kinds.Counter(PREFIX + name, meaning, tag_keys=("run", "alert"))
        self._alerts = _with(tags, counter)

    def update(self, snapshot: Snapshot) -> None:
        """Set the gauges to the snapshot's numbers; the driver calls this about once a second."""
        self._gauges["run_rows"].set(snapshot.rows)
        self._gauges["run_rows_done"].set(snapshot.done)
        self._gauges["run_engines"].set(snapshot.engines)

    def alert(self, name: str) -> None:
        """Count an alert that was raised."""
        self._alerts.inc(1, tags={"alert": name})


def _with(tags: dict[str, str], metric: Any) -> Any:
    metric.set_default_tags(tags)
    return metric


class Metrics:
    """The metrics of one worker: adds the growth of the feed's totals to counters.

    `kinds` is `ray.util.metrics`. The worker holds `devices` GPUs, each at `price` per hour.
    """

    def __init__(
        self,
        kinds: Any,
        *,
        run: str,
        route: str,
        replica: str,
        devices: float = 1.0,
        price: float | None = None,
    ) -> None:
        tags = {"run": run, "route": route, "replica": replica}
        self._devices, self._price = devices, price

        self._counters = {
            name: _with(tags, kinds.Counter(PREFIX + name, meaning, tag_keys=(*LABELS, *labels)))
            for name, (meaning, labels) in COUNTERS.items()
        }
        self._gauges = {
            name: _with(tags, kinds.Gauge(PREFIX + name, meaning, tag_keys=LABELS))
            for name, meaning in GAUGES.items()
        }
        name, meaning = HISTOGRAM
        self._units = _with(
            tags,
            kinds.Histogram(PREFIX + name, meaning, boundaries=UNIT_SECONDS, tag_keys=LABELS),
        )
        self._given: dict[tuple[str, str, str], float] = {}

    def update(
        self, stats: FeedStats, held_seconds: float, engine: Mapping[str, float] | None = None
    ) -> None:
        """Set every metric to the totals; the worker calls this about once a second.

        `held_seconds` is how long the worker has held its GPUs. `engine` are the numbers that the
        engine reports about itself, by metric name.
        """
        self._grow("rows", stats.answered, outcome="answered")
        self._grow("rows", stats.failed, outcome="failed")
        for code, count in dict(stats.failures).items():
            self._grow("failures", count, code=code)
        for cause, count in dict(stats.retries).items():
            self._grow("retries", count, cause=cause)
        self._grow("tokens", stats.prompt_tokens, kind="prompt")
        self._grow("tokens", stats.cached_tokens, kind="cached")
        self._grow("tokens", stats.completion_tokens, kind="output")
        self._grow("tokens", stats.refused_tokens, kind="refused")
        self._grow("starved_seconds", stats.starved_seconds)
        self._grow("recovering_seconds", stats.recovering_seconds)
        self._grow("engine_starts", stats.engine_starts)
        self._grow("engine_hangs", stats.engine_hangs)
        held = held_seconds * self._devices
        self._grow("device_seconds", held)
        if self._price is not None:
            self._grow("cost", held / 3600 * self._price)
        self._gauges["rows_in_flight"].set(stats.in_flight)
        self._gauges["rows_waiting"].set(stats.waiting)
        self._gauges["oldest_row_seconds"].set(stats.oldest_seconds)
        for name, value in dict(engine or {}).items():
            if name in self._gauges:
                self._gauges[name].set(value)
            else:
                self._grow(name, value)

    def unit(self, seconds: float) -> None:
        """Count a committed unit; `seconds` is the time from its arrival to its commit."""
        self._units.observe(seconds)

    def _grow(self, name: str, total: float, **labels: str) -> None:
        key = (name, *next(iter(labels.items()), ("", "")))
        given = self._given.get(key, 0.0)
        grown = total - given if total >= given else total  # a new engine counts from zero
        self._given[key] = total
        if grown > 0:  # Ray's counters refuse 0 and negative numbers
            self._counters[name].inc(grown, tags=labels or None)
