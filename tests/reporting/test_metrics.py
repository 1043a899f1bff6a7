"""What Prometheus is told: the feed's totals, each once."""

from __future__ import annotations

import pytest
import ray.util.metrics

from gemma_batch.answering.stats import FeedStats
from gemma_batch.errors import FailureCode
from gemma_batch.reporting.metrics import COUNTERS, GAUGES, LABELS, RUN_GAUGES, Metrics, RunMetrics
from gemma_batch.reporting.progress import Snapshot
from gemma_batch.rows import Completion, Failure


class Kind:
    """Keeps what it is given, with the checks of Ray's classes."""

    def __init__(self, name: str, meaning: str, *, tag_keys: tuple[str, ...], **more: object):
        self.name, self.meaning, self.tag_keys = name, meaning, tag_keys
        self.defaults: dict[str, str] = {}
        self.total: dict[tuple[str, ...], float] = {}
        self.last: float | None = None

    def set_default_tags(self, tags: dict[str, str]) -> None:
        assert tags.keys() <= set(self.tag_keys)
        self.defaults = tags

    def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert value > 0
        given = {**self.defaults, **(tags or {})}
        assert given.keys() == set(self.tag_keys), "Ray refuses a metric without all its labels"
        key = tuple((tags or {}).values())
        self.total[key] = self.total.get(key, 0) + value

    def set(self, value: float) -> None:
        self.last = value

    observe = set


class Kinds:
    """Stands in the place of `ray.util.metrics`."""

    def __init__(self) -> None:
        self.made: dict[str, Kind] = {}
        self.Counter = self.Gauge = self.Histogram = self.make

    def make(self, name: str, meaning: str, **more: object) -> Kind:
        self.made[name] = Kind(name, meaning, **more)  # type: ignore[arg-type]
        return self.made[name]


def test_totals_are_given_once_however_often_they_are_looked_at() -> None:
    """Two looks without news add nothing; codes, kinds and outcomes are labels."""
    kinds = Kinds()
    metrics = Metrics(kinds, run="j", route="r", replica="w", devices=2.0, price=3.6)
    stats = FeedStats(in_flight=5, waiting=7, engine_starts=1)
    for outcome in (
        Completion(["x"], ["stop"], 10, 3, cached_tokens=4),
        Completion(["x"], ["stop"], 10, 3),
        Failure(FailureCode.NULL_VALUE.value, "null"),
    ):
        stats.count(outcome)
    stats.count_retry("engine_lost")
    metrics.update(stats, 10.0)
    metrics.update(stats, 10.0)
    stats.count(Failure(FailureCode.NULL_VALUE.value, "null"))
    stats.starved_seconds += 0.5
    stats.count_retry("transient")
    stats.count_retry("engine_lost")
    metrics.update(stats, 50.0)
    metrics.unit(12.0)
    made = kinds.made
    assert made["gemma_batch_rows"].total == {("answered",): 2, ("failed",): 2}
    assert made["gemma_batch_failures"].total == {("null_value",): 2}
    assert made["gemma_batch_tokens"].total == {("prompt",): 20, ("cached",): 4, ("output",): 6}
    assert made["gemma_batch_retries"].total == {("engine_lost",): 2, ("transient",): 1}
    assert made["gemma_batch_device_seconds"].total == {(): 100.0}
    assert made["gemma_batch_cost"].total == {(): pytest.approx(0.1)}
    assert made["gemma_batch_starved_seconds"].total == {(): 0.5}
    assert made["gemma_batch_engine_starts"].total == {(): 1}
    assert (made["gemma_batch_rows_in_flight"].last, made["gemma_batch_rows_waiting"].last) == (
        5,
        7,
    )
    assert made["gemma_batch_unit_seconds"].last == 12.0


def test_a_new_engine_counts_from_zero() -> None:
    """What vLLM says of itself goes on after a restart, and never backwards."""
    kinds = Kinds()
    metrics = Metrics(kinds, run="j", route="r", replica="w")
    for hits, running in ((100, 5), (150, 7), (30, 1), (40, 2)):
        engine = {"engine_prefix_hit_tokens": hits, "engine_running": running}
        metrics.update(FeedStats(), 1.0, engine)
    assert kinds.made["gemma_batch_engine_prefix_hit_tokens"].total == {(): 190}
    assert kinds.made["gemma_batch_engine_running"].last == 2


def test_without_a_price_there_is_no_cost() -> None:
    """A series that is always zero would look like a job for free."""
    kinds = Kinds()
    Metrics(kinds, run="j", route="r", replica="w").update(FeedStats(), 10.0)
    assert kinds.made["gemma_batch_cost"].total == {}


def test_the_driver_tells_of_the_run_and_its_alerts() -> None:
    """Rows to go, rows done, engines; every alert counted by its name."""
    kinds = Kinds()
    metrics = RunMetrics(kinds, run="j")
    metrics.update(Snapshot(rows=100, done=40, engines=2))
    metrics.alert("max_row_seconds")
    metrics.alert("max_row_seconds")
    assert {name: kinds.made[f"gemma_batch_{name}"].last for name in RUN_GAUGES} == {
        "run_rows": 100,
        "run_rows_done": 40,
        "run_engines": 2,
    }
    assert kinds.made["gemma_batch_alerts"].total == {("max_row_seconds",): 2}


def test_every_metric_is_one_that_ray_takes() -> None:
    """Ray silently drops a metric whose name or labels it does not like."""
    metrics = Metrics(ray.util.metrics, run="j", route="r", replica="w")
    for kind in (*metrics._counters.values(), *metrics._gauges.values(), metrics._units):
        assert not kind._discard_metric
        assert set(LABELS) <= set(kind._tag_keys)
    assert len(metrics._counters) == len(COUNTERS)
    assert len(metrics._gauges) == len(GAUGES)
