"""Passes: units derived from committed units; `retry` is the first kind of pass (driver).

A pick says which rows of a committed unit a pass takes. A unit of the pass has the same shard and
the same run of rows as the committed unit, and a mask with only the picked rows. So a pass is
committed, resumed and reported like a first run. This module writes nothing:
`committing/generations.py` keeps the list of units of a pass.
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
    """Picks the rows that a pass takes."""

    def wanted(self, receipt: Receipt) -> bool:
        """Whether a unit with this receipt may have rows that the pass takes.

        This question saves time: the receipts are known already, but the failures of a unit cost
        one read of a footer.
        """
        ...

    def rows(self, failures: Sequence[Mapping[str, Any]]) -> list[int]:
        """The numbers of the rows to take, from the failures in the footer of the newest part."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """Picks the rows that failed with one of the `codes`."""

    codes: Collection[str]

    def wanted(self, receipt: Receipt) -> bool:
        """Whether a row of the unit failed with one of the codes."""
        return any(code in self.codes for code in receipt["failures"])

    def rows(self, failures: Sequence[Mapping[str, Any]]) -> list[int]:
        """The numbers of the rows that failed with one of the codes."""
        return [failure["number"] for failure in failures if failure["code"] in self.codes]


def derive(
    store: Store,
    units: Sequence[Unit],
    receipts: Mapping[PartKey, Receipt],
    pick: Pick,
    generation: int,
) -> list[Unit]:
    """The units of a pass over `units`, in the order of `units`. All of `units` are committed.

    `receipts` are by the key of each committed part. Raises `OutputError` for a part with an
    unreadable footer, `StorageError` when storage fails.
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
