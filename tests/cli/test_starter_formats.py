"""`init` on files as other tools write them: `plan` takes the spec as it is written.

A row of the table: what the file is called, its bytes, what `init` says about reading it, and the
text in the first prompt.
"""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.cli.starter import starter_spec
from gemma_batch.errors import InputError
from gemma_batch.planning.input_options import option_fields, read_options
from gemma_batch.planning.survey import survey
from gemma_batch.prompts.template import Template
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml

MODEL = "google/gemma-3-4b-it"
WINDOWS = "doc_id;text\r\n1;Grüße, café\r\n2;naïve; \r\n".replace("; \r", "\r").encode("cp1252")
SPARK = b'doc_id,text\n1,"say \\"hi\\", ok"\n2,"a, \\"b\\""\n'
TABLE: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "csv": ("x.csv", b"doc_id,text\n1,hello\n", {}, "hello"),
    "csv with semicolons": ("x.csv", b"doc_id;text\n1;a, b\n2;c\n", {"csv.delimiter": ";"}, "a, b"),
    "csv with tabs": ("x.csv", b"doc_id\ttext\n1\ta, b\n", {"csv.delimiter": "\t"}, "a, b"),
    "tsv": ("x.tsv", b"doc_id\ttext\n1\thello\n", {}, "hello"),
    "tsv with commas": ("x.tsv", b"doc_id,text\n1,hello\n", {"csv.delimiter": ","}, "hello"),
    "spark": ("x.csv", SPARK, {"csv.escape": "\\"}, 'say "hi", ok'),
    "a path in quotes": ("x.csv", b'doc_id,text\n1,"C:\\"\n', {}, "C:\\"),
    "single quotes": ("x.csv", b"doc_id,text\n1,'a, b'\n2,'c'\n", {"csv.quote": "'"}, "a, b"),
    "no header": ("x.csv", b"1,hello\n2,bye\n", {"csv.header": False}, "hello"),
    "a year as a name": ("x.csv", b"2024,text\n17,hello\n18,bye\n", {}, "hello"),
    "one column": ("x.csv", b"text\nhello, you\n", {"csv.delimiter": ";"}, "hello, you"),
    "a bad row": ("x.csv", b"doc_id,text\n1,hello\n2,a,b\n3,c\n4,d\n", {}, "hello"),
    "excel in Europe": (
        "x.csv",
        WINDOWS,
        {"csv.delimiter": ";", "encoding": "cp1252"},
        "Grüße, café",
    ),
    "excel's unicode text": (
        "x.csv",
        "doc_id\ttext\n1\té\n".encode("utf-16"),
        {"csv.delimiter": "\t"},
        "é",
    ),
    "utf-16 without a mark": (
        "x.csv",
        "doc_id,text\n1,hello\n".encode("utf-16-le"),
        {"encoding": "utf-16-le"},
        "hello",
    ),
    "json array": (
        "x.json",
        json.dumps([{"doc_id": 1, "text": "hello"}], indent=2).encode(),
        {},
        "hello",
    ),
    "json array, packed": ("x.json.bz2", bz2.compress(b'[{"text": "hello"}]'), {}, "hello"),
    "txt": ("x.txt", b"hello\nyou\n", {}, "hello"),
    "no suffix, json": ("part-0", b'{"text": "hello"}\n', {"format": "json"}, "hello"),
    "no suffix, csv": ("part-0", b"doc_id,text\n1,hello\n", {"format": "csv"}, "hello"),
    "unknown suffix, tsv": ("x.dat", b"doc_id\ttext\n1\thello\n", {"format": "tsv"}, "hello"),
}


def started(path: Path) -> JobSpec:
    text = starter_spec(str(path), MODEL)
    spec = JobSpec.from_dict(parse_yaml(text, where="job.yaml"))
    assert spec.input.path == str(path)
    return spec


def first_prompt(spec: JobSpec) -> str:
    looked = survey(spec)
    (row, *_) = (
        row
        for shard in looked.shards
        for row in shard.reader.read(shard.file, shard.reader.head(shard.file, 1), None)
    )
    return Template(spec.prompt.user or "", field="prompt.user").render(row.values or {}).text


@pytest.mark.parametrize("case", TABLE)
def test_plan_takes_what_init_writes(tmp_path: Path, case: str) -> None:
    """And the first prompt holds the text of the first row, unchanged."""
    name, data, said, text = TABLE[case]
    (tmp_path / name).write_bytes(data)
    spec = started(tmp_path / name)
    expected = {f"input.{field}": value for field, value in said.items() if field != "format"}
    assert option_fields(read_options(spec.input)) == expected
    assert spec.input.format == said.get("format", "auto")
    assert first_prompt(spec) == f"What is this about?\n\n{text}"


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (("x.jsonl", "README.md"), "**/*.jsonl"),
        (("a/part-0.c000.jsonl.gz", "a/LICENSE", ".gitattributes"), "**/*.jsonl.gz"),
    ],
)
def test_files_beside_the_data_are_not_taken_for_text(
    tmp_path: Path, files: tuple[str, ...], path: str
) -> None:
    """The refusal names a path that `init` and `plan` take."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        line = b'{"text": "hello"}\n'
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    with pytest.raises(InputError, match="the names of 1 of 2 files") as refused:
        starter_spec(str(tmp_path), MODEL)
    better = str(tmp_path / path)
    assert f"for example with {better!r}" in str(refused.value)
    assert first_prompt(started(Path(better))).endswith("hello")


@pytest.mark.parametrize("empty", ["a.csv", "z.csv", "a.parquet", "nothing"])
def test_an_empty_file_beside_a_good_one_is_no_error(tmp_path: Path, empty: str) -> None:
    """Whatever it is called; `plan` counts it."""
    (tmp_path / "m.csv").write_bytes(b"doc_id,text\n1,hello\n")
    (tmp_path / empty).write_bytes(b"")
    spec = started(tmp_path)
    assert first_prompt(spec).endswith("hello")
    (note,) = survey(spec).notes
    assert note.startswith("1 of 2 input files are empty (0 bytes) and have no rows, such as ")
    assert empty in note


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.csv": b"", "b.csv": b""}, "2 files, which are all empty"),
        (
            {"a.csv": b"x\n1\n", "b.json": b"{}", "c.json": b"{}"},
            r"2 of json such as 'b.json', 1 of csv such as 'a.csv'",
        ),
        ({"a.jsonl.gz": gzip.compress(b'{"x": 1}\n' * 99)[:-20]}, "is corrupt: "),
        ({"a.csv": b"x,y\r1,2\r3,4\r"}, r"line ends of old Macs"),
        ({"a.csv.zip": b"PK"}, "unpack it first"),
        ({"a.xlsx": b"PK\x03\x04..."}, "cannot be told from its name"),
        ({"a.pdf": b"%PDF-1.7\n"}, "cannot be told from its name"),
        ({"dump": b"id\x00\x01text"}, "cannot be told from its name"),
    ],
)
def test_an_input_that_is_refused(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    """By `init` with the same reason as by `plan`."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason):
        starter_spec(str(tmp_path), MODEL)
    spec = {"input": {"path": str(tmp_path)}, "prompt": {"user": "{{ x }}"}, "model": MODEL}
    with pytest.raises(InputError, match=reason):
        survey(JobSpec.from_dict({**spec, "output": {"path": f"{tmp_path}-out"}}))


def test_the_reason_why_no_row_can_be_read(tmp_path: Path) -> None:
    """It names the option that reads the file."""
    (tmp_path / "x.jsonl").write_bytes('{"text": "é"}\n'.encode("cp1252"))
    spec = {"input": {"path": str(tmp_path)}, "prompt": {"user": "{{ text }}"}, "model": MODEL}
    with pytest.raises(InputError, match=r"no row that can be read.*input.encoding: cp1252"):
        survey(JobSpec.from_dict({**spec, "output": {"path": "out"}}))
