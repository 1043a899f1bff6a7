"""Contents: digests of local files, by which a file that was only touched is known again (driver).

The etag of a local file is its time and size. A copy, a checkout or a restored backup gives files
new times with the same contents. In s3:// the etag itself comes from the contents, so no digest is
made there: a digest would cost the download of every file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from gemma_batch.errors import StorageError
from gemma_batch.storage.fs import is_local, local_path

READERS = min(8, os.cpu_count() or 1)  # hashing computes outside of Python's lock


def digests(urls: Sequence[str]) -> Iterator[str]:
    """The SHA-256 of each local file, in hex and in order; "" for a file that is not local.

    Raises `StorageError` when a file cannot be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(_digest, urls)


def _digest(url: str) -> str:
    if not is_local(url):
        return ""
    path = local_path(url)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise StorageError(f"{path!r}: {os.strerror(err.errno or 0)}") from err
