"""Repair: `errors/` agrees with the parts in the end, whatever died in between."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.repair import settle_errors
from gemma_batch.rows import Failure, Outcome
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared
from tests.committing.test_commit import KEEP, OUTCOMES, answer, job, shard_in, table
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
    args = ({0: shard_in(tmp_path)}, [prepared.unit], ledger.receipts(), job().columns, KEEP)
    assert settle_errors(store, *args) == 1
    assert store.read(name) == before
    assert settle_errors(store, *args) == 0


ERRORS = "errors/part-00000-0000000000.parquet"
FAILED: dict[int, Outcome] = {n: Failure("deadline", "late", 1) for n in range(3)}


def retried(
    store: Store, folder: Path, prepared: Prepared, outcomes: dict[int, Outcome], number: int
) -> int:
    """Commit a retry of the whole unit, and settle; how many errors files were written."""
    again = replace(prepared, unit=replace(prepared.unit, generation=number))
    commit_unit(store, job(), again, outcomes, {})
    receipts = Ledger(store).receipts()
    args = ({0: shard_in(folder)}, [prepared.unit], receipts, job().columns, KEEP)
    return settle_errors(store, *args)


def without_generation(data: bytes) -> bytes:
    """The errors file as older versions wrote it."""
    sink = io.BytesIO()
    pq.write_table(pq.read_table(pa.BufferReader(data)), sink)
    return sink.getvalue()


@pytest.mark.parametrize("old", [False, True])
def test_rows_that_fail_again_show_why_they_failed_last(
    store: Store, prepared: Prepared, tmp_path: Path, old: bool
) -> None:
    """As many failures as before are not the same failures: code, message, attempts are new."""
    commit_unit(store, job(), prepared, FAILED, {})
    if old:
        store.put(ERRORS, without_generation(store.read(ERRORS)))
    second: dict[int, Outcome] = {n: Failure("engine_error", "broken", 3) for n in range(3)}
    assert retried(store, tmp_path, prepared, second, 1) == 1
    found = [(row["code"], row["message"], row["attempts"]) for row in table(store, ERRORS)]
    assert found == [("engine_error", "broken", 3)] * 3
    third: dict[int, Outcome] = {0: answer("a"), 1: answer("b"), 2: answer("c")}
    assert retried(store, tmp_path, prepared, third, 2) == 1
    assert table(store, ERRORS) == []


def test_an_errors_file_that_is_right_is_left_alone(
    store: Store, prepared: Prepared, tmp_path: Path
) -> None:
    """Also one that an older version wrote: it is compared with the footer, not written again."""
    commit_unit(store, job(), prepared, FAILED, {})
    second: dict[int, Outcome] = {n: Failure("engine_error", "broken", 3) for n in range(3)}
    assert retried(store, tmp_path, prepared, second, 1) == 1
    store.put(ERRORS, without_generation(store.read(ERRORS)))
    before = store.etag(ERRORS)
    receipts = Ledger(store).receipts()
    args = ({0: shard_in(tmp_path)}, [prepared.unit], receipts, job().columns, KEEP)
    assert settle_errors(store, *args) == 0
    assert store.etag(ERRORS) == before
