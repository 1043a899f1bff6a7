"""Intervals: how far a figure of a sample may be from that of the whole (driver, laptop).

All intervals are of 95%. A share has Wilson's interval (Wilson 1927, "Probable inference, the law
of succession, and statistical inference"), which also holds for shares near 0 and 1. A sum has the
interval of the bootstrap: the sample is drawn again from itself, with replacement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Z = 1.959964  # of the normal distribution, for 95%
DRAWS = 1000  # of the bootstrap
TAIL = 0.025
Interval = tuple[float, float]
T = TypeVar("T")


def wilson(count: float, of: float) -> Interval:
    """The interval of a share, where `count` of `of` rows of a sample have the property.

    (0.0, 1.0) for a sample without rows.
    """
    if of <= 0:
        return 0.0, 1.0
    share, square = count / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    low = 0.0 if count <= 0 else max(0.0, middle - half)
    return low, 1.0 if count >= of else min(1.0, middle + half)


def bootstrap(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """The interval of the mean of all values, where the sample was drawn group by group.

    Each value is a group of its own in a plain sample. Raises ValueError without a value.
    """
    sums = [(sum(group), len(group)) for group in groups if group]
    if not sums:
        raise ValueError("a sample without values has no interval")
    chance = random.Random(seed)
    means = []
    for _ in range(DRAWS):
        drawn = chance.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return means[int(TAIL * DRAWS)], means[min(math.ceil((1 - TAIL) * DRAWS), DRAWS) - 1]


def grouped(items: Sequence[T], key: Callable[[T], Hashable] | None) -> list[list[T]]:
    """The items in groups of one key; without `key` each is a group of its own."""
    if key is None:
        return [[item] for item in items]
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def effect(groups: Sequence[Sequence[float]]) -> float:
    """How many times as large as in a plain sample the variance of the mean is; at least 1.

    Rows of one file may be alike, and then a sample of few files tells less than its rows say
    (the design effect of Kish 1965, "Survey Sampling", for clusters drawn with replacement).
    """
    values = [value for group in groups for value in group]
    count = len(values)
    if len(groups) < 2 or count < 2 or len(groups) == count:
        return 1.0
    mean = sum(values) / count
    plain = sum((value - mean) ** 2 for value in values) / (count - 1) / count
    if plain <= 0:
        return 1.0
    apart = sum((sum(group) - mean * len(group)) ** 2 for group in groups)
    clustered = apart * len(groups) / (len(groups) - 1) / count**2
    return max(1.0, clustered / plain)
