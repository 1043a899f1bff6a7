"""Locations: opens the Store or the Source that a URL names.

A location is a local path (also `file://`) or `s3://bucket/prefix`. Another kind of location needs
one more subclass of `Store` and one more branch here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from gemma_batch.errors import OutputError
from gemma_batch.storage.interfaces import Source, Store

SCHEMES = "a local path or s3://bucket/prefix"


def is_s3(url: str) -> bool:
    """Whether the location is in an object store."""
    return url.startswith("s3://")


def is_local(url: str) -> bool:
    """Whether the location is on a file system of this machine."""
    return not url.startswith(("s3://", "hf://"))


def local_path(url: str) -> str:
    """The absolute path of a local location. Raises ValueError for an unknown scheme."""
    if "\0" in url:
        raise ValueError(f"{url!r} holds a null character, which no path can")
    if url.startswith("file:/"):
        url = _path_of_url(url)
    elif url.startswith(("s3a://", "s3n://")):
        raise ValueError(f"{url!r} is Hadoop's spelling: write s3://{url.split('://', 1)[1]}")
    elif "://" in url:
        raise ValueError(f"{url!r} has a scheme that is not supported: use {SCHEMES}")
    elif url.startswith("~"):
        with contextlib.suppress(RuntimeError):  # there is no such user, so it is a name
            url = str(Path(url).expanduser())
    path = os.path.abspath(url)
    if ".." in url.split("/"):
        # Behind a link, `..` is the folder above the link's target, not the folder of the link.
        above, _, last = url.rpartition("..")
        real = os.path.realpath(f"{above}..")
        if real != os.path.realpath(os.path.abspath(f"{above}..")):
            path = os.path.abspath(f"{real}/{last}")
    return path


def _path_of_url(url: str) -> str:
    """The path in a file URL, where a character may be written as % and its code."""
    host, slash, path = url.removeprefix("file:").removeprefix("//").partition("/")
    if url.startswith("file://") and host not in {"", "localhost"}:
        if not os.path.lexists(f"{host}{slash}{path}"):
            raise ValueError(f"{url!r} names the host {host!r}: write file:///{path} or a path")
        return f"{host}{slash}{path}"
    path = f"/{path}"
    return path if "%" not in path or os.path.lexists(path) else unquote(path)


def open_store(url: str) -> Store:
    """The store at `url`, without access to it yet. Raises `OutputError` for an unusable URL."""
    if is_s3(url):
        from gemma_batch.storage.s3 import S3Store

        if not url.removeprefix("s3://").split("/")[0]:
            raise OutputError(f"{url!r} names no bucket: use s3://bucket/prefix")
        return S3Store(url)
    from gemma_batch.storage.local import LocalStore

    try:
        return LocalStore(local_path(url))
    except ValueError as err:
        raise OutputError(str(err)) from None


_held = threading.local()  # the bytes of one file, by its URL, for the thread's next readers


@contextlib.contextmanager
def holding(url: str, data: bytes) -> Iterator[None]:
    """Inside of the context, and in this thread, `open_source(url)` reads `data`."""
    _held.url, _held.data = url, data
    try:
        yield
    finally:
        _held.url = _held.data = None


def held(url: str) -> bytes | None:
    """The bytes that `open_source(url)` would read without a request, if there are any."""
    return _held.data if url == getattr(_held, "url", None) else None


def open_source(url: str) -> Source:
    """The file at `url`, opened to read.

    Raises FileNotFoundError, `StorageError`, and ValueError for an unknown scheme.
    """
    if (data := held(url)) is not None:
        return Source(url, len(data), lambda start, length: data[start : start + length])
    if is_s3(url):
        from gemma_batch.storage.s3 import s3_source

        return s3_source(url)
    if not is_local(url):
        from gemma_batch.storage.hub_data import hub_source

        return hub_source(url)
    from gemma_batch.storage.local import local_source

    return local_source(local_path(url))
