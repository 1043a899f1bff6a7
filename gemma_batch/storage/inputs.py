"""Input files: finds the files of the input, their size and etag, their format and its reader.

A path is a file, a folder (all files below it) or a glob, local or `s3://`. Files below a folder
or found by a glob are left out when a part of their name starts with `_` or `.`, as is usual for
data sets. This module reads no contents, with one exception: the first line of a JSON lines file
shows whether the file is an OpenAI batch file.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import is_s3, local_path
from gemma_batch.storage.interfaces import InputFile

if TYPE_CHECKING:
    from gemma_batch.storage.readers.reader import Reader

T = TypeVar("T")
Format = Literal["parquet", "jsonl", "csv", "openai"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv", "openai")
STAGED = "staged"  # the format of staged shards, which a run writes itself; not for the spec
MAGIC = "*?["
PEEKED_LINES = 8


def expand(paths: Sequence[str]) -> list[InputFile]:
    """Every file that the paths name, once, sorted by URL.

    Raises `InputError` for a path that matches no file or cannot be listed.
    """
    found: dict[str, InputFile] = {}
    for path in paths:
        expand_one = _expand_s3 if is_s3(path) else _expand_local
        files = _as_input_error(path, lambda path=path, one=expand_one: one(path))  # type: ignore[misc]
        if not files:
            raise InputError(
                f"input.path {path!r} matches no files: check the spelling (names that start with "
                "_ or . are left out)"
            )
        found.update((file.url, file) for file in files)
    return [found[url] for url in sorted(found)]


def stat(url: str) -> InputFile:
    """Size and etag of the file as it is now.

    Raises `InputError` when the file does not exist, `StorageError` when storage fails.
    """
    try:
        return _stat(url)
    except FileNotFoundError:
        raise InputError(f"the input file {url!r} does not exist") from None


def _stat(url: str) -> InputFile:
    if is_s3(url):
        from gemma_batch.storage.s3 import head

        return InputFile(url, *head(url))
    from gemma_batch.storage.local import local_etag

    path = local_path(url)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise StorageError(f"{path!r}: {os.strerror(err.errno or 0)}") from err
    return InputFile(path, status.st_size, local_etag(status))


def _as_input_error(path: str, fn: Callable[[], T]) -> T:
    try:
        return fn()
    except StorageError as err:
        raise InputError(f"input.path: {err}") from err
    except ValueError as err:
        # The error text of a client library may quote an endpoint together with its password.
        said = "check AWS_ENDPOINT_URL and AWS_REGION" if is_s3(path) else str(err)
        raise InputError(f"input.path {path!r} cannot be used: {said}") from err


def _expand_local(path: str) -> list[InputFile]:
    path = local_path(path)
    if os.path.isfile(path):
        return [_stat(path)]
    if os.path.isdir(path):
        base = path
        names = [os.path.join(folder, name) for folder, _, files in os.walk(path) for name in files]
    else:
        base = _fixed_part(path)
        names = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
    return [_stat(name) for name in names if _is_data(name, base)]


def _expand_s3(path: str) -> list[InputFile]:
    from fsspec.utils import glob_translate

    from gemma_batch.storage.s3 import list_below, split

    bucket, key = split(path)
    if not bucket or any(char in bucket for char in MAGIC):
        raise InputError(f"input.path {path!r} names no bucket: use s3://bucket/prefix")
    if key and not key.endswith("/"):
        try:
            return [_stat(path)]  # also for a name that only looks like a glob
        except FileNotFoundError:
            pass
    if not any(char in key for char in MAGIC):
        folder = path.rstrip("/")
        return [InputFile(*one) for one in list_below(folder) if _is_data(one[0], folder)]
    # s3fs's own glob is not used: when the listing of a folder fails, it silently leaves out the
    # whole folder.
    base, pattern = _fixed_part(path), re.compile(glob_translate(path))
    return [
        InputFile(*one)
        for one in list_below(base)
        if pattern.match(one[0]) and _is_data(one[0], base)
    ]


def _fixed_part(path: str) -> str:
    """The folders of a glob before its first wildcard."""
    parts = path.split("/")
    plain = itertools.takewhile(lambda part: not any(char in part for char in MAGIC), parts)
    return "/".join(plain)


def _is_data(url: str, base: str) -> bool:
    below = url.removeprefix(base).strip("/").split("/")
    return not any(part.startswith(("_", ".")) for part in below)


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
    from gemma_batch.storage.readers.text import lines, opened, reading

    with reading(url), opened(url) as stream:
        for line in itertools.islice(lines(stream), PEEKED_LINES):
            try:
                data = json.loads((line.data or b"").decode("utf-8"))
            except (ValueError, RecursionError):
                continue  # a bad line fails only its row, and says nothing about the format
            return (
                isinstance(data, dict)
                and "custom_id" in data
                and isinstance(data.get("body"), dict)
                and "messages" in data["body"]
            )
    return False


def reader_for(format: str) -> Reader:
    """The reader of a format: one that `detect_format` returned, or `STAGED`.

    Raises `InputError` for an unknown format.
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
