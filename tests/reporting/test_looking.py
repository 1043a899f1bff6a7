"""Rows to look at: spread over the data set, by a condition, failures; few parts are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.errors import MismatchError, OutputError, SpecError
from gemma_batch.reporting.looking import Samples, samples
from gemma_batch.rows import Outcome, Request
from tests.reporting.outputs import (
    Output,
    failing,
    job_spec,
    says,
    start,
    tickets,
    write_rows,
)

UNITS = 20


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, model: str) -> Output:
    """200 rows in 20 parts. Unit 10 failed whole, and row 7 of each other unit; then a retry."""
    folder = tmp_path_factory.mktemp("looking")
    write_rows(folder, tickets(10 * UNITS))
    made = start(job_spec(folder, model, answer={"choice": ["yes", "no"]}))
    assert len(made.units) == UNITS

    def first(request: Request) -> Outcome:
        if request.number // 10 == 10:
            return failing("engine_error")
        if request.number % 10 == 7:
            return failing("invalid_answer", output=f"maybe {request.number}")
        return replace(says(f"answer {request.number}"), values=[{"answer": "yes"}])

    for unit in made.units:
        made.commit(unit, first)

    def second(request: Request) -> Outcome:
        if request.number % 10 < 5:
            return replace(says("at last"), values=[{"answer": "no"}])
        return failing("deadline")

    made.retry(second, "engine_error")
    return made


def ids(found: Samples) -> list[int]:
    return [int(row.id[1:]) for row in found.rows]


def test_rows_are_spread_over_the_data_set(output: Output) -> None:
    """Ten rows from ten parts, one of each tenth; each with its prompt; the same ones next time."""
    found = samples(output.url, 10)
    assert [i // 20 for i in ids(found)] == list(range(10))
    assert found.parts_read <= 12
    assert found.looked_at is None
    assert all(f"Say text {row.id[1:]}<" in (row.prompt or "") for row in found.rows)
    assert ids(samples(output.url, 10)) == ids(found)
    assert ids(samples(output.url, 10, seed=1)) != ids(found)


@pytest.mark.parametrize("rows", [1, 33, 175, 180])
def test_as_many_rows_as_are_wanted(output: Output, rows: int) -> None:
    """Each once, in the order of the input, also when nearly all rows are wanted."""
    found = ids(samples(output.url, rows))
    assert len(found) == min(rows, 19 * 9 + 5)
    assert found == sorted(set(found))


def test_answers_of_a_retry_are_among_the_rows(output: Output) -> None:
    """They are in a part of their own; failures are those that are open now."""
    found = samples(output.url, 200)
    assert [i for i in ids(found) if i // 10 == 10] == list(range(100, 105))
    errors = samples(output.url, 200, errors=True)
    assert [i for i in ids(errors) if i // 10 == 10] == list(range(105, 110))
    codes = {row.answers[0].code for row in errors.rows if 100 <= int(row.id[1:]) < 110}
    assert codes == {"deadline"}
    assert {*ids(found), *ids(errors)} == set(range(200))


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("output = 'answer 123'", lambda i: i == 123),
        ("customer = 'c1' and answer = 'no'", lambda i: i in {100, 103}),
        ("prompt_tokens < 0", lambda i: False),
        ("id in ('t3', 't104')", lambda i: i in {3, 104}),
    ],
)
def test_a_condition_finds_every_row(
    output: Output, where: str, right: Callable[[int], bool]
) -> None:
    """Rare rows: all parts are read, and it is said how many rows were looked at."""
    found = samples(output.url, 200, where=where)
    assert ids(found) == [i for i in range(200) if right(i)]
    assert (found.looked_at, found.parts_read) == (176, 21)
    assert "of 176 answers that were looked at (21 of 21 parts read)" in found.sentence


def test_a_condition_stops_when_there_are_enough_rows(output: Output) -> None:
    """Frequent rows: they come from several places, and most parts are not read."""
    found = samples(output.url, 8, where="answer = 'yes'")
    assert len(found.rows) == 8
    assert len({i // 10 for i in ids(found)}) >= 6
    assert found.parts_read <= 8
    assert found.looked_at is not None
    assert 6 * 9 <= found.looked_at <= 8 * 9


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("code = 'deadline'", set(range(105, 110))),
        ("output = 'maybe 57'", {57}),
        ("customer = 'c0' and row_number > 170", {177}),
        ("message like 'because of inv%' and row_number < 20", {7, 17}),
        ("json_extract_string(row, '$.doc') = 'text 17'", {17}),
    ],
)
def test_a_condition_on_failures(output: Output, where: str, right: set[int]) -> None:
    """Over the columns of errors, also of failures that a retry left open."""
    found = samples(output.url, 200, where=where, errors=True)
    assert set(ids(found)) == right
    assert found.looked_at == 24


def test_failures_that_are_not_in_errors_yet(output: Output) -> None:
    """The footers tell most columns; what they do not tell counts as null, and this is said."""
    found = samples(output.url, 200, where="customer is null", errors=True)
    assert set(ids(found)) == set(range(105, 110))
    assert "not in errors/ yet" in found.notes[0]
    assert [row.kept for row in found.rows[:1]] == [{"customer": "c0"}], "read from the input"


@pytest.mark.parametrize("errors", [False, True])
def test_sql_that_cannot_work_is_one_sentence(output: Output, errors: bool) -> None:
    """It names the columns of what is looked at."""
    with pytest.raises(SpecError, match="--where: 'outputs = 1' cannot be evaluated") as refused:
        samples(output.url, where="outputs = 1", errors=errors)
    column = "message" if errors else "finish_reason"
    assert column in str(refused.value)
    assert "\n" not in str(refused.value)


def test_failures_are_spread_and_show_refused_answers(output: Output) -> None:
    """As many parts as rows are opened, and no more."""
    found = samples(output.url, 10, errors=True)
    assert len(found.rows) == 10
    assert found.parts_read <= 10 + 2
    refused = [row for row in found.rows if row.answers[0].code == "invalid_answer"]
    assert refused
    assert all(row.answers[0].output == f"maybe {row.id[1:]}" for row in refused)


def test_a_run_that_goes_on_can_be_looked_at(tmp_path: Path, model: str) -> None:
    """Before the first commit there is nothing; then there is what is committed."""
    write_rows(tmp_path, tickets(30))
    made = start(job_spec(tmp_path, model))
    assert samples(made.url).rows == ()
    assert samples(made.url, errors=True, where="code = 'x'").rows == ()
    assert "nothing is committed yet" in samples(made.url).sentence
    made.commit(made.units[1], lambda request: says("yes"))
    assert ids(samples(made.url, 100)) == list(range(10, 20))
    assert samples(made.url, 5, errors=True).rows == ()


def test_what_is_no_output_of_this_run_is_refused(tmp_path: Path, model: str) -> None:
    """A folder without a run, and a part of another run."""
    with pytest.raises(OutputError, match="holds no run"):
        samples(str(tmp_path / "nothing"))
    write_rows(tmp_path, tickets(10))
    made = start(job_spec(tmp_path, model))
    made.manifest = replace(made.manifest, run="another")
    made.commit(made.units[0], lambda request: says("yes"))
    with pytest.raises(MismatchError, match="of another run"):
        samples(made.url)


def test_plain_data_can_become_json(output: Output) -> None:
    """For programs: whole texts, the place in the input, and how much was read."""
    import json

    data: dict[str, Any] = json.loads(json.dumps(samples(output.url, 2).plain()))
    assert data["parts"] == 21
    row = data["rows"][0]
    assert {"id", "shard", "row_number", "prompt", "no_prompt", "kept", "answers"} <= row.keys()
    assert row["answers"][0]["answer"] == "yes"


def test_an_output_in_s3(s3: Any, tmp_path: Path, model: str) -> None:
    """By the same store as a run: rows, a condition, failures."""
    write_rows(tmp_path, tickets(30))
    spec = job_spec(tmp_path, model)
    bucket = s3.bucket("looking")
    made = start({**spec, "output": {**spec["output"], "path": f"{bucket}/out"}})
    for unit in made.units:
        made.commit(
            unit, lambda r: failing("deadline") if r.number == 4 else says(f"answer {r.number}")
        )
    assert len(samples(made.url, 5).rows) == 5
    assert ids(samples(made.url, where="output = 'answer 21'")) == [21]
    assert ids(samples(made.url, errors=True, where="code = 'deadline'")) == [4]
