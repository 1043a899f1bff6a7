"""Prefixes: which prompts have the same beginning, and how many tokens sorting by it saves.

Tasks make the sort keys, the feed in the GPU actor sorts by them, the driver estimates the gain.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Sequence

CACHE_BLOCK = 16  # tokens per block of vLLM's prefix cache on GPUs
KEY_TOKENS = 4096  # tokens of a prompt in its sort key; longer common prefixes are not looked for


# When sorting saves a smaller share of prompt tokens, the rows keep their order.
WORTH_SHARE = 0.05
SAMPLED = 512  # rows of a unit that are compared to decide whether to sort
SORTED_ROWS = 4096  # rows, of several units, that wait in a feed that sorts by prefix
TOKEN_BYTES = array("I").itemsize


def sort_key(token_ids: Sequence[int]) -> bytes:
    """The first `KEY_TOKENS` token ids as bytes. Bytes compare like the ids, but much faster."""
    ids = array("I", token_ids[:KEY_TOKENS])
    ids.byteswap()  # hosts are little-endian; only big-endian bytes compare like the numbers
    return ids.tobytes()


def shared_blocks(one: bytes, other: bytes) -> int:
    """How many whole cache blocks at the start of two sort keys are equal."""
    size = CACHE_BLOCK * TOKEN_BYTES
    most = min(len(one), len(other)) // size
    return bisect.bisect_left(
        range(1, most + 1), True, key=lambda blocks: one[: blocks * size] != other[: blocks * size]
    )


def prefix_gain(keys: Sequence[bytes]) -> float:
    """The share of prompt tokens that neighbours share only when the prompts are sorted.

    This is the share after sorting minus the share in the given order. `keys` are the sort keys of
    the prompts; at most `SAMPLED` keys are compared, in whole cache blocks. A beginning that all
    prompts have in common counts in both shares, so a system prompt alone is no reason to sort.
    """
    keys = keys[:SAMPLED]
    return shared_share(keys, in_order=False) - shared_share(keys, in_order=True)


def shared_share(keys: Sequence[bytes], *, in_order: bool) -> float:
    """The share of prompt tokens that a prompt has in common with the prompt before it.

    The prompts are in the given order (`in_order`) or sorted by prefix. The share is counted in
    whole cache blocks of the sort keys, which hold the first `KEY_TOKENS` tokens of each prompt.
    """
    total = sum(len(key) for key in keys) / TOKEN_BYTES
    if len(keys) < 2 or not total:
        return 0.0
    ordered = keys if in_order else sorted(keys)
    pairs = itertools.pairwise(ordered)
    return CACHE_BLOCK * sum(itertools.starmap(shared_blocks, pairs)) / total
