"""Generations: the passes that an output holds beyond its first run (driver, `status`).

A pass is a set of units derived from the committed parts (see `planning/passes.py`). The list of
these units is put create-only before the pass starts. A pass that was killed therefore goes on
with the same rows. All parts of a pass have the number of its generation; the first run has
generation 0.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from gemma_batch.committing.ledger import Ledger
from gemma_batch.errors import OutputError
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Unit, read_units, write_units


@dataclass(frozen=True, slots=True)
class Pass:
    """Units derived from the committed parts, all of one `generation` (1 or more)."""

    generation: int
    units: tuple[Unit, ...]


def pass_key(generation: int) -> str:
    """The key of a pass's list of units in the output."""
    return f"_run/retry-{generation}.parquet"


def last_pass(store: Store) -> Pass | None:
    """The newest pass whose list is in the output; None when there is only the first run."""
    last = 0
    while store.exists(pass_key(last + 1)):
        last += 1
    return _load(store, last) if last else None


def settle_pass(store: Store, generation: int, units: Iterable[Unit]) -> Pass:
    """Put the list of units of a new pass, create-only.

    When another driver has already put a list for this generation, the existing list is returned.
    """
    store.create(pass_key(generation), write_units(units))
    return _load(store, generation)


def pass_units(store: Store, generation: int) -> list[Unit]:
    """The units of the pass that made the parts of a generation (1 or more).

    Raises `OutputError` when their list is missing from the output.
    """
    try:
        return list(_load(store, generation).units)
    except FileNotFoundError:
        raise OutputError(
            f"{pass_key(generation)!r} is missing from the output although there are parts of this "
            "retry: restore it or use a new output path"
        ) from None


def _load(store: Store, generation: int) -> Pass:
    return Pass(generation, tuple(read_units(store.read(pass_key(generation)), generation)))


def latest_generation(parts: Iterable[PartKey]) -> dict[PartKey, PartKey]:
    """For each unit: its key in generation 0 -> its key in the newest committed generation."""
    latest: dict[PartKey, PartKey] = {}
    for key in parts:
        base = key.base
        if base not in latest or latest[base].generation < key.generation:
            latest[base] = key
    return latest


def retry_summary(store: Store, done: Container[PartKey]) -> dict[str, int]:
    """How many units and rows of the last pass are not committed yet; empty without a pass.

    `done` is a listing of the committed parts.
    """
    last = last_pass(store)
    if last is None:
        return {}
    left = Ledger(store).remaining(last.units, done)
    rows = sum(unit.expected for unit in left)
    return {"generation": last.generation, "units": len(left), "rows": rows}
