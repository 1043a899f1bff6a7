"""Input options: how the spec says that files are read, and why an input has no columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemma_batch.errors import InputError
from gemma_batch.spec import Input
from gemma_batch.spec.input import Csv
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.units.unit import Shard


def read_options(input: Input) -> ReadOptions:
    """The options of the spec that travel with each shard."""
    csv, txt = input.csv, input.txt
    return ReadOptions(
        encoding=input.encoding,
        delimiter=csv.delimiter,
        quote=None if csv.quote == '"' else csv.quote,
        escape=csv.escape,
        header=csv.header,
        nulls=csv.nulls,
        row=txt.row,
        blank=txt.blank,
    )


def option_fields(options: ReadOptions) -> dict[str, Any]:
    """The options that are set, by the names of the spec's fields, for the fingerprint."""
    part = {"row": "txt.", "blank": "txt."} | dict.fromkeys(Csv.model_fields, "csv.")
    return {f"input.{part.get(name, '')}{name}": v for name, v in options.plain().items()}


def no_columns(path: object, shards: Sequence[Shard]) -> InputError:
    """The error about an input in which no column was found, with the reason if there is one."""
    full = [shard for shard in shards if shard.size]
    if not full:
        return InputError(
            f"input.path {path!r} matches {len(shards):,} files, which are all empty (0 bytes)"
        )
    for shard in full:
        for row in shard.reader.read(shard.file, shard.reader.head(shard.file, 1), None):
            if row.failure is not None:
                return InputError(
                    f"input.path {path!r} has no row that can be read: {row.failure.message}"
                )
    return InputError(f"input.path {path!r} matches {len(shards):,} files without a single row")


def notes_on(shards: Sequence[Shard]) -> list[str]:
    """Sentences for people about files without rows."""
    empty = [shard.url for shard in shards if not shard.size]
    if not empty:
        return []
    return [
        f"{len(empty):,} of {len(shards):,} input files are empty (0 bytes) and have no rows, such "
        f"as {empty[0]!r}"
    ]
