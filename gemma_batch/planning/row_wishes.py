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
from gemma_batch.reading.own_tools import asks_for_tools
from gemma_batch.spec import JobSpec
from gemma_batch.units.asked import ROW_SHAPES, ROW_TOOLS

# What a plan says when it adds a column.
NOTES = {
    ROW_SHAPES: "rows of the sample ask for a shape of their answers: the results get a column "
    "`answer` of JSON text (answer.rows: false refuses such rows)",
    ROW_TOOLS: "rows of the sample bring functions: the results get a column `tool_calls` "
    "(tools.rows: false refuses such rows)",
}


def open_wishes(spec: JobSpec) -> frozenset[str]:
    """The fields that the spec leaves to the rows, by their names in the fingerprint."""
    if spec.answer.kind is not None:
        return frozenset()  # the answers of all rows have this shape
    left = {ROW_SHAPES: spec.answer.rows is None, ROW_TOOLS: spec.tools is None}
    return frozenset(name for name, is_left in left.items() if is_left)


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
    given = [_given(row.values, column) for _, row in found]
    asked = {
        ROW_SHAPES: any(map(asks_for_shape, given)),
        ROW_TOOLS: any(map(asks_for_tools, given)),
    }
    notes = [note for name, note in NOTES.items() if name in wishes and asked[name]]
    said = replace(survey, notes=(*survey.notes, *notes))
    return as_recorded(spec, said, wishes, asked)


def as_recorded(
    spec: JobSpec, survey: Survey, wishes: frozenset[str], fields: Mapping[str, Any]
) -> tuple[JobSpec, Survey]:
    """The spec and the survey with those of the `wishes` that are true in `fields`."""
    data = spec.to_dict()
    if ROW_SHAPES in wishes:
        data["answer"] = {**data.get("answer", {}), "rows": fields.get(ROW_SHAPES) or None}
    if ROW_TOOLS in wishes:
        data["tools"] = {"rows": True} if fields.get(ROW_TOOLS) else None
    wishing = JobSpec.from_dict(data)
    if wishing == spec:
        return spec, survey
    return wishing, replace(survey, keep_schema=kept_columns(wishing, survey.schema))


def _given(values: Mapping[str, Any] | None, column: str) -> dict[str, Any]:
    try:
        return {} if values is None else given_params(dict(values), column)
    except RowProblem:
        return {}
