"""Columns: those that the spec names, and whether the input has them (driver, laptop)."""

from __future__ import annotations

import difflib

import pyarrow as pa

from gemma_batch.answering.answers import ANSWER_COLUMNS
from gemma_batch.errors import SpecError
from gemma_batch.prompts.template import Template
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.parts import ERROR_COLUMNS, RESULT_COLUMNS

# A kept column may not have the name of a column that the output has anyway.
RESERVED_COLUMNS = ANSWER_COLUMNS | RESULT_COLUMNS.keys() | ERROR_COLUMNS.keys()


def wanted_columns(spec: JobSpec, prompt: Prompt, id_column: str | None) -> dict[str, str]:
    """The columns that the spec names: column -> the field of the spec that needs the column."""
    wanted: dict[str, str] = {}
    for name in ("system", "user"):
        if (text := getattr(prompt, name)) is not None:
            for column in sorted(Template(text, field=f"prompt.{name}").columns):
                wanted.setdefault(column, f"prompt.{name}")
    for name in ("messages", "params"):
        if (column := getattr(prompt, name)) is not None:
            wanted.setdefault(column, f"prompt.{name}")
    if id_column is not None:
        wanted.setdefault(id_column, "input.id")
    for column in spec.output.keep:
        wanted.setdefault(column, "output.keep")
    return wanted


def require_column(column: str, where: str, schema: pa.Schema) -> None:
    if column not in schema.names:
        near = difflib.get_close_matches(column, schema.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(
            f"{where} names the column {column!r}, which the input does not have{hint} "
            f"(columns: {', '.join(schema.names)})"
        )


def kept_columns(spec: JobSpec, schema: pa.Schema) -> pa.Schema:
    for column in spec.output.keep:
        if column in RESERVED_COLUMNS:
            raise SpecError(
                f"output.keep: {column!r} is the name of a column that the output has of its own "
                f"({', '.join(sorted(RESERVED_COLUMNS))}): rename it in the input"
            )
    return pa.schema([schema.field(column) for column in dict.fromkeys(spec.output.keep)])
