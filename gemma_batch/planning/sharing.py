"""Sharing: the saving of a prefix cache when many rows are sorted together (driver, laptop).

The module fits a model to a sample. The model says that every row belongs to a group, that each
group has a prefix, and that all groups are equally likely. When n rows are sorted together, each
row that is not the first row of its group finds the group's prefix in the cache. The share of such
rows is 1 - (1 - exp(-x)) / x with x = n / groups. The reason is the classical occupancy problem:
n balls thrown into `groups` cells occupy groups * (1 - exp(-x)) cells on average. A sample of n
rows shows this share, and from the share follows the number of groups.

Real groups have unequal sizes. Then the model is right for as many rows as the sample has. For more
rows the model overestimates the saving of rare groups somewhat. The model is good enough for a
decision, not for a bill.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_batch.prompts.prefixes import (
    CACHE_BLOCK,
    TOKEN_BYTES,
    shared_blocks,
    shared_share,
)

FEWEST_PAIRS = 8  # fewer pairs of sampled rows with a common prefix may be chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The fitted model. Shares are of all prompt tokens, from 0 to 1, in whole cache blocks.

    `common` is the share that all rows have in common. `in_order` is the share that neighbours have
    in common in the input's order. A row that finds its group's prefix in the cache saves `grouped`
    in addition to `common`. `groups` is the number of groups, infinite when the sample shows none.
    """

    common: float = 0.0
    in_order: float = 0.0
    grouped: float = 0.0
    groups: float = math.inf

    def sorted_together(self, rows: float) -> float:
        """The share of prompt tokens in the cache when windows of so many rows are sorted."""
        found = self.common + self.grouped * repeated(rows / self.groups)
        return max(self.in_order, found)


def repeated(x: float) -> float:
    """Share of rows, from 0 to 1, whose group has an earlier row, for x rows per group."""
    return 1 + math.expm1(-x) / x if x > 1e-6 else x / 2


def rows_per_group(share: float) -> float:
    """Rows per group at which `repeated` gives this share (from 0 to below 1): its inverse."""
    low, high = 0.0, 1.0
    while repeated(high) < share and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if repeated(middle) < share else (low, middle)
    return (low + high) / 2


def measure(given: Sequence[bytes]) -> Sharing:
    """Fit the model to the sort keys of a sample of prompts, in the input's order."""
    keys = sorted(given)
    total = sum(map(len, keys)) / TOKEN_BYTES
    if len(keys) < 2 or not total:
        return Sharing()
    everybody = shared_blocks(keys[0], keys[-1])
    beyond = [shared_blocks(a, b) - everybody for a, b in itertools.pairwise(keys)]
    pairs = sum(blocks > 0 for blocks in beyond)
    common = CACHE_BLOCK * everybody * (len(keys) - 1) / total
    in_order = shared_share(given, in_order=True)
    if pairs < FEWEST_PAIRS:
        return Sharing(common=common, in_order=in_order)
    matched = pairs / len(keys)
    return Sharing(
        common=common,
        in_order=in_order,
        grouped=CACHE_BLOCK * sum(beyond) / total / matched,
        groups=len(keys) / rows_per_group(matched),
    )
