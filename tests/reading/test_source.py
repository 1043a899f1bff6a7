"""A unit that wants few of its rows reads these alone, and gets what a whole read gives."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import FailureCode
from gemma_batch.reading import source
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.units.unit import Shard, Unit, make_mask

ROWS = [{"key": f"k{i}", "text": f'the "fox", number {i}', "n": i} for i in range(100)]
WANTED = [3, 10, 40, 41, 77]
BAD = 40  # this row of the JSON lines cannot be read
FORMATS = ["parquet", "jsonl", "jsonl.gz", "csv", "txt", "json", "arrow", "orc"]


def write(folder: Path, kind: str) -> Shard:
    path = folder / f"in.{kind}"
    table = pa.Table.from_pylist(ROWS)
    lines = [json.dumps(row) for row in ROWS]
    lines[BAD] = "no json"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=7)
    elif kind == "csv":
        path.write_text(table.to_pandas().to_csv(index=False))
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, path, chunksize=7)
    elif kind == "orc":
        pyarrow.orc.write_table(table, path)
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        text = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    file = stat(str(path))
    name = kind.removesuffix(".gz")
    options = ReadOptions()
    return Shard(
        number=0, url=file.url, size=file.size, etag=file.etag, format=name, options=options
    )


def sample(shard: Shard, first: int) -> Unit:
    """A unit from a span of the shard's index to its end, which wants few rows."""
    span = shard.reader.index(shard.file, max_rows=10, max_bytes=10**6)[first]
    numbers = [number for number in WANTED if number >= span.first_row]
    rows = WANTED[-1] + 1 - span.first_row
    return Unit(
        shard=0,
        first_row=span.first_row,
        rows=rows,
        mark=span.mark,
        bytes=0,
        route="all",
        expected=len(numbers),
        mask=make_mask(span.first_row, rows, numbers),
    )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", FORMATS)
def test_few_rows_are_those_of_a_whole_read(
    tmp_path: Path, kind: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each format, from its start and from the middle, with a row that cannot be read."""
    shard = write(tmp_path, kind)
    unit = sample(shard, first)
    columns = ["text"] if kind == "txt" else ["key", "n"]
    few = source.unit_rows([shard], unit, columns)
    monkeypatch.setattr(source, "SPARSE", 10**9)
    assert few == source.unit_rows([shard], unit, columns)
    assert [row.number for row in few] == unit.numbers == [n for n in WANTED if n >= unit.first_row]
    failed = [row.number for row in few if row.failure]
    assert failed == ([BAD] if kind.startswith("jsonl") else [])


def test_only_the_wanted_rows_are_given_where_the_format_allows(tmp_path: Path) -> None:
    """Parquet's row groups without a wanted row are not read, and lines are not parsed."""
    for kind in ("parquet", "jsonl", "csv"):
        shard = write(tmp_path, kind)
        span = replace(sample(shard, 0).span, only=frozenset(WANTED))
        assert [row.number for row in shard.reader.read(shard.file, span, ["key"])] == WANTED


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda shard: replace(shard, etag="other"), FailureCode.SHARD_CHANGED),
        (lambda shard: shard, FailureCode.SHARD_UNREADABLE),
    ],
    ids=["replaced", "too short"],
)
def test_rows_that_are_not_there_fail(tmp_path: Path, change: Any, code: FailureCode) -> None:
    """Each wanted row comes back once, with the cause."""
    shard = change(write(tmp_path, "parquet"))
    numbers = [5, 300]
    unit = replace(sample(shard, 0), rows=400, mask=make_mask(0, 400, numbers), expected=2)
    rows = source.unit_rows([shard], unit, ["key"])
    assert [row.number for row in rows] == numbers
    assert rows[1].failure is not None
    assert rows[1].failure.code == code.value
