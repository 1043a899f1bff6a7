"""Prefixes: which prompts share their beginnings, and what sorting them by it is worth."""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Sequence

CACHE_BLOCK = 16  # tokens per block of vLLM's prefix cache on GPUs
KEY_TOKENS = 4096  # of a prompt that decide about its place; further sharing is not looked for


# Below this share of prompt tokens saved, grouping is not worth giving up the rows' own order.
WORTH_SHARE = 0.05
SAMPLED = 512  # rows of a unit that are looked at to decide
SORTED_ROWS = 4096  # that wait, of several units, where they are sorted by prefix
TOKEN_BYTES = array("I").itemsize


def sort_key(token_ids: Sequence[int]) -> bytes:
    """Bytes that compare as the token ids do, and much faster."""
    ids = array("I", token_ids[:KEY_TOKENS])
    ids.byteswap()  # big-endian, whose bytes compare as the numbers; all our hosts are little
    return ids.tobytes()


def shared_blocks(one: bytes, other: bytes) -> int:
    """How many whole cache blocks two keys have in common at their start."""
    size = CACHE_BLOCK * TOKEN_BYTES
    most = min(len(one), len(other)) // size
    return bisect.bisect_left(
        range(1, most + 1), True, key=lambda blocks: one[: blocks * size] != other[: blocks * size]
    )


def prefix_gain(keys: Sequence[bytes]) -> float:
    """Share of prompt tokens that neighbours share when sorted, beyond what they share as given.

    `keys` are the prompts' sort keys; at most `SAMPLED` are looked at, in whole cache blocks. A
    beginning that all prompts have in common counts on both sides, so a system prompt alone is no
    reason to sort.
    """
    keys = keys[:SAMPLED]
    return shared_share(keys, in_order=False) - shared_share(keys, in_order=True)


def shared_share(keys: Sequence[bytes], *, in_order: bool) -> float:
    """Share of prompt tokens that a prompt has in common with the one before it.

    As given, or sorted by prefix; counted in whole cache blocks of the sort keys, which hold the
    first `KEY_TOKENS` of each prompt.
    """
    total = sum(len(key) for key in keys) / TOKEN_BYTES
    if len(keys) < 2 or not total:
        return 0.0
    ordered = keys if in_order else sorted(keys)
    pairs = itertools.pairwise(ordered)
    return CACHE_BLOCK * sum(itertools.starmap(shared_blocks, pairs)) / total
