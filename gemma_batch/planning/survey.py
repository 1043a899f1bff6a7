"""The survey: a first look at the input, before it costs money (driver, laptop, submitter).

The survey finds the files, their format and their columns. It checks that every column in the spec
exists, and settles one type for each column. It reads listings, footers and a few rows, never all
data.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from gemma_batch.errors import InputError, SpecError
from gemma_batch.planning.columns import kept_columns, require_column, wanted_columns
from gemma_batch.planning.input_files import find_files
from gemma_batch.planning.input_options import no_columns, notes_on, read_options
from gemma_batch.planning.routing import Router
from gemma_batch.planning.schemas import check_each_shard, same_types, schemas_of, union
from gemma_batch.rows import Row
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.formats import TYPED, formats_of, several_formats
from gemma_batch.units.unit import FIRST_STAGED, Shard

SAMPLE_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The facts about the input.

    `columns` are the columns that the job reads. `prompt` is the spec's prompt, with the defaults
    of the input's format. `uniform` says that all files have the same Arrow types in these columns,
    so one Parquet file can hold the rows of all files unchanged. `notes` are sentences for people.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    keep_schema: pa.Schema
    columns: tuple[str, ...]
    prompt: Prompt
    id_column: str | None
    router: Router
    uniform: bool = False
    notes: tuple[str, ...] = ()

    @property
    def copyable(self) -> bool:
        """Whether rows can be copied without loss.

        Rows of text formats always can: these formats hold only JSON's types.
        """
        return self.uniform or self.shards[0].format not in TYPED

    def sample(self, rows: int = SAMPLE_ROWS) -> list[Row]:
        """Up to `rows` readable rows, from the start of the first shard with a readable row.

        Raises `InputError` when the shard is corrupt.
        """
        found: list[Row] = []
        for shard in self.shards:
            span = shard.reader.head(shard.file, rows)
            for row in shard.reader.read(shard.file, span, list(self.columns)):
                if row.values is not None:
                    found.append(row)
                if len(found) >= rows:
                    return found
            if found:
                return found
        return found


def survey(spec: JobSpec) -> Survey:
    """Look at the input. Raises `InputError` or `SpecError`, which say how to mend the job."""
    files, declared, notes, _ = find_files(spec.input)
    formats = formats_of(files, declared)
    if len(formats) > 1:
        raise InputError(
            f"input.path {spec.input.path!r} matches files of several formats "
            f"({several_formats(files)}): narrow it, or set input.format"
        )
    (kind,) = formats
    if len(files) > FIRST_STAGED:
        raise InputError(
            f"input.path {spec.input.path!r} matches {len(files):,} files; one run takes at most "
            f"{FIRST_STAGED:,}: put small files together, or narrow it"
        )
    options = read_options(spec.input)
    shards = tuple(
        Shard(number=i, url=file.url, size=file.size, etag=file.etag, format=kind, options=options)
        for i, file in enumerate(files)
    )
    prompt = _effective_prompt(spec, kind)
    id_column = spec.input.id or ("custom_id" if kind == "openai" else None)
    full = [shard for shard in shards if shard.size] or shards
    schemas = schemas_of(full)
    schema = union(schemas)
    if not schema.names:
        raise no_columns(spec.input.path, shards)
    wanted = wanted_columns(spec, prompt, id_column)
    for column, where in wanted.items():
        require_column(column, where, schema)
    keep_schema = kept_columns(spec, schema)
    router = Router(spec.effective_routes, schema)
    used = {*wanted, *router.columns}
    if kind in TYPED:
        check_each_shard(full, schemas, used, schema)
    return Survey(
        shards=shards,
        schema=schema,
        keep_schema=keep_schema,
        columns=tuple(name for name in schema.names if name in used),
        prompt=prompt,
        id_column=id_column,
        router=router,
        uniform=kind in TYPED and same_types(schemas, used, schema),
        notes=(*notes, *notes_on(shards)),
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
