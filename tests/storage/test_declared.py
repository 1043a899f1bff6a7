"""`input.schema`: columns get the declared types, and a value that has none fails its row."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.rows import Row
from gemma_batch.spec.column_types import column_type
from gemma_batch.storage.fine_times import FineDatetime
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.declared import UNCONVERTIBLE, converted
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.readers.staged import staged_file, staged_table
from gemma_batch.units.unit import Shard, shard_from

Put = Callable[[str, bytes], InputFile]
BAD = object()
DAY = datetime.date(2026, 1, 2)
NOON = datetime.datetime(2026, 1, 2, 12)
UTC = datetime.UTC


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("5", "int64", 5),
        (" 5 ", "int64", 5),
        ("5.0", "int64", 5),  # how pandas writes whole numbers beside nulls
        ("5.5", "int64", BAD),
        ("1_000", "int64", BAD),
        ("12,5", "float64", BAD),
        ("", "int64", None),
        ("", "string", ""),
        ("9007199254740993", "int64", 2**53 + 1),
        ("300", "int8", BAD),
        (2**53 + 1, "float64", BAD),
        (7, "float64", 7.0),
        (7.0, "int64", 7),
        (7.5, "int64", BAD),
        (True, "int64", BAD),
        ("1e3", "float64", 1000.0),
        ("1e400", "float64", BAD),
        ("inf", "float64", float("inf")),
        ("TRUE", "bool", True),
        ("0", "bool", False),
        ("yes", "bool", BAD),
        ("2026-01-02", "date", DAY),
        ("02.01.2026", "date", BAD),
        (datetime.datetime(2026, 1, 2), "date", DAY),
        (NOON, "date", BAD),
        (DAY, "timestamp", datetime.datetime(2026, 1, 2)),
        ("2026-01-02 12:00:00", "timestamp", NOON),
        ("2026-01-02T12:00:00Z", "timestamp", BAD),
        ("2026-01-02T12:00:00Z", "timestamp(us, UTC)", NOON.replace(tzinfo=UTC)),
        ("2026-01-02T12:00:00", "timestamp(us, UTC)", BAD),
        ("2026-01-02T12:00:00.0000001", "timestamp", BAD),
        ("2026-01-02T12:00:00.000000100", "timestamp(ns)", "2026-01-02T12:00:00.000000100"),
        ("2300-01-01", "timestamp(ns)", BAD),
        ("12:30", "time", datetime.time(12, 30)),
        ("1.5", "decimal(10, 2)", Decimal("1.50")),
        ("1.555", "decimal(10, 2)", BAD),
        ("12345678901", "decimal(10, 2)", BAD),
        (1.1, "decimal(10, 2)", Decimal("1.10")),
        (3, "decimal(10, 2)", Decimal("3.00")),
        (5, "string", "5"),
        (1.5, "string", "1.5"),
        (DAY, "string", "2026-01-02"),
        (["a", 1], "string", '["a", 1]'),
        (b"caf\xc3\xa9", "string", "café"),  # text of old writers of Parquet
        (b"\xff", "string", BAD),
        ("é", "binary", b"\xc3\xa9"),
        ('["a", "b"]', "list<string>", ["a", "b"]),
        ('["1", 2]', "list<int64>", [1, 2]),
        ("a, b", "list<string>", BAD),
        (["2026-01-02"], "list<date>", [DAY]),
        ({"a": "1"}, "struct<a: int64>", {"a": 1}),
        ({"b": 1}, "struct<a: int64>", BAD),
        ({"1": 2}, "map<int64, float64>", {1: 2.0}),
        (None, "int64", None),
    ],
)
def test_a_value_is_read_as_declared(value: Any, kind: str, expected: Any) -> None:
    """Or refused; it never changes."""
    if expected is BAD:
        with pytest.raises(UNCONVERTIBLE):
            converted(value, column_type(kind))
        return
    found = converted(value, column_type(kind))
    if isinstance(found, FineDatetime):
        found = found.isoformat()
    assert found == expected
    assert type(found) is type(expected)


def shard(file: InputFile, format: str, **types: str) -> Shard:
    options = ReadOptions(types=tuple(types.items()))
    made = Shard(
        number=0, url=file.url, size=file.size, etag=file.etag, format=format, options=options
    )
    assert shard_from(made.plain()) == made
    return made


def rows_of(one: Shard) -> list[Row]:
    return list(one.reader.read(one.file, one.reader.head(one.file, 99), None))


def test_a_bad_value_fails_its_row_and_stays_for_errors(put: Put) -> None:
    """With column, value and type in the message; the rows around it are fine."""
    one = shard(put("x.csv", b"id,price\na,1.5\nb,free\nc,\n"), "csv", price="float64")
    good, bad, empty = rows_of(one)
    assert (good.values, empty.values) == ({"id": "a", "price": 1.5}, {"id": "c", "price": None})
    assert bad.failure is not None
    assert bad.failure.code == "bad_value"
    assert "row 2 of" in bad.failure.message
    assert "column 'price': 'free' cannot be read as double" in bad.failure.message
    assert bad.values == {"id": "b", "price": "free"}
    assert str(one.reader.schema(one.file).field("price").type) == "double"


def test_a_declared_text_takes_every_type(put: Put) -> None:
    """The way out of a conflict between files: numbers become the text that a prompt shows."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"zip": [8001, None], "other": [1, 2]}), sink)
    one = shard(put("x.parquet", sink.getvalue()), "parquet", zip="string")
    assert [row.values for row in rows_of(one)] == [
        {"zip": "8001", "other": 1},
        {"zip": None, "other": 2},
    ]


@pytest.mark.parametrize("typed", [True, False])
def test_a_staged_copy_has_the_same_values(put: Put, *, typed: bool) -> None:
    """As columns, and as JSON, where dates and decimals become text on the way."""
    data = b"at,price,n,bad\n2026-01-02,1.50,7,x\n,,,y\n"
    types = {"at": "date", "price": "decimal(10, 2)", "n": "int64"}
    one = shard(put("x.csv", data), "csv", **types)
    rows = rows_of(one)
    schema = one.reader.schema(one.file)
    copy = put("c.parquet", staged_file(staged_table(rows, 0, one.url, schema if typed else None)))
    staged = replace(one, url=copy.url, size=copy.size, etag=copy.etag, format="staged")
    found = list(staged.reader.read(staged.file, Span(0, 9, 0, 0), None))
    assert [row.values for row in found] == [row.values for row in rows]
    assert [row.failure for row in found] == [row.failure for row in rows]


def test_staged_rows_that_failed_stay_failed(put: Put) -> None:
    """A failure keeps its message, whether its values fit their columns or not."""
    one = shard(put("x.csv", b"n\nx\n5\n"), "csv", n="int64")
    rows = rows_of(one)
    for types in (one.reader.schema(one.file), None):
        copy = put("c.parquet", staged_file(staged_table(rows, 0, one.url, types)))
        staged = replace(one, url=copy.url, size=copy.size, etag=copy.etag, format="staged")
        bad, good = staged.reader.read(staged.file, Span(0, 9, 0, 0), None)
        assert bad.failure == rows[0].failure
        assert good.values == {"n": 5}
