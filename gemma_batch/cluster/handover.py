"""Units that go from one worker to another, and the nodes that cause it (part of the board).

A worker gives a unit away when it cannot answer or commit the unit: its engine does not start or
cannot be kept alive, or the storage does not answer on its node. The worker offers the unit here,
another worker of the same route takes it, commits it and leaves the receipt here, and the first
worker fetches the receipt. So one bad node costs one node, and no unit is paid for twice.

A unit has failed when `TRIES` workers could not do it, or when no worker is left that could try.
Then the run ends, and the error names each node with its cause. The workers that could try may have
ended in order, because Ray Data had no more units for them. Then the unit is returned to the
driver, which starts another pipeline for it.

This module is plain Python, and every method is quick.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

NO_MORE = "no more units are begun, because the budget is spent"
TRIES = 3  # workers that may fail with one unit
SILENT_SECONDS = 30.0  # a worker that reports nothing for so long may have died
GONE_SECONDS = 120.0  # after so long without a report, nobody waits for the worker any more
LATE_SECONDS = 180.0  # how long to wait for workers that have not come, before the run gives up
LOAD_DEATHS = 3  # processes that die on a node while their engine loads, in a row
READ_TRIES = 30  # processes that may fail to read one unit, on whatever nodes
BAD_READS = 2  # units in a row that cannot be read on a node, before none is tried there
READ_PAUSE = 2.0  # seconds before a unit is read elsewhere
MOVES = 3  # how often a worker's process may end to be started on another node
PAUSES = (60.0, 300.0)  # seconds until a worker on a node that failed tries again; then never


def undone(unit: str) -> dict[str, Any]:
    """The outcome of a unit that was not begun: it goes back to the driver."""
    return {"error": NO_MORE, "returned": True, "unit": unit}


@dataclass(slots=True, kw_only=True)
class Node:
    """A node with trouble. `cause` is the newest.

    `failures` counts workers that gave up there and units that could not be read there. `rests` is
    how often the node was left alone for a while.
    """

    name: str
    failures: int = 0
    rests: int = 0
    load_deaths: int = 0
    cause: str = ""
    again: float = 0.0  # the time until which no engine is started there, or 0
    reads: int = 0  # units that could not be read there, in a row
    read_failed: float = 0.0  # the time of the last of them


@dataclass(slots=True, kw_only=True)
class Member:
    """A worker of the run. `state` is loading, ready, unfit (it gives its units away) or gone."""

    node: str
    actor: str
    route: str
    state: str = "loading"
    worked: bool = False  # it was ready before it ended


@dataclass(slots=True, kw_only=True)
class Offer:
    """A unit that was given away. `payload` is a reference to its rows, None when it was lost."""

    route: str
    payload: Any
    since: float
    failed: dict[str, str] = field(default_factory=dict)  # worker: cause
    taker: str = ""
    receipt: dict[str, Any] | None = None


class Handover:
    """The workers of a run, the nodes with trouble, and the units on offer. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._heard: dict[str, float] = {}
        self._nodes: dict[str, Node] = {}
        self._offers: dict[str, Offer] = {}
        self._expected: dict[str, int] = {}
        self._reads: dict[str, list[str]] = {}
        self._moves: dict[str, int] = {}
        self._no_more = False

    def begin_no_more(self) -> None:
        """From now on no unit is begun and no engine is started; units on offer are returned."""
        self._no_more = True

    def no_more(self) -> bool:
        """Whether no more units are begun."""
        return self._no_more

    # -- workers ----------------------------------------------------------------------------

    def expect(self, route: str, workers: int) -> None:
        """So many workers of the route are on their way."""
        self._expected[route] = workers

    def hello(
        self, worker: str, *, actor: str, node: str, name: str, route: str
    ) -> tuple[str | None, str | None]:
        """A worker starts on a node (its id and its `name` for people).

        Returns two values. The first is the worker that Ray replaced by this one, when it died. The
        second is the reason to start no engine on this node, if there is a reason.
        """
        died = None
        for other, member in self._members.items():
            if member.actor == actor and member.state != "gone":
                died = other if member.state in ("loading", "ready") else None
                if member.state == "loading":
                    self._died_loading(member.node)
                member.state = "gone"
        self._members[worker] = Member(node=node, actor=actor, route=route)
        self._heard[worker] = self._clock()
        record = self._nodes.setdefault(node, Node(name=name))
        left_alone = record.again > self._clock() and not self._works(node)
        if self._no_more or left_alone:
            self._members[worker].state = "unfit"
            return died, NO_MORE if self._no_more else record.cause
        return died, None

    def heard(self, worker: str) -> None:
        """The worker has reported something."""
        self._heard[worker] = self._clock()

    def ready(self, worker: str) -> None:
        """The worker can answer and commit units (again)."""
        if (member := self._members.get(worker)) is not None:
            member.state, member.worked = "ready", True
            node = self._nodes[member.node]
            node.again, node.load_deaths = 0.0, 0
            for offer in self._offers.values():
                offer.failed.pop(worker, None)

    def unfit(self, worker: str, cause: str) -> float | None:
        """The worker cannot go on. Returns the seconds until it may try again; None for never."""
        member = self._members.get(worker)
        if member is None:
            return None
        member.state = "unfit"
        return self._failed_on(member.node, cause)

    def leave(self, worker: str) -> None:
        """The worker ends in order."""
        if (member := self._members.get(worker)) is not None:
            member.state = "gone"

    def is_gone(self, worker: str) -> bool:
        """Whether the worker has ended, in order or not."""
        return (member := self._members.get(worker)) is not None and member.state == "gone"

    def pause_of(self, worker: str) -> float | None:
        """Seconds until an engine may start on the worker's node; None for never."""
        again = self._nodes[self._members[worker].node].again
        return None if self._no_more or again == float("inf") else max(0.0, again - self._clock())

    def may_move(self, worker: str, nodes: list[str]) -> bool:
        """Whether the worker's process may end, because one of the nodes can take it.

        The units that the worker has on offer come back with it, unless another worker has them.
        """
        member = self._members.get(worker)
        if member is None or self._no_more or self._moves.get(member.actor, 0) >= MOVES:
            return False
        known = [self._nodes.get(node) for node in nodes]
        if all(node is not None and node.again > self._clock() for node in known):
            return False
        self._moves[member.actor] = self._moves.get(member.actor, 0) + 1
        member.state = "gone"
        for unit, offer in list(self._offers.items()):
            if worker in offer.failed and not offer.taker and offer.receipt is None:
                del self._offers[unit]
        return True

    def held(self, unit: str, worker: str) -> bool:
        """Whether another worker, which lives, took the unit from an offer or has done it."""
        offer = self._offers.get(unit)
        if offer is None:
            return False
        taken = offer.taker not in ("", worker) and self._silent(offer.taker) < SILENT_SECONDS
        return taken or offer.receipt is not None

    def troubled(self) -> list[dict[str, Any]]:
        """The nodes with trouble, for people: name, number of failures, newest cause."""
        return [
            {
                "node": node.name,
                "failures": node.failures,
                "cause": node.cause,
                "left_alone": node.again > self._clock(),
            }
            for node in self._nodes.values()
            if node.failures
        ]

    def _died_loading(self, node: str) -> None:
        record = self._nodes[node]
        record.load_deaths += 1
        if record.load_deaths >= LOAD_DEATHS:
            self._failed_on(
                node,
                f"{record.load_deaths} worker processes in a row died while their engine was "
                "loading; the usual cause is too little memory on the node. Look at the workers' "
                "logs (--verbose)",
            )

    def _failed_on(self, node: str, cause: str) -> float | None:
        record, now = self._nodes[node], self._clock()
        record.failures, record.cause = record.failures + 1, cause
        if record.again <= now:  # several workers of a node that fail together count once
            pause = PAUSES[record.rests] if record.rests < len(PAUSES) else float("inf")
            record.rests, record.again = record.rests + 1, now + pause
        return record.again - now if record.again < float("inf") else None

    def _works(self, node: str) -> bool:
        return any(m.node == node and m.state == "ready" for m in self._members.values())

    # -- units ------------------------------------------------------------------------------

    def offer(self, unit: str, worker: str, cause: str, payload: Any) -> None:
        """The worker gives the unit away. `payload` holds a reference to the rows."""
        member = self._members.get(worker)
        route = member.route if member is not None else ""
        offer = self._offers.setdefault(
            unit, Offer(route=route, payload=payload, since=self._clock())
        )
        offer.payload = payload
        if cause:
            offer.failed[worker] = cause

    def take(self, worker: str) -> tuple[str, Any] | Literal["unknown"] | None:
        """A unit and its payload for a ready worker; None when there is no unit for it.

        Returns "unknown" for a worker that never joined: this board is a new one.
        """
        member = self._members.get(worker)
        if member is None:
            return "unknown"
        if member.state != "ready" or self._no_more:
            return None
        for unit, offer in self._offers.items():
            free = not offer.taker or self._silent(offer.taker) > SILENT_SECONDS
            if (
                free
                and offer.route == member.route
                and offer.receipt is None
                and offer.payload is not None
                and worker not in offer.failed
            ):
                offer.taker = worker
                return unit, offer.payload
        return None

    def settle(self, unit: str, worker: str, receipt: dict[str, Any] | None, cause: str) -> None:
        """The worker that took the unit has its receipt, or could not do it either (`cause`)."""
        offer = self._offers.get(unit)
        if offer is None:
            return
        if receipt is not None:
            offer.receipt = receipt
        elif offer.taker == worker:
            offer.taker = ""
            offer.failed[worker] = cause

    def lost(self, unit: str, worker: str) -> None:
        """The worker did not get the payload: it is gone with the process that offered it.

        Ray gives out the unit again, to a process that then offers it again.
        """
        offer = self._offers.get(unit)
        if offer is not None and offer.taker == worker:
            offer.payload, offer.taker = None, ""

    def look(self, unit: str) -> tuple[bool, dict[str, Any] | None]:
        """Whether the unit is on offer with its payload, and its outcome.

        The outcome is the receipt, or `{"error": ...}`, or None while there is neither. Beside the
        error, "returned" is true when another pipeline may do the unit. An outcome is given once.
        """
        offer = self._offers.get(unit)
        if offer is None:
            return False, None
        unwanted = self._no_more and not offer.taker
        if offer.receipt is None and not unwanted and not self._hopeless(offer):
            return offer.payload is not None, None
        del self._offers[unit]
        if offer.receipt is not None:
            return True, offer.receipt
        if unwanted:
            return True, undone(unit)
        error = {"error": self._causes(offer), "returned": self._worth_another_try(offer)}
        return True, {**error, "unit": unit}

    def _hopeless(self, offer: Offer) -> bool:
        if len(offer.failed) >= TRIES:
            return True
        seen = [member for member in self._members.values() if member.route == offer.route]
        if any(
            member.route == offer.route
            and member.state in ("loading", "ready")
            and worker not in offer.failed
            and self._silent(worker) < GONE_SECONDS
            for worker, member in self._members.items()
        ):
            return False
        late = len({member.actor for member in seen}) < self._expected.get(offer.route, 0)
        return not late or self._clock() - offer.since > LATE_SECONDS

    def _worth_another_try(self, offer: Offer) -> bool:
        return len(offer.failed) < TRIES and any(
            member.worked and member.route == offer.route and worker not in offer.failed
            for worker, member in self._members.items()
        )

    def _silent(self, worker: str) -> float:
        member = self._members.get(worker)
        if member is None or member.state in ("unfit", "gone"):
            return float("inf")
        return self._clock() - self._heard[worker]

    def _causes(self, offer: Offer) -> str:
        by_cause: dict[str, list[str]] = {}
        for worker, cause in offer.failed.items():
            member = self._members.get(worker)
            name = self._nodes[member.node].name if member is not None else worker
            names = by_cause.setdefault(cause, [])
            if name not in names:
                names.append(name)
        return "; ".join(
            f"{cause} (on {', '.join(sorted(names))})" for cause, names in by_cause.items()
        )

    # -- reading ----------------------------------------------------------------------------

    def read_failed(self, unit: str, node: str, name: str, cause: str, nodes: int) -> float | None:
        """A unit could not be read on a node of `nodes` that could read it.

        Returns the seconds to wait before another process reads the unit; None when processes on
        enough nodes have tried.
        """
        tried = self._reads.setdefault(unit, [])
        tried.append(node)
        record = self._nodes.setdefault(node, Node(name=name))
        known = self.cannot_read(node) is not None  # then this process did not try
        if not known:
            record.failures, record.cause = record.failures + 1, cause
            record.reads, record.read_failed = record.reads + 1, self._clock()
        if len(set(tried)) >= min(TRIES, nodes) or len(tried) >= READ_TRIES:
            del self._reads[unit]
            return None
        # A node where reading fails at once must not take every unit before other nodes can.
        return 0.0 if known else READ_PAUSE

    def cannot_read(self, node: str) -> str | None:
        """Why a process on the node need not try to read a unit: the last ones failed there.

        After a pause, a process tries again.
        """
        record = self._nodes.get(node)
        if record is None or record.reads < BAD_READS:
            return None
        return record.cause if self._clock() - record.read_failed < PAUSES[0] else None

    def read_done(self, unit: str, node: str) -> None:
        """A process on the node (its id) has read the unit."""
        self._reads.pop(unit, None)
        if (record := self._nodes.get(node)) is not None:
            record.reads = 0
