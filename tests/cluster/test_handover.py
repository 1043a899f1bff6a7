"""One bad node costs one node: its units go to others, and it is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.cluster.handover import (
    BAD_READS,
    GONE_SECONDS,
    LATE_SECONDS,
    LOAD_DEATHS,
    MOVES,
    NO_MORE,
    PAUSES,
    READ_PAUSE,
    READ_TRIES,
    SILENT_SECONDS,
    TRIES,
    Handover,
    undone,
)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Handover:
    """A board of nobody."""
    return Handover(clock)


def join(board: Handover, worker: str, node: str, *, actor: str = "", route: str = "all") -> Any:
    return board.hello(worker, actor=actor or worker, node=node, name=f"name-{node}", route=route)[
        1
    ]


def test_another_worker_does_a_unit_and_the_first_gets_the_receipt(board: Handover) -> None:
    """Nobody takes it twice, and only a worker of the same route takes it."""
    for worker, route in (("bad", "all"), ("good", "all"), ("other", "long"), ("late", "all")):
        join(board, worker, worker, route=route)
    for worker in ("good", "other"):
        board.ready(worker)
    board.unfit("bad", "no card")
    board.offer("unit", "bad", "no card", ["rows"])
    assert board.look("unit") == (True, None)
    assert [board.take(worker) for worker in ("bad", "other", "late")] == [None] * 3
    assert board.take("good") == ("unit", ["rows"])
    assert board.take("good") is None
    assert board.held("unit", "bad")
    board.settle("unit", "good", {"rows": 7}, "")
    assert board.look("unit") == (True, {"rows": 7})
    assert board.look("unit") == (False, None)


def test_a_run_ends_when_no_worker_is_left_and_names_the_nodes(
    board: Handover, clock: Clock
) -> None:
    """While one still loads, there is hope; the error has each cause once."""
    for worker, node in (("a", "n1"), ("b", "n1"), ("c", "n2")):
        join(board, worker, node)
    for worker in ("a", "b"):
        board.unfit(worker, "no card")
    board.offer("unit", "a", "no card", ["rows"])
    board.offer("unit", "b", "no card", ["rows"])
    assert board.look("unit") == (True, None)
    clock.now += GONE_SECONDS + 1  # it died without a word, and nothing came in its place
    error = {"error": "no card (on name-n1)", "returned": False, "unit": "unit"}
    assert board.look("unit") == (True, error)


def test_a_unit_goes_back_to_the_driver_when_the_workers_have_ended(board: Handover) -> None:
    """Ray Data ends workers that have no unit, while others wait for one that never comes."""
    for worker in ("bad", "good"):
        join(board, worker, worker)
    board.ready("good")
    board.leave("good")
    board.offer("unit", "bad", "no card", ["rows"])
    error = {"error": "no card (on name-bad)", "returned": True, "unit": "unit"}
    assert board.look("unit") == (True, error)


def test_a_unit_is_not_tried_for_ever(board: Handover) -> None:
    """It may be the unit that makes the storage refuse, not the nodes."""
    board.expect("all", 9)
    for n in range(9):
        join(board, f"w{n}", f"n{n}")
        board.ready(f"w{n}")
    board.offer("unit", "w0", "cause", ["rows"])
    for n in range(1, TRIES):
        assert board.look("unit") == (True, None)
        assert board.take(f"w{n}") is not None
        board.settle("unit", f"w{n}", None, f"cause {n}")
    known, outcome = board.look("unit")
    assert known
    assert outcome is not None
    assert outcome["error"] == "cause (on name-n0); cause 1 (on name-n1); cause 2 (on name-n2)"
    assert not outcome["returned"]


def test_the_run_waits_for_workers_that_have_not_come(board: Handover, clock: Clock) -> None:
    """The first node of a cluster that comes up may be the bad one."""
    board.expect("all", 2)
    join(board, "bad", "n1")
    board.unfit("bad", "no card")
    board.offer("unit", "bad", "no card", ["rows"])
    assert board.look("unit") == (True, None)
    join(board, "good", "n2")
    board.ready("good")
    clock.now += LATE_SECONDS + 1
    board.heard("good")
    assert board.look("unit") == (True, None)
    assert board.take("good") is not None


def test_a_taker_that_dies_gives_the_unit_free(board: Handover, clock: Clock) -> None:
    """Also when the process of the first worker is gone, and with it the rows."""
    for worker in ("bad", "dies", "good"):
        join(board, worker, worker)
        board.ready(worker)
    board.offer("unit", "bad", "cause", ["rows"])
    assert board.take("dies") is not None
    assert board.take("good") is None
    clock.now += SILENT_SECONDS + 1
    board.heard("good")
    assert not board.held("unit", "bad")
    assert board.take("good") is not None
    board.lost("unit", "dies")  # no longer its unit
    assert board.look("unit") == (True, None)
    board.lost("unit", "good")
    assert board.look("unit") == (False, None), "nobody would offer it again"
    assert board.take("good") is None
    board.offer("unit", "bad", "cause", ["rows again"])
    assert board.take("good") == ("unit", ["rows again"])


def test_a_node_is_left_alone_for_longer_and_longer(board: Handover, clock: Clock) -> None:
    """Engines that fail together count once; what works again starts with a clean sheet."""
    for n in range(4):
        join(board, f"w{n}", "n1")
    assert [board.unfit(f"w{n}", "disk full") for n in range(4)] == [PAUSES[0]] * 4
    assert join(board, "new", "n1") == "disk full"
    clock.now += PAUSES[0]
    assert join(board, "newer", "n1") is None
    assert board.unfit("newer", "disk full") == PAUSES[1]
    clock.now += PAUSES[1]
    assert board.unfit("newer", "disk full") is None
    clock.now += 1e9
    assert join(board, "last", "n1") == "disk full"
    (node,) = board.troubled()
    assert node == {"node": "name-n1", "failures": 6, "cause": "disk full", "left_alone": True}


def test_one_bad_card_does_not_condemn_a_node_that_works(board: Handover) -> None:
    """The other engines of the node go on, and so does a new one there."""
    for n in range(2):
        join(board, f"w{n}", "n1")
    board.ready("w0")
    board.unfit("w1", "Xid 79")
    assert join(board, "again", "n1", actor="w1") is None


def test_processes_that_die_loading_on_one_node_are_counted_there(board: Handover) -> None:
    """Ray starts them again for ever; spot nodes that go away are no sign of anything."""
    for n in range(LOAD_DEATHS + 2):
        assert join(board, f"spot{n}", f"spot{n}", actor="moves") is None
    for n in range(LOAD_DEATHS):
        assert join(board, f"w{n}", "n1", actor="stays") is None
    cause = join(board, "next", "n1", actor="stays")
    assert "while their engine was loading" in cause


def test_a_process_ends_only_for_a_node_that_nothing_speaks_against(board: Handover) -> None:
    """And not without end; its units on offer come back with it."""
    join(board, "bad", "n1", actor="a")
    board.unfit("bad", "no card")
    board.offer("unit", "bad", "no card", ["rows"])
    join(board, "bad2", "n2", actor="b")
    board.unfit("bad2", "no card")
    assert not board.may_move("bad", ["n2"])
    assert board.may_move("bad", ["n2", "n3"])
    assert board.look("unit") == (False, None)
    for n in range(1, MOVES):
        join(board, f"bad.{n}", "n1", actor="a")
        assert board.may_move(f"bad.{n}", ["n3"])
    join(board, "bad.last", "n1", actor="a")
    assert not board.may_move("bad.last", ["n3"])


def test_a_new_board_says_that_it_knows_nobody(board: Handover) -> None:
    """The old one was lost with its node; workers then join again."""
    assert board.take("w") == "unknown"
    assert board.unfit("w", "cause") is None
    board.ready("w")
    join(board, "w", "n1")
    assert board.take("w") is None


def test_a_unit_is_read_elsewhere_before_the_run_ends(board: Handover) -> None:
    """Chance may bring it to the bad node again; a cluster of one node does not try again."""
    assert board.read_failed("u", "n1", "name", "no hub", 1) is None
    for _ in range(READ_TRIES - 1):
        assert board.read_failed("u0", "n1", "name", "no hub", 8) is not None
    assert board.read_failed("u0", "n1", "name", "no hub", 8) is None
    for node in ("n1", "n1", "n2"):
        assert board.read_failed("u1", node, "name", "no hub", 8) is not None
    assert board.read_failed("u1", "n3", "name", "no hub", 8) is None
    board.read_failed("u2", "n1", "name", "no hub", 2)
    board.read_done("u2", "n1")
    assert board.read_failed("u2", "n2", "name", "no hub", 2) == READ_PAUSE


def test_a_node_that_cannot_read_is_known_by_its_next_reader(board: Handover, clock: Clock) -> None:
    """So the next unit goes on at once; after a pause, or when one was read, it is tried again."""
    for unit in range(BAD_READS):
        assert board.cannot_read("n1") is None
        board.read_failed(f"u{unit}", "n1", "name", "no hub", 8)
    assert board.cannot_read("n1") == "no hub"
    assert board.cannot_read("n2") is None
    clock.now += PAUSES[0] / 2
    assert board.read_failed("skipped", "n1", "name", "no hub", 8) == 0.0
    clock.now += PAUSES[0] / 2
    assert board.cannot_read("n1") is None
    board.read_failed("u9", "n1", "name", "no hub", 8)
    assert board.cannot_read("n1") == "no hub"
    board.read_done("u", "n1")
    assert board.cannot_read("n1") is None


def test_when_no_more_begins_units_on_offer_go_back_unless_they_are_taken(board: Handover) -> None:
    """A worker that has a unit finishes it. No engine starts any more, and no worker moves."""
    for worker in ("bad", "good"):
        join(board, worker, worker)
    board.ready("good")
    board.unfit("bad", "no card")
    for unit in ("taken", "waiting"):
        board.offer(unit, "bad", "no card", ["rows"])
    assert board.take("good") == ("taken", ["rows"])
    board.begin_no_more()
    assert board.take("good") is None
    assert board.look("waiting") == (True, undone("waiting"))
    assert board.look("taken") == (True, None)
    board.settle("taken", "good", {"rows": 7}, "")
    assert board.look("taken") == (True, {"rows": 7})
    assert not board.may_move("bad", ["elsewhere"])
    assert join(board, "new", "fresh") == NO_MORE
    assert board.pause_of("new") is None
