"""Row wishes: columns that rows ask for, decided once by the plan and kept by the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.answering.shapes import shape_of
from gemma_batch.errors import SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.spec import JobSpec
from tests.planning.test_foresight import batch, job

JSON = {"type": "json_object"}
LABELS = {"choice": ["a", "b"]}
SHAPED, PLAIN = batch(response_format=JSON), batch(response_format={"type": "text"})


SHAPE, CALLS = "answer.rows", "tools.rows"
CALLING = batch(tools=[{"type": "function", "function": {"name": "weather"}}])


def decided(plan: Plan) -> set[str]:
    """What the rows of the job may ask for; the same everywhere that it matters."""
    made = plan.placed(Hardware(gpu=None))
    ready = made.job(made.routes[0])
    names = shape_of(ready.sampling, ready.asked).names
    spec, asked = plan.spec, ready.asked
    for field, column, *told in (
        (SHAPE, "answer", spec.answer.rows, asked.answer.rows),
        (CALLS, "tool_calls", spec.tools and spec.tools.rows, asked.tools and asked.tools.rows),
    ):
        found = plan.fingerprint().fields.get(field, False)
        assert {bool(one) for one in (*told, column in names)} == {found}
    wishes = {SHAPE, CALLS} & plan.fingerprint().fields.keys()
    assert {asked.shaped, ready.engine.structured} == {bool(wishes)}
    return wishes


@pytest.mark.parametrize(
    ("lines", "changes", "wanted"),
    [
        ([PLAIN, SHAPED], {}, {SHAPE}),
        ([PLAIN, batch(structured_outputs=LABELS)], {}, {SHAPE}),
        ([PLAIN, batch(extra_body={"guided_choice": ["a"]})], {}, {SHAPE}),
        ([PLAIN, batch(response_format="wrong")], {}, {SHAPE}),
        ([PLAIN, batch(n=1)], {}, set()),
        ([PLAIN, batch(extra_body=7), "{"], {}, set()),
        ([PLAIN, SHAPED], {"answer": {"rows": False}}, set()),
        ([PLAIN], {"answer": {"rows": True}}, {SHAPE}),
        ([PLAIN, CALLING], {}, {CALLS}),
        ([PLAIN, batch(functions=[7])], {}, {CALLS}),
        ([SHAPED, CALLING], {}, {SHAPE, CALLS}),
        ([SHAPED, CALLING], {"tools": {"rows": False}}, {SHAPE}),
        ([PLAIN, batch(tools=[], tool_choice="none")], {}, set()),
        ([PLAIN], {"tools": {"rows": True}}, {CALLS}),
    ],
)
def test_the_sample_decides_unless_the_spec_does(
    tmp_path: Path, model: str, lines: list[Any], changes: dict[str, Any], wanted: set[str]
) -> None:
    """For jobs whose rows have parameters, and for no others."""
    plan = make_plan(job(tmp_path, model, lines, **changes))
    assert decided(plan) == wanted
    given = {f"{name}.rows" for name in changes}
    told = {name for name in (SHAPE, CALLS) if any(f"({name}: false" in n for n in plan.notes)}
    assert told == wanted - given
    assert plan.wishes == {SHAPE, CALLS} - given
    rows = [
        line
        if isinstance(line, str)
        else {"t": "x", "own": {k: v for k, v in line["body"].items() if k != "messages"}}
        for line in lines
    ]
    prompt = {"user": "{{ t }}", "params": "own"}
    assert decided(make_plan(job(tmp_path, model, rows, **changes, prompt=prompt))) == wanted
    unread = job(tmp_path, model, rows, prompt={"user": "{{ t }}"}, **changes)
    assert decided(make_plan(unread)) == wanted & given


@pytest.mark.parametrize(
    ("line", "changes", "word"),
    [
        (SHAPED, {}, ""),
        (SHAPED, {"answer": {"rows": True}}, ""),
        (SHAPED, {"answer": {"rows": False}}, "set answer.rows: true"),
        (SHAPED, {"answer": LABELS}, "the job for that of answer.choice"),
        (CALLING, {}, ""),
        (CALLING, {"tools": {"rows": False}}, "set tools.rows: true"),
        (CALLING, {"tools": {"definitions": [{"name": "f"}]}}, "those of tools.definitions"),
        (CALLING, {"answer": LABELS}, "the shape of answer.choice, which no call has"),
    ],
)
def test_a_row_with_a_shape_fails_where_the_job_has_no_place_for_it(
    tmp_path: Path, model: str, line: dict[str, Any], changes: dict[str, Any], word: str
) -> None:
    """The plan counts such rows before anything starts."""
    long = {"engine": "echo", "max_model_len": 1024}
    plan = make_plan(job(tmp_path, model, [PLAIN, line], **changes, resources=long))
    sample = sample_routes(plan)["all"]
    assert sample.failures == ({"bad_params": 1} if word else {})
    assert all(word in one.message for one in sample.foreseen)


def test_a_shape_for_all_rows_and_shapes_of_rows_exclude_each_other(
    tmp_path: Path, model: str
) -> None:
    """The column has one type."""
    with pytest.raises(SpecError, match="`choice` is the shape of all answers: keep one"):
        job(tmp_path, model, [SHAPED], answer={**LABELS, "rows": True})


def test_a_kept_column_cannot_have_the_name_of_a_column_that_rows_ask_for(
    tmp_path: Path, model: str
) -> None:
    """Only where they ask."""
    changes = {
        "prompt": {"user": "{{ t }}", "params": "own"},
        "output": {"path": str(tmp_path / "out"), "keep": ["answer"]},
    }
    row = {"t": "x", "answer": "y", "own": {}}
    make_plan(job(tmp_path, model, [row], **changes))
    with pytest.raises(SpecError, match=r"output.keep: 'answer' is the name of a column"):
        make_plan(job(tmp_path, model, [{**row, "own": {"response_format": JSON}}], **changes))


@pytest.mark.parametrize("recorded", [set(), {SHAPE}, {SHAPE, CALLS}])
@pytest.mark.parametrize("lines", [[PLAIN], [PLAIN, SHAPED], [SHAPED, CALLING]])
def test_a_later_start_takes_what_the_first_start_recorded(
    tmp_path: Path, model: str, lines: list[Any], recorded: set[str]
) -> None:
    """Also of an output of an older version, which has no such field."""
    plan = make_plan(job(tmp_path, model, lines))
    fields = {k: v for k, v in plan.fingerprint().fields.items() if k not in (SHAPE, CALLS)}
    fields |= dict.fromkeys(recorded, True)
    again = plan.as_recorded(fields)
    assert decided(again) == recorded
    assert again.fingerprint().fields == fields
    # The spec in the manifest is that of a retry.
    kept = json.loads(json.dumps(again.spec.to_dict()))
    assert decided(make_plan(JobSpec.from_dict(kept)).as_recorded(fields)) == recorded
