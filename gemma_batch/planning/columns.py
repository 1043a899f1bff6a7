"""Columns: those that the spec names, and whether the input has them (driver, laptop)."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from gemma_batch.answering.answers import TEXT_COLUMNS
from gemma_batch.answering.shapes import shape_of
from gemma_batch.errors import SpecError
from gemma_batch.planning.folders import named_twice
from gemma_batch.prompts.mentions import ROW, mention, subscript
from gemma_batch.prompts.template import Template
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.formats import TYPED
from gemma_batch.storage.keep import kept_field
from gemma_batch.storage.parts import ERROR_COLUMNS, RESULT_COLUMNS
from gemma_batch.storage.readers.filled import FROM_FOLDER
from gemma_batch.units.asked import Asked
from gemma_batch.units.unit import Shard

# A kept column may not have the name of a column that the output has anyway.
RESERVED_COLUMNS = TEXT_COLUMNS | RESULT_COLUMNS.keys() | ERROR_COLUMNS.keys()


def wanted_columns(
    spec: JobSpec, prompt: Prompt, id_column: str | None, schema: pa.Schema
) -> dict[str, str]:
    """The columns that the spec names: column -> the field of the spec that needs the column.

    A template that uses `row` as a value needs every column of the `schema`. Raises `SpecError` for
    a template in which a column's name means something else.
    """
    wanted: dict[str, str] = {}
    for name in ("system", "user"):
        if (text := getattr(prompt, name)) is not None:
            template = Template(text, field=f"prompt.{name}")
            check_names(template, schema)
            for column in (*sorted(template.columns), *(schema.names if template.whole else ())):
                wanted.setdefault(column, f"prompt.{name}")
    for name in ("messages", "params"):
        if (column := getattr(prompt, name)) is not None:
            wanted.setdefault(column, f"prompt.{name}")
    if id_column is not None:
        wanted.setdefault(id_column, "input.id")
    for column in spec.output.kept.values():
        wanted.setdefault(column, "output.keep")
    return wanted


def check_names(template: Template, schema: pa.Schema) -> None:
    """Raise `SpecError` when the template means something else by the name of a column."""
    for name, meaning in template.names.taken.items():
        if name in schema.names:
            raise SpecError(
                f"{template.field}: {name!r} {meaning}, and is a column of the input too: write "
                f"{subscript(name)} for the column"
            )
    if ROW not in schema.names or not template.names.row:
        return
    inner = schema.field(ROW).type
    fields = {field.name for field in inner} if pa.types.is_struct(inner) else set()
    if template.whole or template.names.fields & fields:
        raise SpecError(
            f"{template.field}: `row` means all columns of the row, and the input has a column of "
            f"that name too: write {subscript(ROW)} for the column"
        )


def require_column(
    column: str, where: str, schema: pa.Schema, doubled: Mapping[str, str] | None = None
) -> None:
    """Raise `SpecError` unless the input has the column once. `doubled` as `doubled_columns`."""
    if doubled and column in doubled:
        raise SpecError(
            f"{where} names the column {column!r}, which {doubled[column]!r} has more than once: "
            "rename one of them"
        )
    if column not in schema.names:
        raise SpecError(
            f"{where} names the column {column!r}, which the input does not have"
            f"{_hint(column, where, schema.names)} (columns: {', '.join(schema.names)})"
        )


def _hint(column: str, where: str, names: Sequence[str]) -> str:
    folded = column.casefold()
    same = [name for name in names if name.casefold() == folded]
    close = difflib.get_close_matches(column, names, n=1)
    # In a template, `Review-Text` or `a.b` begins with the name of a column `Review` or `a`.
    begun = [name for name in names if re.split(r"\W", name)[0].casefold() == folded]
    near = [*same, *close, *begun]
    if not near:
        return ""
    template = where in ("prompt.user", "prompt.system")
    return f"; did you mean {mention(near[0]) if template else repr(near[0])}?"


def doubled_columns(shards: Sequence[Shard], schemas: Sequence[pa.Schema]) -> dict[str, str]:
    """Columns that a file has more than once, by its schema or its folders: column -> the file."""
    found = named_twice(shards)
    for shard, schema in zip(shards, schemas, strict=False):
        names = schema.names
        if len(set(names)) < len(names):
            for name, count in Counter(names).items():
                if count > 1:
                    found.setdefault(name, shard.url)
    return found


def first_of_each(schema: pa.Schema) -> pa.Schema:
    """The schema with only the first of several columns of one name."""
    if len(set(schema.names)) == len(schema):
        return schema
    fields: dict[str, pa.Field] = {}
    for field in schema:
        fields.setdefault(field.name, field)
    return pa.schema(list(fields.values()))


def column_notes(
    shards: Sequence[Shard], schemas: Sequence[pa.Schema], used: Iterable[str]
) -> list[str]:
    """A sentence for each used column that some files lack, or that folders name in vain.

    `schemas` are those of the first shards: of all shards for Parquet, where they are exact.
    """
    notes = []
    seen = [(*pair, set(pair[1].names)) for pair in zip(shards, schemas, strict=False)]
    exact = shards[0].format in TYPED
    count = f"{len(seen):,}" if len(seen) == len(shards) else f"the {len(seen):,} first"
    for column in sorted(used):
        lacking = [shard.url for shard, _, names in seen if column not in names]
        if lacking:
            where = "" if exact else "in their first rows, "
            notes.append(
                f"{where}{len(lacking):,} of {count} files lack the column {column!r}, which is "
                f"null there: {lacking[0]!r}" + (" and others" if len(lacking) > 1 else "")
            )
        hidden = [
            shard.url
            for shard, schema, names in seen
            if shard.constants
            and column in dict(shard.constants)
            and column in names
            and (schema.field(column).metadata or {}) != FROM_FOLDER
        ]
        if hidden:
            notes.append(
                f"the column {column!r} is in {len(hidden):,} of {count} files and in the names of "
                f"their folders: the values in the files count ({hidden[0]!r})"
            )
    return notes


def row_notes(prompt: Prompt) -> list[str]:
    """A sentence when a template prints whole rows of an input whose columns are only guessed."""
    texts = (("system", prompt.system), ("user", prompt.user))
    return [
        f"prompt.{name} uses `row` as a whole: it holds the columns that the first rows of the "
        "files have, and no column that only later rows have (input.schema can name more)"
        for name, text in texts
        if text is not None and Template(text, field=f"prompt.{name}").whole
    ]


def kept_columns(spec: JobSpec, schema: pa.Schema) -> pa.Schema:
    """The kept columns, by their names in the output. Raises `SpecError` for a reserved name."""
    asked = Asked(answer=spec.answer, tools=spec.tools, thinking=spec.thinking)
    shape = shape_of(spec.sampling.engine_params(), asked)
    reserved = RESERVED_COLUMNS | shape.names
    if spec.answer.flatten:
        _check_flat([name for name, _ in (*shape.fields(), *shape.details())], spec.output.kept)
    for name, column in spec.output.kept.items():
        if name in reserved:
            new = free_name(f"input_{column}", schema.names)
            raise SpecError(
                f"output.keep: {name!r} is the name of a column that the output has of its own "
                f"({', '.join(sorted(reserved))}): keep the input's column under another "
                f"name, {{new name: column}}, such as {{{new}: {column}}}"
            )
    return pa.schema(
        [
            kept_field(name, column, schema.field(column).type)
            for name, column in spec.output.kept.items()
        ]
    )


def _check_flat(names: Sequence[str], kept: Iterable[str]) -> None:
    """Raise `SpecError` when a property cannot be a column of its own, beside the others.

    `names` are all columns of the answer. Names that differ only by case count as the same.
    """
    taken = {name.casefold(): name for name in RESULT_COLUMNS}
    taken |= {name.casefold(): f"{name} (output.keep)" for name in kept}
    for name in names:
        if (other := taken.setdefault(name.casefold(), name)) != name or names.count(name) > 1:
            raise SpecError(
                f"answer.flatten: a column {name!r} cannot stand beside the column {other!r} that "
                "the output has: leave `flatten` out, or rename the property"
            )


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, or a longer one, that no column has, also for programs that ignore case."""
    folded = {one.casefold() for one in (*taken, *RESERVED_COLUMNS)}
    while name.casefold() in folded:
        name += "_"
    return name
