"""Staged shards: what is read from a copy is what was read from the input."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.rows import Failure, Origin, Row
from gemma_batch.storage.fine_times import fine_datetime
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.readers.staged import StagedReader, staged_file, staged_table
from tests.examples import examples

TYPES = pa.schema(
    [
        ("text", pa.string()),
        ("count", pa.int64()),
        ("share", pa.float64()),
        ("small", pa.float32()),
        ("raw", pa.binary()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "Europe/Zurich")),
        ("price", pa.decimal128(10, 2)),
        ("took", pa.duration("us")),
        ("tags", pa.list_(pa.string())),
        ("fine", pa.timestamp("ns")),
        ("half", pa.float16()),
        ("map", pa.map_(pa.date32(), pa.float32())),
        ("nested", pa.struct([("a", pa.int32()), ("b", pa.list_(pa.bool_()))])),
    ]
)
VALUES: dict[str, Any] = {
    "text": "é\u2028x",
    "count": 2**62,
    "share": 0.1,
    "small": 0.5,
    "raw": b"\x00\xff",
    "day": datetime.date(2026, 2, 28),
    "at": datetime.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=datetime.UTC),
    "price": decimal.Decimal("12.50"),
    "took": datetime.timedelta(seconds=1, microseconds=7),
    "tags": ["a", None],
    "fine": fine_datetime(1_767_323_045_678_901_234, None),
    "half": 0.1,
    "map": {datetime.date(2026, 2, 28): 19.99},
    "nested": {"a": 1, "b": [True, None]},
}
ROWS = [
    Row(40, VALUES),
    Row(41, None, Failure("bad_row", "row 42 of 'x': not UTF-8")),
    Row(42, dict.fromkeys(VALUES)),
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def copied(folder: Path, rows: list[Row], types: pa.Schema | None) -> InputFile:
    path = folder / "copy.parquet"
    data = staged_file(staged_table(rows, 3, "s3://in/3.parquet", types))
    path.write_bytes(data)
    return InputFile(str(path), len(data), "e")


def read(file: InputFile, columns: list[str] | None = None) -> list[Row]:
    return list(StagedReader().read(file, Span(0, 100, 0, 0), columns))


def test_values_of_parquet_keep_their_types(tmp_path: Path) -> None:
    """Times, decimals, bytes and nested values come back as they were, failures as failures."""
    found = read(copied(tmp_path, ROWS, TYPES))
    assert [(row.number, row.origin) for row in found] == [
        (i, Origin(3, "s3://in/3.parquet", 40 + i)) for i in range(3)
    ]
    assert found[0].values == VALUES
    assert str(found[0].values["at"].tzinfo) == "Europe/Zurich"
    assert (found[1].values, found[1].failure) == (None, ROWS[1].failure)
    assert found[2].values == ROWS[2].values


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=4), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
def test_values_of_json_lines_come_back(tmp_path: Path, values: list[dict[str, Any]]) -> None:
    """Whatever an object holds, rows of different keys and types side by side."""
    rows = [Row(i, value) for i, value in enumerate(values)]
    found = read(copied(tmp_path, rows, None))
    assert [row.values for row in found] == values


@pytest.mark.parametrize("types", [TYPES, None], ids=["columns", "json"])
def test_only_the_columns_asked_for(tmp_path: Path, types: pa.Schema | None) -> None:
    """A column that a row lacks is absent, as with every reader."""
    rows = [Row(0, {"text": "a", "count": 1}), Row(1, {"text": "b", "count": 2})]
    chosen = None if types is None else pa.schema([types.field("text"), types.field("count")])
    found = read(copied(tmp_path, rows, chosen), ["count", "other"])
    assert [row.values for row in found] == [{"count": 1}, {"count": 2}]


def test_it_is_cut_and_entered_like_any_shard(tmp_path: Path) -> None:
    """Spans cover every row once; a span gives its own rows, numbered by the copy."""
    rows = [Row(10 * i, {"text": str(i)}) for i in range(5000)]
    file = copied(tmp_path, rows, None)
    reader = reader_for("staged")
    spans = reader.index(file, max_rows=700, max_bytes=2**30)
    found = [row for span in spans for row in reader.read(file, span, None)]
    assert [row.number for row in found] == list(range(5000))
    assert [row.values for row in found] == [row.values for row in rows]
    assert [row.origin.row for row in found if row.origin] == [row.number for row in rows]
