"""Picking: chooses rows of an output to look at, and reads no more of it than that takes.

Without a condition, a few parts are opened that are spread over the whole data set. With one, part
after part is read, the named columns only, until enough rows match. The truth about failures is in
the footer of a unit's newest part; answers are in the parts of all generations.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import pyarrow.parquet as pq

from gemma_batch.committing.generations import latest_generation, pass_units
from gemma_batch.committing.ledger import READERS, Ledger, Receipt
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.origin import check_planned, check_receipts
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey, open_part
from gemma_batch.units.unit import Unit

SPREAD = 32  # most parts to open for rows without a condition, while they have enough rows
MATCHING = 8  # parts that are read before it is seen whether enough rows match


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part, opened. `unit` is of the part's own generation."""

    key: PartKey
    unit: Unit
    file: pq.ParquetFile
    receipt: Receipt
    failures: list[dict[str, Any]]

    @property
    def rows(self) -> int:
        """The number of answers in the part."""
        return int(self.file.metadata.num_rows)


class Parts:
    """The committed parts of an output.

    Raises `MismatchError` when a part is of another run, `OutputError`, `StorageError`.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store, self._manifest = store, manifest
        self._units = {unit.key: unit for unit in manifest.units(store)}
        self.listed = Ledger(store).committed()
        check_planned(self._units.values(), self.listed)
        for generation in {key.generation for key in self.listed} - {0}:
            self._units |= {unit.key: unit for unit in pass_units(store, generation)}

    def unit(self, key: PartKey) -> Unit:
        """The unit of a committed part, of the part's generation."""
        return self._units[key]

    @property
    def every(self) -> list[PartKey]:
        """The keys of all parts, in the order of the input."""
        return sorted(self.listed, key=_place)

    def newest(self) -> tuple[list[PartKey], dict[PartKey, int]]:
        """The newest part of each unit that may have failures, and how many where that is known.

        The keys are in the order of the input.
        """
        keys = sorted(latest_generation(self.listed).values(), key=_place)
        known = Ledger(self.store).copies(frozenset(keys))
        failed = {key: int(receipt["failed"]) for key, receipt in known.items()}
        return [key for key in keys if failed.get(key) != 0], failed

    def open(self, keys: Sequence[PartKey]) -> list[Part]:
        """Open parts, several at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            parts = list(pool.map(self._open, keys))
        check_receipts(self._manifest, {part.key: part.receipt for part in parts}, self.listed)
        return parts

    def _open(self, key: PartKey) -> Part:
        opened = open_part(self.store.open(self.listed[key]))
        return Part(key, self._units[key], *opened)


def _place(key: PartKey) -> tuple[int, int, str, int]:
    return key.shard, key.first_row, key.route, key.generation


def spread(
    keys: Sequence[PartKey], weights: Sequence[float], points: int, random: Random
) -> tuple[Counter[PartKey], list[PartKey]]:
    """Parts at `points` places that are spread over all parts by weight, and the other parts.

    The counter says how many of the places are in a part. The others are in random order.
    """
    edges = list(itertools.accumulate(weights))
    if not edges or edges[-1] <= 0:
        return Counter(), list(keys)
    chosen: Counter[PartKey] = Counter()
    for i in range(points):
        point = (i + random.random()) * edges[-1] / points
        chosen[keys[min(bisect_right(edges, point), len(keys) - 1)]] += 1
    others = [key for key in keys if key not in chosen]
    random.shuffle(others)
    return chosen, others


Offer: TypeAlias = tuple[Part, list[int]]


@dataclass(slots=True)
class Picked:
    """The places (from 0) of chosen rows or failures in parts, and how much was read for them.

    `read` counts the opened parts, `looked_at` the rows that a condition was asked of. The parts
    are in the order of the input, and so are the places in a part.
    """

    places: list[Offer]
    read: int = 0
    looked_at: int = 0


def pick_spread(
    parts: Parts,
    keys: Sequence[PartKey],
    weights: Sequence[float],
    size: Callable[[Part], int],
    rows: int,
    random: Random,
) -> Picked:
    """Choose rows that are spread over the parts `keys`. `size` is the number of rows of a part."""
    chosen, others = spread(keys, weights, min(rows, SPREAD), random)
    offers: list[Offer] = []
    read = offered = 0
    for batch in _batches(others, list(chosen)):
        for part in parts.open(batch):
            places = random.sample(range(size(part)), min(size(part), rows))
            offers += [(part, places)] * max(chosen[part.key], 1)  # as often as it was chosen
            offered += len(places)
            read += 1
        if offered >= rows:
            break
    return Picked(_fair(offers, rows), read)


def pick_matching(
    parts: Parts,
    keys: Sequence[PartKey],
    weights: Sequence[float],
    matching: Callable[[Part], tuple[int, list[int]]],
    rows: int,
    random: Random,
) -> Picked:
    """Choose rows that match a condition, and read no further when there are enough.

    `matching` gives the number of a part's rows and the places of those that match.
    """
    chosen, others = spread(keys, weights, MATCHING, random)
    offers: list[Offer] = []
    read = looked_at = offered = 0
    for batch in _batches(others, list(chosen)):
        with ThreadPoolExecutor(READERS) as pool:
            opened = parts.open(batch)
            for part, (size, places) in zip(opened, pool.map(matching, opened), strict=True):
                offers.append((part, random.sample(places, min(len(places), rows))))
                offered += len(places)
                looked_at += size
                read += 1
        if offered >= rows:
            break
    return Picked(_fair(offers, rows), read, looked_at)


def _batches(keys: Sequence[PartKey], first: Sequence[PartKey]) -> Iterator[Sequence[PartKey]]:
    """The keys `first`, and then the others in batches that grow."""
    yield first
    size, at = MATCHING, 0
    while at < len(keys):
        yield keys[at : at + size]
        at, size = at + size, min(size * 2, READERS)


def _fair(offers: Sequence[Offer], rows: int) -> list[Offer]:
    """At most `rows` of the offered places: from each offer one, and again, while there are any."""
    taken: dict[PartKey, Offer] = {}
    left = [(part, places) for part, places in offers if places]
    count = 0
    while left and count < rows:
        for part, places in left:
            if places and count < rows:  # the same list may be offered more than once
                taken.setdefault(part.key, (part, []))[1].append(places.pop())
                count += 1
        left = [(part, places) for part, places in left if places]
    ordered = sorted(taken.values(), key=lambda one: _place(one[0].key))
    return [(part, sorted(places)) for part, places in ordered]
