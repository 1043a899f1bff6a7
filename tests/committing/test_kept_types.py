"""The types of kept columns: settled once, for all parts of an output."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from gemma_batch.committing.kept_types import kept_types, pack_types
from gemma_batch.committing.manifest import KEY, Manifest, create_manifest, fingerprint
from gemma_batch.errors import OutputError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey, build_results, results_schema
from gemma_batch.units.unit import Shard, Unit

TYPES = {
    "n": pa.float64(),
    "at": pa.timestamp("ns", "Europe/Zurich"),
    "tags": pa.list_(pa.struct([("a, b", pa.int8())])),
    "map": pa.map_(pa.string(), pa.decimal128(5, 2)),
}
SHARD = Shard(number=0, url="s3://in/0", size=10, etag="e", format="jsonl")
UNIT = Unit(shard=0, first_row=0, rows=5, mark=0, bytes=9, route="all", expected=5)
PART = PartKey(0, 0, "all")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def manifest(store: Store, kept: str) -> Manifest:
    return create_manifest(
        store,
        name="n",
        fingerprint=fingerprint({}, [SHARD]),
        shards=[SHARD],
        units=[UNIT],
        spec={},
        facts={},
        kept=kept,
    )


def part(store: Store, types: dict[str, pa.DataType]) -> dict[PartKey, str]:
    schema = results_schema(pa.schema(list(types.items())), [("output", pa.string())])
    data = build_results({field.name: [] for field in schema}, schema, {})
    store.create(PART.path, data)
    return {PART: PART.path}


def test_the_manifest_tells_the_types(store: Store) -> None:
    """Whatever a part says."""
    made = manifest(store, pack_types(TYPES))
    assert kept_types(store, made, part(store, {"n": pa.string()})) == TYPES


def test_a_part_tells_the_types_of_an_older_version(store: Store) -> None:
    """Whose manifest does not; the columns of the output's own do not matter."""
    made = manifest(store, "")
    record = json.loads(store.read(KEY))
    del record["kept"]
    store.put(KEY, json.dumps(record).encode())
    assert kept_types(store, made, {}) == {}
    found = kept_types(store, made, part(store, TYPES))
    assert {name: found[name] for name in TYPES} == TYPES


def test_unreadable_types_are_an_output_error(store: Store) -> None:
    """A manifest that was changed by hand, a part that is none."""
    with pytest.raises(OutputError, match="unreadable types"):
        kept_types(store, manifest(store, "AAAA"), {})
    store.create(PART.path, b"x")
    made = manifest(open_store(f"{store.url}/other"), "")
    with pytest.raises(OutputError, match="is no part"):
        kept_types(store, made, {PART: PART.path})
