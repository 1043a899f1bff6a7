"""The `input` part of a spec: where the documents are."""

from __future__ import annotations

from typing import Literal

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

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple, however it was written."""
        return (self.path,) if isinstance(self.path, str) else self.path
