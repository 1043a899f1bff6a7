"""The survey: a first look at the input, before it costs money (driver, laptop, submitter).

The survey finds the files, their format and their columns. It checks that every column in the spec
exists, and settles one type for each column. It reads listings, footers and a few rows, never all
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from gemma_batch.errors import InputError, SpecError
from gemma_batch.planning.columns import (
    column_notes,
    doubled_columns,
    first_of_each,
    kept_columns,
    require_column,
    row_notes,
    wanted_columns,
)
from gemma_batch.planning.folders import with_folders
from gemma_batch.planning.places import check_places
from gemma_batch.planning.recognise import advice, first_rows, why_no_columns
from gemma_batch.planning.routing import Router
from gemma_batch.planning.schemas import (
    check_types,
    guesses,
    is_guessed,
    same_types,
    schemas_of,
    union,
    with_declared,
)
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.formats import formats_of
from gemma_batch.storage.keep import source_of
from gemma_batch.storage.left_out import LeftOut
from gemma_batch.storage.listing import expand
from gemma_batch.storage.readers.filled import FROM_FOLDER
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.table_logs import check_logs
from gemma_batch.units.unit import FIRST_STAGED, Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The facts about the input.

    `columns` are the columns that the job reads. `prompt` is the spec's prompt, with the defaults
    of the input's format. `uniform` says that all files have the same Arrow types in these columns,
    so one Parquet file can hold the rows of all files unchanged. `guesses` are types that a look at
    the first rows gave, where files do not tell them (null: no value was seen). `left_out` is what
    the listing of the input left out. `notes` are sentences for people about that and about the
    files.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    keep_schema: pa.Schema
    columns: tuple[str, ...]
    prompt: Prompt
    id_column: str | None
    router: Router
    uniform: bool = False
    guesses: Mapping[str, pa.DataType] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept_types(self) -> dict[str, pa.DataType]:
        """The types of the kept columns, by the name in the input."""
        return {source_of(field): field.type for field in self.keep_schema}

    @property
    def copyable(self) -> bool:
        """Whether rows can be copied without loss.

        Rows of formats other than Parquet always can: these formats hold only JSON's types.
        """
        return self.uniform or self.shards[0].format != "parquet"


def survey(spec: JobSpec) -> Survey:
    """Look at the input. Raises `InputError` or `SpecError`, which say how to mend the job."""
    files = expand(list(spec.input.paths), output=spec.output.path)
    check_places(spec, files)
    notes = (*check_logs(files.logs, spec.input.format), *files.notes)
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
    options = ReadOptions(types=tuple(spec.input.schema.items()))
    shards = with_folders(
        Shard(number=i, url=file.url, size=file.size, etag=file.etag, format=kind, options=options)
        for i, file in enumerate(files)
    )
    id_column = spec.input.id or ("custom_id" if kind == "openai" else None)
    schemas = schemas_of(shards)
    doubled = doubled_columns(shards, schemas)
    schemas = [first_of_each(found) for found in schemas]
    guessed = is_guessed(shards[0])
    schema = union(schemas, guessed=guessed)
    if guessed:
        schema = with_declared(schema, spec.input.schema)
    if all((field.metadata or {}) == FROM_FOLDER for field in schema):
        raise InputError(why_no_columns(shards))
    prompt = _effective_prompt(spec, kind, shards)
    wanted = wanted_columns(spec, prompt, id_column, schema)
    for column, where in wanted.items():
        require_column(column, where, schema, doubled)
    for column in spec.input.schema:
        require_column(column, "input.schema", schema, doubled)
    keep_schema = kept_columns(spec, schema)
    router = Router(spec.effective_routes, schema)
    for column in router.columns:
        require_column(column, "the `when` of a route", schema, doubled)
    used = {*wanted, *router.columns}
    if not guessed:
        check_types(shards, schemas, used)
    return Survey(
        shards=shards,
        schema=schema,
        keep_schema=keep_schema,
        columns=tuple(name for name in schema.names if name in used),
        prompt=prompt,
        id_column=id_column,
        router=router,
        uniform=kind == "parquet" and same_types(schemas, used, schema),
        guesses={
            name: kind
            for name, kind in (guesses(schemas) if guessed else {}).items()
            if name not in spec.input.schema
        },
        left_out=files.left_out,
        notes=(
            *notes,
            *column_notes(shards, schemas, used),
            *(row_notes(prompt) if guessed else ()),
        ),
    )


def _effective_prompt(spec: JobSpec, kind: str, shards: tuple[Shard, ...]) -> Prompt:
    prompt = spec.prompt
    if kind == "openai":
        # A row's parameters count whatever the prompt is made of: they are never left out unseen.
        defaults = {"params": prompt.params or "params"}
        if prompt.user is None:
            defaults["messages"] = prompt.messages or "messages"
        return prompt.model_copy(update=defaults)
    if prompt.user is None and prompt.messages is None:
        hint = advice(first_rows(shards))
        raise SpecError(
            "prompt: give `user`, a Jinja template over the input's columns, or `messages`, the "
            "name of a column that holds conversations" + (f". {hint}" if hint else "")
        )
    return prompt
