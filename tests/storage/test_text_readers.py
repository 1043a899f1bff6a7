"""JSON lines, CSV and OpenAI batch files: every row exactly once, one bad row costs one row."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.formats import detect_format, reader_for
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.csv import CsvReader
from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.openai import OpenAIReader
from gemma_batch.storage.readers.reader import Reader
from tests.examples import examples

Put = Callable[[str, bytes], InputFile]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read_all(
    reader: Reader,
    file: InputFile,
    max_rows: int = 3,
    max_bytes: int = 10**9,
    columns: list[str] | None = None,
) -> list[Row]:
    """Every row, span by span; each span gives the number of rows it promises."""
    rows: list[Row] = []
    for span in reader.index(file, max_rows=max_rows, max_bytes=max_bytes):
        assert span.first_row == len(rows)
        assert 0 < span.rows <= max_rows
        found = list(reader.read(file, span, columns))
        assert [row.number for row in found] == list(range(len(rows), len(rows) + span.rows))
        assert all((row.values is None) != (row.failure is None) for row in found)
        rows += found
    return rows


def values(rows: list[Row]) -> list[Any]:
    return [row.values for row in rows]


@pytest.mark.parametrize("suffix", PACK)
def test_jsonl(put_anywhere: Put, suffix: str) -> None:
    """Plain and compressed, with a byte order mark, blank lines and no line end at the end."""
    lines = [{"a": i, "text": "é\n" * i, "more": {"x": [i]}} for i in range(10)]
    text = "\ufeff\n" + "\r\n  \n".join(json.dumps(x, ensure_ascii=False) for x in lines)
    file = put_anywhere(f"x.jsonl{suffix}", PACK[suffix](text.encode()))
    assert detect_format(file.url) == "jsonl"
    assert values(read_all(JsonlReader(), file)) == lines
    assert values(read_all(JsonlReader(), file, columns=["text", "none"])) == [
        {"text": x["text"]} for x in lines
    ]
    head = JsonlReader().head(file, 4)
    assert values(list(JsonlReader().read(file, head, None))) == lines[:4]


def test_jsonl_spans_keep_both_limits(put_anywhere: Put) -> None:
    """Rows and bytes; a row above the byte limit has a span of its own; marks are offsets."""
    line = b'{"a": 1}\n'
    data = line * 5 + b'{"a": "' + b"x" * 100 + b'"}\n' + line * 2
    spans = JsonlReader().index(put_anywhere("x.jsonl", data), max_rows=3, max_bytes=30)
    assert [(s.first_row, s.rows, s.bytes) for s in spans] == [
        (0, 3, 27), (3, 2, 18), (5, 1, 110), (6, 2, 18)
    ]  # fmt: skip
    assert [s.mark for s in spans] == [0, 27, 45, 155]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "is not JSON: Expecting ',' delimiter at character 8$"),
        (b'{"a": "b', "is not JSON: Unterminated string starting at character 7$"),
        (b'{"a": "\t"}', "is not JSON: Invalid control character at character 8$"),
        (b"[1]", "not a JSON object but an array"),
        (b"null", "not a JSON object but null"),
        (b"1.5", "not a JSON object but a number"),
        (b'{"a": "\xff"}', r"is not UTF-8 \(byte 8\)"),
        (b'{"a": "\\ud800"}', "unpaired surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 200_000 + b'"}', "longer than 150000 bytes"),
    ],
    ids=[
        "cut",
        "text",
        "tab",
        "list",
        "null",
        "number",
        "utf8",
        "surrogate",
        "digits",
        "deep",
        "long",
    ],
)
def test_a_bad_line_costs_one_row(put: Put, line: bytes, reason: str) -> None:
    """Its failure names the line, the file and the reason; its neighbours are read."""
    file = put("x.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 2}\n')
    reader = JsonlReader(line_limit=150_000)
    reader.schema(file)
    for max_rows in (1, 3):
        first, bad, last = read_all(reader, file, max_rows)
        assert (first.values, last.values) == ({"a": 0}, {"a": 2})
        assert bad.failure is not None
        assert bad.failure.code == "bad_row"
        assert re.search(reason, bad.failure.message)
        assert "line 2 of" in bad.failure.message
        assert file.url in bad.failure.message


def test_jsonl_schema_is_guessed(put: Put) -> None:
    """What does not agree is text, and so are objects, whose keys differ from row to row."""
    lines: list[dict[str, Any]] = [
        {"i": 1, "f": 1, "s": "x", "b": True, "mix": 1, "l": ["a"], "o": {}, "none": None},
        {"i": None, "f": 1.5, "s": None, "b": False, "mix": "x", "l": [], "o": {"a": 1}},
        {"i": 3, "big": 2**70, "ll": [[1]], "ol": [{"role": "user"}], "ml": [1, "x"], "bi": True},
        {"bi": 1, "fl": [1, 2.5]},
    ]
    data = "\n".join(map(json.dumps, lines)) + "\nbroken"
    schema = JsonlReader().schema(put("x.jsonl", data.encode()))
    assert {field.name: str(field.type) for field in schema} == {
        "i": "int64", "f": "double", "s": "string", "b": "bool", "mix": "string",
        "l": "list<item: string>", "o": "string", "none": "null", "big": "string", "ll": "string",
        "ol": "string", "ml": "string", "bi": "string", "fl": "list<item: double>",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("cut", [-4, 40, 5])
def test_a_truncated_archive_is_an_input_error(
    put_anywhere: Put, suffix: str, kind: str, cut: int
) -> None:
    """Never a short file that looks whole."""
    data = PACK[suffix](b"".join(b'{"a": %d}\n' % (i * 7919 % 1009) for i in range(5000)))
    file = put_anywhere(f"x.{kind}{suffix}", data[:cut])
    with pytest.raises(InputError, match="is corrupt"):
        reader_for(kind).index(file, max_rows=10, max_bytes=1000)


def test_archives_of_several_members_are_read_to_the_end(put: Put) -> None:
    """Tools that append write such files."""
    data = gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n')
    assert values(read_all(JsonlReader(), put("x.jsonl.gz", data))) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("suffix", PACK)
def test_csv(put_anywhere: Put, suffix: str) -> None:
    """Quoted line ends, quotes and commas; blank lines; text as it is."""
    data = '\ufeffid,"te\nxt"\r\n1,"a\n\n""b"","\r\n\r\n2,5" disk\n 3 ,\n4,é'
    file = put_anywhere(f"x.csv{suffix}", PACK[suffix](data.encode()))
    assert CsvReader().schema(file) == pa.schema([("id", pa.string()), ("te\nxt", pa.string())])
    expected = [
        {"id": "1", "te\nxt": 'a\n\n"b",'},
        {"id": "2", "te\nxt": '5" disk'},
        {"id": " 3 ", "te\nxt": ""},
        {"id": "4", "te\nxt": "é"},
    ]
    for max_rows in (1, 2, 9):
        assert values(read_all(CsvReader(), file, max_rows)) == expected
    only = read_all(CsvReader(), file, columns=["te\nxt", "none"])
    assert [list(row.values or {}) for row in only] == [["te\nxt"]] * 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2,3", "has 3 values, the header has 2"),
        (b"1", "has 1 values"),
        (b"1,\xff", "is not UTF-8"),
        (b"1,a\rb", "is not valid CSV"),
        (b"1," + b"x" * 6000, "longer than 5000 bytes"),
        (b'1,"' + b"x\n" * 3000, "longer than 5000 bytes"),
    ],
)
def test_a_bad_record_costs_one_row(put: Put, line: bytes, reason: str) -> None:
    """Its neighbours are read; only a record beyond the limit may take its own tail with it."""
    file = put("x.csv", b"a,b\n0,0\n" + line + b"\n2,2\n")
    rows = read_all(CsvReader(record_limit=5000), file, 2)
    assert (rows[0].values, rows[-1].values) == ({"a": "0", "b": "0"}, {"a": "2", "b": "2"})
    assert rows[1].failure is not None
    assert reason in rows[1].failure.message
    assert "record at line 3 of" in rows[1].failure.message
    if b"\n" not in line:
        assert len(rows) == 3


def test_an_unclosed_quote_is_a_failure_not_a_value(put: Put) -> None:
    """The rest of the file is its one row."""
    rows = read_all(CsvReader(), put("x.csv", b'a,b\n1,2\n3,"4\n5,6\n'))
    assert rows[0].values == {"a": "1", "b": "2"}
    assert len(rows) == 2
    assert rows[1].failure is not None
    assert "never closed" in rows[1].failure.message


def test_values_above_the_csv_modules_own_limit(put: Put) -> None:
    """Documents are longer than 128 KiB."""
    text = "x" * 300_000
    rows = read_all(CsvReader(), put("x.csv", f'a\n"{text}"\n'.encode()))
    assert values(rows) == [{"a": text}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a,\xff\n", "not UTF-8"),
        (b'a,"b\n', "never closed"),
    ],
)
def test_a_bad_header_is_an_input_error(put: Put, data: bytes, reason: str) -> None:
    """Found by schema and by index."""
    file = put("x.csv", data)
    with pytest.raises(InputError, match=reason):
        CsvReader().schema(file)
    with pytest.raises(InputError, match=reason):
        CsvReader().index(file, max_rows=1, max_bytes=1)


def test_a_column_that_a_csv_file_has_twice_is_refused_where_it_is_read(put: Put) -> None:
    """Spreadsheets write several columns without a name."""
    file = put("x.csv", b"a,,\n1,2,3\n")
    (span,) = CsvReader().index(file, max_rows=9, max_bytes=99)
    assert CsvReader().schema(file).names == ["a", "", ""]
    for columns in (["a"], None):
        assert values(list(CsvReader().read(file, span, columns))) == [{"a": "1"}]
    with pytest.raises(InputError, match="'' more than once"):
        list(CsvReader().read(file, span, ["", "a"]))


def test_openai(put_anywhere: Put) -> None:
    """Parameters are what the body has besides messages and model; nulls are unset."""
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    good = {
        "custom_id": "r1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m", "stream": False, "messages": [message], "max_tokens": 5,
            "temperature": None, "odd": {"x": 1},
        },
    }  # fmt: skip
    bad: list[tuple[Any, str]] = [
        ({**good, "custom_id": None}, "'custom_id'"),
        ({**good, "body": []}, "'body'"),
        ({**good, "body": {}}, "'messages'"),
        ({**good, "url": "/v1/embeddings"}, "'/v1/embeddings'; only '/chat/completions' can"),
        ({**good, "url": "/v1/responses", "body": {"input": "x"}}, "{{ body.input }}"),
        ({**good, "url": "/v1/completions", "body": {"prompt": "x"}}, "{{ body.prompt }}"),
        ({"custom_id": "a", "params": {"messages": []}}, "rename"),
        ([], "not a JSON object"),
    ]
    lines = [good, *(line for line, _ in bad)]
    file = put_anywhere("x.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert detect_format(file.url) == "openai"
    reader = OpenAIReader()
    assert reader.schema(file).names == ["custom_id", "messages", "params"]
    first, *rest = read_all(reader, file)
    assert first.values == {
        "custom_id": "r1",
        "messages": [message],
        "params": {"stream": False, "max_tokens": 5, "odd": {"x": 1}},
    }
    for row, (_, reason) in zip(rest, bad, strict=True):
        assert row.failure is not None
        assert reason in row.failure.message
    (only,) = reader.read(file, reader.head(file, 1), ["custom_id"])
    assert only.values == {"custom_id": "r1"}


# Pieces that steer a parser, mixed with anything.
PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b'"', b'""', b",", b" ", b"a,b\n", b'{"a":1}\n', b"\xef\xbb\xbf",
         b"\xff", b"\x00", b"\n\n", b'"x\ny"', b'{"custom_id":"1","body":{"messages":[]}}\n']
    ),
    st.binary(max_size=8),
)  # fmt: skip
BYTES = st.lists(PIECES, max_size=40).map(b"".join)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "openai"])
@settings(max_examples=examples(40), deadline=None)
@given(data=BYTES, max_rows=st.integers(1, 5), max_bytes=st.integers(1, 60))
def test_any_bytes(kind: str, suffix: str, data: bytes, max_rows: int, max_bytes: int) -> None:
    """Whatever is in a file, every way of cutting it gives the same rows, or an InputError."""
    readers: dict[str, Reader] = {
        "jsonl": JsonlReader(line_limit=64),
        "csv": CsvReader(record_limit=64),
        "openai": OpenAIReader(line_limit=64),
    }
    reader = readers[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{'csv' if kind == 'csv' else 'jsonl'}{suffix}")
        path.write_bytes(PACK[suffix](data))
        file = stat(str(path))
        try:
            whole = read_all(reader, file, 10**6)
        except InputError:
            assert kind == "csv"  # its header is broken
            return
        reader.schema(file)
        assert read_all(reader, file, max_rows, max_bytes) == whole


@settings(max_examples=examples(40), deadline=None)
@given(data=st.binary(max_size=60))
@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.csv.gz", "x.parquet"])
def test_noise_is_an_input_error_or_rows(name: str, data: bytes) -> None:
    """A file that is not what its name says never raises anything else."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        file = stat(str(Path(folder, name)))
        reader = reader_for(detect_name(name))
        try:
            reader.schema(file)
            read_all(reader, file)
        except InputError:
            return  # what it says is the business of the tests above


def detect_name(name: str) -> str:
    return name.split(".")[1]
