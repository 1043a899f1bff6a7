"""Settling: the types of JSON columns that are kept or decide a route, by all rows (driver).

The plan guesses these types from the first rows of some files. All parts of an output have one
schema, and a later row may hold another type: a number with a fraction, or a text. So a run reads
the columns once more before it starts, and widens the types. A job that declares the columns in
`input.schema` skips this.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.planning.columns import kept_columns
from gemma_batch.planning.growth import check_kept
from gemma_batch.planning.in_threads import in_threads
from gemma_batch.planning.routing import Router
from gemma_batch.planning.schemas import with_types
from gemma_batch.planning.survey import Survey
from gemma_batch.spec import JobSpec
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.readers.json_types import comparable_type, final_type, fits, wider_kind
from gemma_batch.units.unit import Shard

Kinds = dict[str, set[pa.DataType]]


def unsettled(survey: Survey) -> dict[str, pa.DataType]:
    """The guessed types that later rows may contradict, of the columns whose type matters."""
    matters = {*survey.kept_types, *survey.router.columns}
    return {
        name: kind
        for name, kind in survey.guesses.items()
        if name in matters and kind != pa.string()
    }


def settled(survey: Survey, spec: JobSpec) -> Survey:
    """The survey with types that hold every value of the columns. Reads all files, if needed.

    A file that cannot be read has no say: its rows fail. The survey's `notes` end with new ones
    about columns of a `when` in which some rows have a value of another type. Raises `SpecError`
    when a `when` cannot work with the settled types, `StorageError` when storage does not answer.
    """
    wanted = unsettled(survey)
    if not wanted:
        return survey

    def look(shard: Shard) -> Kinds:
        try:
            found: Kinds = reader_for(shard.format, shard.options).kinds(shard.file, wanted)  # type: ignore[attr-defined]
            return found
        except InputError:
            return {}

    kinds: Kinds = {name: set() for name in wanted}
    for found in in_threads(look, survey.shards):
        for name, some in found.items():
            kinds[name] |= some
    keep = {
        name: _known(final_type(functools.reduce(wider_kind, sorted(kinds[name], key=str), guess)))
        for name, guess in wanted.items()
    }
    compare = {n: _known(comparable_type(guess, kinds[n])) for n, guess in wanted.items()}
    return replace(
        with_kept_types(survey, spec, keep),
        notes=(*survey.notes, *_unfit_notes(compare, kinds, survey.router.columns)),
        router=Router(spec.effective_routes, with_types(survey.schema, compare)),
    )


def _unfit_notes(compare: Mapping[str, pa.DataType], kinds: Kinds, used: set[str]) -> list[str]:
    """A sentence for each column of a `when` in which some rows have a value of another type."""
    return [
        f"the first rows have {kind} in the column {name!r}, and later rows have values of another "
        f"type: no `when` that names {name!r} matches these rows. To compare them too, declare "
        f"`input.schema: {{{name if name.isidentifier() else json.dumps(name)}: string}}`, and "
        "convert the column in the `when`, such as `try_cast(... AS DOUBLE) > 1`"
        for name, kind in compare.items()
        if name in used and not all(fits(one, kind) for one in kinds[name])
    ]


def _known(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind


def fitted(
    survey: Survey,
    spec: JobSpec,
    kept: Mapping[str, pa.DataType],
    whens: Mapping[str, pa.DataType],
) -> Survey:
    """The survey of new files with the types that an output settled before.

    `kept` are the types of kept columns, `whens` those of columns in a `when`, by the name in the
    input. The survey's `notes` end with sentences about types that differ. Raises `InputError` when
    no value of a new type fits, `SpecError` when a `when` cannot work.
    """
    mine = {name: kind for name, kind in kept.items() if name in survey.kept_types}
    notes = check_kept(survey.kept_types, mine, len(survey.shards))
    found = with_kept_types(survey, spec, mine)
    types = {name: kind for name, kind in whens.items() if name in survey.router.types}
    router = survey.router
    if types != {name: router.types[name] for name in types}:
        router = Router(spec.effective_routes, with_types(survey.schema, types))
    return replace(found, router=router, notes=(*survey.notes, *notes))


def with_kept_types(survey: Survey, spec: JobSpec, types: Mapping[str, pa.DataType]) -> Survey:
    """The survey with these types of kept columns, by the name in the input."""
    known = {name: kind for name, kind in types.items() if name in survey.kept_types}
    schema = with_types(survey.schema, known)
    return replace(survey, schema=schema, keep_schema=kept_columns(spec, schema))
