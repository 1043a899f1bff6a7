"""Loads the known answers of a run, once in each process that reads units (Ray CPU task)."""

from __future__ import annotations

import functools

from gemma_batch.errors import OutputError
from gemma_batch.storage.fs import open_store
from gemma_batch.units.known import KnownAnswers


@functools.lru_cache(maxsize=4)
def known_answers(output: str, keys: tuple[str, ...]) -> KnownAnswers:
    """The known answers in the files `keys` of an output, whose names tell the contents.

    Raises `OutputError` when a file is missing or damaged, `StorageError` when storage fails.
    """
    return KnownAnswers([_read(output, key) for key in keys])


def _read(output: str, key: str) -> bytes:
    try:
        return open_store(output).read(key)
    except FileNotFoundError:
        raise OutputError(missing(key)) from None


def missing(key: str) -> str:
    """What is wrong when the file `key` is not in the output, and what to do."""
    return (
        f"{key!r} is missing from the output although its manifest names it: restore it or use a "
        "new output path"
    )
