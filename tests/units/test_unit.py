"""Units: what is planned survives its file and its way through Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.planning.cut import cut
from gemma_batch.planning.routing import Router
from gemma_batch.spec import Route
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.units.bundle import pack_shards, shards_of, unpack_shards
from gemma_batch.units.payload import decode_head, encode_head
from gemma_batch.units.unit import Shard, Unit, make_mask, read_units, write_units

SCHEMA = pa.schema([("n", pa.int64())])


def shards(folder: Path, sizes: list[int]) -> list[Shard]:
    found = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.parquet"
        table = pa.table({"n": pa.array(range(size), pa.int64())})
        pq.write_table(table, path, row_group_size=7)
        file = stat(str(path))
        found.append(
            Shard(number=number, url=file.url, size=file.size, etag=file.etag, format="parquet")
        )
    return found


def test_units_survive_their_file_and_their_way_through_ray(tmp_path: Path) -> None:
    """What is planned is what is read back, masks included."""
    router = Router([Route(name="a", model="m", when="n > 3"), Route(name="b", model="m")], SCHEMA)
    found = shards(tmp_path, [20])
    units = cut(found, router, max_rows=8, max_bytes=10**6)
    assert read_units(write_units(units)) == units
    for unit in units:
        assert decode_head(encode_head(unit)) == unit


def test_a_unit_of_several_small_shards_travels_with_all_of_them() -> None:
    """Its list, its payload, its shards; and it knows where each of its rows is."""
    options = ReadOptions()
    every = [
        Shard(number=n, url=f"s3://in/{n}", size=n, etag="e", format="csv", options=options)
        for n in range(9)
    ]
    whole = Unit(
        shard=3, first_row=0, rows=6, mark=0, bytes=9, route="all", expected=6, members=(1, 0, 3, 2)
    )
    some = replace(whole, mask=make_mask(0, 6, [0, 2, 5]), expected=3)
    for unit in (whole, some):
        assert read_units(write_units([unit])) == [unit]
        assert decode_head(encode_head(unit)) == unit
        mine = shards_of([unit], every)
        assert list(mine) == [3, 4, 5, 6]
        assert unpack_shards(pack_shards(mine)) == mine
        assert sum(len(place.numbers) for place in unit.places) == unit.expected
    assert whole.name == "part-00003-0000000000.parquet"
    assert [(place.shard, place.first, list(place.numbers)) for place in whole.places] == [
        (3, 0, [0]), (5, 1, [0, 1, 2]), (6, 4, [0, 1]),
    ]  # fmt: skip
    assert [(place.shard, place.first, list(place.numbers)) for place in some.places] == [
        (3, 0, [0]), (5, 1, [1]), (6, 4, [1]),
    ]  # fmt: skip


def test_a_list_of_units_of_an_older_version_is_read(tmp_path: Path) -> None:
    """It has no column for units of several shards."""
    unit = Unit(shard=2, first_row=5, rows=3, mark=7, bytes=9, route="all", expected=3)
    older = pq.read_table(pa.BufferReader(write_units([unit]))).drop_columns(["members"])
    pq.write_table(older, tmp_path / "units.parquet")
    assert read_units((tmp_path / "units.parquet").read_bytes()) == [unit]


@given(st.integers(0, 10**9), st.integers(1, 300), st.data())
def test_a_mask_holds_exactly_its_rows(first: int, rows: int, data: st.DataObject) -> None:
    """Any subset of a unit's rows comes back as it was."""
    every = range(first, first + rows)
    chosen = sorted(data.draw(st.sets(st.sampled_from(every))))
    unit = Unit(
        shard=0, first_row=first, rows=rows, mark=0, bytes=0, route="all", expected=len(chosen),
        mask=make_mask(first, rows, chosen),
    )  # fmt: skip
    assert unit.numbers == chosen
