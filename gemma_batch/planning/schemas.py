"""Schemas: one type for each column, from the schemas of all input files (driver, laptop)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.planning.widening import wider_type
from gemma_batch.spec.column_types import column_type
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.readers.json_types import final_type, wider_kind
from gemma_batch.units.unit import Shard

LOOKED_AT = 32  # files whose first lines are read, in formats without a footer


def is_guessed(shard: Shard) -> bool:
    """Whether the types of the columns are guessed from the first rows, as of JSON lines."""
    return hasattr(reader_for(shard.format, shard.options), "kinds")


def union(schemas: Sequence[pa.Schema], *, guessed: bool = False) -> pa.Schema:
    """All columns, each of the type that holds its values in every file.

    A column that is null everywhere is text. So is a column of which the files hold different
    types: in formats with types, `check_types` refuses such a column when the job uses it.
    """
    fields = {
        name: field.with_type(pa.string()) if pa.types.is_null(field.type) else field
        for name, field in _widest(schemas, guessed=guessed).items()
    }
    return pa.schema(list(fields.values())).remove_metadata()


def guesses(schemas: Sequence[pa.Schema]) -> dict[str, pa.DataType]:
    """The guessed type of each column; null where no row that was looked at has a value."""
    return {name: field.type for name, field in _widest(schemas, guessed=True).items()}


def _widest(schemas: Sequence[pa.Schema], *, guessed: bool) -> dict[str, pa.Field]:
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            if known is None:
                fields[field.name] = field.with_nullable(True)
            elif known.type != field.type:
                if guessed:
                    wider = final_type(wider_kind(known.type, field.type))
                else:
                    wider = wider_type(known.type, field.type) or pa.string()
                fields[field.name] = known.with_type(wider)
    return fields


def check_types(shards: Sequence[Shard], schemas: Sequence[pa.Schema], used: Iterable[str]) -> None:
    """Raise `InputError` when no type holds the values of a used column in all files.

    `schemas` are those of the first of the `shards`.
    """
    for column in sorted(used):
        known, where = pa.null(), ""
        for shard, schema in zip(shards, schemas, strict=False):
            index = schema.get_field_index(column)
            kind = known if index < 0 else schema.field(index).type
            if kind == known:
                continue
            wider = wider_type(known, kind)
            if wider is None:
                raise InputError(
                    f"the column {column!r} is {known} in {where!r} and {kind} in {shard.url!r}, "
                    f"and no type holds both: declare one, such as `input.schema: {{{column}: "
                    "string}`, or leave one of the files out"
                )
            if wider != known:
                known, where = wider, shard.url


def same_types(schemas: Sequence[pa.Schema], used: Iterable[str], schema: pa.Schema) -> bool:
    """Whether each file has the type of `schema` in each used column, as far as it has one."""
    kinds = {name: (schema.field(name).type, pa.null()) for name in used}
    return all(
        found.field(name).type in kinds[name]
        for found in schemas
        for name in kinds
        if name in found.names
    )


def with_declared(schema: pa.Schema, types: Mapping[str, str]) -> pa.Schema:
    """The schema, with declared columns that no row which was looked at has."""
    for column, kind in types.items():
        if column not in schema.names:
            schema = schema.append(pa.field(column, column_type(kind)))
    return schema


def with_types(schema: pa.Schema, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema, with other types of some columns."""
    return pa.schema([field.with_type(types.get(field.name, field.type)) for field in schema])
