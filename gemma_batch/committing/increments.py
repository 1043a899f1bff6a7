"""Increments: what a growing input added to an output after its first run (driver, `status`).

A start of a job with `input.grow` finds files that the output does not know yet. These files, their
units and the sorted copies of their rows are one increment. An increment is one file, put
create-only, so it exists whole or not at all; a start that dies earlier leaves nothing that counts.
The shards of an increment have the numbers after those of the increments before.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import Shard, Unit, read_units, shard_from, write_units

FOLDER = "_run/increments"
RECORD = b"gemma_batch.increment"
NAME = re.compile(r"(\d{5,})\.parquet")
READERS = 32
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """Files that were added to the input, with their units.

    `number` counts from 1; the first run is the increment 0. `shards`, `staged` and `facts` are as
    in the manifest. `created` is a date and time in UTC, as ISO 8601.
    """

    number: int
    created: str
    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    staged: tuple[Shard, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of planned rows."""
        return sum(unit.expected for unit in self.units)


def increment_key(number: int) -> str:
    """The key of an increment in the output."""
    return f"{FOLDER}/{number:05d}.parquet"


def load_increments(store: Store, run: str) -> list[Increment]:
    """Every increment of an output, in order. `run` is the id of the run in the manifest.

    Raises `OutputError` when one is missing or cannot be read, `MismatchError` when one belongs to
    another run.
    """
    numbers = sorted(
        int(match[1]) for key in store.list(FOLDER) if (match := NAME.fullmatch(key.split("/")[-1]))
    )
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            raise OutputError(
                f"{increment_key(expected)!r} is missing from {store.url!r} although "
                f"{increment_key(number)!r} is there: restore it or use a new output path"
            )
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda number: _load(store, number, run), numbers))


def settle_increment(
    store: Store,
    run: str,
    number: int,
    *,
    created: str,
    shards: Sequence[Shard],
    units: Sequence[Unit],
    staged: Sequence[Shard] = (),
    facts: Mapping[str, Any],
) -> Increment:
    """Put an increment, create-only, and return it.

    When another driver has already put this increment, the existing one is returned.
    """
    record = {
        "version": VERSION,
        "run": run,
        "created": created,
        "shards": [shard.plain() for shard in shards],
        "staged": [shard.plain() for shard in staged],
        "facts": dict(facts),
    }
    text = json.dumps(record, default=str).encode()
    store.create(increment_key(number), write_units(units, {RECORD: text}))
    return _load(store, number, run)


def _load(store: Store, number: int, run: str) -> Increment:
    key = increment_key(number)
    data = store.read(key)
    try:
        record = json.loads((pq.read_metadata(io.BytesIO(data)).metadata or {})[RECORD])
    except (KeyError, ValueError, OSError, pa.ArrowException) as err:
        raise OutputError(
            f"{key!r} in {store.url!r} cannot be read as an increment of the input "
            f"({type(err).__name__}): restore it or use a new output path"
        ) from err
    if record["version"] != VERSION:
        raise OutputError(
            f"{key!r} was written by another version of the layout ({record['version']!r}, this "
            f"software reads {VERSION})"
        )
    if record["run"] != run:
        raise MismatchError(
            f"{key!r} in {store.url!r} belongs to another run ({record['run']!r}) than the "
            f"manifest ({run!r}): move it away and start again"
        )
    return Increment(
        number=number,
        created=record["created"],
        shards=tuple(map(shard_from, record["shards"])),
        units=tuple(read_units(data)),
        staged=tuple(map(shard_from, record["staged"])),
        facts=record["facts"],
    )
