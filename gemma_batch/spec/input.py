"""The `input` part of a spec: where the documents are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from gemma_batch.spec.column_types import column_type
from gemma_batch.spec.spec_part import SpecPart


class Input(SpecPart):
    """Where the documents are."""

    path: str | tuple[str, ...]
    """A file, a folder (with everything below it), a glob such as `s3://tickets/2026/*.parquet`,
    or a list of these. Local or `s3://`. Files and folders whose name starts with `_` or `.` are
    left out and counted; `_name=value` is a partition and read. All files must have the same
    format."""

    format: Literal["auto", "parquet", "jsonl", "csv", "openai"] = "auto"
    """The format of the files. `auto` goes by the ending of the file name: `.parquet`, `.pq`,
    `.jsonl`, `.ndjson`, `.csv`; the text formats may end in `.gz` or `.zst` too. A JSONL file
    whose first lines are OpenAI batch requests is read as `openai`."""

    id: str | None = None
    """The column that names a row in the output. Default: `custom_id` for OpenAI batch files, else
    the number of the input file and the number of the row in it."""

    schema: dict[str, str] = Field(default_factory=dict)
    """The types of columns, by name: `{price: decimal(10, 2), at: timestamp, tags: list<string>}`.
    Texts, as all values of CSV are, become values of the type; `string` takes every value. A value
    that is not of the type fails its row. See [types](inputs.md#types)."""

    @field_validator("schema")
    @classmethod
    def _known_types(cls, value: dict[str, str]) -> dict[str, str]:
        for column, name in value.items():
            try:
                column_type(name)
            except ValueError as err:
                raise ValueError(f"the column {column!r}: {err}") from None
        return value

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple, however it was written."""
        return (self.path,) if isinstance(self.path, str) else self.path
