"""The ledger: tells from a listing of the output which units are committed (driver, `status`).

A part's existence is the commit. The footer of a part holds the receipt and the failures of its
unit. The file in `errors/` is derived from that footer and the input, so it can always be made
again. The files in `_run/receipts/` are copies of receipts. The copies only save the time to read
every footer: the footers are the truth. The GPU actor uses `part_receipt` and `part_failures`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import (
    PartKey,
    errors_folder,
    parse_part_name,
    parts_folder,
    read_receipt,
    row_count,
)
from gemma_batch.units.unit import Unit

RECEIPTS = "_run/receipts"
READERS = 32

Receipt = dict[str, Any]


class Ledger:
    """The committed state of one step of an output (see `PartKey.step`)."""

    def __init__(self, store: Store, step: str | None = None) -> None:
        self._store, self._step = store, step

    def _keys(self, folder: str) -> dict[PartKey, str]:
        found = {}
        for path in self._store.list(folder):
            key = parse_part_name(path.rsplit("/", 1)[-1], self._step)
            if key is not None:
                found[key] = path
        return found

    def committed(self) -> dict[PartKey, str]:
        """Every committed part of every generation: key -> path."""
        return self._keys(parts_folder(self._step))

    def errors(self) -> dict[PartKey, str]:
        """Every errors file: key of the unit in generation 0 -> path."""
        return self._keys(errors_folder(self._step))

    def remaining(
        self, units: Iterable[Unit], done: Container[PartKey] | None = None
    ) -> list[Unit]:
        """The units that have no part yet, in their order.

        `done` is an earlier answer of `committed` (default: a new listing). Passing it saves a
        listing: 100,000 parts on S3 take 100 requests, one after the other.
        """
        done = self.committed() if done is None else done
        return [unit for unit in units if unit.key not in done]

    def receipts(
        self,
        done: Mapping[PartKey, str] | None = None,
        known: Mapping[PartKey, Receipt] | None = None,
    ) -> dict[PartKey, Receipt]:
        """The receipt of every committed part; `done` as for `remaining`.

        `known` are receipts that were read before (default: the copies in `_run/receipts`).

        Raises `OutputError` for a file that has a part's name but no readable receipt.
        """
        done = self.committed() if done is None else done
        known = self.copies(done) if known is None else known
        return {**known, **self.footers([key for key in done if key not in known], done)}

    def copies(self, done: Container[PartKey]) -> dict[PartKey, Receipt]:
        """The receipts of parts in `done` that have a copy in `_run/receipts`."""
        known: dict[PartKey, Receipt] = {}
        for path in self._store.list(RECEIPTS):
            for line in self._store.read(path).decode().splitlines():
                receipt = json.loads(line)
                key = parse_part_name(receipt["part"], receipt.get("step"))
                if key is not None and key in done:
                    known[key] = receipt
        return known

    def footers(
        self, keys: Sequence[PartKey], done: Mapping[PartKey, str]
    ) -> dict[PartKey, Receipt]:
        """The receipts in the footers of the parts `keys`, whose paths are in `done`.

        Raises `OutputError` for a file that has a part's name but no readable receipt.
        """
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda key: part_receipt(self._store, done[key]), keys)
            return dict(zip(keys, found, strict=True))


def part_receipt(store: Store, path: str) -> Receipt:
    """The receipt in a part's footer. Raises `OutputError` when the file has no readable one."""
    return read_receipt(store.open(path))[0]


def part_failures(store: Store, path: str) -> list[dict[str, Any]]:
    """The failures in a part's footer. Raises the same errors as `part_receipt`."""
    return read_receipt(store.open(path))[1]


def error_rows(store: Store, path: str) -> int:
    """How many rows an errors file has, by its footer. Raises `OutputError`."""
    return row_count(store.open(path))


def save_receipts(store: Store, receipts: Sequence[Receipt]) -> None:
    """Put copies of receipts into the output (see the module's docstring)."""
    if receipts:
        lines = "\n".join(json.dumps(receipt) for receipt in receipts)
        store.create(f"{RECEIPTS}/{uuid.uuid4().hex}.jsonl", lines.encode())
