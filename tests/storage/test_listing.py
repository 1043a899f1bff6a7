"""Finding input files: folders, globs and single files, on disk and on S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import InputError
from gemma_batch.storage.formats import detect_format, formats_of, reader_for
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import expand, stat

if TYPE_CHECKING:
    from tests.conftest import S3Server

KEYS = (
    "data/b.jsonl", "data/a.jsonl", "data/day=1/c.jsonl", "data/_SUCCESS", "data/.hidden.jsonl",
    "data/_tmp/d.jsonl", "data2/e.jsonl", "data/x.csv",
)  # fmt: skip


@pytest.fixture
def tree(place: str) -> str:
    store = open_store(place)
    for key in KEYS:
        store.put(key, key.encode())
    return place


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data", ["a.jsonl", "b.jsonl", "day=1/c.jsonl", "x.csv"]),
        ("data/", ["a.jsonl", "b.jsonl", "day=1/c.jsonl", "x.csv"]),
        ("data/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("data/*", ["a.jsonl", "b.jsonl", "x.csv"]),
        ("data/**/*.jsonl", ["a.jsonl", "b.jsonl", "day=1/c.jsonl"]),
        ("data/[a]*", ["a.jsonl"]),
        ("data/day=*/*.jsonl", ["day=1/c.jsonl"]),
        ("data/_SUCCESS", ["_SUCCESS"]),
    ],
)
def test_expand(tree: str, pattern: str, expected: list[str]) -> None:
    """Sorted, without hidden names unless one is named, each with what stat says of it."""
    found = expand([f"{tree}/{pattern}"])
    assert [file.url for file in found] == [f"{tree}/data/{name}" for name in expected]
    assert [stat(file.url) for file in found] == list(found)
    assert all(file.size == len(file.url) - len(tree) - 1 for file in found)


def test_several_paths_name_each_file_once(tree: str) -> None:
    """Overlapping patterns do not double rows."""
    found = expand([f"{tree}/data/b.jsonl", f"{tree}/data/*.jsonl", f"{tree}/data2"])
    names = [file.url.rsplit("/", 1)[-1] for file in found]
    assert names == ["a.jsonl", "b.jsonl", "e.jsonl"]


def test_a_name_that_looks_like_a_glob_is_taken_literally(place: str) -> None:
    """Brackets are legal in file names."""
    open_store(place).put("part[1].jsonl", b"{}")
    assert len(expand([f"{place}/part[1].jsonl"])) == 1


@pytest.mark.parametrize("pattern", ["nothing", "nothing/*.jsonl", "data/*.parquet", "data/_tmp/*"])
def test_a_path_without_files_is_refused(tree: str, pattern: str) -> None:
    """Also when another path has files; except that a folder named itself may be hidden."""
    if pattern == "data/_tmp/*":
        assert expand([f"{tree}/{pattern}"])
        return
    with pytest.raises(InputError, match="matches no files") as caught:
        expand([f"{tree}/data", f"{tree}/{pattern}"])
    assert pattern in str(caught.value)


@pytest.mark.parametrize("path", ["s3://no-such-bucket-yet/x", "s3://no-such-bucket-yet/x/*.csv"])
def test_a_missing_bucket_is_an_input_error(s3: S3Server, path: str) -> None:
    """The bucket is named, not just 'nothing found'."""
    with pytest.raises(InputError, match="bucket 'no-such-bucket-yet' does not exist"):
        expand([path])


@pytest.mark.parametrize("path", ["gs://bucket/x", "s3://", "https://host/x"])
def test_unsupported_locations_are_refused(path: str) -> None:
    """The message shows what was given and what would do."""
    with pytest.raises(InputError, match="s3://bucket"):
        expand([path])


def test_stat_sees_a_change(put: Callable[[str, bytes], InputFile]) -> None:
    """Same size, other contents: another etag."""
    before = put("a.jsonl", b"{}")
    assert stat(before.url) == before
    assert put("a.jsonl", b"[]").etag != before.etag
    with pytest.raises(InputError, match="does not exist"):
        stat(before.url + "x")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in other folders."""
    (tmp_path / "a.csv").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert expand(["a.csv"])[0].url == str(tmp_path / "a.csv")
    assert expand([f"file://{tmp_path}/a.csv"])[0].url == str(tmp_path / "a.csv")


OPENAI = b'\n{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}'


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.parquet", b"", "parquet"),
        ("a.CSV.gz", b"", "csv"),
        ("a.ndjson", b"", "jsonl"),
        ("a.jsonl", b"broken\n{}", "jsonl"),
        ("a.jsonl", OPENAI, "openai"),
    ],
)
def test_formats_are_told_by_name_and_first_line(
    put: Callable[[str, bytes], InputFile], name: str, data: bytes, expected: str
) -> None:
    """OpenAI batch files have no suffix of their own."""
    file = put(name, data)
    assert detect_format(file.url, "auto") == expected
    assert formats_of([file]) == {expected}
    assert detect_format(file.url, "csv") == "csv"


def test_an_empty_file_does_not_hide_the_format_of_the_others(
    put: Callable[[str, bytes], InputFile],
) -> None:
    """The first file with anything in it is looked into."""
    assert formats_of([put("a.jsonl", b""), put("b.jsonl", OPENAI)]) == {"openai"}


def test_unknown_formats_are_refused() -> None:
    """With the names that are known."""
    with pytest.raises(InputError, match=r"\.parquet"):
        detect_format("notes.pdf", "auto")
    with pytest.raises(InputError, match="parquet, jsonl, json, csv, tsv"):
        detect_format("notes.txt", "xml")
    with pytest.raises(InputError, match="xml"):
        reader_for("xml")
