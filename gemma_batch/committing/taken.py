"""Taken: the answers that trials of a job have paid for, which a run takes over (driver).

A trial is a run on a sample of the input. Its output is a folder below `_run/tries/` of the job's
output. When the job's run is opened, the answers of trials with the same configuration are copied
into one file, which the manifest names (see `units/known.py`). Rows that failed in a trial are
asked again, and so are rows of input files that were changed since.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.committing.generations import pass_units
from gemma_batch.committing.ledger import READERS, Ledger
from gemma_batch.committing.manifest import KEY, Fingerprint, Manifest, load_manifest
from gemma_batch.errors import OutputError
from gemma_batch.reading.source import unit_rows
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import read_receipt
from gemma_batch.texts import counted
from gemma_batch.units.known import RowPlace, write_known
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit

FOLDER = "_run/tries"
MANIFEST = re.compile(rf"{FOLDER}/([^/]+)/{KEY}")
KNOWN = "_run/known-"  # how the key of the file of known answers begins
SHOWN = 4  # trials that a sentence names

Say = Callable[[str], None]


class _Unfit(Exception):
    """The answers of a trial cannot be taken; the text says why."""


@dataclass(slots=True)
class _Taken:
    """Answers of trials by the place of their row.

    `at` has the table of a part, the row in the table, and the name of the trial. `changed` counts
    by trial the answers to rows of input files that are not as they were in the trial.
    """

    at: dict[RowPlace, tuple[pa.Table, int, str]] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)


def take_known(
    store: Store,
    asked: Fingerprint,
    shards: Sequence[Shard],
    units: Iterable[Unit],
    schemas: Mapping[str, pa.Schema],
    say: Say,
    increment: int = 0,
) -> dict[str, Any]:
    """Put the answers of trials that fit a new run, create-only; returns facts for its manifest.

    The facts are the key of the file and the number of its rows by route, and {} without such
    answers. `increment` is the number of the increment that is opened, 0 for the first run. `asked`
    is the fingerprint of the run. `units` hold the rows of the input by their place there.
    `schemas` are the columns of answers by route, without kept columns and `id`. `say` gets a
    sentence about the answers that are taken, and one about the trials whose answers are not.
    Raises `StorageError` when storage fails.
    """
    taken = _Taken()
    refused: list[str] = []
    for name, trial, manifest, why in _trials(store):
        try:
            if manifest is None:
                raise _Unfit(why)
            _take(name, trial, manifest, asked, shards, schemas, taken)
        except (_Unfit, OutputError, FileNotFoundError, pa.ArrowException) as err:
            refused.append(f"{name!r} ({err})")
    if refused:
        more = f" and {len(refused) - SHOWN:,} more" if len(refused) > SHOWN else ""
        say(f"no answers are taken from the trial {', '.join(refused[:SHOWN])}{more}")
    places = sorted(planned(taken.at, units))
    found = [taken.at[place] for place in places]
    if places or taken.changed:
        say(_sentence(Counter(name for _, _, name in found), taken.changed))
    if not places:
        return {}
    data = write_known(places, _joined(found))
    digest = hashlib.sha256(data).hexdigest()[:16]
    key = f"{KNOWN}{f'i{increment}-' if increment else ''}{digest}.parquet"
    store.create(key, data)
    return {"known": {"key": key, "rows": Counter(place.route for place in places)}}


def known_keys(manifest: Manifest) -> tuple[str, ...]:
    """The keys of the files of known answers, of the first run and of each increment."""
    every = (manifest.facts, *(one.facts for one in manifest.increments))
    return tuple(str(facts["known"]["key"]) for facts in every if facts.get("known"))


def _joined(rows: Sequence[tuple[pa.Table, int, str]]) -> pa.Table:
    """These rows of tables with the same columns as one table."""
    tables = {id(table): table for table, _, _ in rows}
    begins = dict(
        zip(tables, accumulate((t.num_rows for t in tables.values()), initial=0), strict=False)
    )
    at = pa.array([begins[id(table)] + row for table, row, _ in rows], pa.int64())
    return pa.concat_tables(tables.values()).take(at)


def _sentence(rows: Counter[str], changed: Counter[str]) -> str:
    texts = []
    if rows:
        texts.append(
            f"{counted(rows.total(), 'row')} answered by {_named(rows)} before: not asked again"
        )
    if changed:
        answers = counted(changed.total(), "answer")
        texts.append(f"{answers} of {_named(changed)} not taken, as their input files have changed")
    return "; ".join(texts)


def _named(trials: Collection[str]) -> str:
    return f"the trial {next(iter(trials))!r}" if len(trials) == 1 else f"{len(trials)} trials"


def _trials(store: Store) -> Iterator[tuple[str, Store, Manifest | None, str]]:
    """Each trial with its store and manifest, the oldest first; the text says why there is none."""
    names = [match[1] for key in store.list(FOLDER) if (match := MANIFEST.fullmatch(key))]
    found = []
    for name in names:
        trial = open_store(f"{store.url}/{FOLDER}/{name}")
        try:
            manifest, why = load_manifest(trial), "its manifest is gone"
        except (OutputError, KeyError, TypeError) as err:
            manifest, why = None, str(err)
        found.append((name, trial, manifest, why))
    return iter(sorted(found, key=lambda one: (one[2].created if one[2] else "", one[0])))


def _take(
    name: str,
    trial: Store,
    manifest: Manifest,
    asked: Fingerprint,
    shards: Sequence[Shard],
    schemas: Mapping[str, pa.Schema],
    taken: _Taken,
) -> None:
    """Add the answers of a trial. Raises `_Unfit` and `OutputError` before it adds any."""
    was = replace(manifest.fingerprint, inputs={})
    if differences := was.differences(replace(asked, inputs={})):
        raise _Unfit(differences[0])
    with ThreadPoolExecutor(READERS) as pool:
        parts = list(
            pool.map(
                lambda part: _answers(trial, manifest, part[0], part[1], schemas),
                _parts(trial, manifest),
            )
        )
    then, now = manifest.by_number, {shard.url: shard for shard in shards}
    same = functools.cache(lambda number: _same(then[number], now.get(then[number].url)))
    for route, rows, table in parts:
        for i, (shard, row) in enumerate(rows):
            found = now.get(then[shard].url)
            if found is not None and same(shard):
                taken.at[RowPlace(route, found.number, row)] = table, i, name
            elif found is not None:
                taken.changed[name] += 1


def _same(then: Shard, now: Shard | None) -> bool:
    """Whether the rows of a shard are the same: size, etag, and how the shard is read."""
    return now is not None and _told(then) == _told(now)


def _told(shard: Shard) -> str:
    plain = replace(shard, number=0, digest="").plain()
    return json.dumps(plain, sort_keys=True, default=str)


def _parts(trial: Store, manifest: Manifest) -> list[tuple[Unit, str]]:
    """The committed units of a trial, retries included, with the paths of their parts."""
    done = Ledger(trial).committed()
    units = manifest.units(trial)
    for generation in sorted({key.generation for key in done} - {0}):
        units += pass_units(trial, generation)
    return [(unit, done[unit.key]) for unit in units if unit.key in done]


def _answers(
    trial: Store, manifest: Manifest, unit: Unit, path: str, schemas: Mapping[str, pa.Schema]
) -> tuple[str, list[tuple[int, int]], pa.Table]:
    """The route of a part, the shard and row number of each of its answers, and the answers.

    Raises `_Unfit` for a part of another run, or whose columns are not those of the run.
    """
    data = trial.read(path)
    receipt, failures = read_receipt(data)
    if receipt.get("run") != manifest.run:
        raise _Unfit(f"{path!r} is a part of another run")
    failed = {failure["number"] for failure in failures}
    rows = [place for number, place in _places(manifest, unit) if number not in failed]
    table = pq.read_table(io.BytesIO(data))
    schema = schemas.get(unit.route)
    if schema is None or not set(schema.names) <= set(table.column_names):
        raise _Unfit(f"{path!r} does not have the columns of this job")
    table = table.select(schema.names).replace_schema_metadata(None)
    if not table.schema.equals(schema) or table.num_rows != len(rows):
        raise _Unfit(f"{path!r} does not have the columns of this job, or lacks rows")
    return unit.route, rows, table


def _places(manifest: Manifest, unit: Unit) -> Iterator[tuple[int, tuple[int, int]]]:
    """The number of each row of a unit, with the number of its input shard and of the row there."""
    if unit.shard >= FIRST_STAGED:  # a sorted copy, in which each row carries its place
        for row in unit_rows(manifest.by_number, unit, ()):
            if row.origin is None:
                raise _Unfit(row.failure.message if row.failure else "a sorted copy is damaged")
            yield row.number, (row.origin.shard, row.origin.row)
        return
    for place in unit.places:
        for number in place.numbers:
            yield place.first + number, (place.shard, number)


def planned(places: Iterable[RowPlace], units: Iterable[Unit]) -> Iterator[RowPlace]:
    """The places whose row is in one of the units, on the same route.

    The units have their rows by the place in the input.
    """
    by_shard: dict[int, list[RowPlace]] = {}
    for place in sorted(places, key=lambda place: place.row):
        by_shard.setdefault(place.shard, []).append(place)
    for unit in units:
        before = 0  # rows of the unit in the shards before this one
        for i, shard in enumerate(unit.shards):
            first, rows = (
                (unit.first_row, unit.rows) if unit.members is None else (0, unit.members[i])
            )
            if not (here := by_shard.get(shard)):
                before += rows
                continue
            start, end = (bisect_left(here, n, key=_row) for n in (first, first + rows))
            for place in here[start:end]:
                bit = before + place.row - first
                mine = unit.mask is None or unit.mask[bit >> 3] >> (bit & 7) & 1
                if mine and place.route == unit.route:
                    yield place
            before += rows


def _row(place: RowPlace) -> int:
    return place.row
