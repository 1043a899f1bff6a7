"""Readers on bytes of any kind: the package's own errors, and every row of a valid file once."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import orc

from gemma_batch.errors import GemmaBatchError, InputError
from gemma_batch.rows import Row
from gemma_batch.storage.formats import detect_format, reader_for
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import stat
from tests.examples import examples

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Pack = Callable[[bytes], bytes]
PACK: dict[str, Pack] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
NAMES = [
    "x.parquet", "x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.csv", "x.csv.gz", "x.csv.zst",
    "x.csv.bz2", "x.jsonl.xz", "x.json", "x.tsv", "x.txt", "x.arrow", "x.arrows", "x.orc", "x.avro",
]  # fmt: skip

# Arrow's library for ORC ends the whole process on some damaged files (a segmentation fault in
# C++), so bytes inside an ORC file are not changed here. Files that are cut off are safe.
DAMAGED = [name for name in NAMES if name != "x.orc"]


def file_of(folder: Path, name: str, data: bytes) -> InputFile:
    path = folder / name
    path.write_bytes(data)
    return stat(str(path))


def read_spans(file: InputFile, kind: str, max_rows: int, max_bytes: int) -> list[Row]:
    """Every row, span by span; the spans must follow on each other."""
    reader = reader_for(kind)
    rows: list[Row] = []
    first = 0
    for span in reader.index(file, max_rows=max_rows, max_bytes=max_bytes):
        assert span.first_row == first
        assert 0 < span.rows <= max_rows
        assert span.bytes >= 0
        found = list(reader.read(file, span, None))
        # A damaged file may end early; its missing rows become failures further up.
        assert [row.number for row in found] == list(range(first, first + span.rows))[: len(found)]
        assert all((row.values is None) != (row.failure is None) for row in found)
        first += span.rows
        rows += found
    return rows


def read_whole(file: InputFile, kind: str) -> list[Row]:
    reader = reader_for(kind)
    return list(reader.read(file, reader.head(file, 10**6), None))


def error_of_ours(work: Callable[[], Any]) -> str | None:
    """What the package said about it; anybody else's error goes through."""
    try:
        work()
    except GemmaBatchError as err:
        return str(err)
    return None


def kind_of(name: str) -> str:
    return name.split(".")[1].replace("arrows", "arrow")


def survive(file: InputFile, kind: str) -> None:
    """Everything a plan and a run do with a file; only the package's own errors may come."""
    reader = reader_for(kind)
    for look in (
        lambda: reader.schema(file),
        lambda: list(reader.read(file, reader.head(file, 20), None)),
        lambda: read_spans(file, kind, 7, 2000),
    ):
        said = error_of_ours(look)
        assert said is None or file.url in said


def mutations(size: int) -> st.SearchStrategy[list[tuple[str, int, bytes]]]:
    """Edits of a file; the end is where Parquet keeps its footer, so it is hit more often."""
    place = st.one_of(st.integers(0, size), st.integers(max(0, size - 400), size))
    edit = st.tuples(
        st.sampled_from(["replace", "insert", "cut", "end"]),
        place,
        st.binary(min_size=1, max_size=4),
    )
    return st.lists(edit, min_size=1, max_size=4)


def mutated(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for what, place, new in edits:
        if what == "replace":
            data = data[:place] + new + data[place + len(new) :]
        elif what == "insert":
            data = data[:place] + new + data[place:]
        elif what == "cut":
            data = data[:place] + data[place + len(new) :]
        else:
            data = data[: max(place, 1)]
    return data


def valid(name: str) -> bytes:
    """A small valid file of the name's format, with nested and odd values where it has them."""
    lines = [{"id": i, "body": f"text {i} \u00e9\n", "tags": ["a", None]} for i in range(20)]
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        table = pa.Table.from_pylist(
            [{**line, "deep": {"n": i, "when": None}} for i, line in enumerate(lines)]
        )
        pq.write_table(table, sink, row_group_size=6, compression="zstd")
        return sink.getvalue()
    if name.endswith((".arrow", ".arrows", ".orc", ".avro")):
        return typed(name, lines)
    if name.endswith(".json"):
        return json.dumps(lines, indent=1).encode()
    if name.endswith((".tsv", ".txt")):
        return b"".join(b"%d\tbody\n" % line["id"] for line in lines)  # type: ignore[str-format]
    if ".csv" in name:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerows([["id", "body"], *([line["id"], line["body"]] for line in lines)])
        plain = text.getvalue().encode()
    else:
        plain = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return PACK[name.removeprefix("x.jsonl").removeprefix("x.csv")](plain)


def typed(name: str, lines: list[dict[str, Any]]) -> bytes:
    """A file with several batches, of a format with types of its own."""
    sink = io.BytesIO()
    table = pa.Table.from_pylist(lines)
    if name.endswith(".orc"):
        orc.write_table(table, sink, compression="zstd")
    elif name.endswith(".avro"):
        kinds = {"id": "long", "body": "string", "tags": {"type": "array", "items": OPTIONAL}}
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        schema = {"type": "record", "name": "line", "fields": fields}
        fastavro.writer(sink, schema, lines, sync_interval=100)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        new = pa.ipc.new_stream if name.endswith(".arrows") else pa.ipc.new_file
        with new(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=6)
    return sink.getvalue()


OPTIONAL = ["null", "string"]


@pytest.mark.parametrize("name", NAMES)
@FUZZ
@given(data=st.data())
def test_any_bytes_raise_nothing_but_our_own_errors(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Whatever a file holds: rows, failed rows, or an error of ours that names the file."""
    raw = data.draw(
        st.one_of(
            st.binary(max_size=300),
            st.text(alphabet='{}[]":,\n\r\\u\x00\ud800 0eE-."', max_size=80).map(
                lambda text: text.encode("utf-8", "surrogatepass")
            ),
        )
    )
    suffix = next(end for end in reversed(PACK) if name.endswith(end))
    if suffix and data.draw(st.booleans()):
        raw = PACK[suffix](raw)
    file = file_of(tmp_path, name, raw)
    survive(file, kind_of(name))
    if "jsonl" in name:
        survive(file, "openai")
        error_of_ours(lambda: detect_format(file.url))


@pytest.mark.parametrize("name", DAMAGED)
@FUZZ
@given(data=st.data())
def test_a_damaged_file_raises_nothing_but_our_own_errors(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Bits flipped, bytes lost or added, the end missing: as above, for files that were valid."""
    good = valid(name)
    file = file_of(tmp_path, name, mutated(good, data.draw(mutations(len(good)))))
    survive(file, kind_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_off_raises_nothing_but_our_own_errors(
    tmp_path: Path, name: str
) -> None:
    """At any place, as an upload that was broken off."""
    good = valid(name)
    for size in range(0, len(good), max(1, len(good) // 40)):
        survive(file_of(tmp_path, name, good[:size]), kind_of(name))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CUTS = st.tuples(st.integers(1, 9), st.integers(1, 400))


@pytest.mark.parametrize("suffix", PACK)
@FUZZ
@given(
    rows=st.lists(st.dictionaries(st.text(min_size=1), JSON, max_size=4), max_size=12), cuts=CUTS
)
def test_jsonl_rows_come_once_however_it_is_cut(
    tmp_path: Path, suffix: str, rows: list[dict[str, Any]], cuts: tuple[int, int]
) -> None:
    """What was written comes back, in order, whole and by spans of any size."""
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    file = file_of(tmp_path, f"x.jsonl{suffix}", PACK[suffix](raw))
    found = read_spans(file, "jsonl", *cuts)
    assert found == read_whole(file, "jsonl")
    assert [row.values for row in found] == rows


MESSAGE = st.fixed_dictionaries({"role": st.text(max_size=4), "content": JSON})


@FUZZ
@given(messages=st.lists(st.lists(MESSAGE, max_size=2), max_size=8), cuts=CUTS)
def test_openai_rows_come_once_however_it_is_cut(
    tmp_path: Path, messages: list[list[dict[str, Any]]], cuts: tuple[int, int]
) -> None:
    """A batch line is one row with its conversation as it was."""
    raw = "".join(
        json.dumps({"custom_id": f"r{i}", "body": {"messages": turns}}) + "\n"
        for i, turns in enumerate(messages)
    )
    file = file_of(tmp_path, "x.jsonl", raw.encode())
    found = read_spans(file, "openai", *cuts)
    assert found == read_whole(file, "openai")
    assert [(row.values or {})["messages"] for row in found] == messages


CELL = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize("suffix", PACK)
@FUZZ
@given(rows=st.lists(st.tuples(CELL, CELL), max_size=12), cuts=CUTS)
def test_csv_rows_come_once_however_it_is_cut(
    tmp_path: Path, suffix: str, rows: list[tuple[str, str]], cuts: tuple[int, int]
) -> None:
    """Quoted line ends, quotes and commas included, for what Python's own writer wrote."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    file = file_of(tmp_path, f"x.csv{suffix}", PACK[suffix](text.getvalue().encode()))
    found = read_spans(file, "csv", *cuts)
    assert found == read_whole(file, "csv")
    assert [row.values for row in found] == [{"a": a, "b": b} for a, b in rows]


@FUZZ
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | st.text(),
                "n": st.none() | st.integers(-(2**63), 2**63 - 1),
                "raw": st.none() | st.binary(max_size=8),
                "tags": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
                "when": st.none() | st.datetimes(),
            }
        ),
        max_size=30,
    ),
    cuts=CUTS,
    group=st.integers(1, 9),
)
def test_parquet_rows_come_once_however_it_is_cut(
    tmp_path: Path, rows: list[dict[str, Any]], cuts: tuple[int, int], group: int
) -> None:
    """Row groups and spans of any size, nulls and nested values included."""
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("n", pa.int64()),
            ("raw", pa.binary()),
            ("tags", pa.list_(pa.string())),
            ("when", pa.timestamp("us")),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, row_group_size=group)
    file = file_of(tmp_path, "x.parquet", sink.getvalue())
    found = read_spans(file, "parquet", *cuts)
    assert found == read_whole(file, "parquet")
    assert [row.values for row in found] == rows


def test_a_footer_that_claims_absurd_numbers_of_rows_is_corrupt(tmp_path: Path) -> None:
    """Else the list of its spans alone would fill the memory of the machine that plans."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": pa.array([7] * 100, pa.int8())}), sink)
    data = sink.getvalue()
    # Thrift's compact integers: 100 is C8 01 in zigzag; the longest form of a huge one replaces it.
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    huge = footer.replace(b"\xc8\x01", b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")
    assert huge != footer
    raw = data[: -8 - length] + huge + len(huge).to_bytes(4, "little") + b"PAR1"
    file = file_of(tmp_path, "x.parquet", raw)
    with pytest.raises(InputError, match=r"x\.parquet' is corrupt"):
        reader_for("parquet").index(file, max_rows=1000, max_bytes=10**9)
