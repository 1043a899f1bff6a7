"""Alerts: events that people should hear of while a run goes on, by `policy.alerts` (driver).

The follower calls the watcher about once a second. A threshold that is crossed makes one event.
The same threshold makes another event only if the value was within the threshold in between, and
at least `for_seconds` after the event before. Each event is put into the output at once, so that
the report contains the event however the run ends. The caller decides what to do with an event;
`stop_text` says whether the run has to end.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemma_batch.errors import GO_ON
from gemma_batch.reporting.progress import Snapshot
from gemma_batch.spec import AlertName, Alerts
from gemma_batch.storage.interfaces import Store

FOLDER = "_run/alerts"
SILENT_SECONDS = 15.0  # a worker that is silent for so long is gone; another one has its units
LEAST_ROWS = 100  # a share of fewer rows says nothing; a smaller job is judged as a whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One event: `value` crossed `threshold` at `time` (Unix seconds)."""

    time: float
    name: AlertName
    value: float
    threshold: float

    @property
    def text(self) -> str:
        """The alert as one sentence for people."""
        side = "less" if self.name.startswith("min_") else "more"
        what = MEANING[self.name].format(value=self.value)
        return f"{what}, {side} than policy.alerts.{self.name}={self.threshold:g}"


MEANING: dict[AlertName, str] = {
    "min_tokens_per_second": "{value:,.1f} output tokens/s of all engines together",
    "max_failed_share": "{value:.1%} of the rows failed",
    "max_row_seconds": "a row has been in its engine for {value:,.0f} s",
    "max_memory_share": "{value:.1%} of a node's memory is used",
}


class Watcher:
    """Watches one run. `clock` returns seconds and never goes back."""

    def __init__(self, alerts: Alerts, clock: Callable[[], float] = time.monotonic) -> None:
        self._alerts, self._clock = alerts, clock
        self._tokens: deque[tuple[float, int]] = deque()
        self._full_since: float | None = None
        self._crossed: set[AlertName] = set()
        self._raised: dict[AlertName, float] = {}

    def look(self, snapshot: Snapshot, workers: Mapping[str, Mapping[str, Any]]) -> list[Alert]:
        """Look at the run now; returns the new alerts. `workers` are the board's live numbers."""
        now = self._clock()
        live = [w for w in workers.values() if w["silent_seconds"] < SILENT_SECONDS]
        values: dict[AlertName, float | None] = {
            "min_tokens_per_second": self._speed(now, snapshot, live),
            "max_failed_share": _failed_share(snapshot, list(workers.values())),
            "max_row_seconds": max((worker["oldest_seconds"] for worker in live), default=None),
            "max_memory_share": self._memory(now, live),
        }
        new = []
        for name, value in values.items():
            threshold = getattr(self._alerts, name)
            if threshold is None or value is None or not _crossed(name, value, threshold):
                self._crossed.discard(name)
                continue
            quiet = now - self._raised.get(name, -float("inf")) >= self._alerts.for_seconds
            if name not in self._crossed and quiet:
                self._crossed.add(name)
                self._raised[name] = now
                new.append(
                    Alert(time=time.time(), name=name, value=round(value, 4), threshold=threshold)
                )
        return new

    def stop_text(self, alert: Alert) -> str | None:
        """The sentence that says why this alert ends the run; None when the run may go on."""
        if alert.name not in self._alerts.stop:
            return None
        return f"stopped: {alert.text}, and policy.alerts.stop names it. {GO_ON}"

    def _speed(
        self, now: float, snapshot: Snapshot, workers: Sequence[Mapping[str, Any]]
    ) -> float | None:
        # The speed counts only while there is work for every ready engine. It does not count
        # before the first engine is ready. It does not count at the end, when all rows that are
        # left are in the engines and their number falls, nor when no more units begin.
        in_engines = sum(worker["in_flight"] for worker in workers)
        at_the_end = snapshot.ending or snapshot.rows - snapshot.done <= in_engines
        if not snapshot.engines or at_the_end:
            self._tokens.clear()
            return None
        self._tokens.append((now, snapshot.completion_tokens))
        span = self._alerts.for_seconds
        while len(self._tokens) > 1 and now - self._tokens[1][0] >= span:
            self._tokens.popleft()
        begin, tokens = self._tokens[0]
        if now - begin < max(span, 1.0):
            return None
        return (snapshot.completion_tokens - tokens) / (now - begin)

    def _memory(self, now: float, workers: Sequence[Mapping[str, Any]]) -> float | None:
        threshold = self._alerts.max_memory_share
        shares = [float(worker["memory_share"]) for worker in workers]
        fullest = max(shares, default=None)
        if threshold is None or fullest is None or fullest <= threshold:
            self._full_since = None
            return None
        self._full_since = now if self._full_since is None else self._full_since
        return fullest if now - self._full_since >= self._alerts.for_seconds else None


def _crossed(name: AlertName, value: float, threshold: float) -> bool:
    return value < threshold if name.startswith("min_") else value > threshold


def _failed_share(snapshot: Snapshot, workers: Sequence[Mapping[str, Any]]) -> float | None:
    done = sum(int(worker["answered"]) + int(worker["failed"]) for worker in workers)
    if done < max(1, min(LEAST_ROWS, snapshot.rows)):
        return None
    return sum(snapshot.failures.values()) / done


def save_alert(store: Store, alert: Alert) -> None:
    """Put an event into the output. Raises `StorageError`."""
    store.create(f"{FOLDER}/{uuid.uuid4().hex}.json", json.dumps(asdict(alert)).encode())


def load_alerts(store: Store) -> list[Alert]:
    """Every event of every run on this output, the oldest first."""
    found = [Alert(**json.loads(store.read(path))) for path in store.list(FOLDER)]
    return sorted(found, key=lambda alert: alert.time)
