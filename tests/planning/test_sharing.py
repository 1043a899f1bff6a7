"""The model of shared prefixes: fitted to a sample, it foretells larger windows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.planning.sharing import Sharing, measure, repeated, rows_per_group
from gemma_batch.prompts.prefixes import shared_share, sort_key

SYSTEM = list(range(32))  # two cache blocks that all prompts begin with


def prompts(count: int, groups: int, seed: int = 1) -> list[list[int]]:
    """Prompts of 160 tokens: 32 of all, 64 of the group, 64 of their own."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        group = 1000 + chance.randrange(groups)
        found.append(SYSTEM + [group] * 64 + [100_000 + number] * 64)
    return found


def keys(prompts: Sequence[Sequence[int]]) -> list[bytes]:
    return [sort_key(ids) for ids in prompts]


def test_the_formula_by_hand() -> None:
    """x = 1: 1 - (1 - 1/e); few rows per group: half of them; and its inverse."""
    assert repeated(1.0) == pytest.approx(1 / math.e)
    assert repeated(2.0) == pytest.approx(0.5 * (1 + math.exp(-2)))
    assert repeated(1e-7) == pytest.approx(0.5e-7)
    assert repeated(0.0) == 0.0
    assert repeated(1e6) == pytest.approx(1, abs=1e-5)
    for x in (0.01, 0.3, 1.0, 7.0, 90.0):
        assert rows_per_group(repeated(x)) == pytest.approx(x, rel=1e-3)


@pytest.mark.parametrize("groups", [40, 400, 4000])
def test_a_sample_foretells_what_larger_windows_share(groups: int) -> None:
    """512 rows are looked at; 4,096 and 20,000 are then sorted for real."""
    sharing = measure(keys(prompts(512, groups)))
    assert sharing.common == pytest.approx(0.2, abs=0.01)
    assert sharing.grouped == pytest.approx(0.4, abs=0.02)
    assert sharing.groups == pytest.approx(groups, rel=0.35)
    for rows in (4096, 20_000):
        real = prompts(rows, groups, seed=2)
        # `shared_share` looks at as many as it is given.
        actual = shared_share(keys(real), in_order=False)
        assert sharing.sorted_together(rows) == pytest.approx(actual, abs=0.06)


def test_what_is_together_already_gains_nothing() -> None:
    """Rows that come group by group share in the input's order as much as they ever will."""
    rows = sorted(prompts(512, 16))
    sharing = measure(keys(rows))
    assert sharing.in_order > 0.55
    assert sharing.sorted_together(1e9) == pytest.approx(sharing.in_order, abs=0.03)


def test_no_groups_no_promise() -> None:
    """Unique prompts, too few pairs to be more than chance, or hardly a row at all."""
    unique = measure(keys(prompts(512, 10**9)))
    assert (unique.groups, unique.grouped) == (math.inf, 0.0)
    assert unique.sorted_together(1e9) == pytest.approx(unique.in_order, abs=0.01)
    few = prompts(300, 10**9)
    few[1] = few[0][:96] + few[1][96:]
    assert measure(keys(few)).groups == math.inf
    for none in ([], [[1, 2, 3]], [[], []]):
        assert measure(keys(none)) == Sharing()


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=80), max_size=40),
    st.floats(1, 1e9),
    st.floats(1, 1e9),
)
def test_shares_are_shares_and_grow(rows: list[list[int]], one: float, other: float) -> None:
    """Between 0 and about 1 whatever the sample; more rows never share less."""
    sharing = measure(keys(rows))
    low, high = sorted((one, other))
    assert 0 <= sharing.sorted_together(low) <= sharing.sorted_together(high) <= 1.01
