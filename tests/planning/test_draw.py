"""The draw of a try: each row of the input has the same chance, whatever file it is in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import InputError
from gemma_batch.planning import draw as drawing
from gemma_batch.planning.draw import Drawn, draw, sample_units
from gemma_batch.planning.routing import Router
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.reading.source import unit_rows
from gemma_batch.spec import Policy, Route
from gemma_batch.storage.listing import stat
from gemma_batch.units.unit import Shard

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])
ONE = Router([Route(name="all", model="m")], SCHEMA)


def shards(
    folder: Path, sizes: list[int], kind: str = "parquet", wides: list[int] | None = None
) -> list[Shard]:
    """Files with so many rows; `wides` say how long the rows of each are."""
    found = []
    for number, size in enumerate(sizes):
        path = folder / f"{number:03d}.{kind}"
        text = "x" * 100 * (wides or [1] * len(sizes))[number]
        rows = [{"n": n, "text": text} for n in range(size)]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=50)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = stat(str(path))
        found.append(
            Shard(number=number, url=file.url, size=file.size, etag=file.etag, format=kind)
        )
    return found


def drawn(every: list[Shard], rows: int, seed: int = 0) -> Drawn:
    return draw(every, rows, seed, Unreadable(len(every)))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("most", [64, 8])
def test_every_row_has_the_same_chance(
    tmp_path: Path, kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of different sizes, also where only some of them are looked at.

    Files of text are drawn by their bytes, and yet a row of a file with long rows is not likelier.
    """
    monkeypatch.setattr(drawing, "MOST_SHARDS", most)
    monkeypatch.setattr(drawing, "READ_BYTES", 2**20)
    monkeypatch.setattr(drawing, "SPARE", 1)
    sizes = [120, 20, 60] * 5
    every = shards(tmp_path, sizes, kind, wides=[1, 2, 6] * 5)
    kinds: Counter[int] = Counter()
    halves: Counter[bool] = Counter()
    for seed in range(250):
        found = drawn(every, 12, seed)
        assert len(set(found.rows)) == 12
        assert found.population.clustered is (most == 8)
        kinds.update(shard % 3 for shard, _ in found.rows)
        halves.update(n < sizes[shard] / 2 for shard, n in found.rows)
    total = sum(kinds.values())
    for place, size in enumerate(sizes[:3]):
        # By their bytes, 60% of the rows would be of the third kind.
        assert abs(kinds[place] / total - size / 200) < (0.05 if most == 8 else 0.03), kinds
    assert abs(halves[True] / total - 0.5) < 0.03


def test_rows_of_text_are_counted_or_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, where all files are read; else by their bytes, and the sample says so."""
    every = shards(tmp_path, [500] * 12, "jsonl")
    exact = drawn(every, 20).population
    assert (exact.rows, exact.exact, exact.shards, exact.looked) == (6000, True, 12, 12)
    monkeypatch.setattr(drawing, "READ_BYTES", 1)
    about = drawn(every, 20).population
    assert (about.exact, about.shards, about.clustered) == (False, 12, True)
    assert about.looked <= drawing.LEAST_SHARDS
    assert abs(about.rows - 6000) < 300


def test_a_seed_draws_the_same_rows_and_more_begin_with_them(tmp_path: Path) -> None:
    """Another seed draws others."""
    every = shards(tmp_path, [300, 20, 100])
    first = drawn(every, 50).rows
    assert drawn(every, 50).rows == first
    assert drawn(every, 200).rows[:50] == first
    assert drawn(every, 50, seed=1).rows != first
    assert sorted(drawn(every, 10**6).rows) == [
        (shard, n) for shard, size in enumerate([300, 20, 100]) for n in range(size)
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("unit_rows_", [None, 3])
def test_units_hold_the_drawn_rows_and_no_others(
    tmp_path: Path, kind: str, unit_rows_: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the rows, on their routes, and each row is read from its own place."""
    monkeypatch.setattr(drawing, "FINE_ROWS", 16)
    every = shards(tmp_path, [300, 20, 100], kind)
    odd = Route(name="odd", model="m", when="n % 2 = 1")
    router = Router([odd, Route(name="rest", model="m")], SCHEMA)
    found = drawn(every, 60)
    units = sample_units(every, found, router, Policy(unit_rows=unit_rows_))
    assert len({unit.name for unit in units}) == len(units), "two units would share a part"
    seen = [(unit.shard, number) for unit in units for number in unit.numbers]
    assert sorted(seen) == sorted(found.rows)
    for unit in units:
        assert unit.expected == len(unit.numbers)
        rows = unit_rows(every, unit, ["n"])
        assert [(row.values or {})["n"] for row in rows] == unit.numbers == sorted(unit.numbers)
        assert {n % 2 for n in unit.numbers} == {1 if unit.route == "odd" else 0}


def test_a_file_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    """As in a run; and too many of them are refused."""
    every = shards(tmp_path, [5] * 101)
    broken = Path(every[7].url)
    broken.write_bytes(broken.read_bytes()[:-60])
    file: Any = stat(str(broken))
    every[7] = Shard(number=7, url=file.url, size=file.size, etag=file.etag, format="parquet")
    found = drawn(every, 1000)
    assert found.population.rows == 501
    units = sample_units(every, drawn(every, 10**6), ONE, Policy())
    mine = [unit for unit in units if unit.shard == 7]
    assert [unit.numbers for unit in mine] in ([], [[0]])
    with pytest.raises(InputError, match=r"007\.parquet"):
        drawn(every[:50], 10)
