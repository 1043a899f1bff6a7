"""The ledger: a listing says what is committed, a fresh one or one that is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma_batch.committing.ledger import Ledger, save_receipts
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import Unit

UNITS = [
    Unit(shard=0, first_row=row, rows=5, mark=0, bytes=9, route="all", expected=5)
    for row in (0, 5, 10)
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An output in which the first two units are committed, and their receipts copied."""
    found = open_store(str(tmp_path))
    receipts: list[dict[str, Any]] = []
    for unit in UNITS[:2]:
        found.create(f"results/{unit.name}", b"")
        receipts.append({"part": unit.name, "rows": unit.rows})
    save_receipts(found, receipts)
    return found


def test_what_is_left_is_what_has_no_part(store: Store) -> None:
    """Promise 4, and in the order of the units."""
    ledger = Ledger(store)
    assert ledger.remaining(UNITS) == UNITS[2:]
    assert ledger.receipts().keys() == {unit.key for unit in UNITS[:2]}


def test_a_listing_at_hand_spares_another(store: Store) -> None:
    """A start on an output that is complete lists its parts once, which is most of what it does."""
    ledger = Ledger(store)
    done = ledger.committed()
    store.create(f"results/{UNITS[2].name}", b"")
    assert ledger.remaining(UNITS, done) == UNITS[2:]
    assert ledger.receipts(done).keys() == done.keys()
    assert ledger.remaining(UNITS) == []


def test_foreign_files_are_no_parts(store: Store) -> None:
    """Somebody's `_SUCCESS` beside the parts is neither work done nor an error."""
    store.create("results/_SUCCESS", b"")
    store.create("results/part-x.parquet", b"")
    assert len(Ledger(store).committed()) == 2
