"""The survey: a first look at the input, before it costs money (driver, laptop, submitter).

The survey finds the files, their format and their columns. It checks that every column in the spec
exists, and settles one type for each column. It reads listings, footers and a few rows, never all
data.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from gemma_batch.answering.answers import ANSWER_COLUMNS
from gemma_batch.errors import InputError, SpecError
from gemma_batch.planning.cut import PLANNING_THREADS
from gemma_batch.planning.routing import Router
from gemma_batch.prompts.template import Template
from gemma_batch.rows import Row
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.inputs import expand, formats_of, reader_for
from gemma_batch.storage.parts import ERROR_COLUMNS, RESULT_COLUMNS
from gemma_batch.units.unit import FIRST_STAGED, Shard

SAMPLE_ROWS = 200
# A kept column may not have the name of a column that the output has anyway.
RESERVED_COLUMNS = ANSWER_COLUMNS | RESULT_COLUMNS.keys() | ERROR_COLUMNS.keys()
LOOKED_AT = 32  # files whose first lines are read, in formats without a footer


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The facts about the input.

    `columns` are the columns that the job reads. `prompt` is the spec's prompt, with the defaults
    of the input's format. `uniform` says that all files have the same Arrow types in these columns,
    so one Parquet file can hold the rows of all files unchanged.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    keep_schema: pa.Schema
    columns: tuple[str, ...]
    prompt: Prompt
    id_column: str | None
    router: Router
    uniform: bool = False

    @property
    def copyable(self) -> bool:
        """Whether rows can be copied without loss.

        Rows of formats other than Parquet always can: these formats hold only JSON's types.
        """
        return self.uniform or self.shards[0].format != "parquet"

    def sample(self, rows: int = SAMPLE_ROWS) -> list[Row]:
        """Up to `rows` readable rows, from the start of the first shard with a readable row.

        Raises `InputError` when the shard is corrupt.
        """
        found: list[Row] = []
        for shard in self.shards:
            reader = reader_for(shard.format)
            spans = reader.head(shard.file, rows)
            for row in reader.read(shard.file, spans, list(self.columns)):
                if row.values is not None:
                    found.append(row)
                if len(found) >= rows:
                    return found
            if found:
                return found
        return found


def survey(spec: JobSpec) -> Survey:
    """Look at the input. Raises `InputError` or `SpecError`, which say how to mend the job."""
    files = expand(list(spec.input.paths))
    formats = formats_of(files, spec.input.format)
    if len(formats) > 1:
        raise InputError(
            f"input.path {spec.input.path!r} matches files of several formats "
            f"({', '.join(sorted(formats))}): narrow it, or set input.format"
        )
    (kind,) = formats
    if len(files) > FIRST_STAGED:
        raise InputError(
            f"input.path {spec.input.path!r} matches {len(files):,} files; one run takes at most "
            f"{FIRST_STAGED:,}: put small files together, or narrow it"
        )
    shards = tuple(
        Shard(number=i, url=file.url, size=file.size, etag=file.etag, format=kind)
        for i, file in enumerate(files)
    )
    prompt = _effective_prompt(spec, kind)
    id_column = spec.input.id or ("custom_id" if kind == "openai" else None)
    schemas = _schemas(shards)
    schema = _union(schemas)
    wanted = _wanted(spec, prompt, id_column)
    for column, where in wanted.items():
        _require(column, where, schema)
    keep_schema = _keep_schema(spec, schema)
    router = Router(spec.effective_routes, schema)
    used = {*wanted, *router.columns}
    if kind == "parquet":
        _check_each_shard(shards, schemas, used, schema)
    return Survey(
        shards=shards,
        schema=schema,
        keep_schema=keep_schema,
        columns=tuple(name for name in schema.names if name in used),
        prompt=prompt,
        id_column=id_column,
        router=router,
        uniform=kind == "parquet" and _uniform(schemas, used, schema),
    )


def _effective_prompt(spec: JobSpec, kind: str) -> Prompt:
    prompt = spec.prompt
    if kind == "openai" and prompt.user is None and prompt.messages is None:
        return prompt.model_copy(update={"messages": "messages", "params": "params"})
    if prompt.user is None and prompt.messages is None:
        raise SpecError(
            "prompt: give `user`, a Jinja template over the input's columns, or `messages`, the "
            "name of a column that holds conversations"
        )
    return prompt


def _schemas(shards: Sequence[Shard]) -> list[pa.Schema]:
    # Parquet: every footer, so that a bad shard is found now. Other formats: the first lines of a
    # few files.
    looked = shards if shards[0].format == "parquet" else shards[:LOOKED_AT]
    with ThreadPoolExecutor(PLANNING_THREADS) as pool:
        return list(pool.map(lambda s: reader_for(s.format).schema(s.file), looked))


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
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


def _uniform(schemas: Sequence[pa.Schema], used: Iterable[str], schema: pa.Schema) -> bool:
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


def _wanted(spec: JobSpec, prompt: Prompt, id_column: str | None) -> dict[str, str]:
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


def _require(column: str, where: str, schema: pa.Schema) -> None:
    if column not in schema.names:
        near = difflib.get_close_matches(column, schema.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(
            f"{where} names the column {column!r}, which the input does not have{hint} "
            f"(columns: {', '.join(schema.names)})"
        )


def _keep_schema(spec: JobSpec, schema: pa.Schema) -> pa.Schema:
    for column in spec.output.keep:
        if column in RESERVED_COLUMNS:
            raise SpecError(
                f"output.keep: {column!r} is the name of a column that the output has of its own "
                f"({', '.join(sorted(RESERVED_COLUMNS))}): rename it in the input"
            )
    return pa.schema([schema.field(column) for column in dict.fromkeys(spec.output.keep)])


def _check_each_shard(
    shards: Sequence[Shard], schemas: Sequence[pa.Schema], used: Iterable[str], schema: pa.Schema
) -> None:
    for shard, found in zip(shards, schemas, strict=True):
        lacking = sorted(set(used) - set(found.names))
        if lacking:
            raise InputError(
                f"{shard.url!r} lacks the column(s) {', '.join(map(repr, lacking))} that other "
                "files have and the job needs: leave it out of input.path or mend it"
            )
