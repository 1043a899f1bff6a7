"""Formats of input files: tells a format from name and first line, and gives its reader.

This module reads no contents, with one exception: the first line of a JSON lines file shows
whether the file is an OpenAI batch file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from gemma_batch.errors import InputError
from gemma_batch.storage.interfaces import InputFile

if TYPE_CHECKING:
    from gemma_batch.storage.readers.options import ReadOptions
    from gemma_batch.storage.readers.reader import Reader

Format = Literal["parquet", "jsonl", "csv", "openai"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv", "openai")
STAGED = "staged"  # the format of staged shards, which a run writes itself; not for the spec
PEEKED_LINES = 8


def formats_of(files: Iterable[InputFile], declared: str = "auto") -> set[str]:
    """The formats of `files`; opens at most one file of JSON lines.

    Raises `InputError` as `detect_format`.
    """
    if declared != "auto":
        return {detect_format("", declared)}
    found: dict[str, InputFile] = {}
    for file in files:
        kind = _by_suffix(file.url)
        if kind not in found or (not found[kind].size and file.size):
            found[kind] = file
    return {detect_format(file.url, declared) for file in found.values()}


def detect_format(url: str, declared: str = "auto") -> Format:
    """The format that is declared, otherwise the format by suffix and first line.

    Raises `InputError` for a format or a suffix that is unknown, and for a file that is corrupt.
    """
    if declared != "auto":
        for known in FORMATS:
            if declared == known:
                return known
        raise InputError(f"input.format {declared!r} is unknown: use one of {', '.join(FORMATS)}")
    kind = _by_suffix(url)
    return "openai" if kind == "jsonl" and _is_openai(url) else kind


def _by_suffix(url: str) -> Format:
    name = url.lower()
    for known in FORMATS:
        if name.endswith(reader_for(known).suffixes):
            return known
    suffixes = [suffix for known in FORMATS for suffix in reader_for(known).suffixes]
    raise InputError(
        f"the format of {url!r} cannot be told from its name ({', '.join(suffixes)} are known): "
        "narrow input.path, or set input.format"
    )


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
    if format == "parquet":
        from gemma_batch.storage.readers.parquet import ParquetReader

        return ParquetReader()
    if format == "csv":
        from gemma_batch.storage.readers.csv import CsvReader

        return CsvReader()
    if format == "openai":
        from gemma_batch.storage.readers.openai import OpenAIReader

        return OpenAIReader()
    if format == "jsonl":
        from gemma_batch.storage.readers.jsonl import JsonlReader

        return JsonlReader()
    if format == STAGED:
        from gemma_batch.storage.readers.staged import StagedReader

        return StagedReader()
    raise InputError(f"input.format {format!r} is unknown: use one of {', '.join(FORMATS)}")
