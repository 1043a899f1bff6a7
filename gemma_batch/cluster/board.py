"""The board: keeps the reports of a run's workers, also after a worker died (a separate actor).

First, the board holds the live numbers of each worker. The driver uses them for progress, alerts
and the breaker; no result depends on them. Second, the board holds the unit that each worker is
working on. A worker process that dies loses its memory. The board then still knows that the unit
has seen a death. If the worker was taking the unit apart, the board also knows which rows were in
flight alone. So a row that kills the whole process is found like a row that kills the engine.

Third, the board is where workers hand over units to each other (`handover.py`).

This module is plain Python; `run_actors.py` makes an actor of the board. If the board is lost with
its node, the knowledge about deaths is lost, but no row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from gemma_batch.cluster.handover import Handover

CAREFUL_AFTER = 2  # deaths of a unit's workers; a single death mostly means that a node went away
READ_DEATHS = 5  # deaths of the processes that read a unit; after these, the unit's rows fail


@dataclass(slots=True)
class Case:
    """The knowledge about one unit. Lists hold row numbers.

    `holder` is the worker that works on the unit, `deaths` counts the workers that died with it.
    `elsewhere`: the unit was on offer, and another worker has taken it. `refused`: no more units
    are begun.
    `trying` are the rows in flight now, if the unit is taken apart. Each list in `groups` must
    still run without other rows. The rows in `condemned` fail.
    """

    holder: str = ""
    deaths: int = 0
    elsewhere: bool = False
    refused: bool = False
    trying: list[int] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    condemned: list[int] = field(default_factory=list)

    @property
    def careful(self) -> bool:
        """Whether the unit has to run alone, in groups of rows that the worker reports first."""
        return self.deaths >= CAREFUL_AFTER

    def died(self) -> None:
        """The worker died: halve the group in flight, or condemn it when it is a single row."""
        self.deaths += 1
        group, self.trying = self.trying, []
        if len(group) == 1:
            self.condemned += group
        elif group:
            half = len(group) // 2
            self.groups[:0] = [group[:half], group[half:]]


class Board(Handover):
    """See the module's docstring. Every method is quick, and no method raises an error."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}
        self._cases: dict[str, Case] = {}
        self._begun_reads: dict[str, int] = {}
        self._ready: set[str] = set()
        self._dead: set[str] = set()

    def join(self, worker: str, **place: str) -> str | None:
        """A worker starts at a place (see `hello`). Returns why it must start no engine there."""
        died, cause = self.hello(worker, **place)
        if died is not None:
            self._dead.add(died)
        return cause

    def put(self, worker: str, numbers: dict[str, Any]) -> bool:
        """Replace the live numbers of one worker. Returns whether no more units are begun."""
        self.heard(worker)
        self._numbers[worker] = numbers
        self._told[worker] = time.monotonic()
        return self.no_more()

    def ready(self, worker: str) -> None:
        """The worker's engine is ready. From now on a row may cause the worker's death."""
        super().ready(worker)
        self._ready.add(worker)

    def begin(self, worker: str, unit: str) -> Case:
        """The worker starts with the unit. If another worker holds the unit, that worker died.

        Nothing changes when another worker took the unit from an offer. The unit is refused when no
        more units are begun.
        """
        if self.held(unit, worker):
            return Case(elsewhere=True)
        case = self._cases.setdefault(unit, Case())
        if case.holder and case.holder != worker:
            self._dead.add(case.holder)
            if case.holder in self._ready:
                case.died()
        if self.no_more():
            case.holder = ""
            return Case(refused=True)
        case.holder = worker
        return case

    def trying(self, unit: str, group: list[int]) -> None:
        """From now on only these rows of the unit are in flight in its worker."""
        case = self._cases.setdefault(unit, Case())
        case.trying = group
        case.groups = [other for other in case.groups if other != group]

    def end(self, unit: str) -> None:
        """The worker has committed the unit."""
        self._cases.pop(unit, None)

    def let_go(self, unit: str) -> None:
        """The worker has stopped its work on the unit, in order. Nobody died with the unit."""
        if (case := self._cases.get(unit)) is not None:
            case.holder, case.trying = "", []

    def begin_read(self, unit: str) -> bool:
        """A process starts to read the unit. False when too many processes died reading it."""
        self._begun_reads[unit] = self._begun_reads.get(unit, 0) + 1
        return self._begun_reads[unit] <= READ_DEATHS

    def end_read(self, unit: str, node: str = "") -> None:
        """The process on the node (its id) has read the unit."""
        self._begun_reads.pop(unit, None)
        self.read_done(unit, node)

    def put_back(self, unit: str, node: str, name: str, cause: str, nodes: int) -> float | None:
        """The process could not read the unit. See `read_failed`."""
        self._begun_reads.pop(unit, None)
        return self.read_failed(unit, node, name, cause, nodes)

    def state(self) -> dict[str, Any]:
        """The board's knowledge for the driver, as plain data.

        `workers` has the last numbers of each worker by the worker's name. `silent_seconds` in the
        numbers is their age: it grows when a worker is gone. `gone`: the worker's end is known.
        `deaths` counts the worker processes that died. `nodes` are the nodes with trouble. `held`
        counts the units that workers hold.
        """
        now = time.monotonic()
        return {
            "workers": {
                name: {
                    **numbers,
                    "silent_seconds": now - self._told[name],
                    "gone": self.is_gone(name),
                }
                for name, numbers in self._numbers.items()
            },
            "held": sum(1 for case in self._cases.values() if case.holder),
            "deaths": len(self._dead),
            "nodes": self.troubled(),
        }
