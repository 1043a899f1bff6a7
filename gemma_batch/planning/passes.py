"""Passes: units derived from what is committed; `retry` is the first kind.

A pick says which rows of a committed unit a pass takes. The units of the pass are the same runs
of rows of the same shards, with a mask that holds only those rows, so a pass is committed,
resumed and reported like a first run. Nothing is written here; `committing/generations.py` keeps
the list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gemma_batch.committing.generations import latest_generation
from gemma_batch.committing.ledger import READERS, Receipt, part_failures
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Unit, make_mask


class Pick(Protocol):
    """Which rows a pass takes."""

    def wanted(self, receipt: Receipt) -> bool:
        """Whether a unit with this receipt may have rows to take.

        The receipts are at hand; the failures of a unit cost one read of a footer.
        """
        ...

    def rows(self, failures: Sequence[Mapping[str, Any]]) -> list[int]:
        """The numbers of the rows to take, by the failures in the footer of the newest part."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """Takes the rows that failed with one of the `codes`."""

    codes: Collection[str]

    def wanted(self, receipt: Receipt) -> bool:
        """Whether a row of the unit failed with such a code."""
        return any(code in self.codes for code in receipt["failures"])

    def rows(self, failures: Sequence[Mapping[str, Any]]) -> list[int]:
        """These rows."""
        return [failure["number"] for failure in failures if failure["code"] in self.codes]


def derive(
    store: Store,
    units: Sequence[Unit],
    receipts: Mapping[PartKey, Receipt],
    pick: Pick,
    generation: int,
) -> list[Unit]:
    """The units of a pass over `units`, all of which are committed, in their order.

    Raises `OutputError` where a footer cannot be read, `StorageError`.
    """
    latest = latest_generation(receipts)

    def one(unit: Unit) -> Unit | None:
        newest = replace(unit, generation=latest[unit.key].generation)
        numbers = pick.rows(part_failures(store, newest.path))
        if not numbers:
            return None
        mask = make_mask(unit.first_row, unit.rows, numbers)
        return replace(unit, generation=generation, mask=mask, expected=len(numbers))

    looked_at = [unit for unit in units if pick.wanted(receipts[latest[unit.key]])]
    with ThreadPoolExecutor(READERS) as pool:
        return [unit for unit in pool.map(one, looked_at) if unit is not None]
