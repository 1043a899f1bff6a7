"""Repair: `errors/` agrees with the parts in the end, whatever died in between."""

from __future__ import annotations

from pathlib import Path

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.repair import settle_errors
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared
from tests.committing.test_commit import KEEP, OUTCOMES, job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store


def test_a_missing_errors_file_is_made_again_from_footer_and_input(
    store: Store, prepared: Prepared, tmp_path: Path
) -> None:
    """A death between the two puts leaves nothing out; a second look changes nothing."""
    commit_unit(store, job(), prepared, OUTCOMES, {})
    name = "errors/part-00000-0000000000.parquet"
    before = store.read(name)
    (tmp_path / "out" / name).unlink()
    ledger = Ledger(store)
    args = ({0: prepared.shard}, [prepared.unit], ledger.receipts(), job().columns, KEEP)
    assert settle_errors(store, *args) == 1
    assert store.read(name) == before
    assert settle_errors(store, *args) == 0
