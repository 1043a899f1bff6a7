"""What a prefix cache can save, by how many rows are sorted together: a model fitted to a sample.

Rows are taken to belong to groups, each with a prefix of its own, all equally likely. Of n rows
that are sorted together, those that are not the first of their group find its prefix in the cache:
the share 1 - (1 - exp(-x)) / x with x = n / groups: n balls thrown into `groups` cells occupy
groups * (1 - exp(-x)) of them on average (the classical occupancy problem). A sample of n rows
shows that share, and so the number of groups.

Real groups are of unequal size. Then the model is right at the sample's own size, and for larger
ones somewhat too confident in the rare groups: it is for a decision, not for a bill.
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

FEWEST_PAIRS = 8  # rows of a sample that share a prefix before they count as more than chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Shares are of all prompt tokens, in whole cache blocks.

    `common` is shared by all rows, `in_order` by neighbours in the input's order; a row that finds
    its group's prefix shares `grouped` beyond `common`. `groups` is infinite when the sample shows
    none.
    """

    common: float = 0.0
    in_order: float = 0.0
    grouped: float = 0.0
    groups: float = math.inf

    def sorted_together(self, rows: float) -> float:
        """The share when windows of so many rows are sorted, wherever they come from."""
        found = self.common + self.grouped * repeated(rows / self.groups)
        return max(self.in_order, found)


def repeated(x: float) -> float:
    """Share of rows whose group has been seen, for x rows per group."""
    return 1 + math.expm1(-x) / x if x > 1e-6 else x / 2


def rows_per_group(share: float) -> float:
    """The inverse of `repeated`, for a share from 0 to below 1."""
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
