"""The `input` part of a spec: where the documents are."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gemma_batch.spec.column_types import column_type
from gemma_batch.spec.spec_part import SpecPart

Character = Annotated[str, Field(min_length=1, max_length=1)]
NO_TEXT = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"}


class Csv(SpecPart):
    """How `.csv`, `.tsv` and `.psv` files are written. `init` guesses these fields."""

    delimiter: Character | None = None
    """The character between values. Default: `,` for CSV, a tab for TSV, `|` for PSV."""

    quote: Annotated[str, Field(max_length=1)] = '"'
    """The character around values that hold delimiters or line ends. `""`: values have no quotes,
    and a quote mark is an ordinary character."""

    escape: Character | None = None
    """The character that takes away the meaning of a quote, a delimiter or a line end after it:
    `"\\\\"` for files of Spark and MySQL. Default: none; a quote in a quoted value is doubled."""

    header: bool | tuple[str, ...] = True
    """Whether the first record of each file names the columns. `false`: the columns are named
    `column1`, `column2` and so on. A list names the columns of files without a header."""

    nulls: tuple[str, ...] = ()
    """Texts that stand for no value, such as `[""]` or `["\\\\N", "NULL"]`."""

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _not_a_line_end(cls, value: str | None) -> str | None:
        if value is not None and value in ("\n", "\r"):
            raise ValueError("is a line end, which ends a record")
        return value

    @field_validator("header")
    @classmethod
    def _names_once(cls, value: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        if not isinstance(value, bool) and (not value or len({*value}) < len(value)):
            raise ValueError("must name at least one column, and each only once")
        return value


class Txt(SpecPart):
    """How `.txt` files become rows with a column `text`."""

    row: Literal["line", "file"] = "line"
    """A row is a `line`, or a whole `file`; then the column `file` holds the name of the file."""

    blank: Literal["row", "skip"] = "row"
    """A blank line is a `row` with a blank text, so that the numbers of rows are those of lines.
    `skip`: blank lines are left out."""


class Input(SpecPart):
    """Where the documents are."""

    path: str | tuple[str, ...]
    """A file, a folder (with everything below it), a glob such as `s3://tickets/2026/*.parquet`,
    or a list of these. Local, `s3://` or `hf://datasets/owner/name`. Files and folders whose name
    starts with `_` or `.` are left out and counted; `_name=value` is a partition and read. All
    files must have the same format."""

    format: Literal[
        "auto", "parquet", "jsonl", "json", "csv", "tsv", "psv", "txt", "openai", "arrow", "orc",
        "avro", "delta", "iceberg",
    ] = "auto"  # fmt: skip
    """The format of the files. `auto` goes by the ending of the file name: `.parquet`, `.pq`,
    `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.psv`, `.txt`, `.arrow`, `.feather`, `.ipc`,
    `.orc`, `.avro`; the text formats may end in `.gz`, `.zst`, `.bz2` or `.xz` too. A file of JSON
    lines whose first lines are OpenAI batch requests is read as `openai`. `delta` and `iceberg`:
    `path` is the folder of one such table, and the rows are those of one version of it."""

    version: int | None = None
    """The version of a Delta table, or the snapshot of an Iceberg table. Default: the newest. A
    run whose table has changed since goes on only with the version that it began with."""

    grow: bool = False
    """Answer files that are added to the input after the first run: the same command answers the
    new files only, in the same output. Changed or missing files are refused as ever. See
    [new files every day](inputs.md#new-files-every-day)."""

    encoding: str | None = None
    """The encoding of text files, such as `cp1252`, `latin-1` or `utf-16-le`. Default: UTF-8, or
    the encoding that a byte order mark at the start of a file names."""

    csv: Csv = Csv()
    """How CSV files are written."""

    txt: Txt = Txt()
    """How text files become rows."""

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

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            found = None if value is None else codecs.lookup(value)
        except LookupError:
            raise ValueError(
                f"{value!r} is no encoding that Python knows: use one such as utf-8, utf-16, "
                "cp1252, latin-1, shift_jis"
            ) from None
        if found and (found.name in NO_TEXT or not getattr(found, "_is_text_encoding", True)):
            raise ValueError(f"{value!r} is no encoding of text files")
        return value
