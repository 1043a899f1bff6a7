"""Listing: finds the files of the input, with size and etag (driver, CPU task).

A path is a file, a folder (all files below it) or a glob, local or `s3://`. Files below a folder
or found by a glob are left out when a part of their name starts with `_` or `.`, as is usual for
data sets. This module reads no contents.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import is_local, is_s3, local_path
from gemma_batch.storage.interfaces import InputFile

T = TypeVar("T")
MAGIC = "*?["


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
    if not is_local(url):
        from gemma_batch.storage.hub_data import stat_hub

        return stat_hub(url)
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
