"""Pace: the speed of an engine by the times of single rows (driver, laptop).

The mean speed of a small sample says little about a long run: at its start an engine has rows to
take in and none to give out, and at its end it runs empty. So the pace is taken from the time in
which the engine was full, where that was long enough. Then each row counts with the share of its
time in the engine that lies within. Otherwise the pace is that of all rows over the time in which
the engine had any, and `running` says how many it had on average: a full engine may be faster.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

FULL = 0.95  # of its slots an engine uses, when it counts as full
ENOUGH = 0.5  # of the working time an engine was full, when the pace is taken from this time
LEAST = 1e-6  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The speed of one engine. `rows` left it in `seconds`; `running` were in it on average.

    `full` says that the speed is from the time in which all its `slots` were in use.
    """

    rows: float
    seconds: float
    running: float
    slots: int
    full: bool

    @property
    def rows_per_second(self) -> float:
        """Rows per second of the engine."""
        return self.rows / max(self.seconds, LEAST)


def pace(times: Sequence[tuple[float, float]], slots: int) -> Pace | None:
    """The pace of an engine with `slots` sequences, from begin and end of each row (seconds).

    A row that finds all slots in use waits inside of the engine until a row leaves. None without
    rows.
    """
    if not times:
        return None
    spans = in_slots(times, slots)
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    busy = area = 0.0
    full: list[float] = []
    count = 0
    for (moment, change), (after, _) in itertools.pairwise([*changes, changes[-1]]):
        count += change
        if count:
            busy += after - moment
            area += count * (after - moment)
        if count >= FULL * slots and after > moment:
            full += [moment, after]
    if full and full[-1] - full[0] >= ENOUGH * busy:
        done = sum(_share(span, full[0], full[-1]) for span in spans)
        if done >= slots:
            return Pace(
                rows=done, seconds=full[-1] - full[0], running=float(slots), slots=slots, full=True
            )
    seconds = max(busy, LEAST)
    return Pace(rows=len(spans), seconds=seconds, running=area / seconds, slots=slots, full=False)


def in_slots(times: Sequence[tuple[float, float]], slots: int) -> list[tuple[float, float]]:
    """When each row was worked on: from when a slot was free, in the order of the rows' begin."""
    ends: list[float] = []
    found = []
    for begin, end in sorted(times):
        start = begin
        if len(ends) >= slots:
            start = max(start, heapq.heappop(ends))
        start = min(start, end - LEAST)
        heapq.heappush(ends, end)
        found.append((start, end))
    return found


def _share(span: tuple[float, float], begin: float, end: float) -> float:
    """The share of a row's time that lies between `begin` and `end`."""
    return max(0.0, min(end, span[1]) - max(begin, span[0])) / (span[1] - span[0])
