"""Schemas: one type for each column, from the schemas of all input files (driver, laptop)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.planning.cut import PLANNING_THREADS
from gemma_batch.storage.formats import TYPED
from gemma_batch.units.unit import Shard

LOOKED_AT = 32  # files whose first lines are read, in formats without a footer


def schemas_of(shards: Sequence[Shard]) -> list[pa.Schema]:
    # Parquet and its like: every footer, so that a bad shard is found now. Text formats: the first
    # lines of a few files.
    looked = shards if shards[0].format in TYPED else shards[:LOOKED_AT]
    with ThreadPoolExecutor(PLANNING_THREADS) as pool:
        return list(pool.map(lambda s: s.reader.schema(s.file), looked))


def union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            if known is None or pa.types.is_null(known.type):
                fields[field.name] = field.with_nullable(True)
            elif known.type != field.type and not pa.types.is_null(field.type):
                fields[field.name] = pa.field(field.name, _wider(known.type, field.type))
    return pa.schema(
        [
            field.with_type(pa.string()) if pa.types.is_null(field.type) else field
            for field in fields.values()
        ]
    ).remove_metadata()


def same_types(schemas: Sequence[pa.Schema], used: Iterable[str], schema: pa.Schema) -> bool:
    # Columns with maps are not uniform: maps are read as dicts, and cannot be written from dicts.
    return all(
        found.field(name).type == schema.field(name).type and not _has_map(found.field(name).type)
        for found in schemas
        for name in used
    )


def _has_map(kind: pa.DataType) -> bool:
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_map(kind) or any(map(_has_map, inner))


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    pair = pa.unify_schemas
    try:
        return (
            pair(
                [pa.schema([("x", one)]), pa.schema([("x", other)])],
                promote_options="permissive",
            )
            .field("x")
            .type
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def check_each_shard(
    shards: Sequence[Shard], schemas: Sequence[pa.Schema], used: Iterable[str], schema: pa.Schema
) -> None:
    for shard, found in zip(shards, schemas, strict=True):
        lacking = sorted(set(used) - set(found.names))
        if lacking:
            raise InputError(
                f"{shard.url!r} lacks the column(s) {', '.join(map(repr, lacking))} that other "
                "files have and the job needs: leave it out of input.path or mend it"
            )
