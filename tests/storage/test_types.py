"""Types: each value keeps its meaning in a prompt, in a kept column and in an id."""

from __future__ import annotations

import datetime
import io
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.prompts.template import RowProblem, Template
from gemma_batch.reading.source import row_id
from gemma_batch.rows import Row
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.keep import check_keep, keep_table
from gemma_batch.storage.parts import build_errors
from gemma_batch.storage.readers.parquet import ParquetReader
from gemma_batch.storage.readers.plain import plain_type, plain_values
from gemma_batch.units.raw_rows import raw_rows
from tests.docs.pages import table

Put = Callable[[str, bytes], InputFile]
READER = ParquetReader()
BINARY = "fails: `bad_value`"
DAY = datetime.date(2026, 1, 2)
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
NANOS = 1_767_323_045_678_901_234  # NOW and 234 ns


def one(kind: pa.DataType, value: Any) -> pa.Array:
    return pa.array([value, None], kind)


def extended(kind: pa.DataType, value: Any) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array([value, None], kind.storage_type))


def union() -> pa.Array:
    children = [pa.array([5]), pa.array([["x"]]), pa.array([None], pa.int64())]
    return pa.UnionArray.from_dense(
        pa.array([1, 2], pa.int8()), pa.array([0, 0], pa.int32()), children
    )


# The type, a column with one value and a null, the prompt's text, the kept type, the id. The table
# in the documentation has the same rows. "bool" and so on are as Arrow writes types.
ROWS: list[tuple[str, pa.Array, str, str, str]] = [
    ("bool", one(pa.bool_(), True), "True", "bool", "true"),
    ("bool8", extended(pa.bool8(), 1), "True", "bool", "true"),
    (
        "int8 to int64",
        one(pa.int64(), 2**53 + 1),
        "9007199254740993",
        "the same",
        "9007199254740993",
    ),
    (
        "uint8 to uint64",
        one(pa.uint64(), 2**64 - 1),
        "18446744073709551615",
        "the same",
        "18446744073709551615",
    ),
    ("float16", one(pa.float16(), 0.1), "0.1", "halffloat", "0.1"),
    ("float32", one(pa.float32(), 19.99), "19.99", "float", "19.99"),
    ("float64", one(pa.float64(), 19.99), "19.99", "double", "19.99"),
    ("not a number", one(pa.float64(), float("nan")), "nan", "the same", "NaN"),
    ("infinity", one(pa.float32(), float("-inf")), "-inf", "the same", "-Infinity"),
    (
        "decimal32 to decimal128",
        one(pa.decimal128(38, 10), Decimal(0)),
        "0.0000000000",
        "the same",
        "0.0000000000",
    ),
    ("decimal256", one(pa.decimal256(60, 2), Decimal("1.50")), "1.50", "the same", "1.50"),
    ("string, large string", one(pa.large_string(), "é"), "é", "the same", "é"),
    ("string view", one(pa.string_view(), "é"), "é", "string", "é"),
    ("json", extended(pa.json_(), '{"a": 1}'), '{"a": 1}', "string", '{"a": 1}'),
    (
        "uuid",
        one(pa.uuid(), uuid.UUID(int=7)),
        str(uuid.UUID(int=7)),
        "string",
        str(uuid.UUID(int=7)),
    ),
    ("binary, large binary", one(pa.binary(), b"\x00\xfe"), BINARY, "the same", "AP4="),
    ("fixed size binary", one(pa.binary(2), b"\x00\xfe"), BINARY, "the same", "AP4="),
    ("date32, date64", one(pa.date64(), DAY), "2026-01-02", "date32[day]", "2026-01-02"),
    (
        "time32, time64",
        one(pa.time32("s"), datetime.time(3, 4, 5)),
        "03:04:05",
        "time32[ms]",
        "03:04:05",
    ),
    (
        "time64 with ns",
        one(pa.time64("ns"), 11_045_000_000_001),
        "03:04:05.000000001",
        "the same",
        "03:04:05.000000001",
    ),
    (
        "timestamp with s",
        one(pa.timestamp("s"), NOW.replace(microsecond=0)),
        "2026-01-02 03:04:05",
        "timestamp[ms]",
        "2026-01-02T03:04:05",
    ),
    (
        "timestamp with ms, us",
        one(pa.timestamp("us"), NOW),
        "2026-01-02 03:04:05.678901",
        "the same",
        "2026-01-02T03:04:05.678901",
    ),
    (
        "timestamp with ns",
        one(pa.timestamp("ns"), NANOS),
        "2026-01-02 03:04:05.678901234",
        "the same",
        "2026-01-02T03:04:05.678901234",
    ),
    (
        "timestamp with a zone",
        one(pa.timestamp("ns", "Europe/Zurich"), NANOS),
        "2026-01-02 04:04:05.678901234+01:00",
        "the same",
        "2026-01-02T04:04:05.678901234+01:00",
    ),
    (
        "duration",
        one(pa.duration("s"), datetime.timedelta(1, 5)),
        "1 day, 0:00:05",
        "the same",
        "1 day, 0:00:05",
    ),
    (
        "duration with ns",
        one(pa.duration("ns"), 5_000_000_001),
        "0:00:05.000000001",
        "the same",
        "0:00:05.000000001",
    ),
    (
        "interval",
        one(pa.month_day_nano_interval(), (1, 2, 500_000_000)),
        "P1M2DT0.5S",
        "string",
        "P1M2DT0.5S",
    ),
    (
        "dictionary, run-end encoded",
        one(pa.dictionary(pa.int32(), pa.string()), "x"),
        "x",
        "string",
        "x",
    ),
    (
        "list, large list, list view",
        one(pa.large_list(pa.float32()), [19.99, None]),
        "[19.99, null]",
        "list<item: float>",
        "[19.99, null]",
    ),
    (
        "fixed size list",
        one(pa.list_(pa.float32(), 2), [0.1, 0.2]),
        "[0.1, 0.2]",
        "list<item: float>",
        "[0.1, 0.2]",
    ),
    (
        "struct",
        one(pa.struct([("a", pa.float32()), ("b", pa.timestamp("ns"))]), {"a": 0.1, "b": NANOS}),
        '{"a": 0.1, "b": "2026-01-02 03:04:05.678901234"}',
        "the same",
        '{"a": 0.1, "b": "2026-01-02T03:04:05.678901234"}',
    ),
    (
        "map",
        one(pa.map_(pa.string(), pa.float32()), [("k", 0.1)]),
        '{"k": 0.1}',
        "the same",
        '{"k": 0.1}',
    ),
    (
        "map with other keys",
        one(pa.map_(pa.date32(), pa.int64()), [(DAY, 1)]),
        '{"2026-01-02": 1}',
        "the same",
        '{"2026-01-02": 1}',
    ),
    ("union", union(), '["x"]', "string", '["x"]'),
]


def through_parquet(put: Put, column: pa.Array) -> tuple[pa.Schema, list[Row]]:
    """The column as the reader of Parquet sees it; types that Parquet lacks as other readers do."""
    try:
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": column}), sink)
    except pa.ArrowNotImplementedError:
        schema = pa.schema([("x", plain_type(column.type))])
        return schema, [Row(i, {"x": value}) for i, value in enumerate(plain_values(column))]
    file = put("x.parquet", sink.getvalue())
    (span,) = READER.index(file, max_rows=9, max_bytes=10**9)
    return READER.schema(file), list(READER.read(file, span, None))


def prompt(row: Row) -> str:
    try:
        return Template("{{ x }}").render(row.values or {}).text
    except RowProblem as problem:
        return f"fails: `{problem.code}`"


@pytest.mark.parametrize(("name", "column", "shown", "kept", "id"), ROWS, ids=[r[0] for r in ROWS])
def test_a_value_keeps_its_meaning(
    put: Put, name: str, column: pa.Array, shown: str, kept: str, id: str
) -> None:
    """Through the reader into a prompt, an id, and a kept column of an output file and back."""
    schema, rows = through_parquet(put, column)
    assert [row.failure for row in rows] == [None, None]
    assert prompt(rows[0]) == shown
    assert row_id(0, rows[0], "x") == id
    assert row_id(0, rows[1], "x") == "00000-0000000001"
    for row in rows:
        check_keep(row.values or {}, schema)
    errors: dict[str, Any] = {
        **{name: [""] * 2 for name in ("id", "code", "message", "route")},
        "attempts": [1, 1],
        "x": keep_table(rows, schema)["x"],
        **dict(zip(*raw_columns(rows), strict=True)),
    }
    written = pq.read_table(io.BytesIO(build_errors(errors, schema, 0)))["x"].combine_chunks()
    usual = str(column.type) if kept == "the same" else kept
    assert str(written.type).replace("element", "item").replace(" ('x')", "") == usual
    if kept == "string":
        assert [value.as_py() for value in written] == [id, None]
    else:
        inner = column.storage if isinstance(column, pa.ExtensionArray) else column
        expected = inner.cast(written.type)
        assert same(written, expected), (written, expected)


def raw_columns(rows: list[Row]) -> tuple[list[str], list[pa.ChunkedArray]]:
    raw = raw_rows(rows, "u")
    return raw.column_names, raw.columns


def same(one: pa.Array, other: pa.Array) -> bool:
    nan = pa.types.is_floating(one.type) and "nan" in str(one)
    return str(one) == str(other) if nan else bool(one.equals(other))


def test_the_documentation_has_the_same_table() -> None:
    """Row by row, so that neither goes out of date."""
    shown = table("docs/inputs.md", "type", "a prompt shows", "`keep` stores", "the id is")
    code = lambda text: text if text.startswith("fails") else f"`{text}`"  # noqa: E731
    assert shown == [[name, code(p), kept, f"`{id}`"] for name, _, p, kept, id in ROWS]


FAR = [datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 1), NOW]


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (pa.timestamp("us"), lambda x: x),
        (pa.list_(pa.timestamp("us")), lambda x: [x]),
        (pa.struct([("a", pa.timestamp("us"))]), lambda x: {"a": x}),
        (pa.map_(pa.string(), pa.timestamp("us")), lambda x: {"k": x}),
    ],
    ids=["plain", "list", "struct", "map"],
)
def test_legacy_timestamps_keep_their_date(
    put: Put, kind: pa.DataType, wrap: Callable[[Any], Any], *, dictionary: bool
) -> None:
    """INT96, as Spark and Hive wrote it: the year 9999 is not 1816."""
    values = [wrap(x) for x in FAR]
    column = pa.array([list(v.items()) if pa.types.is_map(kind) else v for v in values], kind)
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"x": column}),
        sink,
        use_deprecated_int96_timestamps=True,
        use_dictionary=dictionary,
    )
    file = put("x.parquet", sink.getvalue())
    assert "int96" in str(pq.ParquetFile(io.BytesIO(sink.getvalue())).schema)
    (span,) = READER.index(file, max_rows=9, max_bytes=10**9)
    rows = list(READER.read(file, span, None))
    assert [(row.values or {})["x"] for row in rows] == values
    schema = READER.schema(file)
    for row in rows:
        check_keep(row.values or {}, schema)
    assert keep_table(rows, schema)["x"].to_pylist(maps_as_pydicts="strict") == values


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (pa.timestamp("us"), 2**62),
        (pa.timestamp("us", "Asia/Tokyo"), 253_402_300_799_999_999),  # the year 10000 in Tokyo
        (pa.timestamp("ms"), -62_135_596_800_001),  # before the year 1
        (pa.date32(), 2**30),
        (pa.duration("s"), 2**61),
        (pa.time32("ms"), 90_000_000),  # 25:00
        (pa.time64("ns"), -1),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_date_python_lacks_costs_its_row(
    put: Put, kind: pa.DataType, count: int, *, nested: bool
) -> None:
    """Never another date; the row beside it is fine."""
    column = pa.array([0, count, 1], pa.int64() if kind.bit_width == 64 else pa.int32()).cast(kind)
    if nested:
        column = pa.StructArray.from_arrays([column], names=["a"])
    _, rows = through_parquet(put, column)
    assert [row.failure.code if row.failure else None for row in rows] == [None, "bad_row", None]
    assert "column 'x'" in rows[1].failure.message  # type: ignore[union-attr]


def test_ids_that_differ_stay_different() -> None:
    """Also infinities, bytes that are no text, and moments of one microsecond."""
    columns = [
        pa.array([float("nan"), float("inf"), float("-inf"), 0.0]),
        pa.array([b"\xff", b"\xfe", b"", b"/w=="]),
        pa.array([NANOS, NANOS + 1], pa.timestamp("ns")),
        pa.array([1, 2], pa.time64("ns")),
        pa.array([1, 2], pa.duration("ns")),
        pa.array([(1, 0, 0), (0, 30, 0), (0, 0, 1)], pa.month_day_nano_interval()),
        pa.array([[], [None], [0]], pa.list_(pa.int64())),
    ]
    for column in columns:
        ids = [row_id(0, Row(0, {"x": value}), "x") for value in plain_values(column)]
        assert len(set(ids)) == len(column)


def test_an_interval_of_parquet_is_text(put: Put, tmp_path: Any) -> None:
    """Of DuckDB; Arrow knows the type only as twelve bytes."""
    import duckdb

    path = tmp_path / "i.parquet"
    interval = "interval '1 month 2 days 3.5 seconds'"
    duckdb.sql(f"COPY (SELECT {interval} AS i, NULL::INTERVAL AS n) TO '{path}'")
    file = put("i.parquet", path.read_bytes())
    assert READER.schema(file) == pa.schema([("i", pa.string()), ("n", pa.string())])
    (row,) = READER.read(file, READER.head(file, 9), None)
    assert row.values == {"i": "P1M2DT3.5S", "n": None}


def test_twelve_bytes_are_no_interval(put: Put, tmp_path: Any) -> None:
    """Arrow's schema is the same for both, and footers of equal schemas share one schema."""
    import duckdb

    path = tmp_path / "i.parquet"
    duckdb.sql(f"COPY (SELECT interval '1 month' AS i) TO '{path}'")
    sink = io.BytesIO()
    pq.write_table(pa.table({"i": pa.array([bytes(12)], pa.binary(12))}), sink)
    kinds = [
        READER.schema(put(name, data)).field("i").type
        for name, data in [("interval.parquet", path.read_bytes()), ("b.parquet", sink.getvalue())]
    ]
    assert kinds == [pa.string(), pa.binary(12)]
    other = put("again.parquet", sink.getvalue())
    assert READER.schema(other) is READER.schema(put("b.parquet", sink.getvalue()))
