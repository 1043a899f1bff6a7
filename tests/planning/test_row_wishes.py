"""Row wishes: columns that rows ask for, decided once by the plan and kept by the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.errors import SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.spec import JobSpec
from tests.planning.test_foresight import batch, job

JSON = {"type": "json_object"}
LABELS = {"choice": ["a", "b"]}
SHAPED, PLAIN = batch(response_format=JSON), batch(response_format={"type": "text"})


def decided(plan: Plan) -> bool:
    """Whether the rows of the job may bring shapes; the same everywhere that it matters."""
    made = plan.placed(Hardware(gpu=None))
    ready = made.job(made.routes[0])
    found = {
        bool(plan.spec.answer.rows),
        plan.fingerprint().fields.get("answer.rows", False),
        bool(ready.asked.answer.rows),
        ready.asked.shaped,
        ready.engine.structured,
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("lines", "answer", "wanted"),
    [
        ([PLAIN, SHAPED], {}, True),
        ([PLAIN, batch(structured_outputs=LABELS)], {}, True),
        ([PLAIN, batch(extra_body={"guided_choice": ["a"]})], {}, True),
        ([PLAIN, batch(response_format="wrong")], {}, True),
        ([PLAIN, batch(n=1)], {}, False),
        ([PLAIN, batch(extra_body=7), "{"], {}, False),
        ([PLAIN, SHAPED], {"rows": False}, False),
        ([PLAIN], {"rows": True}, True),
    ],
)
def test_the_sample_decides_unless_the_spec_does(
    tmp_path: Path, model: str, lines: list[Any], answer: dict[str, Any], wanted: bool
) -> None:
    """For jobs whose rows have parameters, and for no others."""
    plan = make_plan(job(tmp_path, model, lines, answer=answer))
    assert decided(plan) == wanted
    told = [note for note in plan.notes if "a column `answer` of JSON text" in note]
    assert bool(told) == (wanted and not answer)
    assert plan.wishes == (set() if answer else {"answer.rows"})
    rows = [
        line
        if isinstance(line, str)
        else {"t": "x", "own": {k: v for k, v in line["body"].items() if k != "messages"}}
        for line in lines
    ]
    prompt = {"user": "{{ t }}", "params": "own"}
    assert decided(make_plan(job(tmp_path, model, rows, answer=answer, prompt=prompt))) == wanted
    unread = job(tmp_path, model, rows, prompt={"user": "{{ t }}"}, answer=answer)
    assert decided(make_plan(unread)) == bool(answer.get("rows"))


@pytest.mark.parametrize(
    ("answer", "codes", "word"),
    [
        ({}, {}, ""),
        ({"rows": True}, {}, ""),
        ({"rows": False}, {"bad_params": 1}, "set answer.rows: true"),
        (LABELS, {"bad_params": 1}, "the job for that of answer.choice"),
    ],
)
def test_a_row_with_a_shape_fails_where_the_job_has_no_place_for_it(
    tmp_path: Path, model: str, answer: dict[str, Any], codes: dict[str, int], word: str
) -> None:
    """The plan counts such rows before anything starts."""
    sample = sample_routes(make_plan(job(tmp_path, model, [PLAIN, SHAPED], answer=answer)))["all"]
    assert sample.failures == codes
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


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("lines", [[PLAIN], [PLAIN, SHAPED]])
def test_a_later_start_takes_what_the_first_start_recorded(
    tmp_path: Path, model: str, lines: list[Any], recorded: bool
) -> None:
    """Also of an output of an older version, which has no such field."""
    plan = make_plan(job(tmp_path, model, lines))
    fields = {**plan.fingerprint().fields, "answer.rows": True}
    if not recorded:
        del fields["answer.rows"]
    again = plan.as_recorded(fields)
    assert decided(again) == recorded
    assert again.fingerprint().fields == fields
    # The spec in the manifest is that of a retry.
    kept = json.loads(json.dumps(again.spec.to_dict()))
    assert decided(make_plan(JobSpec.from_dict(kept)).as_recorded(fields)) == recorded
