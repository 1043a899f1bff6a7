"""Increments of a growing input: put once, whole, and never mixed (promises 1, 4 and 5)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.committing.increments import increment_key, load_increments, settle_increment
from gemma_batch.committing.leftovers import copies_folder, leftovers
from gemma_batch.committing.manifest import (
    Manifest,
    check_same,
    create_manifest,
    fingerprint,
    load_manifest,
)
from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit

FIELDS = {"model": "m"}


def shard(number: int) -> Shard:
    return Shard(number=number, url=f"s3://in/{number}", size=9, etag=f"e{number}", format="csv")


def unit(number: int, rows: int = 5) -> Unit:
    return Unit(shard=number, first_row=0, rows=rows, mark=0, bytes=9, route="all", expected=rows)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def manifest(store: Store) -> Manifest:
    return create_manifest(
        store, name="n", fingerprint=fingerprint(FIELDS, [shard(0)]), shards=[shard(0)],
        units=[unit(0)], spec={}, facts={"sort": ["a"]},
    )  # fmt: skip


def put(store: Store, run: str, number: int, **changes: Any) -> Any:
    given = {"shards": [shard(number)], "units": [unit(number)], "facts": {"sort": ["b"]}}
    return settle_increment(store, run, number, created="2026-01-02", **{**given, **changes})


def test_increments_are_read_with_the_manifest(store: Store, manifest: Manifest) -> None:
    """Shards, units, rows, sorted routes and fingerprint are those of all together."""
    staged = replace(shard(1), number=FIRST_STAGED)
    first = put(store, manifest.run, 1, staged=[staged], units=[unit(FIRST_STAGED, 7)])
    put(store, manifest.run, 2)
    found = load_manifest(store)
    assert found is not None
    assert found.increments[0] == first
    assert [one.number for one in found.increments] == [1, 2]
    assert found.shards == (shard(0), shard(1), shard(2))
    assert found.staged == (staged,)
    assert found.units(store) == [unit(0), unit(FIRST_STAGED, 7), unit(2)]
    assert (found.rows, found.sorted_routes) == (17, {"a", "b"})
    assert found.fingerprint == fingerprint(FIELDS, found.shards)


def test_the_first_one_counts(store: Store, manifest: Manifest) -> None:
    """Two drivers put the same increment: both go on with that of the first."""
    first = put(store, manifest.run, 1)
    second = put(store, manifest.run, 1, shards=[shard(9)], units=[unit(9)])
    assert second == first
    assert load_increments(store, manifest.run) == [first]


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda store: store.delete(increment_key(1)), OutputError, "00001.parquet' is missing"),
        (lambda store: store.put(increment_key(2), b"PAR1"), OutputError, "cannot be read"),
        (
            lambda store: store.put(increment_key(2), store.read("other")),
            MismatchError,
            "belongs to another run",
        ),
    ],
    ids=["missing", "damaged", "of another run"],
)
def test_increments_that_do_not_belong_together_are_refused(
    store: Store, manifest: Manifest, spoil: Any, error: type[Exception], said: str
) -> None:
    """Rows would be lost or mixed."""
    put(store, "other run", 5)
    store.put("other", store.read(increment_key(5)))
    store.delete(increment_key(5))
    put(store, manifest.run, 1)
    put(store, manifest.run, 2)
    spoil(store)
    with pytest.raises(error, match=said):
        load_manifest(store)


def test_new_files_are_allowed_only_where_the_input_grows(manifest: Manifest) -> None:
    """Changed and missing files never are."""
    grown = fingerprint(FIELDS, [shard(0), shard(1)])
    check_same(manifest, grown, "out", grows=True)
    with pytest.raises(MismatchError, match=r"1 input file\(s\) new: .*--grow"):
        check_same(manifest, grown, "out")
    changed = fingerprint(FIELDS, [replace(shard(0), etag="x"), shard(1)])
    with pytest.raises(MismatchError, match=r"1 input file\(s\) changed: 's3://in/0'") as err:
        check_same(manifest, changed, "out", grows=True)
    assert "--grow" not in str(err.value)
    with pytest.raises(MismatchError, match=r"1 input file\(s\) missing"):
        check_same(manifest, fingerprint(FIELDS, [shard(1)]), "out", grows=True)


def test_sorted_copies_of_the_next_increment_stay(store: Store, manifest: Manifest) -> None:
    """A driver that was frozen may still put the increment that names them."""
    names = {number: f"{copies_folder('d' * 64, number)}/{number}.parquet" for number in range(3)}
    for name in names.values():
        store.put(name, b"rows")
    assert {one.key for one in leftovers(store, manifest)} == {names[0]}
    put(store, manifest.run, 1)
    grown = load_manifest(store)
    assert {one.key for one in leftovers(store, grown)} == {names[0], names[1]}
