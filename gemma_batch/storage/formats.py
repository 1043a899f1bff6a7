"""Formats of input files: tells a format from name and first bytes, and gives its reader.

This module reads no contents, with two exceptions: the first lines of a file of JSON show whether
it is an OpenAI batch file, and `guess_format` looks at a file whose name tells nothing.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gemma_batch.errors import InputError
from gemma_batch.storage.interfaces import InputFile

if TYPE_CHECKING:
    from gemma_batch.storage.readers.options import ReadOptions
    from gemma_batch.storage.readers.reader import Reader

STAGED = "staged"  # the format of staged shards, which a run writes itself; not for the spec
# A format: its reader as module and class, and the ends of its files' names.
TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "parquet": ("parquet.ParquetReader", (".parquet", ".pq")),
    "jsonl": ("jsonl.JsonlReader", (".jsonl", ".ndjson")),
    "json": ("json.JsonReader", (".json",)),
    "csv": ("csv.CsvReader", (".csv",)),
    "tsv": ("csv.TsvReader", (".tsv", ".tab")),
    "psv": ("csv.PsvReader", (".psv",)),
    "txt": ("txt.TxtReader", (".txt",)),
    "openai": ("openai.OpenAIReader", ()),
    "arrow": ("arrow.ArrowReader", (".arrow", ".feather", ".ipc", ".arrows")),
    "orc": ("orc.OrcReader", (".orc",)),
    "avro": ("avro.AvroReader", (".avro",)),
    STAGED: ("staged.StagedReader", ()),
}
FORMATS = tuple(name for name in TABLE if name != STAGED)
# Formats that hold Arrow's types and tell them without a look at the rows.
TYPED = {"parquet", "arrow", "orc", "avro"}
TEXTS = {"jsonl", "json", "csv", "tsv", "psv", "txt"}  # these may be compressed as a whole
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
PACKED = (*COMPRESSIONS, ".zip", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".br", ".snappy", ".z")
PEEKED_LINES = 8
MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"ORC": "orc", b"Obj\x01": "avro"}


def formats_of(files: Iterable[InputFile], declared: str = "auto") -> set[str]:
    """The formats of `files`; opens at most one file of JSON lines and one of JSON.

    Raises `InputError` as `detect_format`.
    """
    if declared != "auto":
        return {detect_format("", declared)}
    files = list(files)
    found: dict[str, InputFile] = {}
    for file in [file for file in files if file.size] or files:
        found.setdefault(_by_suffix(file.url), file)
    return {detect_format(file.url, declared) for file in found.values()}


def several_formats(files: Iterable[InputFile], declared: str = "auto") -> str:
    """How many files have which format, each with an example, for a message."""
    files = [file for file in files if file.size]
    counts = Counter(_by_suffix(file.url) for file in files)
    example = {_by_suffix(file.url): file.url for file in reversed(files)}
    return ", ".join(
        f"{count:,} of {name} such as {os.path.basename(example[name])!r}"
        for name, count in counts.most_common()
    )


def detect_format(url: str, declared: str = "auto") -> str:
    """The format that is declared, otherwise the format by suffix and first line.

    Raises `InputError` for a format or a suffix that is unknown, and for a file that is corrupt.
    """
    if declared != "auto":
        if declared in FORMATS:
            return declared
        raise InputError(f"input.format {declared!r} is unknown: use one of {', '.join(FORMATS)}")
    kind = _by_suffix(url)
    if kind == "jsonl" or (kind == "json" and not _is_array(url)):
        return "openai" if _is_openai(url) else kind
    return kind


def _by_suffix(url: str) -> str:
    name = url.lower()
    packing = next((end for end in PACKED if name.endswith(end)), "")
    inner = name.removesuffix(packing)
    for known, (_, ends) in TABLE.items():
        if inner.endswith(ends):
            if not packing or (packing in COMPRESSIONS and known in TEXTS):
                return known
            raise InputError(
                f"{url!r} is a {known} file packed as {packing}, which cannot be read: unpack it "
                f"first ({', '.join(COMPRESSIONS)} are read, of text formats)"
            )
    if packing and packing not in COMPRESSIONS:
        raise InputError(f"{url!r} is packed as {packing}, which cannot be read: unpack it first")
    suffixes = [suffix for _, ends in TABLE.values() for suffix in ends]
    raise InputError(
        f"the format of {url!r} cannot be told from its name ({', '.join(suffixes)} are known): "
        f"narrow input.path, or set input.format to one of {', '.join(FORMATS)}"
    )


def guess_format(url: str) -> str:
    """The format by suffix, else by the first bytes. Raises `InputError` as `detect_format`."""
    try:
        return detect_format(url)
    except InputError:
        if url.lower().endswith(PACKED[len(COMPRESSIONS) :]):
            raise
    from gemma_batch.storage.readers.text import lines, opened, reading

    with reading(url), opened(url, expected=0) as stream:
        for magic, kind in MAGIC.items():
            if stream.peek(8).startswith(magic):  # type: ignore[attr-defined]
                return kind
        first = next((line.data or b"" for line in lines(stream)), b"").strip()
    if first.startswith((b"{", b"[")):
        return "openai" if not _is_array(url) and _is_openai(url) else "json"
    counts = {kind: first.count(mark) for kind, mark in _MARKS.items()}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else "txt"


_MARKS = {"tsv": b"\t", "psv": b"|", "csv": b","}


def _is_array(url: str) -> bool:
    from gemma_batch.storage.readers.text import opened, reading

    with reading(url), opened(url, expected=0) as stream:
        head: bytes = stream.peek(1)  # type: ignore[attr-defined]
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _is_openai(url: str) -> bool:
    from gemma_batch.storage.readers.openai import is_batch_line
    from gemma_batch.storage.readers.text import lines, opened, reading

    with reading(url), opened(url) as stream:
        for line in itertools.islice(lines(stream), PEEKED_LINES):
            try:
                data = json.loads((line.data or b"").decode("utf-8"))
            except (ValueError, RecursionError):
                continue  # a bad line fails only its row, and says nothing about the format
            return is_batch_line(data)
    return False


def reader_for(format: str, options: ReadOptions | None = None) -> Reader:
    """The reader of a format: one that `detect_format` returned, or `STAGED`.

    `options` say how files are read; None stands for the usual ones. Raises `InputError` for an
    unknown format.
    """
    if format not in TABLE:
        raise InputError(f"input.format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    reader: Reader = _reader_class(format)(options)
    return reader


@functools.cache
def _reader_class(format: str) -> Any:
    module, _, name = TABLE[format][0].partition(".")
    return getattr(importlib.import_module(f"gemma_batch.storage.readers.{module}"), name)
