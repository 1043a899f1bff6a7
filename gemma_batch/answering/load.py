"""Load: the rows that one call brought to a feed, as far as they have begun (GPU actor)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Load:
    """The rows of one call: `left` of them have no outcome yet.

    `begun`: one of the rows has gone to the engine. Until then, a load that `may_return` can be
    given back without a loss.
    """

    left: int
    may_return: bool = False
    begun: bool = False

    def begin(self) -> int:
        """A row goes to the engine. Returns how many rows are in hand from now on, if none was."""
        if self.begun:
            return 0
        self.begun = True
        return self.left

    def end(self) -> int:
        """A row has its outcome. Returns how many rows are no longer in hand: 1, or 0."""
        self.left -= 1
        return int(self.begun)


class GivenBack(Exception):
    """The outcome of the rows of a load that was given back. It never leaves the feed."""
