"""The prompts of rows of an output: the text that the run rendered, or a sentence why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gemma_batch.planning.growth import with_digests
from gemma_batch.prompts.rendered import token_ids
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reporting.row_prompts import COPY, GUESSED, RowPrompts
from gemma_batch.reporting.samples import (
    ShownRow,
    answered_numbers,
    shown_answers,
    shown_failures,
    together,
)
from gemma_batch.rows import Outcome, Request
from gemma_batch.storage.parts import read_receipt
from gemma_batch.units.unit import FIRST_STAGED, Unit
from tests.reporting.outputs import (
    Output,
    failing,
    job_spec,
    says,
    start,
    tickets,
    write_rows,
)

PROMPT = "<bos><start_of_turn>user\nBe brief.\n\nSay {}<end_of_turn>\n<start_of_turn>model\n"


def every_answer(output: Output, unit: Unit) -> list[ShownRow]:
    """All rows of one part, as they are shown."""
    failures = read_receipt(output.store.open(unit.path))[1]
    table = pq.read_table(output.store.open(unit.path))
    prompts = RowPrompts(output.manifest)
    return shown_answers(prompts, unit, failures, table, range(len(table)))


def test_answers_stand_beside_their_own_prompts(tmp_path: Path, model: str) -> None:
    """Failed rows between answered ones, a second shard, a unit of several shards."""
    rows = tickets(25)
    rows[3]["doc"] = None
    write_rows(tmp_path, rows)
    write_rows(tmp_path, tickets(4, 25), "b.jsonl")
    write_rows(tmp_path, tickets(4, 29), "c.jsonl")
    output = start(job_spec(tmp_path, model))
    assert any(unit.members for unit in output.units)
    prompts: dict[str, str] = {}
    for unit in output.units:
        output.commit(
            unit,
            lambda request: failing("deadline") if request.number == 6 else says("yes"),
        )
        for row in every_answer(output, unit):
            prompts[row.id] = row.prompt or ""
            assert row.kept == {"customer": f"c{int(row.id[1:]) % 3}"}
    failed = {"t3", "t6", "t31"}
    expected = {f"t{i}": PROMPT.format(f"text {i}") for i in range(33) if f"t{i}" not in failed}
    assert prompts == expected


def test_the_place_in_the_input_is_that_of_the_file(tmp_path: Path, model: str) -> None:
    """Also where a unit counts the rows of several files."""
    write_rows(tmp_path, tickets(4), "a.jsonl")
    last = write_rows(tmp_path, tickets(4, 4), "b.jsonl")
    output = start(job_spec(tmp_path, model))
    (unit,) = output.units
    output.commit(unit, lambda request: says("yes"))
    row = every_answer(output, unit)[5]
    assert (row.id, row.shard, row.row_number) == ("t5", str(last), 1)


def test_retries_keep_answers_and_prompts_together(tmp_path: Path, model: str) -> None:
    """The footer of a retry carries failures of rows that the pass did not try."""
    write_rows(tmp_path, tickets(10))
    output = start(job_spec(tmp_path, model))
    (unit,) = output.units
    codes = {1: "deadline", 4: "engine_error", 8: "engine_error"}

    def first(request: Any) -> Any:
        return failing(codes[request.number]) if request.number in codes else says("first")

    output.commit(unit, first)
    output.retry(lambda r: says("late") if r.number == 8 else failing("deadline"), "engine_error")
    again = replace(unit, generation=1, mask=(0b1_0001_0000).to_bytes(2, "little"), expected=2)
    failures = read_receipt(output.store.open(again.path))[1]
    assert [one["number"] for one in failures] == [4, 1], "row 1 is carried, and was not tried"
    assert answered_numbers(again, failures) == [8]
    (row,) = every_answer(output, again)
    assert (row.id, row.prompt) == ("t8", PROMPT.format("text 8"))
    prompts = RowPrompts(output.manifest)
    found = shown_failures(prompts, unit, failures)
    assert [(row.id, row.answers[0].code, row.prompt) for row in found] == [
        ("t4", "deadline", PROMPT.format("text 4")),
        ("t1", "deadline", PROMPT.format("text 1")),
    ]


def test_failures_show_the_prompt_or_the_row(tmp_path: Path, model: str) -> None:
    """A refused answer with its prompt; of a row without a prompt, the values that spoil it."""
    rows = tickets(3)
    rows[0]["doc"] = None
    write_rows(tmp_path, rows)
    output = start(job_spec(tmp_path, model, answer={"choice": ["yes", "no"]}))
    (unit,) = output.units
    output.commit(unit, lambda request: failing("invalid_answer", output="maybe"))
    failures = read_receipt(output.store.open(unit.path))[1]
    null, refused, _ = shown_failures(RowPrompts(output.manifest), unit, failures)
    assert null.prompt is None
    assert null.no_prompt == "prompt.user: 'doc' is null"
    assert null.row == {"doc": None, "id": "t0", "customer": "c0"}
    assert refused.prompt == PROMPT.format("text 1")
    assert refused.row is None
    assert (refused.answers[0].output, refused.answers[0].code) == ("maybe", "invalid_answer")
    assert refused.kept == {"customer": "c1"}


def grown(path: Path) -> None:
    path.write_text(path.read_text() + "{}\n")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(grown, "was replaced after the run was planned"), (Path.unlink, "does not exist")],
)
def test_without_the_input_the_answers_are_shown_all_the_same(
    tmp_path: Path, model: str, spoil: Callable[[Path], None], why: str
) -> None:
    """A sentence says why the prompt is missing."""
    path = write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    output.commit(output.units[0], lambda request: says("yes"))
    spoil(path)
    found = every_answer(output, output.units[0])
    assert [(row.id, row.prompt, row.answers[0].output) for row in found] == [
        (f"t{i}", None, "yes") for i in range(3)
    ]
    assert all(why in (row.no_prompt or "") for row in found)


def test_a_sorted_copy_that_was_removed(tmp_path: Path, model: str) -> None:
    """The answers are there; the sentence says what became of the copy."""
    write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    (unit,) = output.units
    output.commit(unit, lambda request: says("yes"))
    (shard,) = output.manifest.shards
    copy = replace(shard, number=FIRST_STAGED, url=f"{output.url}/_run/sorted-x/0.parquet")
    manifest = replace(output.manifest, staged=(copy,))
    table = pq.read_table(output.store.open(unit.path))
    sorted_unit = replace(unit, shard=FIRST_STAGED)
    found = shown_answers(RowPrompts(manifest), sorted_unit, [], table, range(3))
    assert [(row.prompt, row.no_prompt, row.answers[0].output) for row in found] == [
        (None, COPY, "yes")
    ] * 3


@pytest.mark.parametrize("grows", [True, False])
def test_a_file_that_was_only_touched(tmp_path: Path, model: str, grows: bool) -> None:
    """A growing input knows the contents of its files, so the prompt can be shown."""
    path = write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    if grows:  # as the opening of a run with `input.grow` does
        known = with_digests(output.manifest.shards)
        output.manifest = replace(output.manifest, shards=known)
    output.commit(output.units[0], lambda request: says("yes"))
    os.utime(path, (1.0, 1.0))
    row = every_answer(output, output.units[0])[1]
    assert row.prompt == (PROMPT.format("text 1") if grows else None)
    path.write_text(path.read_text().replace("text", "TEXT"))
    row = every_answer(output, output.units[0])[1]
    assert "was replaced after the run was planned" in (row.no_prompt or "")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "/nowhere/model"}, "/nowhere/model"),
        ({"prompt": {"user": "{{ doc"}}, None),
        ({"invented": 1}, "the recorded job cannot be read"),
    ],
)
def test_a_job_that_cannot_be_rendered_again(
    tmp_path: Path, model: str, change: dict[str, Any], why: str | None
) -> None:
    """The model is gone; the fields of the fingerprint win over the spec; a newer spec's field."""
    write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    output.commit(output.units[0], lambda request: says("yes"))
    output.manifest = replace(output.manifest, spec={**output.manifest.spec, **change})
    row = every_answer(output, output.units[0])[0]
    assert row.answers[0].output == "yes"
    assert (row.prompt is None) == (why is not None)
    assert (why or "") in (row.no_prompt or "")


def test_a_guess_stands_in_for_files_that_are_not_at_hand(tmp_path: Path, model: str) -> None:
    """The prompt of a model of the catalog, with a note."""
    write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    output.commit(output.units[0], lambda request: says("yes"))
    known = {**output.manifest.spec, "model": "google/gemma-3-4b-it"}
    output.manifest = replace(output.manifest, spec=known)
    row = every_answer(output, output.units[0])[0]
    assert (row.prompt, row.note) == (PROMPT.format("text 0"), GUESSED)


def test_whole_rows_have_the_columns_of_all_files(tmp_path: Path, model: str) -> None:
    """As in the run: a template that prints `row` prints null for a column that a file lacks."""
    write_rows(tmp_path, [{"id": "a", "doc": "x"}])
    write_rows(tmp_path, [{"id": "b", "doc": "y", "extra": 1}], "b.jsonl")
    spec = job_spec(tmp_path, model, prompt={"user": "{{ row | tojson }}"})
    output = start({**spec, "output": {"path": str(tmp_path / "out")}})
    (unit,) = output.units
    asked: list[list[int]] = []

    def answer(request: Request) -> Outcome:
        asked.append(token_ids(request.prompt))
        return says("yes")

    output.commit(unit, answer)
    found = every_answer(output, unit)
    tokenizer = Tokenizer.from_folder(model)
    assert '"extra": null' in (found[0].prompt or "")
    assert [tokenizer.encode(row.prompt or "") for row in found] == asked


def test_what_the_model_did_not_see_whole_is_said(tmp_path: Path, model: str) -> None:
    """`prompt.overlong` shortens; the prompt is shown whole, with the tokens that were left."""
    write_rows(tmp_path, [{"id": "a", "doc": "word " * 900, "customer": None}])
    spec = job_spec(tmp_path, model, prompt={"user": "{{ doc }}", "overlong": "truncate_end"})
    output = start(spec)
    output.commit(output.units[0], lambda request: says("yes", request.prompt.tokens))
    (row,) = every_answer(output, output.units[0])
    assert "shortened to 496 of" in (row.note or "")


def test_rows_of_two_models_are_put_together(tmp_path: Path, model: str) -> None:
    """One row with two answers; rows that only one of them has stay."""
    write_rows(tmp_path, tickets(3))
    output = start(job_spec(tmp_path, model))
    output.commit(output.units[0], lambda request: says("yes"))
    first = every_answer(output, output.units[0])
    second = [replace(row, answers=(replace(row.answers[0], output="no"),)) for row in first[1:]]
    found = together([first, second])
    assert [[one.output for one in row.answers] for row in found] == [
        ["yes"],
        ["yes", "no"],
        ["yes", "no"],
    ]
