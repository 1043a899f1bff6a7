"""Generations: the passes that an output holds beyond its first run.

A pass is a set of units derived from what is committed (see `planning/passes.py`). Its list of
units is settled create-only before the pass starts, so that a pass that was killed goes on with
the same rows. The parts of a pass belong to its generation; generation 0 is the first run.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Unit, read_units, write_units


@dataclass(frozen=True, slots=True)
class Pass:
    """Units derived from what is committed, all of one `generation` (1 or more)."""

    generation: int
    units: tuple[Unit, ...]


def pass_key(generation: int) -> str:
    """Where the list of units of a pass is kept in the output."""
    return f"_run/retry-{generation}.parquet"


def last_pass(store: Store) -> Pass | None:
    """The newest pass that was settled in the output, None where there is only the first run."""
    last = 0
    while store.exists(pass_key(last + 1)):
        last += 1
    return _load(store, last) if last else None


def settle_pass(store: Store, generation: int, units: Iterable[Unit]) -> Pass:
    """Keep the units of a new pass, create-only: where a driver was first, its list counts."""
    store.create(pass_key(generation), write_units(units))
    return _load(store, generation)


def _load(store: Store, generation: int) -> Pass:
    return Pass(generation, tuple(read_units(store.read(pass_key(generation)), generation)))


def latest_generation(receipts: Mapping[PartKey, Receipt]) -> dict[PartKey, PartKey]:
    """Key of generation 0 -> key of the newest generation of the same unit."""
    latest: dict[PartKey, PartKey] = {}
    for key in receipts:
        base = key.base
        if base not in latest or latest[base].generation < key.generation:
            latest[base] = key
    return latest


def retry_summary(store: Store, done: Container[PartKey] | None = None) -> dict[str, int]:
    """Units and rows of the last pass that are still open; for `status`. Empty without a pass."""
    last = last_pass(store)
    if last is None:
        return {}
    left = Ledger(store).remaining(last.units, done)
    rows = sum(unit.expected for unit in left)
    return {"generation": last.generation, "units": len(left), "rows": rows}
