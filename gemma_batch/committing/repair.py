"""`errors/` made to agree with the parts: it is derived from their footers, never the truth.

A process that dies after a part's commit leaves its errors file missing; a retry makes the
files of earlier generations out of date. Both are settled here, by the driver, before a run
ends. Files are replaced, never deleted, so that a late writer of the first generation, whose
put is create-only, can never bring an old one back.
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
    """Write the errors files that are missing or superseded; how many that were."""
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
    # A retry only ever removes rows, so equal counts mean equal files.
    return path is not None and error_rows(store, path) == expected
