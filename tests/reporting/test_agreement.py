"""Agreement: two models say the same, whatever white space is around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemma_batch.planning.draw import Population
from gemma_batch.reporting.agreement import SHOWN, compare
from gemma_batch.reporting.samples import ShownAnswer, ShownRow
from gemma_batch.reporting.tried import Trial
from gemma_batch.reporting.tried_page import tried_page

WHOLE = Population(rows=100, exact=True, shards=1, looked=1, clustered=False)


def trial(model: str, *answers: Any) -> Trial:
    """A try with these answers: a text, a typed value in a dict, or None for a failure."""
    rows = []
    for number, said in enumerate(answers):
        answer = ShownAnswer(route="all", model=model, output=said)
        if isinstance(said, dict):
            answer = replace(answer, output=str(said), answer=said["answer"])
        if said is None:
            answer = replace(answer, code="bad_answer", message="no")
        rows.append(
            ShownRow(
                id=f"r{number}", shard="s", row_number=number, prompt="<b>?", answers=(answer,)
            )
        )
    failed = sum(said is None for said in answers)
    return Trial(
        name="job", output="out", folder="f", model=model, seed=0, fresh=True, rows=len(rows),
        answered=len(rows) - failed, failed=failed, failures=[], population=WHOLE,
        expected_failures=0, limit=0, passes=True, speeds=[], bill=None, notes=[], samples=rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "compared", "same", "typed"),
    [
        (["a", "b ", None], [" a\n", "b", "c"], 2, 2, False),
        (["a", "b", "c"], ["a", "B", "x"], 3, 1, False),
        ([{"answer": {"x": 1}}, {"answer": 2}], [{"answer": {"x": 1}}, {"answer": 3}], 2, 1, True),
        ([None], ["a"], 0, 0, False),
    ],
)
def test_the_share_of_equal_answers(
    first: list[Any], second: list[Any], compared: int, same: int, typed: bool
) -> None:
    """Of the rows that both answered; the others are told apart."""
    found = compare(trial("m1", *first), trial("m2", *second))
    assert (found.rows, found.compared, found.same, found.typed) == (
        len(first), compared, same, typed,
    )  # fmt: skip
    assert found.share == (pytest.approx(same / compared) if compared else None)
    assert found.interval[0] <= (found.share or 0.0) <= found.interval[1]
    assert len(found.differences) == compared - same
    for row in found.differences:
        assert [answer.model for answer in row.answers] == ["m1", "m2"]


def test_some_differences_are_shown_and_the_page_has_all_rows() -> None:
    """At most ten differences; the page escapes what strangers wrote, and runs nothing."""
    first, second = trial("m1", *["a<i>"] * 30), trial("m2", *["b"] * 30)
    found = compare(first, second)
    assert len(found.differences) == SHOWN
    page = tried_page([first, second], [found])
    assert page.count('<section class="row">') == 30
    assert "a&lt;i&gt;" in page
    assert "a<i>" not in page
    assert "<script" not in page
    assert "0.0%" in page
