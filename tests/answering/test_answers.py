"""Answer shapes: text today, and how the next shape is added (promise 8)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.answers import AnswerShape, Sample
from gemma_batch.answering.feed import Feed
from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import part_failures
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.rows import Completion, Failure, Refusal
from gemma_batch.spec import Answer
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.asked import Asked
from gemma_batch.units.payload import Prepared
from tests.answering.test_feed import config, good
from tests.committing.test_commit import job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store


def completion(*outputs: str) -> Completion:
    return Completion(list(outputs), ["stop"] * len(outputs), 5, 1)


@pytest.mark.parametrize("sampling", [{}, {"n": 2}, {"logprobs": 1}, {"n": 3, "logprobs": 0}])
def test_text_fills_the_columns_that_it_names(sampling: dict[str, Any]) -> None:
    """One value per row in each, of the type that was named."""
    shape = shape_of(sampling, Asked())
    answers = [completion(*"abc"[: sampling.get("n", 1)]) for _ in range(4)]
    columns = shape.columns(answers)
    fields = [*shape.fields(), *shape.details()]
    assert list(columns) == [name for name, _ in fields]
    for name, kind in fields:
        assert pa.array(columns[name], kind).null_count == (4 if name == "logprobs" else 0)
    assert ("logprobs" in columns) == ("logprobs" in sampling)


def test_another_number_of_answers_is_refused() -> None:
    """An engine's defect must not shift answers from one column value to another."""
    assert AnswerShape(samples=2).check(completion("a", "b"), good(1)) is None
    refusal = AnswerShape(samples=2).check(completion("a"), good(1))
    assert refusal is not None
    assert refusal.again
    assert refusal.message == "the engine gave 1 answers where sampling.n asks for 2"


LABELS = ("no", "none", "other")


@pytest.mark.parametrize(
    ("text", "reason", "own", "message"),
    [
        ("other", "stop", {}, None),
        ("other", "length", {}, None),
        ("none", "length", {}, None),
        ("no", "stop", {}, None),
        # `no` may be all that was left of `none`.
        ("no", "length", {}, "the answer was cut off after 4 tokens (sampling.max_tokens)"),
        ("ot", "length", {}, "the answer was cut off after 4 tokens (sampling.max_tokens)"),
        (
            "",
            "length",
            {"max_tokens": 2},
            "the answer was cut off after 2 tokens (sampling.max_tokens)",
        ),
        ("", "error", {}, "the engine found no way to write the shape"),
        ("Other", "stop", {}, "the answer 'Other' is none of the labels of answer.choice"),
    ],
)
def test_a_label_that_was_cut_off_is_none(
    text: str, reason: str, own: dict[str, Any], message: str | None
) -> None:
    """Unless nothing could have followed: what is committed is what the model meant."""
    shape = shape_of({"max_tokens": 4}, Asked(answer=Answer(choice=LABELS)))
    found = Completion([text], [reason], 5, 1)
    refusal = shape.check(found, replace(good(1), sampling=own))
    if message is None:
        assert refusal is None
        assert shape.columns([found])["answer"] == [text]
    else:
        assert refusal == Refusal("invalid_answer", message, again=True)
        assert found.text == text


class Number:
    """The next thing to read: the last token as a number, which has to be even."""

    def fields(self) -> list[tuple[str, pa.DataType]]:
        return [("answer", pa.int64())]

    def details(self) -> list[tuple[str, pa.DataType]]:
        return []

    def asks(self) -> dict[str, Any]:
        return {"max_tokens": 1}

    def read(self, sample: Sample) -> Refusal | None:
        if int(sample.text) % 2:
            return Refusal("engine_error", f"{sample.text!r} is odd", again=True)
        sample.values["answer"] = int(sample.text)
        return None


def test_a_new_shape_is_one_class(store: Store, prepared: Prepared) -> None:
    """The feed refuses what is not of the shape, after a few tries; its columns are committed."""
    shape = AnswerShape([Number()])
    settings = {**job().sampling, **shape.asks()}

    async def work() -> tuple[Feed, dict[int, Any]]:
        engine = config()
        engine.sampling.update(settings)
        feed = Feed(lambda: EchoEngine(engine), in_flight=4, check=shape.check)
        await feed.start()
        try:
            return feed, await feed.run([good(n) for n in prepared.numbers])
        finally:
            await feed.close()

    feed, outcomes = asyncio.run(work())
    assert isinstance(outcomes[1], Failure)
    assert (outcomes[1].code, outcomes[1].message) == ("engine_error", "'1' is odd")
    assert (outcomes[1].attempts, feed.stats.retries) == (3, {"refused": 2})
    receipt = commit_unit(store, job(), prepared, outcomes, {}, shape=shape)
    table = pq.read_table(pa.BufferReader(store.read(prepared.unit.path)))
    assert table.schema.names[:4] == ["n", "id", "output", "answer"]
    assert table["answer"].to_pylist() == [0, 2]
    (failure,) = part_failures(store, prepared.unit.path)
    assert failure["output"] == "1", "the text of a refused answer is kept"
    assert receipt["failures"] == {"engine_error": 1}


class Broken(Number):
    """A reader with a defect: it cannot even look at some answers."""

    def read(self, sample: Sample) -> Refusal | None:
        raise KeyError(sample.text)


def test_a_defect_of_a_shape_costs_the_row_and_not_the_run() -> None:
    """Nobody waits for ever for a row whose answer could not be checked (promise 3)."""

    async def work() -> dict[int, Any]:
        feed = Feed(lambda: EchoEngine(config()), in_flight=4, check=AnswerShape([Broken()]).check)
        await feed.start()
        try:
            return await asyncio.wait_for(feed.run([good(1)]), 60)
        finally:
            await feed.close()

    (outcome,) = asyncio.run(work()).values()
    assert (outcome.code, outcome.message) == ("engine_error", "KeyError: '2 10 11 1'")
