"""Files as other tools write them: what is in a file, how the spec says it is read, its rows."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.formats import detect_format, formats_of, reader_for, several_formats
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.json import JsonReader
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.reader import Reader
from tests.examples import examples

Put = Callable[[str, bytes], InputFile]
FAILED = object()  # stands for a row that fails
SAID = ReadOptions  # what the spec says about reading


def read_by_spans(reader: Reader, file: InputFile, max_rows: int) -> list[Row]:
    rows: list[Row] = []
    for span in reader.index(file, max_rows=max_rows, max_bytes=10**9):
        assert (span.first_row, 0 < span.rows <= max_rows) == (len(rows), True)
        rows += reader.read(file, span, None)
    assert [row.number for row in rows] == list(range(len(rows)))
    return rows


def texts(*values: Any) -> list[Any]:
    return [value if value is FAILED else {"text": value} for value in values]


ROWS = [{"id": 1, "text": "é, [1]"}, {"id": 2, "text": 'a "b" \\ }'}, {"id": 3, "text": "x\ny"}]
WIDE = b"id,text\n1,gr\xfc\xdfe\n2,caf\xe9\n"
SPARK = rb"id,text" + b"\n" + rb'1,"say \"hi\", ok"' + b"\n" + rb"2,C:\temp" + b"\n"
SPARK_ROWS = [{"id": "1", "text": 'say "hi", ok'}, {"id": "2", "text": r"C:\temp"}]
TABLE: dict[str, tuple[str, bytes, ReadOptions, list[Any]]] = {
    # JSON
    "json lines": ("x.json", "\n".join(map(json.dumps, ROWS)).encode(), SAID(), ROWS),
    "json array": ("x.json", json.dumps(ROWS).encode(), SAID(), ROWS),
    "json array, indented": ("x.json", json.dumps(ROWS, indent=2).encode(), SAID(), ROWS),
    "json array with a mark": (
        "x.json",
        b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
        SAID(),
        ROWS,
    ),
    "json array in UTF-16": ("x.json", json.dumps(ROWS).encode("utf-16"), SAID(), ROWS),
    "json object": ("x.json", json.dumps(ROWS[0]).encode(), SAID(), ROWS[:1]),
    "json object, indented": ("x.json", json.dumps(ROWS[0], indent=1).encode(), SAID(), ROWS[:1]),
    "json objects, indented": (
        "x.json",
        "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        SAID(),
        ROWS,
    ),
    "json array, odd elements": (
        "x.json",
        b'[{"a": 1}, 2, [], {"a": nul}, "[", {"a": "]"}]',
        SAID(),
        [{"a": 1}, FAILED, FAILED, FAILED, FAILED, {"a": "]"}],
    ),
    "json array, empty": ("x.json", b" [ ] \n", SAID(), []),
    "json lines, first line broken": ("x.json", b'{"a": \n{"a": 2}\n', SAID(), [FAILED, {"a": 2}]),
    "json array in cp1252": (
        "x.json",
        b'[{"a": "\x80\xe9"}]',
        SAID(encoding="cp1252"),
        [{"a": "€é"}],
    ),
    # delimited
    "tsv": ("x.tsv", b'a\tb\n1\t"x\ty"\n', SAID(), [{"a": "1", "b": "x\ty"}]),
    "psv": ("x.psv", b"a|b\n1|x,y\n", SAID(), [{"a": "1", "b": "x,y"}]),
    "semicolons": ("x.csv", b"a;b\n1,5;x\n", SAID(delimiter=";"), [{"a": "1,5", "b": "x"}]),
    "single quotes": ("x.csv", b"a,b\n1,'x, \"y'\n", SAID(quote="'"), [{"a": "1", "b": 'x, "y'}]),
    "tsv without quotes": (
        "x.tsv",
        b'a\tb\n1\t"x\n2\ty"\n',
        SAID(quote=""),
        [{"a": "1", "b": '"x'}, {"a": "2", "b": 'y"'}],
    ),
    "no header": (
        "x.csv",
        b"1,x\n2,y\n",
        SAID(header=False),
        [{"column1": "1", "column2": "x"}, {"column1": "2", "column2": "y"}],
    ),
    "no header, names": ("x.csv", b"1,x\n", SAID(header=("a", "b")), [{"a": "1", "b": "x"}]),
    "nulls": ("x.csv", b"a,b\n\\N,\n", SAID(nulls=("\\N", "")), [{"a": None, "b": None}]),
    "no nulls": ("x.csv", b"a,b\n\\N,\n", SAID(), [{"a": "\\N", "b": ""}]),
    "spark": ("x.csv", SPARK, SAID(escape="\\"), SPARK_ROWS),
    "spark, unsaid": ("x.csv", SPARK, SAID(), [FAILED, SPARK_ROWS[1]]),
    "mysql": (
        "x.tsv",
        b"1\ta\\\tb\\\nc\\\\\t\\N\n2\tx\ty\n",
        SAID(escape="\\", quote="", header=("id", "text", "more"), nulls=("\\N",)),
        [{"id": "1", "text": "a\tb\nc\\", "more": None}, {"id": "2", "text": "x", "more": "y"}],
    ),
    "a path in quotes": ("x.csv", b'a,b\n"C:\\",1\n', SAID(), [{"a": "C:\\", "b": "1"}]),
    "quotes not doubled": (
        "x.csv",
        b'a,b\n"say "hi" twice",1\n2,3\n',
        SAID(),
        [FAILED, {"a": "2", "b": "3"}],
    ),
    "header alone": ("x.csv", b"id,text\n", SAID(), []),
    "blank lines alone": ("x.csv", b"\n\n", SAID(), []),
    "csv in UTF-16": (
        "x.csv",
        WIDE.decode("latin-1").encode("utf-16"),
        SAID(),
        [{"id": "1", "text": "grüße"}, {"id": "2", "text": "café"}],
    ),
    "csv in UTF-16 without a mark": (
        "x.csv",
        WIDE.decode("latin-1").encode("utf-16-be"),
        SAID(encoding="utf-16-be"),
        [{"id": "1", "text": "grüße"}, {"id": "2", "text": "café"}],
    ),
    "csv in cp1252": (
        "x.csv",
        WIDE,
        SAID(encoding="cp1252"),
        [{"id": "1", "text": "grüße"}, {"id": "2", "text": "café"}],
    ),
    "csv in cp1252, unsaid": ("x.csv", WIDE, SAID(), [FAILED, FAILED]),
    "a mark wins": ("x.csv", "\ufefftext\né\n".encode(), SAID(encoding="cp1252"), texts("é")),
    "not in the encoding": (
        "x.csv",
        b"text\n\x81\nok\n",
        SAID(encoding="cp1252"),
        texts(FAILED, "ok"),
    ),
    # texts
    "txt": ("x.txt", b"\xef\xbb\xbfa\r\n\n b \nc", SAID(), texts("a", "", " b ", "c")),
    "txt without blank lines": ("x.txt", b"a\n \nb\n", SAID(blank="skip"), texts("a", "b")),
    "txt in UTF-16": ("x.txt", "é\nà".encode("utf-16"), SAID(), texts("é", "à")),
    "txt in shift_jis": (
        "x.txt",
        "表\nソ\n".encode("shift_jis"),
        SAID(encoding="shift_jis"),
        texts("表", "ソ"),
    ),
    "txt, a bad line": ("x.txt", b"a\n\xff\nc\n", SAID(), texts("a", FAILED, "c")),
    "a file per row, cp1252": (
        "x.txt",
        b"caf\xe9",
        SAID(row="file", encoding="cp1252"),
        [{"text": "café", "file": "x.txt"}],
    ),
    "a file per row": (
        "x.txt",
        b"a\r\n\nb\n",
        SAID(row="file"),
        [{"text": "a\r\n\nb\n", "file": "x.txt"}],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_file_has_these_rows(put: Put, case: str) -> None:
    """Whole, by spans of one and of two rows, and the columns are those of the rows."""
    name, data, options, expected = TABLE[case]
    file = put(name, data)
    reader = reader_for(detect_format(file.url), options)
    for max_rows in (1, 2, 100):
        rows = read_by_spans(reader, file, max_rows)
        assert [FAILED if row.values is None else row.values for row in rows] == expected
    good = [row for row in expected if row is not FAILED]
    if good:
        assert set(reader.schema(file).names) == {name for row in good for name in row}
    head = [row.values for row in reader.read(file, reader.head(file, 2), None)]
    assert head == [None if row is FAILED else row for row in expected[:2]]


@pytest.mark.parametrize("packing", ["gz", "zst", "bz2", "xz"])
@pytest.mark.parametrize("name", ["x.json", "x.tsv", "x.txt"])
def test_each_text_format_may_be_packed(put_anywhere: Put, name: str, packing: str) -> None:
    """By the name, and by the first bytes where the name says nothing about a packing."""
    from tests.storage.test_text_readers import PACK

    data = b'[{"a": 1}, {"a": 2}]' if "json" in name else b"a\n1\n2\n"
    packed = PACK[f".{packing}"](data)
    plain = put_anywhere(name, data)
    kind = detect_format(plain.url)
    expected = [row.values for row in read_by_spans(reader_for(kind), plain, 1)]
    file = put_anywhere(f"{name}.{packing}", packed)
    assert detect_format(file.url) == kind
    assert [row.values for row in read_by_spans(reader_for(kind), file, 1)] == expected
    if packing != "bz2":
        unnamed = put_anywhere("part-00000", packed)
        assert [row.values for row in read_by_spans(reader_for(kind), unnamed, 1)] == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.parquet.gz", "a parquet file packed as .gz.*unpack it first"),
        ("x.csv.zip", "a csv file packed as .zip.*unpack it first"),
        ("x.tar", "packed as .tar.*unpack it first"),
        ("x.gz", "cannot be told from its name"),
        ("x.pdf", "set input.format to one of parquet"),
        ("x", "cannot be told from its name"),
    ],
)
def test_a_name_that_is_refused(name: str, reason: str) -> None:
    """With the way out."""
    with pytest.raises(InputError, match=reason):
        detect_format(name)


@pytest.mark.parametrize(
    ("name", "data", "options", "reason"),
    [
        ("x.jsonl", b'{"a": "\xe9t\xe9"}', SAID(), "looks like cp1252 .*input.encoding: cp1252"),
        ("x.jsonl", b'{"a": "\xe9 \xc3\xa9"}', SAID(), r"is not UTF-8 \(byte 8\)$"),
        (
            "x.jsonl",
            '{"a": 1}'.encode("utf-16-le"),
            SAID(),
            "UTF-16: set input.encoding: utf-16-le",
        ),
        ("x.jsonl", b'["a"]', SAID(), "one JSON array, set input.format: json"),
        ("x.txt", "привет, мир".encode("cp1251"), SAID(), "another encoding: set input.encoding"),
        ("x.csv", b"a,b\n1,\xe9t\xe9\n", SAID(), "set input.encoding: cp1252"),
        ("x.csv", b"a\n\x81\n", SAID(encoding="cp1252"), "is not cp1252, which input.encoding"),
        ("x.csv", SPARK, SAID(), r'record at line 2 of .*set input.csv.escape: "\\\\"'),
        ("x.csv", b'a\n"x \\", \\" y"\n', SAID(), r'has 2 values.*set input.csv.escape: "\\\\"'),
        ("x.csv", b'a,b\n"x" y,1\n', SAID(), "is not valid CSV: ',' expected after '\"'$"),
    ],
)
def test_the_message_of_a_failed_row(
    put: Put, name: str, data: bytes, options: ReadOptions, reason: str
) -> None:
    """It names the option that reads the row."""
    file = put(name, data)
    reader = reader_for(detect_format(file.url), options)
    (row,) = [row for row in read_by_spans(reader, file, 9) if row.failure is not None][:1]
    assert row.failure is not None
    assert re.search(reason, row.failure.message)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.json", b'[{"a": 1}, {"a": 2}', "corrupt: it ends inside an array"),
        ("x.json", b'[{"a": 1}] [', "corrupt: text follows the end of its array at byte 10"),
        ("x.json", b'{\n"a": 1,\n', "corrupt: it ends inside an array or an object"),
        ("x.csv", b"sep=;\r\na;b\r\n1;2\r\n", "a line such as `sep=;`"),
        ("x.csv", b"sep=,\na,b\n1,2\n", "a line such as `sep=;`"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16-le"), "looks like UTF-16: set input.encoding"),
    ],
)
def test_a_file_that_is_refused_as_a_whole(put: Put, name: str, data: bytes, reason: str) -> None:
    """When rows may be missing, the file is named before anything is started."""
    file = put(name, data)
    with pytest.raises(InputError, match=reason):
        reader_for(detect_format(file.url)).index(file, max_rows=9, max_bytes=99)


def test_several_formats_are_counted(put: Put) -> None:
    """With an example of each; files without a byte have any format."""
    files = [put("a.csv", b"a"), put("b.csv", b"a"), put("c.json", b"{}"), put("d", b"")]
    assert formats_of(files) == {"csv", "json"}
    assert several_formats(files) == "2 of csv such as 'a.csv', 1 of json such as 'c.json'"
    assert formats_of([files[0], files[3]]) == {"csv"}


VALUE = st.recursive(
    st.none()
    | st.integers()
    | st.text(st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(['"', "\\", "[", "]}", ",", '\\"', "\n"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    values=st.lists(VALUE, max_size=6),
    indent=st.none() | st.integers(0, 2),
    ascii=st.booleans(),
    block=st.integers(1, 9),
    max_rows=st.integers(1, 3),
)
def test_an_array_of_anything_is_split_into_its_elements(
    values: list[Any], indent: int | None, ascii: bool, block: int, max_rows: int
) -> None:
    """As json itself would, however the array is written and in whatever pieces it is read."""
    reader = JsonReader()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("gemma_batch.storage.readers.json.SMALL_BLOCK", block)
        path = Path(folder, "x.json")
        path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii), encoding="utf-8")
        rows = read_by_spans(reader, stat(str(path)), max_rows)
    expected = [value if isinstance(value, dict) else FAILED for value in values]
    assert [FAILED if row.values is None else row.values for row in rows] == expected
