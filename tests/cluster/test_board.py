"""What the board knows of deaths isolates a row that kills the whole worker process."""

from __future__ import annotations

import math
import time

from gemma_batch.cluster.board import CAREFUL_AFTER, READ_DEATHS, Board, Case


def run_until_isolated(rows: int, killers: set[int]) -> tuple[Case, int]:
    """Play the worker's part: every process dies that gets a killer; how often, and the end."""
    board, deaths = Board(), 0
    for incarnation in range(100):
        name = f"w{incarnation}"
        board.ready(name)
        case = board.begin(name, "unit")
        if not case.careful:
            deaths += 1  # the whole unit runs beside others, and the process dies
            continue
        every = set(range(rows)) - set(case.condemned)
        groups = [list(g) for g in case.groups]
        groups.append(sorted(every.difference(*groups)))
        for group in groups:
            board.trying("unit", group)
            if killers & set(group):
                deaths += 1
                break
        else:
            return case, deaths
    raise AssertionError("never isolated")


def test_one_row_that_kills_its_process_is_found_in_log2_deaths() -> None:
    """The row is condemned alone; nobody else is."""
    for killer in (0, 37, 255):
        case, deaths = run_until_isolated(256, {killer})
        assert case.condemned == [killer]
        assert deaths <= CAREFUL_AFTER + math.log2(256) + 1


def test_three_rows_that_kill_their_process_are_all_found() -> None:
    """Each costs its own search, and only themselves are condemned."""
    case, deaths = run_until_isolated(64, {3, 4, 60})
    assert sorted(case.condemned) == [3, 4, 60]
    assert deaths <= CAREFUL_AFTER + 3 * (math.log2(64) + 1)


def test_a_worker_that_dies_while_loading_blames_no_unit() -> None:
    """Its engine was not up, so no row can be at fault."""
    board = Board()
    for n in range(4):
        case = board.begin(f"w{n}", "unit")
    assert (case.deaths, case.careful) == (0, False)
    assert board.state() == {"workers": {}, "deaths": 3, "nodes": [], "held": 1}


def test_a_worker_that_lets_a_unit_go_did_not_die_with_it() -> None:
    """The next worker gets the unit without blame, and what was known of the unit is kept."""
    board = Board()
    for name in ("a", "b", "c"):
        board.ready(name)
        board.begin(name, "unit")
    board.let_go("unit")
    case = board.begin("d", "unit")
    assert (case.deaths, case.careful) == (2, True)
    assert board.state()["deaths"] == 2


def test_a_finished_unit_is_forgotten_and_a_worker_dies_once() -> None:
    """Deaths are counted per process, however many units it held."""
    board = Board()
    board.ready("a")
    board.begin("a", "u1")
    board.begin("a", "u2")
    board.end("u1")
    assert board.begin("b", "u1").deaths == 0
    assert board.begin("b", "u2").deaths == 1
    board.begin("a2", "u3")
    assert board.state()["deaths"] == 1


def test_numbers_of_a_worker_that_says_nothing_grow_old() -> None:
    """They stay, since the rows that it did are done, but nobody takes them for its state now."""
    board = Board()
    board.put("a", {"answered": 3})
    time.sleep(0.05)
    board.put("b", {"answered": 4})
    workers = board.state()["workers"]
    assert {name: numbers["answered"] for name, numbers in workers.items()} == {"a": 3, "b": 4}
    assert workers["a"]["silent_seconds"] >= 0.05 > workers["b"]["silent_seconds"]


def test_a_unit_whose_readers_die_is_given_up() -> None:
    """Ray would run the read task for ever."""
    board = Board()
    assert [board.begin_read("u") for _ in range(READ_DEATHS + 1)] == [True] * READ_DEATHS + [False]
    board.end_read("u")
    assert board.begin_read("u")


def test_when_no_more_begins_a_unit_is_refused_and_those_that_have_begun_are_known() -> None:
    """Workers hear of it with each report. A unit that saw deaths keeps them for the next run."""
    board = Board()
    for worker in ("a", "b"):
        board.join(worker, actor=worker, node="n", name="n", route="all")
        board.ready(worker)
    assert not board.put("a", {"answered": 1})
    board.begin("a", "begun")
    board.begin("b", "with a dead worker")
    assert board.state()["held"] == 2
    board.begin_no_more()
    assert board.put("a", {"answered": 2})
    assert board.begin("a", "next").refused
    assert board.begin("a", "with a dead worker").refused
    state = board.state()
    assert (state["held"], state["deaths"]) == (1, 1)
    assert state["workers"]["a"]["gone"] is False
    board.end("begun")
    board.leave("a")
    state = board.state()
    assert state["held"] == 0
    assert state["workers"]["a"]["gone"] is True
