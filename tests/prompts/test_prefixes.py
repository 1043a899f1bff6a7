"""Prefixes: what prompts share is counted in blocks, and only what sorting adds counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.prompts.prefixes import (
    CACHE_BLOCK,
    prefix_gain,
    shared_blocks,
    sort_key,
)
from tests.answering.test_order import IDS, interleaved


@given(st.lists(IDS, min_size=1, max_size=30))
def test_keys_compare_as_token_ids_do(prompts: list[list[int]]) -> None:
    """Otherwise the sweep would not bring prefixes together."""
    assert [sort_key(ids) for ids in sorted(prompts)] == sorted(map(sort_key, prompts))


def test_gain_counts_only_what_sorting_adds() -> None:
    """Interleaved long prefixes: nearly all; one system prompt for all: nothing."""
    assert prefix_gain([sort_key(ids) for ids in interleaved(8, 16)]) > 0.8
    same = [[2, *range(300), 7000 + n] for n in range(100)]
    assert prefix_gain([sort_key(ids) for ids in same]) == 0.0
    assert prefix_gain([sort_key(ids) for ids in [[n, n + 1] for n in range(100)]]) == 0.0
    assert (
        prefix_gain([sort_key(ids) for ids in []])
        == prefix_gain([sort_key(ids) for ids in [[1]]])
        == 0.0
    )


def test_sharing_is_counted_in_whole_blocks() -> None:
    """A cache holds blocks: 15 common tokens save nothing, 33 save 32."""

    def shared(tokens: int) -> int:
        common = list(range(tokens))
        return shared_blocks(sort_key([*common, 1, *range(50)]), sort_key([*common, 2, *range(50)]))

    assert [shared(n) for n in (0, 15, 16, 33)] == [0, 0, 1, 2]
    assert CACHE_BLOCK == 16
