"""Row wishes: columns that the output gets because rows ask for them (driver, laptop).

The rows of a batch file may each ask for a shape of the answer. The output has a column for such
answers in all its parts or in none. So the plan decides this once, by the sample, and the run
records it: a later start takes what is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemma_batch.errors import InputError
from gemma_batch.planning.columns import kept_columns
from gemma_batch.planning.peek import SAMPLE_ROWS, SAMPLE_SHARDS, some_rows
from gemma_batch.planning.survey import Survey
from gemma_batch.prompts.render import given_params
from gemma_batch.prompts.template import RowProblem
from gemma_batch.reading.own_shape import asks_for_shape
from gemma_batch.spec import JobSpec
from gemma_batch.units.asked import ROW_SHAPES

NOTE = (
    "rows of the sample ask for a shape of their answers: the results get a column `answer` of "
    "JSON text (answer.rows: false refuses such rows)"
)


def open_wishes(spec: JobSpec) -> frozenset[str]:
    """The fields that the spec leaves to the rows, by their names in the fingerprint."""
    left = spec.answer.rows is None and spec.answer.kind is None
    return frozenset([ROW_SHAPES] if left else [])


def with_wishes(spec: JobSpec, survey: Survey, wishes: frozenset[str]) -> tuple[JobSpec, Survey]:
    """The spec and the survey with the columns that sampled rows ask for.

    A file that cannot be read has no say: its rows fail. Raises `SpecError` when a kept column has
    the name of such a column.
    """
    column = survey.prompt.params
    if column is None or not wishes:
        return spec, survey
    try:
        found = some_rows(replace(survey, columns=(column,)), SAMPLE_ROWS, SAMPLE_SHARDS)
    except InputError:
        return spec, survey
    if not any(_asks(row.values, column) for _, row in found):
        return spec, survey
    said = replace(survey, notes=(*survey.notes, NOTE))
    return as_recorded(spec, said, wishes, {ROW_SHAPES: True})


def as_recorded(
    spec: JobSpec, survey: Survey, wishes: frozenset[str], fields: Mapping[str, Any]
) -> tuple[JobSpec, Survey]:
    """The spec and the survey with those of the `wishes` that are true in `fields`."""
    if ROW_SHAPES not in wishes or bool(spec.answer.rows) == bool(fields.get(ROW_SHAPES)):
        return spec, survey
    data = spec.to_dict()
    data["answer"] = {**data.get("answer", {}), "rows": fields.get(ROW_SHAPES)}
    wishing = JobSpec.from_dict(data)
    return wishing, replace(survey, keep_schema=kept_columns(wishing, survey.schema))


def _asks(values: Mapping[str, Any] | None, column: str) -> bool:
    try:
        return values is not None and asks_for_shape(given_params(dict(values), column))
    except RowProblem:
        return False
