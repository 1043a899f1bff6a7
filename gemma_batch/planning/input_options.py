"""Input options: how the spec says that files are read, and files without rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        types=tuple(input.schema.items()),
    )


def option_fields(options: ReadOptions) -> dict[str, Any]:
    """The options that are set, by the names of the spec's fields, for the fingerprint.

    The types are left out: the plan adds `input.schema` itself.
    """
    part = {"row": "txt.", "blank": "txt."} | dict.fromkeys(Csv.model_fields, "csv.")
    found = {k: v for k, v in options.plain().items() if k != "types"}
    return {f"input.{part.get(name, '')}{name}": value for name, value in found.items()}


def notes_on(shards: Sequence[Shard]) -> list[str]:
    """Sentences for people about files without rows."""
    empty = [shard.url for shard in shards if not shard.size]
    if not empty:
        return []
    return [
        f"{len(empty):,} of {len(shards):,} input files are empty (0 bytes) and have no rows, such "
        f"as {empty[0]!r}"
    ]
