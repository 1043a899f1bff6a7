"""Every order gives out each row once; prefix and length do what they are for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.answering.order import LengthEstimate, RowQueue, Sweep
from gemma_batch.prompts.prefixes import (
    SORTED_ROWS,
)
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.rows import Request
from gemma_batch.units.row_policy import Order

ORDERS: tuple[Order, ...] = ("auto", "input", "prefix", "length")
IDS = st.lists(st.integers(0, 300_000), min_size=1, max_size=40)


def queue(order: Order) -> RowQueue[Request]:
    return RowQueue(order, lambda request: request)


def drain(rows: RowQueue[Request]) -> list[Request]:
    return [rows.pop() for _ in range(len(rows))]


def requests(prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Request]:
    return [Request(n, TokenPrompt(list(ids)), dict(sampling)) for n, ids in enumerate(prompts)]


def interleaved(prefixes: int, each: int, long: int = 256) -> list[list[int]]:
    """Prompts with `prefixes` long prefixes in turn, each followed by a tail of its own."""
    return [
        [2, *(1000 + n % prefixes for _ in range(long)), 5000 + n] for n in range(prefixes * each)
    ]


@given(
    order=st.sampled_from(ORDERS),
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(IDS, max_size=8)),
            st.tuples(st.just("pop"), st.integers(1, 6)),
            st.tuples(st.just("back"), st.integers(1, 3)),
        ),
        max_size=30,
    ),
)
def test_no_order_loses_or_doubles_a_row(order: Order, actions: list[tuple[str, Any]]) -> None:
    """Whatever is added, taken and put back in whatever order: each row comes out once."""
    rows, count, out = queue(order), 0, []
    for act, value in actions:
        if act == "add":
            batch = [Request(count + i, TokenPrompt(ids)) for i, ids in enumerate(value)]
            count += len(batch)
            rows.add(batch)
        elif act == "pop":
            out += [rows.pop() for _ in range(min(value, len(rows)))]
        else:
            kept = max(0, len(out) - value)
            again, out = out[kept:], out[:kept]
            rows.put_back(again)
        assert len(rows) + len(out) == count
    out += drain(rows)
    assert sorted(request.number for request in out) == list(range(count))
    with pytest.raises(IndexError):
        rows.pop()


def test_input_order_is_kept_as_it_is() -> None:
    """`input` is what it says, across units."""
    rows = queue("input")
    rows.add(requests([[9], [1], [5]]))
    rows.add(requests([[0]]))
    assert [request.prompt.token_ids for request in drain(rows)] == [[9], [1], [5], [0]]


def test_what_is_put_back_goes_first_and_in_its_order() -> None:
    """Rows that an engine's death threw back must not wait behind all others."""
    for order in ORDERS:
        rows = queue(order)
        rows.add(requests([[7], [8], [9]]))
        rows.put_back([Request(10, TokenPrompt([3])), Request(11, TokenPrompt([4]))])
        assert [rows.pop().number, rows.pop().number] == [10, 11]


@pytest.mark.parametrize("order", ["prefix", "auto"])
def test_interleaved_prefixes_come_out_together(order: Order) -> None:
    """64 prefixes in turn: grouped, there are 63 changes of prefix and not one per row."""
    rows = queue(order)
    rows.add(requests(interleaved(64, 8)))
    prefixes = [request.prompt.token_ids[1] for request in drain(rows)]
    assert sum(a != b for a, b in itertools.pairwise(prefixes)) == 63


def test_prefixes_that_only_units_have_in_common_come_out_together() -> None:
    """A row per prefix in each unit: no unit alone would gain, all that wait together do."""
    rows = queue("prefix")
    prompts = interleaved(16, 8)
    for start in range(0, len(prompts), 16):
        rows.add(requests(prompts[start : start + 16]))
    prefixes = [request.prompt.token_ids[1] for request in drain(rows)]
    assert sum(a != b for a, b in itertools.pairwise(prefixes)) == 15


def test_rows_are_wanted_from_afar_only_where_they_are_sorted() -> None:
    """What waits is memory, and lost with its process: no more than the order can use."""
    assert queue("prefix").reach == SORTED_ROWS
    assert queue("input").reach == queue("length").reach == 0
    rows = queue("auto")
    assert rows.reach == 0
    rows.add(requests(interleaved(4, 8)))
    assert rows.reach == SORTED_ROWS
    drain(rows)
    assert rows.reach == 0


def test_no_row_waits_for_ever_while_new_ones_keep_coming() -> None:
    """The sweep turns: a row with the highest key is served although lower ones arrive always."""
    sweep: Sweep[str] = Sweep()
    sweep.add(["last"], [b"\xff"])
    sweep.add([f"a{i}" for i in range(10)], [b"\x00%c" % i for i in range(10)])
    seen = []
    for i in range(40):
        sweep.add([f"new{i}"], [b"\x00\x05"])
        seen.append(sweep.pop())
        if seen[-1] == "last":
            break
    assert "last" in seen[:20]


def test_both_kinds_of_units_get_on() -> None:
    """A unit that is grouped and units that are not share the engine."""
    rows = queue("auto")
    rows.add(requests(interleaved(4, 8)))
    rows.add(requests([[9000 + n, *range(n)] for n in range(32)]))
    half = [rows.pop() for _ in range(32)]
    grouped = sum(request.prompt.token_ids[0] == 2 for request in half)
    assert 10 <= grouped <= 22


def test_the_longest_expected_rows_of_a_unit_go_first() -> None:
    """By what was learned for prompts of that length; by the row's own limit where it has one."""
    rows = queue("length")
    for _ in range(20):
        rows.learn(Request(0, TokenPrompt([1] * 100)), 5)
        rows.learn(Request(0, TokenPrompt([1] * 10)), 400)
    rows.add([Request(n, TokenPrompt([1] * size)) for n, size in ((1, 100), (2, 10), (3, 100))])
    assert rows.pop().number == 2
    rows.clear()
    rows.add([Request(n, TokenPrompt([1]), {"max_tokens": n * 10}) for n in (3, 9, 1)])
    assert [request.number for request in drain(rows)] == [9, 3, 1]


def test_an_estimate_needs_enough_answers() -> None:
    """One odd answer must not turn the order over."""
    lengths = LengthEstimate()
    lengths.learn(Request(0, TokenPrompt([1] * 10)), 1000)
    assert lengths.expected(Request(1, TokenPrompt([1] * 10))) == (0.0, 10)
    for _ in range(20):
        lengths.learn(Request(0, TokenPrompt([1] * 10)), 100)
    tokens, _ = lengths.expected(Request(1, TokenPrompt([1] * 12)))
    assert 100 < tokens < 200
