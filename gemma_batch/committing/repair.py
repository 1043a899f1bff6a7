"""Repair: brings `errors/` into agreement with the parts before a run ends (driver).

The footers of the parts are the truth; `errors/` is derived from them. An errors file is missing
when a process died right after it committed the part. An errors file is out of date when a retry
has answered some of its rows. The repair replaces such files and never deletes one. A late writer
of the first generation puts create-only, so it cannot bring back an old errors file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from gemma_batch.committing.errors_file import errors_file
from gemma_batch.committing.generations import latest_generation
from gemma_batch.committing.ledger import READERS, Ledger, Receipt, error_rows, part_failures
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Shard, Unit


def settle_errors(
    store: Store,
    shards: Mapping[int, Shard],
    units: Sequence[Unit],
    receipts: Mapping[PartKey, Receipt],
    columns: Sequence[str],
    keep_schema: pa.Schema,
) -> int:
    """Write every errors file that is missing or out of date; returns how many were written.

    Raises `StorageError`, and `OutputError` for a part or errors file that cannot be read.
    """
    present = Ledger(store).errors()
    latest = latest_generation(receipts)

    def settle(unit: Unit) -> int:
        key = latest[unit.key]
        receipt = receipts[key]
        if key.generation == 0 and (not receipt["failed"] or unit.key in present):
            return 0
        newest = replace(unit, generation=key.generation)
        failures = part_failures(store, newest.path)
        if key.generation and _settled(store, present.get(unit.key), len(failures)):
            return 0
        data = errors_file(shards[unit.shard], unit, columns, keep_schema, failures)
        store.put(unit.key.errors_path, data)
        return 1

    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(settle, [unit for unit in units if unit.key in latest]))


def _settled(store: Store, path: str | None, expected: int) -> bool:
    # A retry only removes rows from an errors file, so equal counts mean equal files.
    return path is not None and error_rows(store, path) == expected
