"""The board: what the workers of a run tell while they live, kept outside their processes.

Two things are on it. Their live numbers, for progress only, never the truth. And which unit each
of them is working on: a worker process that dies takes its memory with it, but the board then
knows that this unit has seen a death, and, when the unit was being taken apart, which rows were
in flight alone. So a row that kills the whole process is found like one that kills the engine.

Plain Python; `pipeline` makes an actor of it. A board that is lost with its node costs knowledge
about deaths, never rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

CAREFUL_AFTER = 2  # deaths of a unit's workers; one alone is most often a node that went away
READ_DEATHS = 5  # deaths of the processes that read a unit, then its rows are given up


@dataclass(slots=True)
class Case:
    """What is known about one unit. `groups` are row numbers still to be tried by themselves."""

    holder: str = ""
    deaths: int = 0
    trying: list[int] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    condemned: list[int] = field(default_factory=list)

    @property
    def careful(self) -> bool:
        """Whether the unit has to run alone, in groups that the board is told of."""
        return self.deaths >= CAREFUL_AFTER

    def died(self) -> None:
        """Its worker died: what was being tried is halved, or condemned when it was one row."""
        self.deaths += 1
        group, self.trying = self.trying, []
        if len(group) == 1:
            self.condemned += group
        elif group:
            half = len(group) // 2
            self.groups[:0] = [group[:half], group[half:]]


class Board:
    """See the module's docstring. Every method is quick; none raises."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}
        self._cases: dict[str, Case] = {}
        self._reads: dict[str, int] = {}
        self._ready: set[str] = set()
        self._dead: set[str] = set()
        self._load_deaths = 0

    def put(self, worker: str, numbers: dict[str, Any]) -> None:
        """Replace the live numbers of one worker."""
        self._numbers[worker] = numbers
        self._told[worker] = time.monotonic()

    def ready(self, worker: str) -> None:
        """The worker's engine is up; from now on its death may be a row's fault."""
        self._ready.add(worker)
        self._load_deaths = 0

    def begin(self, worker: str, unit: str) -> Case:
        """The worker starts with the unit. Another worker that still holds it has died."""
        case = self._cases.setdefault(unit, Case())
        if case.holder and case.holder != worker:
            self._count_death(case.holder)
            if case.holder in self._ready:
                case.died()
        case.holder = worker
        return case

    def trying(self, unit: str, group: list[int]) -> None:
        """From now on only these rows of the unit are in flight in its worker."""
        case = self._cases.setdefault(unit, Case())
        case.trying = group
        case.groups = [other for other in case.groups if other != group]

    def end(self, unit: str) -> None:
        """The unit is committed, or given up with an error that was reported."""
        self._cases.pop(unit, None)

    def begin_read(self, unit: str) -> bool:
        """A process starts to read the unit; False when too many died with it already."""
        self._reads[unit] = self._reads.get(unit, 0) + 1
        return self._reads[unit] <= READ_DEATHS

    def end_read(self, unit: str) -> None:
        """The unit was read."""
        self._reads.pop(unit, None)

    def state(self) -> dict[str, Any]:
        """`workers`: their last numbers; `deaths`, and `load_deaths` in a row, of processes.

        Numbers have `silent_seconds`, since they came: those of a worker that is gone grow old.
        """
        now = time.monotonic()
        return {
            "workers": {
                name: {**numbers, "silent_seconds": now - self._told[name]}
                for name, numbers in self._numbers.items()
            },
            "deaths": len(self._dead),
            "load_deaths": self._load_deaths,
        }

    def _count_death(self, worker: str) -> None:
        if worker not in self._dead:
            self._dead.add(worker)
            if worker not in self._ready:
                self._load_deaths += 1
