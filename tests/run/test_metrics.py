"""What Prometheus is told: the feed's totals, each once."""

from __future__ import annotations

import ray.util.metrics

from gemma_batch.errors import FailureCode
from gemma_batch.rows import Completion, Failure
from gemma_batch.run.feed import FeedStats
from gemma_batch.run.metrics import COUNTERS, GAUGES, LABELS, Metrics


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
    metrics = Metrics(kinds, route="r", replica="w")
    stats = FeedStats(in_flight=5, waiting=7, engine_starts=1)
    for outcome in (
        Completion(["x"], ["stop"], 10, 3, cached_tokens=4),
        Completion(["x"], ["stop"], 10, 3),
        Failure(FailureCode.NULL_VALUE.value, "null"),
    ):
        stats.count(outcome)
    metrics.update(stats)
    metrics.update(stats)
    stats.count(Failure(FailureCode.NULL_VALUE.value, "null"))
    stats.starved_seconds += 0.5
    metrics.update(stats)
    metrics.unit(12.0)
    made = kinds.made
    assert made["gemma_batch_rows"].total == {("answered",): 2, ("failed",): 2}
    assert made["gemma_batch_failures"].total == {("null_value",): 2}
    assert made["gemma_batch_tokens"].total == {("prompt",): 20, ("cached",): 4, ("output",): 6}
    assert made["gemma_batch_starved_seconds"].total == {(): 0.5}
    assert made["gemma_batch_engine_starts"].total == {(): 1}
    assert (made["gemma_batch_rows_in_flight"].last, made["gemma_batch_rows_waiting"].last) == (
        5,
        7,
    )
    assert made["gemma_batch_unit_seconds"].last == 12.0


def test_every_metric_is_one_that_ray_takes() -> None:
    """Ray silently drops a metric whose name or labels it does not like."""
    metrics = Metrics(ray.util.metrics, route="r", replica="w")
    for kind in (*metrics._counters.values(), *metrics._gauges.values(), metrics._units):
        assert not kind._discard_metric
        assert set(LABELS) <= set(kind._tag_keys)
    assert len(metrics._counters) == len(COUNTERS)
    assert len(metrics._gauges) == len(GAUGES)
