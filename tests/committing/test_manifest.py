"""The manifest: written once, and a run of anything else is refused by name (promise 5)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gemma_batch.committing.manifest import (
    KEY,
    check_same,
    create_manifest,
    fingerprint,
    load_manifest,
)
from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit

SHARDS = [Shard(number=i, url=f"s3://in/{i}", size=10, etag=f"e{i}", format="csv") for i in (0, 1)]
UNITS = [
    Unit(shard=i, first_row=0, rows=5, mark=0, bytes=9, route="all", expected=5) for i in (0, 1)
]
FIELDS = {"model": "m", "sampling.max_tokens": 4, "output.keep": ["a"]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def create(store: Store, units: list[Unit] = UNITS) -> None:
    create_manifest(
        store,
        name="n",
        fingerprint=fingerprint(FIELDS, SHARDS),
        shards=SHARDS,
        units=units,
        spec={},
        facts={},
    )


def test_what_was_planned_is_read_back(store: Store) -> None:
    """Shards, units, counts and fingerprint; the same configuration is accepted."""
    assert load_manifest(store) is None
    create(store)
    manifest = load_manifest(store)
    assert manifest is not None
    assert (manifest.rows, list(manifest.shards)) == (10, SHARDS)
    assert manifest.units(store) == UNITS
    check_same(manifest, fingerprint(FIELDS, SHARDS), "out")


@pytest.mark.parametrize(
    ("fields", "shards", "sentence"),
    [
        ({**FIELDS, "model": "other"}, SHARDS, "model was 'm', now 'other'"),
        ({**FIELDS, "new": 1}, SHARDS, "new was None, now 1"),
        (FIELDS, SHARDS[:1], "1 input file(s) missing: 's3://in/1'"),
        (FIELDS, [SHARDS[0], replace(SHARDS[1], etag="x")], "1 input file(s) changed: 's3://in/1'"),
        (FIELDS, [*SHARDS, replace(SHARDS[1], url="s3://in/2")], "1 input file(s) new"),
    ],
)
def test_whatever_differs_is_named(
    store: Store, fields: dict[str, object], shards: list[Shard], sentence: str
) -> None:
    """The refusal says what was and what is asked for."""
    create(store)
    manifest = load_manifest(store)
    assert manifest is not None
    with pytest.raises(MismatchError) as caught:
        check_same(manifest, fingerprint(fields, shards), "out")
    assert sentence in str(caught.value)


def test_the_first_plan_stands(store: Store) -> None:
    """A second planner with other unit sizes gets the units that are settled already."""
    create(store)
    create(store, [replace(UNITS[0], rows=10, expected=10)])
    manifest = load_manifest(store)
    assert manifest is not None
    assert manifest.units(store) == UNITS


def test_an_output_of_an_older_version_goes_on(store: Store) -> None:
    """A field that never changed a result is forgotten, whatever value it had."""
    create(store)
    record = json.loads(store.read(KEY))
    record["fields"]["sampling.prompt_logprobs"] = 1
    record["spec"]["sampling"] = {"prompt_logprobs": 1, "max_tokens": 4}
    store.put(KEY, json.dumps(record).encode())
    manifest = load_manifest(store)
    assert manifest is not None
    check_same(manifest, fingerprint(FIELDS, SHARDS), "out")
    assert manifest.spec["sampling"] == {"max_tokens": 4}


def test_a_layout_that_nobody_knows_is_refused(store: Store) -> None:
    """Copies in another order have a layout of their own, so older software stops there too."""
    create(store)
    record = json.loads(store.read(KEY))
    assert record["version"] == 1
    store.put(KEY, json.dumps({**record, "version": 4}).encode())
    with pytest.raises(OutputError, match="another version of the layout"):
        load_manifest(store)


def test_units_of_several_shards_have_a_layout_of_their_own(store: Store) -> None:
    """Older software would read the first shard of each only, so it stops."""
    bundle = replace(UNITS[0], first_row=0, rows=2, expected=2, mask=None, members=(1, 1))
    create(store, [bundle])
    assert json.loads(store.read(KEY))["version"] == 3
    manifest = load_manifest(store)
    assert manifest is not None
    assert manifest.units(store) == [bundle]
    assert manifest.shards == tuple(SHARDS)


def test_a_broken_manifest_is_said_not_overwritten(store: Store) -> None:
    """Nobody guesses about an output that can't be read."""
    store.create(KEY, b"{")
    with pytest.raises(OutputError, match="not valid JSON"):
        load_manifest(store)


def test_copies_in_another_order_are_no_input(store: Store) -> None:
    """They are shards to read, numbered on; what the run is compared by is the input alone."""
    copies = [
        Shard(number=FIRST_STAGED + i, url=f"s3://out/{i}", size=1, etag=f"{i}", format="staged")
        for i in (0, 1)
    ]
    moved = [replace(unit, shard=unit.shard + 2) for unit in UNITS]
    given = fingerprint(FIELDS, SHARDS)
    known = {"name": "n", "fingerprint": given, "shards": SHARDS, "spec": {}, "facts": {}}
    create_manifest(store, units=moved, staged=copies, **known)
    manifest = load_manifest(store)
    assert manifest is not None
    assert json.loads(store.read(KEY))["version"] == 2
    assert (manifest.shards, manifest.staged) == (tuple(SHARDS), tuple(copies))
    assert manifest.by_number == {shard.number: shard for shard in (*SHARDS, *copies)}
    assert manifest.units(store) == moved
    check_same(manifest, given, "out")

    # A start that dies between its list of units and its manifest leaves a list that only fits
    # copies of its own: the next start, with others, must not take it.
    other = open_store(f"{store.url}/other")
    create_manifest(other, units=UNITS, staged=[replace(copies[0], url="s3://lost")], **known)
    lists = [[key for key in s.list("_run") if "/units-" in key] for s in (store, other)]
    assert lists[0] != lists[1]
