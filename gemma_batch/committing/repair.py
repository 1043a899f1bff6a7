"""Repair: brings `errors/` into agreement with the parts before a run ends (driver).

The footers of the parts are the truth; `errors/` is derived from them. An errors file is missing
when a process died right after it committed the part. An errors file is out of date when a retry
has run since: its rows were answered, or failed again for another reason. Each errors file names
the generation that it was made from. The repair replaces such files and never deletes one. A late
writer of the first generation puts create-only, so it cannot bring back an old errors file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from gemma_batch.committing.errors_file import errors_from_input, is_current
from gemma_batch.committing.generations import latest_generation
from gemma_batch.committing.ledger import READERS, Ledger, Receipt, part_failures
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Shards, Unit


def settle_errors(
    store: Store,
    shards: Shards,
    units: Sequence[Unit],
    receipts: Mapping[PartKey, Receipt],
    columns: Sequence[str],
    keep_schema: pa.Schema,
    *,
    with_output: bool = False,
    reads_all: bool = False,
) -> int:
    """Write every errors file that is missing or out of date; returns how many were written.

    `with_output` as for `errors_file`. `reads_all` says that no row has a column beside `columns`.
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
        path = present.get(unit.key)
        if path is not None and is_current(store, path, newest, failures):
            return 0
        data = errors_from_input(
            shards,
            newest,
            columns,
            keep_schema,
            failures,
            with_output=with_output,
            whole_from=None if reads_all else store.url,
        )
        store.put(unit.key.errors_path, data)
        return 1

    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(settle, [unit for unit in units if unit.key in latest]))
