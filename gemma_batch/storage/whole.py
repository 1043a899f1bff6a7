"""Whole: looks at an input file and, when it is small, reads it with the same request (CPU task).

To read an object usually takes three requests: one for the ETag, one to open it, one or more for
its bytes. Of a small object, one GET tells all of that. The bytes are then held for the reader that
opens the file next, in the same thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gemma_batch.errors import InputError
from gemma_batch.storage.fs import holding, is_s3, local_path
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import stat

WHOLE_BYTES = 2**20  # a file that is not larger is read whole, also where few columns are wanted


@contextlib.contextmanager
def as_it_is(file: InputFile, limit: int = WHOLE_BYTES) -> Iterator[InputFile]:
    """The file as it is now; inside of the context, a reader gets the bytes of that state.

    That is so for files of at most `limit` bytes; larger ones may change before they are read.
    Raises `InputError` when the file does not exist, `StorageError` when storage fails.
    """
    if file.size > limit:
        yield stat(file.url)
        return
    try:
        found, data = _fetch(file.url, limit)
    except FileNotFoundError:
        raise InputError(f"the input file {file.url!r} does not exist") from None
    if data is None:
        yield found
        return
    with holding(file.url, data):
        yield found


def _fetch(url: str, limit: int) -> tuple[InputFile, bytes | None]:
    """The file as it is now, and its bytes; None when it has more than `limit` bytes."""
    if is_s3(url):
        from gemma_batch.storage.s3 import get

        size, etag, data = get(url, limit)
        return InputFile(url, size, etag), data
    from gemma_batch.storage.local import get_local

    path = local_path(url)
    size, etag, data = get_local(path, limit)
    return InputFile(path, size, etag), data
