"""Leftovers: the files in an output that no run reads again (driver).

A start that dies leaves files behind: temporary files on a disk, sorted copies of the input that no
manifest names, a list of units or known answers beside those that count. Once a manifest is there,
no later manifest can name them, so they may go at any time, whoever else works on the output. Those
for the next increment of a growing input stay: a driver that was frozen may still put it.

The sorted copies that the manifest does name are the input of the run, and of its retries: they may
go when no row is left that a retry could read from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from gemma_batch.committing.generations import latest_generation
from gemma_batch.committing.ledger import READERS, Receipt
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.taken import FOLDER as TRIES
from gemma_batch.committing.taken import KNOWN, known_keys
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.units.unit import Unit

Kind = Literal["temporary file", "sorted copy", "list of units", "known answers", "try"]
FOLDER = "_run"
SORTED, UNITS = f"{FOLDER}/sorted-", f"{FOLDER}/units-"
OF_INCREMENT = re.compile(rf"(?:{SORTED}|{KNOWN})i(\d+)-")


def copies_folder(digest: str, increment: int = 0) -> str:
    """The folder of sorted copies in the output, for a fingerprint's digest and an increment."""
    return f"{SORTED}i{increment}-{digest[:16]}" if increment else f"{SORTED}{digest[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One file that is not needed any more: its key in the output and its size in bytes."""

    key: str
    bytes: int
    kind: Kind


def leftovers(store: Store, manifest: Manifest | None) -> list[Leftover]:
    """The files of starts that died. Without a manifest no start got as far as to need any."""
    needed = _copies(manifest)
    if manifest is not None:
        needed |= {manifest.units_key, *known_keys(manifest)}
    found = [
        Leftover(key=key, bytes=size, kind="temporary file")
        for key, size in store.temporary().items()
    ]
    for key, size in store.sizes(FOLDER).items():
        match = OF_INCREMENT.match(key)
        to_come = match is not None and int(match[1]) > len(manifest.increments if manifest else ())
        if key.startswith(SORTED) and _name(key) not in needed and not to_come:
            found.append(Leftover(key=key, bytes=size, kind="sorted copy"))
        elif key.startswith(UNITS) and key not in needed:
            found.append(Leftover(key=key, bytes=size, kind="list of units"))
        elif key.startswith(KNOWN) and key not in needed and not to_come:
            found.append(Leftover(key=key, bytes=size, kind="known answers"))
    return found


def copies(
    store: Store,
    manifest: Manifest,
    units: Sequence[Unit],
    receipts: Mapping[PartKey, Receipt],
) -> tuple[list[Leftover], list[Leftover]]:
    """The sorted copies of a finished run: those that nothing reads again, and the others.

    A retry reads the copies that hold a row without an answer. `units` are the planned units and
    `receipts` those of all committed parts.
    """
    latest = latest_generation(receipts)
    failed = [unit for unit in units if receipts[latest[unit.key]]["failed"]]
    shards = {number for unit in failed for number in unit.shards}
    needed = {_name(shard.url) for shard in manifest.staged if shard.number in shards}
    named = _copies(manifest)
    found = [
        Leftover(key=key, bytes=size, kind="sorted copy")
        for key, size in store.sizes(FOLDER).items()
        if key.startswith(SORTED) and _name(key) in named
    ]
    return (
        [one for one in found if _name(one.key) not in needed],
        [one for one in found if _name(one.key) in needed],
    )


def trial_files(store: Store) -> list[Leftover]:
    """The files of all tries in the output. A run that was opened has copied what it takes."""
    return [Leftover(key=key, bytes=size, kind="try") for key, size in store.sizes(TRIES).items()]


def missing_copies(store: Store, manifest: Manifest, units: Iterable[Unit]) -> int:
    """How many rows of `units` would be read from sorted copies that are not there any more."""
    urls = {shard.number: shard.url for shard in manifest.staged}
    mine = [place for unit in units if unit.shard in urls for place in unit.places]
    if not mine:
        return 0
    there = {_name(key) for key in store.list(FOLDER) if key.startswith(SORTED)}
    return sum(len(place.numbers) for place in mine if _name(urls[place.shard]) not in there)


def remove(store: Store, files: Iterable[Leftover]) -> None:
    """Delete the files. Raises `StorageError` for the first one that cannot be deleted."""
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda one: store.delete(one.key), files))


def _copies(manifest: Manifest | None) -> set[str]:
    return {_name(shard.url) for shard in manifest.staged} if manifest else set()


def _name(key: str) -> str:
    # Each copy has a name of its own. So an output may be moved, with its manifest.
    return key.rsplit("/", 1)[-1]
