"""Flight: how many units an engine actor holds at a time (driver, laptop).

Ray Data gives a unit to an actor for good: another actor cannot take it back. So an actor holds as
many units as keep its engine full, and no more. Ray Data also compares the units in flight with
the calls that the actors run at a time, to decide whether the pool grows.

This module does not import Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CALLS = (2, 32)  # the least and the most units that an actor works on at a time
SPARE = 1.25  # rows in an actor, as a multiple of the rows in its engine: time to load a unit
DIGITS = 5  # of the resources of a call, in Ray Data
ROUNDING = 1e-9
COMMITTING = 1  # the call whose unit is being committed has no more rows for the engine


@dataclass(frozen=True, slots=True)
class Flight:
    """An actor works on `calls` units at a time. `units` counts these and the queued units."""

    calls: int

    @property
    def units(self) -> int:
        """The units that are bound to an actor.

        Small units end often, so one more of them waits at the actor. A large unit leaves enough
        time to send the next.
        """
        return self.calls if self.calls == CALLS[0] else self.calls + 1

    def growing(self, share: float) -> Flight:
        """The flight of actors that reserve `share` GPUs (or CPUs), in a pool that may grow.

        Ray Data divides the share by the calls, keeps `DIGITS` digits, and rounds down when it
        counts the actors that it asks the autoscaler for. With 3 calls it asks for one node less
        than the pool wants. So the pool gets the next number of calls that loses no actor.
        """
        calls = self.calls
        while round(share / calls, DIGITS) * calls < share - ROUNDING:
            calls += 1
        return Flight(calls)


def flight(in_flight: int, sizes: Sequence[int], *, window: int = 0) -> Flight:
    """The flight of an actor, for units of `sizes` rows in the order of their dispatch.

    The engine wants `in_flight` rows at any time: while one unit is committed, the others have so
    many rows and some to spare, wherever in the input the actor is. `window` is the number of rows
    that should wait so that rows with a shared prefix meet. Units of the mean size are enough for
    the window, because a smaller window at the ends of the input costs little.
    """
    full = _units_for(math.ceil(in_flight * SPARE), sizes)
    mean = sum(sizes) / max(1, len(sizes))
    waiting = math.ceil(window / max(1.0, mean)) + 1  # the next unit joins the rows of the window
    least, most = CALLS
    return Flight(min(max(full + COMMITTING, waiting + COMMITTING, least), most))


def _units_for(rows: int, sizes: Sequence[int]) -> int:
    """The most consecutive units that it takes anywhere to have `rows` rows."""
    most, start, held = 0, 0, 0
    for end, size in enumerate(sizes):
        held += size
        while start < end and held - sizes[start] >= rows:
            held -= sizes[start]
            start += 1
        # Now the units from `start` to `end` are the fewest with `rows` rows that end here. At the
        # beginning of the list there are not yet so many rows.
        if held >= rows:
            most = max(most, end - start + 1)
    return most or len(sizes)
