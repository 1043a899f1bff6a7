"""Arrow, ORC and Avro files: each row once with its values, however the file is cut."""

from __future__ import annotations

import datetime
import decimal
import io
import re
import uuid
from collections.abc import Callable
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from pyarrow import feather, orc

from gemma_batch.errors import InputError
from gemma_batch.storage.formats import detect_format, reader_for
from gemma_batch.storage.interfaces import InputFile

Put = Callable[[str, bytes], InputFile]
DAY = datetime.date(2026, 1, 2)
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=datetime.UTC)
ROWS: list[dict[str, Any]] = [
    {"id": i, "a.b": f"é {i}" if i % 3 else None, "tags": ["x", None], "deep": {"n": i}, "day": DAY}
    for i in range(50)
]
TABLE = pa.Table.from_pylist(ROWS)
PAIRS = TABLE.set_column(1, "a.b", TABLE["a.b"].dictionary_encode())
FIELDS: dict[str, Any] = {
    "id": "long",
    "a": ["null", "string"],
    "tags": {"type": "array", "items": ["null", "string"]},
    "deep": {"type": "record", "name": "deep", "fields": [{"name": "n", "type": "int"}]},
    "day": {"type": "int", "logicalType": "date"},
    "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    "at": {"type": "long", "logicalType": "timestamp-micros"},
    "key": {"type": "string", "logicalType": "uuid"},
    "either": ["null", "int", "string"],
    "kind": {"type": "enum", "name": "kind", "symbols": ["A", "B"]},
    "map": {"type": "map", "values": "int"},
}


def arrow(table: pa.Table, *, stream: bool, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def written(write: Callable[[Any, Any], Any]) -> bytes:
    sink = io.BytesIO()
    write(TABLE, sink)
    return sink.getvalue()


def avro_rows() -> list[dict[str, Any]]:
    return [
        {
            **{name: row[name] for name in ("id", "tags", "deep", "day")},
            "a": row["a.b"],
            "price": decimal.Decimal("12.50"),
            "at": TIME,
            "key": str(uuid.UUID(int=row["id"])),
            "either": row["id"] if row["id"] % 2 else "two",
            "kind": "B",
            "map": {"k": 1},
        }
        for row in ROWS
    ]


def avro(codec: str) -> bytes:
    sink = io.BytesIO()
    fields = [{"name": name, "type": kind} for name, kind in FIELDS.items()]
    schema = {"type": "record", "name": "row", "fields": fields}
    fastavro.writer(sink, schema, avro_rows(), codec=codec, sync_interval=300)
    return sink.getvalue()


FILES: dict[str, tuple[str, bytes, list[dict[str, Any]]]] = {
    "arrow file": ("x.arrow", arrow(TABLE, stream=False), ROWS),
    "arrow file, zstd": ("x.ipc", arrow(TABLE, stream=False, compression="zstd"), ROWS),
    "arrow file, dictionary": ("x.arrow", arrow(PAIRS, stream=False), ROWS),
    "arrow stream": ("x.arrow", arrow(TABLE, stream=True), ROWS),
    "arrow stream, lz4": ("x.arrows", arrow(TABLE, stream=True, compression="lz4"), ROWS),
    "arrow stream, dictionary": ("x.arrow", arrow(PAIRS, stream=True), ROWS),
    "feather": ("x.feather", written(lambda t, s: feather.write_feather(t, s, chunksize=9)), ROWS),
    "orc": ("x.orc", written(orc.write_table), ROWS),
    "orc, several stripes": (
        "x.orc",
        written(lambda t, s: orc.write_table(t, s, stripe_size=512, batch_size=8)),
        ROWS,
    ),
    "avro": ("x.avro", avro("null"), avro_rows()),
    "avro, deflate": ("x.avro", avro("deflate"), avro_rows()),
    "arrow, no rows": ("x.arrow", arrow(TABLE.slice(0, 0), stream=False), []),
    "arrow stream, no rows": ("x.arrow", arrow(TABLE.slice(0, 0), stream=True), []),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("max_rows", [1, 5, 100])
def test_each_row_once(put: Put, case: str, max_rows: int) -> None:
    """Spans begin in the middle of batches and go over several of them."""
    name, data, expected = FILES[case]
    file = put(name, data)
    reader = reader_for(detect_format(file.url))
    rows: list[Any] = []
    for span in reader.index(file, max_rows=max_rows, max_bytes=10**9):
        found = list(reader.read(file, span, None))
        assert [row.number for row in found] == [*range(len(rows), len(rows) + span.rows)]
        rows += [row.values for row in found]
    assert rows == expected
    head = [row.values for row in reader.read(file, reader.head(file, 3), ["id"])]
    assert head == [{"id": row["id"]} for row in expected[:3]]


def test_it_works_from_s3_too(put_anywhere: Put) -> None:
    """Batches are reached by their place, not by reading what is before them."""
    file = put_anywhere("x.arrow", arrow(TABLE, stream=True))
    reader = reader_for("arrow")
    *_, last = reader.index(file, max_rows=10, max_bytes=10**9)
    assert last.mark > 0
    assert [row.values for row in reader.read(file, last, None)] == ROWS[-last.rows :]


@pytest.mark.parametrize(
    ("case", "types"),
    [
        ("arrow stream, dictionary", "int64 string list<.*string> struct<n: int64> date32"),
        (
            "avro",
            r"int64 string list<.*string> struct<n: int32> date32\[day\] decimal128\(9, 2\) "
            r"timestamp\[us, tz=UTC\] string string string map<string, int32",
        ),
    ],
)
def test_types_are_those_of_the_values(put: Put, case: str, types: str) -> None:
    """A dictionary is how values are stored; several types make a text."""
    name, data, _ = FILES[case]
    schema = reader_for(detect_format(name)).schema(put(name, data))
    assert re.match(types, " ".join(map(str, schema.types)))


@pytest.mark.parametrize(
    ("case", "cut", "reason"),
    [
        ("arrow stream", -8, "no mark of its end"),
        ("arrow stream", -100, "is corrupt"),
        ("arrow file", -8, "is corrupt"),
        ("orc", -8, "is corrupt"),
        ("avro", -30, "is corrupt"),
    ],
)
def test_a_file_that_was_cut_off_is_corrupt(put: Put, case: str, cut: int, reason: str) -> None:
    """Never a short file that looks whole."""
    name, data, _ = FILES[case]
    file = put(name, data[:cut])
    with pytest.raises(InputError, match=reason):
        reader_for(detect_format(file.url)).index(file, max_rows=10, max_bytes=10**9)
