"""A message about a bad row names the line that an editor shows."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers import text
from gemma_batch.storage.readers.csv import CsvReader
from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.openai import OpenAIReader
from gemma_batch.storage.readers.reader import Reader

Put = Callable[[str, bytes], InputFile]
OPENAI = b'{"custom_id": "1", "body": {"messages": []}}\n'

# The reader, the file, and the lines that its bad rows are at.
LINES: list[tuple[Reader, bytes, list[int]]] = [
    (JsonlReader(), b"bad", [1]),
    (JsonlReader(), b"{}\nbad\n", [2]),
    (JsonlReader(), b"\n\nbad\n", [3]),
    (JsonlReader(), b"{}\n\n\nbad\n{}\n \r\nbad", [4, 7]),
    (JsonlReader(), b"{}\r\n\r\nbad\r\n", [3]),
    (JsonlReader(), b"\xef\xbb\xbf\n{}\n\nbad", [4]),
    (JsonlReader(line_limit=20), b'\n{"a": "' + b"x" * 50 + b'"}\n\nbad', [2, 4]),
    (OpenAIReader(), OPENAI + b"\n\n{}\n" + OPENAI + b"\nbad\n", [4, 7]),
    (CsvReader(), b"a,b\n1,2\n3\n", [3]),
    (CsvReader(), b"\n\na,b\n\n1,2\n\n\n3\n4,5\n6\n", [8, 10]),
    (CsvReader(), b'a,b\n"1\n\n\n1",2\n3\n', [6]),
    (CsvReader(), b'a,b\n1,2\n\n"3\n3"\n4,5\n6', [4, 7]),
    (CsvReader(), b'a,b\n\n1,2\n"open,2\n3,4\n', [4]),
    (CsvReader(), b"a,b\n\n\xff,2\n", [3]),
]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("max_rows", [1, 2, 100])
@pytest.mark.parametrize(("reader", "data", "expected"), LINES)
def test_the_line_of_a_bad_row(
    put: Put,
    reader: Reader,
    data: bytes,
    expected: list[int],
    max_rows: int,
    pack: Callable[[bytes], bytes],
) -> None:
    """From 1, with blank lines, wherever the reading begins."""
    file = put("x.gz" if pack is gzip.compress else "x", pack(data))
    bad = messages(reader, file, max_rows)
    assert [message.split(" of ")[0].split()[-1] for message in bad] == [f"{n}" for n in expected]
    assert all(f"line {n} of {file.url!r} " in bad[i] for i, n in enumerate(expected))


def messages(reader: Reader, file: InputFile, max_rows: int) -> list[str]:
    spans = reader.index(file, max_rows=max_rows, max_bytes=10**9)
    rows = (row for span in spans for row in reader.read(file, span, None))
    return [row.failure.message for row in rows if row.failure is not None]


def test_far_into_a_file_the_byte_is_named(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """To count the lines before a unit would be to read the file once per unit."""
    monkeypatch.setattr(text, "COUNTED", 5)
    file = put("x.jsonl", b"bad\n\n{}\n{}\nbad\n")
    assert [message.partition(" is not")[0] for message in messages(JsonlReader(), file, 2)] == [
        f"line 1 of {file.url!r}",
        f"row 4 (at byte 11) of {file.url!r}",
    ]
    file = put("x.csv", b"a,b\n\n1,2\n\n3,4\n5\n")
    assert [message.partition(" has")[0] for message in messages(CsvReader(), file, 2)] == [
        f"the record at row 3 (at byte 14) of {file.url!r}"
    ]
