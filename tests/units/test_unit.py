"""Units: what is planned survives its file and its way through Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.planning.cut import cut
from gemma_batch.planning.routing import Router
from gemma_batch.spec import Route
from gemma_batch.storage.listing import stat
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
        assert decode_head(encode_head(found[0], unit)) == (found[0], unit)


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
