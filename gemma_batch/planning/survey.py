"""The survey: a first look at the input, before it costs money (driver, laptop, submitter).

The survey finds the files, their format and their columns. It checks that every column in the spec
exists, and settles one type for each column. It reads listings, footers and a few rows, never all
data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from gemma_batch.errors import InputError, SpecError, UserError
from gemma_batch.planning.columns import (
    column_notes,
    doubled_columns,
    first_of_each,
    kept_columns,
    require_column,
    row_notes,
    wanted_columns,
)
from gemma_batch.planning.folders import with_constants, with_folders
from gemma_batch.planning.growth import Told, tell
from gemma_batch.planning.input_files import find_files
from gemma_batch.planning.input_options import notes_on, read_options
from gemma_batch.planning.places import check_places
from gemma_batch.planning.recognise import advice, first_rows, why_no_columns
from gemma_batch.planning.routing import Router
from gemma_batch.planning.schemas import (
    LOOKED_AT,
    check_types,
    guesses,
    is_guessed,
    same_types,
    union,
    with_declared,
)
from gemma_batch.planning.unreadable import Unreadable, readable
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.formats import TYPED, formats_of, several_formats
from gemma_batch.storage.hub_data import is_hub
from gemma_batch.storage.keep import source_of
from gemma_batch.storage.left_out import LeftOut
from gemma_batch.storage.readers.filled import FROM_FOLDER
from gemma_batch.units.unit import FIRST_STAGED, Shard

NO_LIMIT = 10**9  # files, so that no number of unreadable ones is too many


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The facts about the input.

    `columns` are the columns that the job reads. `prompt` is the spec's prompt, with the defaults
    of the input's format. `uniform` says that all files have the same Arrow types in these columns,
    so one Parquet file can hold the rows of all files unchanged. `reads_all` says that certainly no
    row has a column beside `columns`. `guesses` are types that a look at
    the first rows gave, where files do not tell them (null: no value was seen). `left_out` is what
    the listing of the input left out. `unreadable` are the numbers of shards that cannot be read.
    `notes` are sentences for people about these and about the files.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    keep_schema: pa.Schema
    columns: tuple[str, ...]
    prompt: Prompt
    id_column: str | None
    router: Router
    uniform: bool = False
    reads_all: bool = False
    guessed: bool = False
    guesses: Mapping[str, pa.DataType] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    unreadable: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    known: tuple[Shard, ...] = ()
    touched: tuple[Shard, ...] = ()

    @property
    def inputs(self) -> tuple[Shard, ...]:
        """All files of the input, by number."""
        return (*self.known, *self.shards)

    @property
    def kept_types(self) -> dict[str, pa.DataType]:
        """The types of the kept columns, by the name in the input."""
        return {source_of(field): field.type for field in self.keep_schema}

    @property
    def readable(self) -> tuple[Shard, ...]:
        """The shards that can be read, as far as the survey knows; at least one."""
        return tuple(shard for shard in self.shards if shard.number not in self.unreadable)

    @property
    def copyable(self) -> bool:
        """Whether rows can be copied without loss.

        Rows of formats whose types are guessed always can: their values are JSON, or are read again
        as the types that the spec declares.
        """
        return self.uniform or self.guessed


def survey(spec: JobSpec, known: Sequence[Shard] = (), *, only_known: bool = False) -> Survey:
    """Look at the input.

    `known` are the files that the output has already. With `only_known`, other files are left out.
    Raises `InputError` or `SpecError`, which say how to mend the job.
    """
    found = find_files(spec.input, spec.output.path)
    files = found.files
    check_places(spec, [file for file in files if not is_hub(file.url)])
    formats = formats_of(files, found.format)
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
    shards = with_folders(
        Shard(number=i, url=file.url, size=file.size, etag=file.etag, format=kind, options=options)
        for i, file in enumerate(files)
    )
    told = tell(with_constants(shards, found.constants), known)
    new = () if only_known else told.new
    notes = (*found.notes, *_notes_on_files(told, only_known=only_known))
    if not new:
        return _look(spec, kind, told.known, (), found.left_out, notes, told.touched)
    some = told.known[:: -(-len(told.known) // LOOKED_AT) or 1]
    try:
        looked = _look(spec, kind, new, some, found.left_out, notes, told.touched)
    except UserError:
        if len(some) == len(told.known):
            raise
        # A column may be in a known file only that was not looked at.
        looked = _look(spec, kind, new, told.known, found.left_out, notes, told.touched)
    return replace(looked, known=told.known)


def _look(
    spec: JobSpec,
    kind: str,
    shards: tuple[Shard, ...],
    known: Sequence[Shard],
    left_out: tuple[LeftOut, ...],
    notes: Sequence[str],
    touched: tuple[Shard, ...],
) -> Survey:
    """The survey of the files `shards`; `known` are files that the output has, for the types."""
    id_column = spec.input.id or ("custom_id" if kind == "openai" else None)
    full = tuple(shard for shard in shards if shard.size) or shards
    unreadable = Unreadable(len(shards))
    # Parquet and its like: every footer, so that a bad shard is found now. Text formats: the first
    # lines of a few files.
    looked, schemas = readable(full if kind in TYPED else full[:LOOKED_AT], unreadable)
    doubled = doubled_columns(looked, schemas)
    schemas = [first_of_each(one) for one in schemas]
    guessed = is_guessed(full[0])
    before, known_schemas = _readable_ones(known)
    every, every_schema = [*before, *looked], [*known_schemas, *schemas]
    schema = union(every_schema, guessed=guessed)
    seen = schema
    if guessed:
        schema = with_declared(schema, spec.input.schema)
    if all((field.metadata or {}) == FROM_FOLDER for field in seen):
        raise InputError(why_no_columns(full))
    prompt = _effective_prompt(spec, kind, full)
    wanted = wanted_columns(spec, prompt, id_column, schema)
    for column, where in wanted.items():
        require_column(column, where, schema, doubled)
    keep_schema = kept_columns(spec, schema)
    try:
        router = Router(spec.effective_routes, schema)
    except SpecError:
        if not guessed:  # then a conflict of types is the better explanation
            whens = " ".join(route.when or "" for route in spec.routes)
            named = [name for name in schema.names if re.search(rf"\b{re.escape(name)}\b", whens)]
            check_types(every, every_schema, named)
        raise
    for column in router.columns:
        require_column(column, "the `when` of a route", schema, doubled)
    used = {*wanted, *router.columns}
    for column in spec.input.schema.keys() - used:
        # Nothing uses the column: its name may be a mistake.
        require_column(column, "input.schema", seen, doubled)
    if not guessed:
        check_types(every, every_schema, used)
    return Survey(
        shards=shards,
        schema=schema,
        keep_schema=keep_schema,
        columns=tuple(name for name in schema.names if name in used),
        prompt=prompt,
        id_column=id_column,
        router=router,
        uniform=not guessed and same_types(every_schema, used, schema),
        reads_all=kind in TYPED
        and not known
        and len(looked) == len(full)
        and set(schema.names) <= used,
        guessed=guessed,
        guesses={
            name: kind
            for name, kind in (guesses(every_schema) if guessed else {}).items()
            if name not in spec.input.schema
        },
        left_out=left_out,
        unreadable=frozenset(unreadable.numbers),
        notes=(
            *notes,
            *notes_on(shards),
            *unreadable.notes,
            *column_notes(looked, schemas, used),
            *(row_notes(prompt) if guessed else ()),
        ),
        touched=touched,
    )


def _readable_ones(known: Sequence[Shard]) -> tuple[list[Shard], list[pa.Schema]]:
    """The known files that can be read, and their schemas."""
    full = [shard for shard in known if shard.size]
    try:
        # An unreadable one was counted when it was new.
        shards, schemas = readable(full, Unreadable(NO_LIMIT)) if full else ([], [])
    except InputError:
        return [], []
    return shards, [first_of_each(one) for one in schemas]


def _notes_on_files(told: Told, *, only_known: bool) -> list[str]:
    notes = []
    if told.touched:
        notes.append(
            f"{len(told.touched):,} input file(s) have another time and the same contents, such as "
            f"{told.touched[0].url!r}: unchanged"
        )
    if only_known and told.new:
        notes.append(
            f"{len(told.new):,} new input file(s) are left for the next run, such as "
            f"{told.new[0].url!r}"
        )
    return notes


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
